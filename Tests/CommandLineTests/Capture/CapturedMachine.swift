import Foundation
import TestPeers
import Testing

/// A machine in namespaces of its own whose programs are captured, with a neighbour on either side: see
/// `Tests/Peers/network/capture.sh`. Needs root.
struct CapturedMachine {
    let directory = TemporaryDirectory()

    /// Runs a script there, with bash; everything that it has started ends with it.
    func run(_ script: String) async throws -> ChildProcess.Output {
        let peers = TestTools.repository + "/Tests/Peers/network"
        let file = try directory.write("script", "source '\(peers)/capture.sh'\n\(script)\n")
        return try await ChildProcess.run(
            "unshare",
            ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", file],
            environment: ["BIN": TestTools.bootstrap, "W": directory.path, "PEERS": peers],
            within: .seconds(120)
        )
    }

    /// Writes node.yaml. Whatever the node carries to the neighbour goes to its port 8080 there, so that the answer
    /// says whether it was captured.
    func configure(_ listeners: [String], more: String = "") throws {
        try directory.write(
            "node.yaml",
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            \(listeners.map { "- \($0)" }.joined(separator: "\n"))
            endpoints:
            - {match: "198.51.100.2", address: "198.51.100.2:8080", direct: true}
            - {match: "[2001:db8:1::2]", address: "[2001:db8:1::2]:8080", direct: true}
            default: direct
            \(more)
            """
        )
    }

    /// The lines that a script has printed must be these.
    func expect(_ lines: [String], from script: String, sourceLocation: SourceLocation = #_sourceLocation) async throws
    {
        let output = try await run(script)
        let log = (try? directory.read("log")) ?? ""
        #expect(
            output.standardOutput.split(separator: "\n").map(String.init) == lines,
            "\(output.standardError)\nthe node's log:\n\(log)",
            sourceLocation: sourceLocation
        )
    }
}

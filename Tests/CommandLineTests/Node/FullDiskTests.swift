import Foundation
import TestPeers
import Testing

/// A device whose disk has no room, or cannot be written to: the node runs, is watched over, and is started again.
@Suite(.timeLimit(.minutes(10))) struct FullDiskTests {
    /// In a mount namespace of its own: a small file system that is filled before the supervisor starts.
    private static let script = """
        set -e
        mount -t tmpfs -o size=256k none "$1"
        mkdir "$1/state"
        mkdir -m 700 "$1/state/run"
        cp -r "$2" "$1/state/identity"
        cp "$3" "$1/state/node.yaml"
        if [ "$5" = full ]; then dd if=/dev/zero of="$1/ballast" bs=1k 2>/dev/null || true
        else mount -o remount,ro "$1"; fi
        exec "$4" supervise --state "$1/state"
        """

    @Test(arguments: ["full", "read-only"]) func aNodeIsNotEndedForWantOfALine(disk kind: String) async throws {
        let directory = TemporaryDirectory()
        let disk = try directory.makeDirectory("disk")
        let port = FreePort.next()
        let configuration = try directory.write(
            "node.yaml",
            NodeFile.server(identity: "\(disk)/state/identity", ports: [1], bind: port)
        )
        let supervisor = try ChildProcess(
            "unshare",
            [
                "-m", "sh", "-c", Self.script, "sh", disk, TestCertificates.shared.path(.server), configuration,
                TestTools.bootstrap, kind,
            ]
        )
        let node = try await listening(supervisor, port)
        try await eventually("the node accepts") { (try? await TCPConversation(port: port)) != nil }

        // One that dies is started again, disk or no disk.
        #expect(kill(node, SIGKILL) == 0)
        _ = try await supervisor.standardError.line(containing: "node \(node) ended (signal 9)")
        try await eventually("another node listens") {
            supervisor.standardError.text.split(separator: "\n").count { $0.contains("listens on") } == 2
        }
        #expect(!supervisor.standardError.text.contains("not ready"), "\(supervisor.standardError.text)")
        supervisor.signal(SIGTERM)
        #expect(try await supervisor.exit() == .exited(0))
    }

    /// As the first one; one page is free, in which the log begins.
    private static let logScript = """
        set -e
        mount -t tmpfs -o size=256k none "$1"
        dd if=/dev/zero of="$1/ballast" bs=1k 2>/dev/null || true
        truncate -s -4096 "$1/ballast"
        exec "$2" node --config "$3" --loops 1 --drain 1s
        """

    /// The lines wait until there is room, and none is in the file by half.
    @Test func theAccessLogWaitsForRoom() async throws {
        let directory = TemporaryDirectory()
        let disk = try directory.makeDirectory("disk")
        let echo = try EchoServer()
        let port = FreePort.next()
        let configuration = try directory.write(
            "node.yaml",
            NodeFile.forwarding(
                identity: TestCertificates.shared.path(.server),
                bind: port,
                to: echo.port,
                "accessLog: {file: \"\(disk)/access.log\"}"
            )
        )
        let node = try ChildProcess(
            "unshare",
            ["-m", "sh", "-c", Self.logScript, "sh", disk, TestTools.bootstrap, configuration]
        )
        _ = try await node.standardOutput.line(containing: "ready ")
        let inside = "/proc/\(node.pid)/root\(disk)"
        let count = 40
        for _ in 0..<count { _ = try await TCPClient.exchange(port: port, sending: [1]) }
        _ = try await node.standardError.line(containing: "the access log waits")
        // It tries again now and then, and takes back what it has written by half.
        try await eventually("what is there is whole") {
            (try? Self.lines(of: "\(inside)/access.log").count).map { $0 > 0 && $0 < count } == true
        }

        #expect(unlink("\(inside)/ballast") == 0)
        _ = try await node.standardError.line(containing: "the access log is written again")
        try await eventually("all lines are there") {
            (try? Self.lines(of: "\(inside)/access.log").count) == count
        }
        #expect(await node.stop(grace: .seconds(60)) == .exited(0))
    }

    /// Throws where one of them is no JSON, or is not at its end.
    private static func lines(of path: String) throws -> [Substring] {
        let text = try String(contentsOfFile: path, encoding: .utf8)
        try #require(text.isEmpty || text.hasSuffix("\n"), "\(text)")
        let lines = text.split(separator: "\n")
        for line in lines { _ = try JSONSerialization.jsonObject(with: Data(line.utf8)) }
        return lines
    }

    private func listening(_ supervisor: ChildProcess, _ port: UInt16) async throws -> pid_t {
        let line = try await supervisor.standardError.line(containing: "listens on")
        #expect(line.hasSuffix("127.0.0.1:\(port)"))
        let words = line.split(separator: " ")
        let index = try #require(words.firstIndex(of: "node"))
        return try #require(pid_t(words[index + 1]))
    }
}

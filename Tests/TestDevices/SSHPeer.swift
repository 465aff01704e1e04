import Foundation
package import SSHSignal
package import TestPeers

extension OpenSSHServer {
    /// A login that knows the server's key and asks nobody anything.
    ///
    /// - Parameter directory: For a known_hosts file.
    package func login(in directory: TemporaryDirectory, engine: SSHEngine = .automatic) throws -> SSHLogin {
        let hosts = try directory.write("known_hosts", "[127.0.0.1]:\(port) " + self.directory.read("host_ed25519.pub"))
        return try SSHLogin(
            to: Destination(user: Self.user, host: "127.0.0.1", port: port),
            arguments: SSHArguments(
                configurationFile: "none",
                options: ["UserKnownHostsFile=\(hosts)", "GlobalKnownHostsFile=none", "IdentityAgent=none"],
                identityFiles: [userKey],
                engine: engine
            ),
            prompts: SSHLogin.Prompts(warn: { _ in })
        )
    }
}

/// A program that says what an agent would say, and writes down what it is told: one file for each time it runs.
package struct SpokenAgent: Sendable {
    package let command: String
    private let directory: TemporaryDirectory

    /// - Parameter directory: For its files.
    package init(saying messages: [SignalMessage], in directory: TemporaryDirectory) throws {
        self.directory = directory
        let said = try messages.flatMap { try SignalFrame.encode($0) }
        try Data(said).write(to: URL(filePath: directory.path("said")))
        try directory.makeDirectory("heard", permissions: 0o700)
        let script = """
            cat '\(directory.path("said"))'
            cat > '\(directory.path("heard"))'/$$.part
            mv '\(directory.path("heard"))'/$$.part '\(directory.path("heard"))'/$$

            """
        command = "sh " + (try directory.write("agent.sh", script))
    }

    package static func hello(
        _ capabilities: [String] = ["enroll", "renew", "endpoints", "probe", "revocations", "access", "offer"]
    ) -> SignalMessage {
        .hello(.init(version: 1, minimumVersion: 1, software: "test", clock: 0, capabilities: capabilities))
    }

    /// What came of the addresses that it has offered, as it was told.
    package func outcomes() throws -> [SignalMessage.Outcome] {
        try heard().joined().compactMap { if case .outcome(let outcome) = $0 { outcome } else { nil } }
    }

    /// What it was told, each time that it has ended.
    package func heard() throws -> [[SignalMessage]] {
        let names = try FileManager.default.contentsOfDirectory(atPath: directory.path("heard"))
        return try names.filter { !$0.hasSuffix(".part") }.map { name in
            var decoder = SignalFrameDecoder()
            decoder.append([UInt8](try Data(contentsOf: URL(filePath: directory.path("heard/\(name)")))))
            var messages: [SignalMessage] = []
            while let message = try decoder.next() { messages.append(message) }
            return messages
        }
    }
}

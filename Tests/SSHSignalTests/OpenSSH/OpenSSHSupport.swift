import Foundation
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// Lines that a login has warned with.
final class Warnings: Sendable {
    private let collected = Lock<[String]>([])
    var lines: [String] { collected.withLock { $0 } }
    func add(_ line: String) { collected.withLock { $0.append(line) } }
}

/// What a user has in `~/.ssh`, for logins with either engine and nobody to ask.
struct UserFiles {
    let directory = TemporaryDirectory()
    let warnings = Warnings()

    /// - Parameters:
    ///   - lines: Of ssh_config.
    ///   - keys: Public host key files of the servers.
    ///   - alone: Whether only the given keys are offered.
    ///   - server: Where to.
    ///   - engine: What logs in.
    ///   - identity: A private key; the server's own by default.
    ///   - options: As with `-o`.
    func login(
        to server: OpenSSHServer,
        engine: SSHEngine = .openSSH,
        lines: [String] = [],
        knownHosts: String? = nil,
        identity: String? = nil,
        options: [String] = [],
        host: String = "127.0.0.1"
    ) throws -> SSHLogin {
        let known = try knownHosts ?? "[127.0.0.1]:\(server.port) " + server.directory.read("host_ed25519.pub")
        let hosts = try directory.write("known_hosts", known)
        let config = try directory.write("config", lines.joined(separator: "\n") + "\n", permissions: 0o600)
        return try SSHLogin(
            to: Destination(user: OpenSSHServer.user, host: host, port: server.port),
            arguments: SSHArguments(
                configurationFile: config,
                options: [
                    "UserKnownHostsFile=\(hosts)", "GlobalKnownHostsFile=none", "IdentityAgent=none",
                    "IdentitiesOnly=yes",
                ] + options,
                identityFiles: [identity ?? server.userKey],
                engine: engine
            ),
            prompts: SSHLogin.Prompts(warn: { [warnings] in warnings.add($0) })
        )
    }

    var saysByWayOfSSH: Bool { warnings.lines.contains { $0.contains("by way of ") && $0.contains("/ssh: ") } }
}

extension SSHClient {
    /// The master's process and directory.
    func master() async throws -> (process: pid_t, directory: String) {
        let found = try await withConnection { connection in
            (connection as? OpenSSHSession).map { ($0.masterProcess, $0.controlDirectory) }
        }
        return try #require(found)
    }

    var isOpenSSH: Bool {
        get async throws { try await withConnection { $0 is OpenSSHSession } }
    }
}

/// Nothing of a master is left: neither its process, not even unreaped, nor its directory.
func isGone(_ master: (process: pid_t, directory: String)) -> Bool {
    kill(master.process, 0) != 0 && access(master.directory, F_OK) != 0
}

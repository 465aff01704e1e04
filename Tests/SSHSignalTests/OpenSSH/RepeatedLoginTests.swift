import Foundation
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// A login that libssh2 has made, made once more by the `ssh` program, without anybody being asked.
@Suite(.serialized) struct RepeatedLoginTests {
    private let files = UserFiles()

    /// nil where it would have to ask.
    private func repeated(_ login: SSHLogin, of client: SSHClient) async throws -> SSHLogin? {
        try await client.withConnection { login.repeatedByOpenSSH($0) }
    }

    @Test func withTheSameKeyToTheSameHost() async throws {
        let server = try await OpenSSHServer()
        let login = try files.login(to: server, engine: .automatic)
        let first = try await login.connect(on: testLoops.next())
        #expect(try await !first.isOpenSSH)
        // What the user has said to the first login is not asked again: the file no longer knows the host.
        try files.directory.write("known_hosts", "")
        let again = try #require(try await repeated(login, of: first))
        let second = try await again.connect(on: testLoops.next())
        #expect(try await second.isOpenSSH)
        #expect(second.hostKey == first.hostKey)
        #expect(try await second.run("echo in").text == "in\n")
        #expect(files.warnings.lines.isEmpty, "\(files.warnings.lines)")
        let master = try await second.master()
        await second.close()
        try await eventually("nothing is left") { isGone(master) }
        await first.close()

        // Another host at that address.
        let other = try await OpenSSHServer()
        let otherFiles = UserFiles()
        let elsewhere = try otherFiles.login(to: other, engine: .automatic)
        let third = try await UserFiles().login(to: server, engine: .libssh2).connect(on: testLoops.next())
        let wrong = try #require(try await repeated(elsewhere, of: third))
        let refusal = await sshFailure { try await wrong.connect(on: testLoops.next()) }
        await third.close()
        #expect(refusal?.code == .hostKeyRefused, "\(String(describing: refusal))")
        await server.stop()
        await other.stop()
    }

    @Test func withAKeyOfTheAgent() async throws {
        let server = try await OpenSSHServer()
        let agent = try await SessionAuthenticationTests.Agent()
        let key = server.directory.path("agent_key")
        try await OpenSSHServer.makeKey("ed25519", key)
        try server.authorize(key + ".pub")
        try await agent.add(key)
        let unknown = server.directory.path("other")
        try await OpenSSHServer.makeKey("ed25519", unknown)
        let hosts = try files.directory.write(
            "known_hosts",
            "[127.0.0.1]:\(server.port) " + server.directory.read("host_ed25519.pub")
        )
        let login = try SSHLogin(
            to: Destination(user: OpenSSHServer.user, host: "127.0.0.1", port: server.port),
            arguments: SSHArguments(
                configurationFile: "none",
                options: ["UserKnownHostsFile=\(hosts)", "IdentityAgent=\(agent.socket)"],
                identityFiles: [unknown]
            ),
            prompts: SSHLogin.Prompts(warn: { _ in })
        )
        let first = try await login.connect(on: testLoops.next())
        let again = try #require(try await repeated(login, of: first))
        let second = try await again.connect(on: testLoops.next())
        #expect(try await second.isOpenSSH)
        await first.close()
        await second.close()
        // That key first, and no other one was refused on the way.
        let fingerprint = try await OpenSSHServer.fingerprint(key)
        try await server.logged("Accepted publickey", count: 2)
        let taken = server.log.split(whereSeparator: \.isNewline).filter { $0.contains("Accepted publickey") }
        #expect(taken.count == 2 && taken.allSatisfy { $0.contains(fingerprint) }, "\(server.log)")
        await server.stop()
    }

    /// Whoever wants keys in the agent wants them after a login of his own.
    @Test func nothingIsLeftInTheAgent() async throws {
        let server = try await OpenSSHServer()
        let agent = try await SessionAuthenticationTests.Agent()
        let hosts = try files.directory.write(
            "known_hosts",
            "[127.0.0.1]:\(server.port) " + server.directory.read("host_ed25519.pub")
        )
        let login = try SSHLogin(
            to: Destination(user: OpenSSHServer.user, host: "127.0.0.1", port: server.port),
            arguments: SSHArguments(
                configurationFile: "none",
                options: ["UserKnownHostsFile=\(hosts)", "IdentityAgent=\(agent.socket)", "AddKeysToAgent=yes"],
                identityFiles: [server.userKey]
            ),
            prompts: SSHLogin.Prompts(warn: { _ in })
        )
        let first = try await login.connect(on: testLoops.next())
        let again = try #require(try await repeated(login, of: first))
        let second = try await again.connect(on: testLoops.next())
        #expect(try await second.isOpenSSH)
        let listed = try await ChildProcess.run("ssh-add", ["-l"], environment: ["SSH_AUTH_SOCK": agent.socket])
        #expect(listed.standardOutput.contains("no identities"), "\(listed.standardOutput)")
        await first.close()
        await second.close()
        await server.stop()
    }

    /// A passphrase was typed; the engine was chosen; or other hosts are on the way.
    @Test func notWhereSomebodyWouldBeAsked() async throws {
        let server = try await OpenSSHServer()
        let key = server.directory.path("encrypted")
        try await OpenSSHServer.makeKey("ed25519", key, passphrase: "right horse")
        try server.authorize(key + ".pub")
        let asked = Lock(0)
        let hosts = try files.directory.write(
            "known_hosts",
            "[127.0.0.1]:\(server.port) " + server.directory.read("host_ed25519.pub")
        )
        func login(_ identity: String, engine: SSHEngine = .automatic, jump: String? = nil) throws -> SSHLogin {
            try SSHLogin(
                to: Destination(user: OpenSSHServer.user, host: "127.0.0.1", port: server.port),
                arguments: SSHArguments(
                    configurationFile: "none",
                    options: ["UserKnownHostsFile=\(hosts)", "IdentityAgent=none", "IdentitiesOnly=yes"],
                    identityFiles: [identity],
                    jump: jump,
                    engine: engine
                ),
                prompts: SSHLogin.Prompts(
                    passphrase: { _ in
                        asked.withLock { $0 += 1 }
                        return Array("right horse".utf8)
                    },
                    warn: { _ in }
                )
            )
        }
        let encrypted = try login(key)
        let client = try await encrypted.connect(on: testLoops.next())
        #expect(try await repeated(encrypted, of: client) == nil)
        #expect(asked.withLock { $0 } == 1)
        await client.close()

        let plain = try await login(server.userKey).connect(on: testLoops.next())
        #expect(try await repeated(try login(server.userKey), of: plain) != nil)
        #expect(try await repeated(try login(server.userKey, engine: .libssh2), of: plain) == nil)
        let behind = try login(server.userKey, jump: "\(OpenSSHServer.user)@127.0.0.1:\(server.port)")
        #expect(try await repeated(behind, of: plain) == nil)
        await plain.close()
        await server.stop()
    }
}

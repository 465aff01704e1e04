import Foundation
import TestPeers
import Testing

@testable import SSHSignal
@testable import Streams

/// Key files that `ssh` would not use are not used, and what `ssh` says about them is said.
@Suite(.serialized) struct IdentityFileTests {
    private let directory = TemporaryDirectory()

    private func login(
        _ server: OpenSSHServer,
        files: [String] = [],
        lines: String = "",
        _ prompts: SSHLogin.Prompts
    ) throws -> SSHLogin {
        let config = try directory.write(
            "config",
            """
            Host device
              HostName 127.0.0.1
              Port \(server.port)
              User \(OpenSSHServer.user)
              UserKnownHostsFile \(directory.path("known_hosts"))
              GlobalKnownHostsFile none
              StrictHostKeyChecking accept-new
              IdentityAgent none
            \(lines)

            """,
            permissions: 0o600
        )
        return try SSHLogin(
            to: Destination(host: "device"),
            arguments: SSHArguments(configurationFile: config, identityFiles: files, engine: .libssh2),
            prompts: prompts
        )
    }

    private func expectIn(_ login: SSHLogin) async throws {
        let client = try await login.connect(on: testLoops.next())
        #expect(try await client.run("echo in").text == "in\n")
        await client.close()
    }

    /// A key of ours that others may read; with and without a `.pub` beside it, which names it to the server.
    @Test(arguments: [true, false], [0o644, 0o640, 0o604] as [mode_t])
    func whatOthersMayReadIsNotUsed(isNamed: Bool, mode: mode_t) async throws {
        let server = try await OpenSSHServer()
        let key = server.userKey
        if !isNamed { unlink(key + ".pub") }
        for byFlag in [true, false] {
            let told = Lock<[String]>([])
            let prompts = SSHLogin.Prompts(warn: { text in told.withLock { $0.append(text) } })
            func login() throws -> SSHLogin {
                try byFlag
                    ? self.login(server, files: [key], prompts)
                    : self.login(server, lines: "IdentityFile \(key)", prompts)
            }
            chmod(key, mode)
            let error = await sshFailure { try await login().connect(on: testLoops.next()) }
            #expect(error?.code == .authenticationRefused)
            let warnings = told.withLock { $0.filter { $0.contains("UNPROTECTED PRIVATE KEY FILE") } }
            #expect(warnings.count == 1, "\(warnings)")
            let text = "permissions 0\(String(mode, radix: 8)) for \(key) are too open"
            #expect(warnings.first?.contains(text) == true, "\(warnings)")
            #expect(warnings.first?.contains("chmod 600") == true)
            #expect(error?.message.contains(text) == true, "\(error?.message ?? "")")
            // Once for a run.
            _ = await sshFailure { try await login().connect(on: testLoops.next()) }
            #expect(told.withLock { $0.filter { $0.contains("UNPROTECTED") }.count } == 1)
            chmod(key, 0o600)
            try await expectIn(login())
        }
        #expect(!server.log.contains("Accepted publickey for \(OpenSSHServer.user) from 0"))
        await server.stop()
    }

    /// What belongs to somebody else is judged by nobody: so root's key for a group can be used by its members.
    @Test func somebodyElsesKeyIsTheirs() async throws {
        let server = try await OpenSSHServer()
        try #require(chown(server.userKey, 1, 1) == 0 && chmod(server.userKey, 0o644) == 0)
        let told = Lock<[String]>([])
        try await expectIn(
            login(
                server,
                files: [server.userKey],
                SSHLogin.Prompts(warn: { text in told.withLock { $0.append(text) } })
            )
        )
        #expect(told.withLock { $0.allSatisfy { !$0.contains("UNPROTECTED") } })
        await server.stop()
    }

    /// ssh says nothing of a key that the server does not want, and goes on to the next.
    @Test func theNextKeyIsTried() async throws {
        let server = try await OpenSSHServer()
        let (unwanted, open) = (directory.path("unwanted"), directory.path("open"))
        for key in [unwanted, open] { try await OpenSSHServer.makeKey("ed25519", key) }
        try server.authorize(open + ".pub")
        for key in [unwanted, open] { chmod(key, 0o644) }
        let told = Lock<[String]>([])
        let prompts = SSHLogin.Prompts(warn: { text in told.withLock { $0.append(text) } })
        try await expectIn(login(server, files: [unwanted, open, server.userKey], prompts))
        let warnings = told.withLock { $0.filter { $0.contains("UNPROTECTED") } }
        #expect(warnings.count == 1 && warnings.first?.contains(open) == true, "\(warnings)")
        await server.stop()
    }

    @Test func aFileOfTheCommandLineThatIsNotThereIsSaid() async throws {
        let server = try await OpenSSHServer()
        let missing = directory.path("missing")
        let told = Lock<[String]>([])
        let prompts = SSHLogin.Prompts(warn: { text in told.withLock { $0.append(text) } })
        for _ in 0..<2 {
            let login = try login(server, files: [missing, server.userKey], prompts)
            // The ssh program need not say it again.
            #expect(login.arguments.identityFiles == [server.userKey])
            try await expectIn(login)
        }
        let text = "Identity file \(missing) not accessible: No such file or directory"
        #expect(told.withLock { $0.filter { $0 == text }.count } == 1, "\(told.withLock { $0 })")
        // One of the configuration is not worth a word, as with ssh.
        try await expectIn(
            login(server, lines: "IdentityFile \(directory.path("none"))\nIdentityFile \(server.userKey)", prompts)
        )
        #expect(told.withLock { $0.filter { $0.contains("not accessible") }.count } == 1)
        await server.stop()
    }
}

import Foundation
import MeshIdentity
import TestPeers
import Testing

@testable import SSHSignal

/// Which keys are offered, and in which order: `ssh -v` says what it will attempt.
@Suite(.serialized) struct IdentityOrderTests {
    private struct Setup {
        let server: OpenSSHServer
        let agent: SessionAuthenticationTests.Agent
        let directory = TemporaryDirectory()

        /// Keys `a` to `f`; the agent has `e`, `c`, `b` and `a` (with its certificate), and `d` has a certificate
        /// beside it.
        init() async throws {
            server = try await OpenSSHServer()
            agent = try await SessionAuthenticationTests.Agent()
            try await OpenSSHServer.makeKey("ecdsa", directory.path("ca"))
            for name in ["a", "b", "c", "d", "e", "f"] {
                try await OpenSSHServer.makeKey(name == "c" ? "ecdsa" : "ed25519", directory.path(name))
            }
            for name in ["a", "d", "f"] { try await sign(name) }
            for name in ["e", "c", "b", "a"] { try await agent.add(directory.path(name)) }
            // Named, not found by itself.
            try rename("f-cert.pub", "named.pub")
            // The agent has the other half of one, and nobody that of the other.
            try rename("b", "elsewhere")
        }

        private func rename(_ from: String, _ to: String) throws {
            try FileManager.default.moveItem(atPath: directory.path(from), toPath: directory.path(to))
        }

        private func sign(_ name: String) async throws {
            let arguments = ["-q", "-s", directory.path("ca"), "-I", "test", "-n", "u", directory.path("\(name).pub")]
            let signed = try await ChildProcess.run("ssh-keygen", arguments)
            try #require(signed.succeeded, "\(signed.standardError)")
        }

        /// The agent's keys in its order.
        func identities() async throws -> [AgentClient.Identity] {
            let list = try await ChildProcess.run("ssh-add", ["-L"], environment: ["SSH_AUTH_SOCK": agent.socket])
            return try list.standardOutput.split(separator: "\n").map { line in
                let words = line.split(separator: " ").map(String.init)
                let blob = try #require(Base64.decode(words[1]))
                return AgentClient.Identity(key: try #require(HostKey(blob: blob)), comment: words.last ?? "")
            }
        }
    }

    /// `SHA256:…` of a key, and whether its certificate is meant.
    private struct Attempt: Hashable {
        var fingerprint: String
        var isCertificate: Bool
    }

    @Test(arguments: [
        "IdentityFile b,IdentityFile c,IdentityFile d", "IdentityFile d,IdentityFile a",
        "IdentityFile a,IdentitiesOnly yes",
        "IdentityFile b.pub,IdentityFile c.pub,IdentitiesOnly yes",
        "IdentityFile d,CertificateFile named.pub,IdentityFile f",
        "IdentityFile c,PubkeyAcceptedAlgorithms ecdsa*", "IdentityFile d,PubkeyAcceptedAlgorithms -ssh-ed25519",
        "IdentityFile d,IdentityAgent none", "IdentityFile e,IdentityFile f,IdentitiesOnly yes",
        "IdentityFile d,PubkeyAcceptedAlgorithms ^ssh-rsa",
        "IdentityFile d,IdentityFile b,PubkeyAcceptedAlgorithms +ssh-dss",
    ])
    func sameAsSSH(lines: String) async throws {
        let setup = try await Setup()
        let config = lines.split(separator: ",").map { line in
            let words = line.split(separator: " ")
            let isFile = words[0].hasSuffix("File")
            return "\(words[0]) \(isFile ? setup.directory.path(String(words[1])) : String(words[1]))"
        }
        let agentLine = lines.contains("IdentityAgent") ? [] : ["IdentityAgent \(setup.agent.socket)"]
        let file = try setup.directory.write(
            "config",
            (config + agentLine + ["UserKnownHostsFile /dev/null", "StrictHostKeyChecking no"]).joined(separator: "\n")
                + "\n",
            permissions: 0o600
        )
        let ssh = try await ChildProcess.run(
            "ssh",
            ["-v", "-F", file, "-o", "BatchMode=yes", "-p", "\(setup.server.port)", "127.0.0.1", "true"]
        )
        let attempts = ssh.standardError.split(whereSeparator: \.isNewline).compactMap { line -> Attempt? in
            guard line.hasPrefix("debug1: Will attempt key: ") else { return nil }
            let words = line.split(separator: " ")
            guard let place = words.firstIndex(where: { $0.hasPrefix("SHA256:") }) else { return nil }
            return Attempt(fingerprint: String(words[place]), isCertificate: words[place - 1].hasSuffix("-CERT"))
        }
        #expect(!attempts.isEmpty)

        let session = try SSHLogin(
            to: Destination(host: "127.0.0.1", port: setup.server.port),
            arguments: SSHArguments(configurationFile: file),
            prompts: SSHLogin.Prompts(warn: { _ in })
        ).lastSession
        let usesAgent = session.credentials.contains { if case .agent = $0 { true } else { false } }
        let found = KeyCandidates(
            session.credentials,
            identities: usesAgent ? try await setup.identities() : [],
            identitiesOnly: session.identitiesOnly,
            accepted: session.acceptedKeys
        )
        let ours = try found.list.map { candidate in
            let offered = try #require(candidate.offered)
            return Attempt(
                fingerprint: try #require(offered.withoutCertificate).fingerprint,
                isCertificate: offered.isCertificate
            )
        }
        #expect(ours == attempts, "\(ssh.standardError)")
        await setup.server.stop()
    }

    @Test func aNamedKeyIsOfferedBeforeTheAgentsOtherOnes() async throws {
        let server = try await OpenSSHServer(configuration: ["MaxAuthTries 2"])
        let agent = try await SessionAuthenticationTests.Agent()
        for number in 1...6 {
            let key = server.directory.path("stranger\(number)")
            try await OpenSSHServer.makeKey("ed25519", key)
            try await agent.add(key)
        }
        try await agent.add(server.userKey)
        let credentials: [SSHCredential] = [.agent(socketPath: agent.socket), .keyFile(path: server.userKey)]
        let client = try await server.connect(credentials)
        await client.close()
        // The public half is enough to name it.
        try FileManager.default.removeItem(atPath: server.userKey)
        for name in [server.userKey, server.userKey + ".pub"] {
            let client = try await server.connect([.agent(socketPath: agent.socket), .keyFile(path: name)])
            await client.close()
        }
        await server.stop()
    }

    @Test func aFileIsOfferedThoughTheAgentHasOtherKeys() async throws {
        let server = try await OpenSSHServer()
        let agent = try await SessionAuthenticationTests.Agent()
        for number in 1...5 {
            let key = server.directory.path("stranger\(number)")
            try await OpenSSHServer.makeKey("ed25519", key)
            try await agent.add(key)
        }
        let client = try await server.connect([.agent(socketPath: agent.socket), .keyFile(path: server.userKey)])
        await client.close()
        await server.stop()
    }

    @Test func anRSAKeyThatIsNamedIsForSSHThoughThereIsAnAgent() async throws {
        guard !EngineCapabilities.current.signsRSAWithSHA2 else { return }
        let directory = TemporaryDirectory()
        try await OpenSSHServer.makeKey("rsa", directory.path("rsa"))
        let login = try SSHLogin(
            to: Destination(host: "127.0.0.1"),
            arguments: SSHArguments(
                configurationFile: "none",
                options: ["IdentityAgent=\(directory.path("agent"))", "UserKnownHostsFile=none"],
                identityFiles: [directory.path("rsa")]
            ),
            prompts: SSHLogin.Prompts(warn: { _ in })
        )
        #expect(login.limits.map(\.kind) == [.rsaUserKey])
    }
}

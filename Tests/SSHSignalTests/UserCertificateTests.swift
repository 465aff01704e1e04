import Foundation
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// OpenSSH user certificates, signed by ssh-keygen, against a server that trusts the CA only.
@Suite(.serialized) struct UserCertificateTests {
    private struct Setup {
        let server: OpenSSHServer
        let ca: String

        init() async throws {
            let directory = TemporaryDirectory()
            ca = directory.path("ca")
            try await OpenSSHServer.makeKey("ecdsa", ca)
            server = try await OpenSSHServer(configuration: ["TrustedUserCAKeys \(ca).pub"])
            keep = directory
        }

        private let keep: TemporaryDirectory

        func key(_ type: String, passphrase: String = "") async throws -> String {
            let path = server.directory.path("certified_\(type)_\(passphrase)")
            try await OpenSSHServer.makeKey(type, path, passphrase: passphrase)
            return path
        }

        /// Signs `key.pub` into `key-cert.pub`.
        func sign(_ key: String, principals: String = OpenSSHServer.user, validity: String = "-1d:+1d") async throws {
            let signed = try await ChildProcess.run(
                "ssh-keygen",
                ["-q", "-s", ca, "-I", "test", "-n", principals, "-V", validity, key + ".pub"]
            )
            try #require(signed.succeeded, "\(signed.standardError)")
        }
    }

    @Test func theCertificateBesideTheKey() async throws {
        let setup = try await Setup()
        let key = try await setup.key("ecdsa")
        let plain = await sshFailure { try await setup.server.connect([.keyFile(path: key)]) }
        #expect(plain?.code == .authenticationRefused)
        try await setup.sign(key)
        let client = try await setup.server.connect([.keyFile(path: key)])
        #expect(try await client.run("echo in").text == "in\n")
        await client.close()
        await setup.server.stop()
    }

    @Test func aCertificateFileAndAnEncryptedKey() async throws {
        let setup = try await Setup()
        let key = try await setup.key("ecdsa", passphrase: "secret")
        try await setup.sign(key)
        let elsewhere = setup.server.directory.path("elsewhere.pub")
        try FileManager.default.moveItem(atPath: key + "-cert.pub", toPath: elsewhere)
        let client = try await setup.server.connect([.certificateFile(path: elsewhere), .keyFile(path: key)]) {
            $0.passphrase = { _ in Array("secret".utf8) }
        }
        await client.close()
        await setup.server.stop()
    }

    @Test func anAgentSignsForACertificate() async throws {
        let setup = try await Setup()
        let agent = try await SessionAuthenticationTests.Agent()
        let key = try await setup.key("ecdsa")
        try await agent.add(key)
        try await setup.sign(key)
        let beside = try await setup.server.connect([
            .agent(socketPath: agent.socket), .certificateFile(path: key + "-cert.pub"),
        ])
        await beside.close()
        // ssh-add takes the certificate along when it lies there.
        try await agent.removeAll()
        try await agent.add(key)
        let held = try await setup.server.connect([.agent(socketPath: agent.socket)])
        await held.close()
        await setup.server.stop()
    }

    @Test func certificatesThatCannotWorkAreNamed() async throws {
        let setup = try await Setup()
        let expired = try await setup.key("ecdsa")
        try await setup.sign(expired, validity: "20200101:20200102")
        let old = await sshFailure { try await setup.server.connect([.keyFile(path: expired)]) }
        #expect(old?.code == .authenticationRefused)
        #expect(old?.message.contains("has expired: it was valid from 2020-01-01T00:00:00Z until 2020-01-02") == true)

        try await setup.sign(expired, validity: "20990101:20990102")
        let early = await sshFailure { try await setup.server.connect([.keyFile(path: expired)]) }
        #expect(early?.message.contains("is not valid yet") == true)

        try await setup.sign(expired, principals: "somebody")
        let other = await sshFailure { try await setup.server.connect([.keyFile(path: expired)]) }
        #expect(other?.message.contains("for somebody") == true)

        let ed25519 = try await setup.key("ed25519")
        try await setup.sign(ed25519)
        let unsupported = await sshFailure { try await setup.server.connect([.keyFile(path: ed25519)]) }
        #expect(unsupported?.limits.map(\.kind) == [.userCertificate])

        let lost = await sshFailure { try await setup.server.connect([.certificateFile(path: ed25519 + "-cert.pub")]) }
        #expect(lost?.message.contains("its key is neither in the files nor in the agent") == true)
        let missing = await sshFailure { try await setup.server.connect([.certificateFile(path: ed25519 + ".none")]) }
        #expect(missing?.message.contains("No such file") == true)
        await setup.server.stop()
    }
}

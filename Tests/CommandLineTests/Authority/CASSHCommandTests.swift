import Foundation
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// `bootstrap ca ssh`: what it signs is taken by sshd, by ssh and by our own login.
@Suite struct CASSHCommandTests {
    private let directory = TemporaryDirectory()
    private var ca: String { directory.path("ca") }

    private func bootstrap(_ arguments: [String]) async throws -> ChildProcess.Output {
        try await ChildProcess.run(TestTools.bootstrap, arguments)
    }

    @Test(arguments: [false, true]) func hostsAndUsers(isEncrypted: Bool) async throws {
        var access = ["--ca", ca]
        if isEncrypted {
            access += ["--passphrase-file", try directory.write("passphrase", "secret\n", permissions: 0o600)]
        }
        let made = try await bootstrap(["ca", "init", "--trust-domain", "mesh.example"] + access)
        try #require(made.succeeded, "\(made.standardError)")
        let user = try await bootstrap(["ca", "ssh", "ca", "--user"] + access)
        try #require(user.succeeded, "\(user.standardError)")
        let trusted = try directory.write("user-ca.pub", user.standardOutput)

        let hostKey = directory.path("host")
        try await OpenSSHServer.makeKey("ed25519", hostKey)
        let host = try await bootstrap(
            ["ca", "ssh", "sign", "--host", "--principal", "127.0.0.1", hostKey + ".pub"] + access
        )
        try #require(host.succeeded, "\(host.standardError)")
        let server = try await OpenSSHServer(
            configuration: [
                "HostKey \(hostKey)", "HostCertificate \(hostKey)-cert.pub", "TrustedUserCAKeys \(trusted)",
                "AuthorizedKeysFile none",
            ],
            hostKeys: []
        )

        let key = directory.path("id")
        try await OpenSSHServer.makeKey("ecdsa", key)
        let before = await #expect(throws: SSHError.self) { try await login(server, key) }
        #expect(before?.code == .authenticationRefused)
        let signed = try await bootstrap(
            ["ca", "ssh", "sign", "--user", "--principal", OpenSSHServer.user, "--ttl", "1h", key + ".pub"] + access
        )
        try #require(signed.succeeded, "\(signed.standardError)")
        #expect(signed.standardError.contains("Signed the user's key SHA256:"))

        // Our own login with the certificate beside the key.
        let client = try await login(server, key)
        #expect(try await client.run("echo in").text == "in\n")
        await client.close()

        // ssh, which knows the host by its certificate only.
        let authority = try await bootstrap(["ca", "ssh", "ca", "--host", "--hosts", "127.*,[127.*]:*"] + access)
        let knownHosts = try directory.write("known_hosts", authority.standardOutput)
        let options = [
            "-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=\(knownHosts)", "-o",
            "GlobalKnownHostsFile=none", "-o", "BatchMode=yes", "-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes",
        ]
        let ssh = try await ChildProcess.run(
            "ssh",
            options + ["-i", key, "-p", "\(server.port)", "\(OpenSSHServer.user)@127.0.0.1", "echo in"]
        )
        #expect(ssh.standardOutput == "in\n", "\(ssh.standardError)")
        await server.stop()
    }

    private struct AnyHostKey: HostKeyVerifier {
        var preferredAlgorithms: [String] { [] }

        func check(_ key: HostKey) async throws {}
    }

    private func login(_ server: OpenSSHServer, _ key: String) async throws -> SSHClient {
        try await SSHClient.connect(
            host: "127.0.0.1",
            port: server.port,
            configuration: SSHSessionConfiguration(user: OpenSSHServer.user, credentials: [.keyFile(path: key)]),
            hostKeyVerifier: AnyHostKey(),
            on: EventLoopGroup(count: 1).next()
        )
    }

    @Test func mistakes() async throws {
        _ = try await bootstrap(["ca", "init", "--trust-domain", "mesh.example", "--ca", ca])
        let key = directory.path("id")
        try await OpenSSHServer.makeKey("ed25519", key)
        let privateKey = try await bootstrap(
            ["ca", "ssh", "sign", "--user", "--principal", "root", "--out", "-", key, "--ca", ca]
        )
        #expect(!privateKey.succeeded)
        #expect(privateKey.standardError.contains("as in a .pub file"))
        let nobody = try await bootstrap(["ca", "ssh", "sign", "--user", key + ".pub", "--ca", ca])
        #expect(nobody.status == .exited(2))
        let wildcard = try await bootstrap([
            "ca", "ssh", "sign", "--host", "--principal", "*", key + ".pub", "--ca", ca,
        ])
        #expect(wildcard.standardError.contains("wildcard"))
        let none = try await bootstrap(["ca", "ssh", "ca", "--ca", directory.path("none")])
        #expect(none.standardError.contains("bootstrap ca init"))
        #expect(!FileManager.default.fileExists(atPath: key + "-cert.pub"))
        let stdout = try await bootstrap(
            ["ca", "ssh", "sign", "--user", "--principal", "root", "--out", "-", key + ".pub", "--ca", ca]
        )
        #expect(stdout.standardOutput.hasPrefix("ssh-ed25519-cert-v01@openssh.com AAAA"))
    }
}

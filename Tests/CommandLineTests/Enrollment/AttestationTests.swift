import Foundation
import TestPeers
import Testing

/// `enroll --attest host-key`: the device's host key signs the certificate request, and what it signed can be verified
/// later, by anybody.
@Suite(.timeLimit(.minutes(10))) struct AttestationTests {
    private struct Device: Decodable {
        struct Record: Decodable {
            struct Attestation: Decodable {
                var request: String
                var signature: String
                var namespace: String
                var hostKey: String
                var serial: String?
            }
            var attestation: Attestation?
            var serial: String?
        }
        var device: Record
    }

    private func record(_ journey: Journey) async throws -> Device.Record {
        let status = try await journey.run(["status", "device1", "--output", "json"])
        let devices = try JSONDecoder().decode([Device].self, from: Data(status.standardOutput.utf8))
        return try #require(devices.first).device
    }

    private func enrollAgentless(
        _ journey: Journey,
        _ extra: [String] = ["--attest", "host-key"]
    ) async throws -> ChildProcess.Output {
        try await journey.run(
            [
                "enroll", journey.destination, "--name", "device1", "--agentless", "--agent-binary",
                TestTools.bootstrap,
                "--credential-dir", journey.directory.path("device/identity"),
            ] + journey.sshOptions + extra
        )
    }

    @Test(arguments: [true, false]) func signedVerifiedAndKept(agent: Bool) async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        let output =
            agent
            ? try await journey.enroll(allow: 1, extra: ["--attest", "host-key"]) : try await enrollAgentless(journey)
        #expect(output.succeeded, "\(output.standardOutput)\(output.standardError)")
        #expect(
            output.standardOutput.contains("the request is signed by the host key SHA256:"),
            "\(output.standardOutput)"
        )
        let status = try await journey.run(["status", "device1"])
        let fingerprint = try await journey.sshd.hostKeyFingerprint()
        #expect(status.standardOutput.contains("attested"), "\(status.standardOutput)")
        #expect(
            status.standardOutput.contains("its host key \(fingerprint) has signed the request"),
            "\(status.standardOutput)"
        )
        #expect(status.standardOutput.contains("enrolled, its request signed by the host key"))

        // Without us: OpenSSH verifies the signature, OpenSSL says what was signed.
        let record = try await record(journey)
        let kept = try #require(record.attestation)
        #expect(kept.serial == record.serial && kept.namespace == "mesh-enrollment@journey.example")
        try journey.directory.write("signature", kept.signature)
        try journey.directory.write("signers", "device1 \(kept.hostKey)\n")
        let verified = try await ChildProcess.run(
            "ssh-keygen",
            [
                "-Y", "verify", "-n", kept.namespace, "-I", "device1", "-f", journey.directory.path("signers"), "-s",
                journey.directory.path("signature"),
            ],
            input: Array(kept.request.utf8)
        )
        #expect(verified.succeeded, "\(verified.standardError)")
        let request = try await ChildProcess.run(
            "openssl",
            ["req", "-noout", "-text"],
            input: Array(kept.request.utf8)
        )
        #expect(request.standardOutput.contains("URI:spiffe://journey.example/ns/default/sa/device1"))

        // A new key is not attested by the signature over an old one.
        let renewed = try await journey.run(["renew", "device1"])
        #expect(renewed.succeeded, "\(renewed.standardError)")
        let later = try await journey.run(["status", "device1"])
        #expect(later.standardOutput.contains("for a certificate that was renewed since"), "\(later.standardOutput)")
        await journey.stop()
    }

    /// A machine whose `ssh-keygen` is a stand-in: what it signs is not what was asked for.
    @Test(
        arguments: [
            ("echo 'unknown option -- Y' >&2; exit 1", "too old to sign"),
            ("echo 'Couldn'\"'\"'t load key: invalid format' >&2; exit 255", "invalid format"),
            ("exec /usr/bin/ssh-keygen -Y sign -n \"$4\" -f OTHER", "it is of the key"),
            ("cat >/dev/null; echo x | /usr/bin/ssh-keygen -Y sign -n \"$4\" -f \"$6\"", "it does not verify"),
            ("exec /usr/bin/ssh-keygen -Y sign -n file -f \"$6\"", "it was made for 'file'"),
            ("/usr/bin/ssh-keygen \"$@\" | sed s/U1NIU0lH/U1NIU0lI/", "does not begin with SSHSIG"),
        ]
    )
    func whatDoesNotVerifyIsRefused(standIn: String, words: String) async throws {
        let programs = TemporaryDirectory()
        let journey = try await Journey(
            sshd: try await OpenSSHServer(
                authorizedKeyOptions: "command=\"PATH=\(programs.path):$PATH exec sh -c \\\"$SSH_ORIGINAL_COMMAND\\\"\""
            )
        )
        try await journey.makeAuthority()
        try await OpenSSHServer.makeKey("ed25519", programs.path("other"))
        let text = standIn.replacingOccurrences(of: "OTHER", with: programs.path("other"))
        try programs.write("text", "#!/bin/sh\n\(text)\n")
        let made = try await ChildProcess.run(
            "sh",
            [
                "-c",
                "cp '\(programs.path("text"))' '\(programs.path("ssh-keygen"))' && chmod 755 '\(programs.path("ssh-keygen"))'",
            ]
        )
        #expect(made.succeeded)
        let output = try await enrollAgentless(journey)
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains(words), "\(output.standardError)")
        // Nothing was signed for it.
        let status = try await journey.run(["status"])
        #expect(status.standardOutput.contains("No device is enrolled"), "\(status.standardOutput)")
        #expect(!FileManager.default.fileExists(atPath: journey.directory.path("device/identity/cert-chain.pem")))
        // It is not asked for where nobody wants it.
        #expect(try await enrollAgentless(journey, []).succeeded)
        #expect(try await record(journey).attestation == nil)
        await journey.stop()
    }

    @Test func whoMayNotUseTheHostKey() async throws {
        let journey = try await Journey(
            sshd: try await OpenSSHServer(
                authorizedKeyOptions: "command=\"exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -s\""
            )
        )
        chmod(journey.directory.path, 0o755)
        chmod(journey.directory.path("device"), 0o777)
        try await journey.makeAuthority()
        let output = try await enrollAgentless(journey)
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains("its host key is root's"), "\(output.standardError)")
        await journey.stop()
    }

    @Test func dropbearSignsNothing() async throws {
        let server = try await DropbearServer()
        let journey = try await Journey()
        try await journey.makeAuthority()
        let output = try await journey.run(
            [
                "enroll", "\(DropbearServer.user)@127.0.0.1:\(server.port)", "--name", "small", "--agentless",
                "--agent-binary", TestTools.bootstrap, "--credential-dir", journey.directory.path("device/identity"),
                "--attest", "host-key", "-F", "none", "-i", server.userKey, "-o", "StrictHostKeyChecking=accept-new",
                "-o", "UserKnownHostsFile=\(journey.directory.path("known"))",
            ]
        )
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains("dropbear"), "\(output.standardError)")
        await server.stop()
        await journey.stop()
    }

    @Test func notForAKeyThatIsMadeElsewhere() async throws {
        let journey = try await Journey()
        let output = try await journey.run(["enroll", "host", "--push-key", "--attest", "host-key"])
        #expect(output.status == .exited(2))
        #expect(output.standardError.contains("--push-key"), "\(output.standardError)")
        await journey.stop()
    }
}

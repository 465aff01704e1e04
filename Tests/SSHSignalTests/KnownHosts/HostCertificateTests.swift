import Foundation
import TestPeers
import Testing

@testable import SSHSignal

/// Host certificates as a newer libssh2 would show them, made by ssh-keygen: they are verified here, by us.
@Suite struct HostCertificateTests {
    private let directory = TemporaryDirectory()

    private func key(_ name: String) async throws -> (path: String, line: String) {
        let path = directory.path(name)
        try await OpenSSHServer.makeKey("ed25519", path)
        return (path, try directory.read(name + ".pub"))
    }

    private func certificate(_ key: String, by ca: String, _ arguments: [String]) async throws -> HostKey {
        let signed = try await ChildProcess.run(
            "ssh-keygen",
            ["-q", "-s", ca, "-I", "host", "-h"] + arguments + [key + ".pub"]
        )
        try #require(signed.succeeded, "\(signed.standardError)")
        let words = try String(contentsOfFile: key + "-cert.pub", encoding: .utf8).split(separator: " ")
        let blob = try #require(Data(base64Encoded: String(words[1])))
        return try #require(HostKey(blob: Array(blob)))
    }

    private func policy(
        _ knownHosts: String,
        host: String = "dev7",
        port: UInt16 = 22,
        pin: String? = nil
    ) throws -> HostKeyPolicy {
        let file = try directory.write("known_hosts", knownHosts)
        let configuration = try SSHClientConfiguration(
            resolving: Destination(host: host, port: port),
            arguments: SSHArguments(
                configurationFile: "none",
                options: ["UserKnownHostsFile=\(file)", "GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes"],
                hostKey: pin
            )
        )
        return HostKeyPolicy(configuration, warn: { _ in })
    }

    private func refusal(_ policy: HostKeyPolicy, _ key: HostKey) async -> HostKeyError? {
        do {
            try await policy.check(key)
            return nil
        } catch {
            return error as? HostKeyError
        }
    }

    @Test func acceptedAndRefused() async throws {
        let ca = try await key("ca")
        let other = try await key("other")
        let host = try await key("host")
        let good = try await certificate(host.path, by: ca.path, ["-n", "dev7,dev8", "-V", "-1d:+1d"])
        #expect(good.isCertificate)
        let line = "@cert-authority dev*,[dev*]:* \(ca.line)"
        #expect(await refusal(try policy(line), good) == nil)
        #expect(await refusal(try policy(line, port: 2222), good) == nil)
        #expect(await refusal(try policy(line, host: "dev9"), good)?.reason == .certificate)
        // Another CA's line, and none at all: then the key in it is a key like any other.
        #expect(await refusal(try policy("@cert-authority * \(other.line)"), good)?.reason == .certificate)
        #expect(await refusal(try policy("@cert-authority elsewhere \(ca.line)"), good)?.reason == .unknown)
        #expect(await refusal(try policy("dev7 \(host.line)"), good) == nil)

        let expired = try await certificate(host.path, by: ca.path, ["-n", "dev7", "-V", "20200101:20200102"])
        let error = await refusal(try policy(line), expired)
        #expect(error?.reason == .certificate)
        #expect(error?.message.contains("until 2020-01-02T00:00:00Z") == true)
    }

    @Test func revokedKeysAndAuthorities() async throws {
        let ca = try await key("ca")
        let host = try await key("host")
        let good = try await certificate(host.path, by: ca.path, ["-n", "dev7"])
        let trusted = "@cert-authority * \(ca.line)"
        for revoked in [ca.line, host.line] {
            let error = await refusal(try policy(trusted + "@revoked * \(revoked)"), good)
            #expect(error?.reason == .revoked)
        }
        #expect(await refusal(try policy(trusted + "@revoked elsewhere \(ca.line)"), good) == nil)
    }

    @Test func aPinIsForTheKeyInside() async throws {
        let ca = try await key("ca")
        let host = try await key("host")
        let certificate = try await certificate(host.path, by: ca.path, ["-n", "elsewhere"])
        let fingerprint = try await OpenSSHServer.fingerprint(host.path)
        #expect(await refusal(try policy("", pin: fingerprint), certificate) == nil)
        let stranger = try await OpenSSHServer.fingerprint(ca.path)
        #expect(await refusal(try policy("", pin: stranger), certificate)?.reason == .pinMismatch)
    }

    @Test func aTamperedCertificate() async throws {
        let ca = try await key("ca")
        let host = try await key("host")
        let good = try await certificate(host.path, by: ca.path, ["-n", "dev7"])
        var bytes = good.blob
        // The last byte is the signature's.
        bytes[bytes.count - 1] ^= 1
        let changed = try #require(HostKey(blob: bytes))
        let error = await refusal(try policy("@cert-authority * \(ca.line)"), changed)
        #expect(error?.message.contains("wrong signature") == true)
        let cut = try #require(HostKey(blob: Array(good.blob.dropLast())))
        #expect(await refusal(try policy("@cert-authority * \(ca.line)"), cut)?.reason == .certificate)
    }
}

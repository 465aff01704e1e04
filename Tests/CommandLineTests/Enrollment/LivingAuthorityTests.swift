import Fleet
import Foundation
import MeshIdentity
import Platform
import TestDevices
import TestPeers
import Testing

@testable import SSHSignal

/// What reaches processes that are running: a revocation by `enroll`, a new signer by `ca rotate`.
extension EnrollmentOverSSHTests {
    private func environment(_ owner: Operator) -> [String: String?] {
        ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil]
    }

    /// However late a slow machine is: an expired one, too.
    private func shownLeaf(_ owner: Operator) throws -> Certificate? {
        try Certificate.all(pem: AtomicFile.read(owner.state + "/identity/cert-chain.pem")).first
    }

    /// A machine that takes the place of another: what stands with the old one's certificate is cut, without another
    /// command.
    @Test func aReplacedDeviceIsCutOffByItsEnrolment() async throws {
        let devices = try await TwoDevices()
        let (owner, a, b) = (devices.owner, devices.a, devices.b)
        let stream = try await devices.forward(from: a, to: b)
        let conversation = try await TCPConversation(port: stream.port)
        #expect(try await conversation.echo(Array("hello".utf8)) == Array("hello".utf8))

        let base = TemporaryDirectory()
        defer { LocalDevice.stopNode(state: base.path("bootstrap/state")) }
        let other = try await OpenSSHServer()
        try owner.know(other.directory.path("host_ed25519.pub"), port: other.port)
        let replace = ["--name", "a", "--base", base.path, "--accept-new-host-key"]
        let replaced = try await owner.enroll(port: other.port, key: other.userKey, replace)
        #expect(replaced.succeeded, "\(replaced.standardOutput)\(replaced.standardError)")
        #expect(replaced.standardOutput.contains("b  told"), "\(replaced.standardOutput)")
        #expect(replaced.standardError.contains("a: earlier certificates are revoked: host key"))
        #expect(!replaced.standardError.contains("bootstrap revoke"), "\(replaced.standardError)")
        #expect(try await conversation.end(finishing: false).1 == .broken(ECONNRESET))
        let lists = try RevocationList.all(pem: AtomicFile.read(owner.bootstrapHome + "/ca/ca-crl.pem"))
        #expect(lists.count == 1 && lists[0].serials == [a.serial ?? ""])
        await stream.process.stop()

        // Where others cannot be told the device is enrolled all the same, and stdout belongs to JSON.
        let third = try await OpenSSHServer()
        try owner.know(third.directory.path("host_ed25519.pub"), port: third.port)
        await devices.server.stop()
        let again = try await owner.enroll(port: third.port, key: third.userKey, replace + ["--output", "json"])
        #expect(again.succeeded, "\(again.standardOutput)\(again.standardError)")
        #expect(again.standardOutput.split(separator: "\n").count == 1 && again.standardOutput.hasPrefix("{"))
        for part in ["warning: not told what was revoked: b: ", "1 device does not know yet", "`bootstrap revoke`"] {
            #expect(again.standardError.contains(part), "\(again.standardError)")
        }
        let later = try RevocationList.all(pem: AtomicFile.read(owner.bootstrapHome + "/ca/ca-crl.pem"))
        #expect(later[0].serials.count == 2 && later[0].isNewer(than: lists[0]))

        // Nor where the list cannot be written: somebody holds its lock.
        let fourth = try await OpenSSHServer()
        try owner.know(fourth.directory.path("host_ed25519.pub"), port: fourth.port)
        let lock = try FileLock(directory: owner.bootstrapHome + "/ca", patience: .seconds(1))
        let unwritten = try await owner.enroll(port: fourth.port, key: fourth.userKey, replace)
        withExtendedLifetime(lock) {}
        #expect(unwritten.succeeded, "\(unwritten.standardOutput)\(unwritten.standardError)")
        for part in ["no device refuses the earlier certificates of a yet", "another process", "`bootstrap revoke`"] {
            #expect(unwritten.standardError.contains(part), "\(unwritten.standardError)")
        }
        #expect(
            try RevocationList.all(pem: AtomicFile.read(owner.bootstrapHome + "/ca/ca-crl.pem"))[0].serials.count == 2
        )
    }

    /// `ca serve` goes on through a rotation: it gives out the roots and signs with the key of each moment, and knows
    /// the new root itself.
    @Test func theIssuerFollowsARotation() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        let issuer = try ChildProcess(
            TestTools.bootstrap,
            ["ca", "serve", "--listen", "127.0.0.1:0"],
            environment: environment(owner)
        )
        let ready = try await issuer.standardOutput.line(containing: "ready issuer")
        let address = try #require(ready.split(separator: " ").last.map(String.init))
        let enrolled = try await owner.enroll(
            server,
            ["--name", "dev7", "--ttl", "30s", "--renew-from", address]
        )
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        // Devices whose clocks are behind take it, too.
        let own = try CredentialDirectory(owner.bootstrapHome + "/issuer").load()
        #expect(own.notBefore < Int64(Date().timeIntervalSince1970) - 6 * 3600)
        await server.stop()
        func leaf() throws -> Certificate? { try shownLeaf(owner) }
        let old = try EmbeddedCA.load(directory: owner.bootstrapHome + "/ca").certificate

        let begun = try await owner.run(["ca", "rotate"])
        #expect(begun.succeeded, "\(begun.standardError)")
        try await eventually("the device has both roots", within: .seconds(90)) {
            try owner.devices.record(named: "dev7")?.roots?.count == 2
        }
        let switched = try await owner.run(["ca", "rotate"])
        #expect(switched.succeeded, "\(switched.standardOutput)\(switched.standardError)")
        let new = try EmbeddedCA.load(directory: owner.bootstrapHome + "/ca").certificate
        #expect(new != old)
        try await eventually("the new key signs", within: .seconds(90)) {
            try leaf()?.authorityKeyIdentifier == new.subjectKeyIdentifier
        }
        let first = try leaf()?.serialNumber
        // Now it shows a certificate that only the new root vouches for.
        try await eventually("the issuer takes a certificate of the new key", within: .seconds(90)) {
            try leaf()?.serialNumber != first
        }
        #expect(issuer.isRunning)
        #expect(!issuer.standardError.text.contains("start it again"))
        await issuer.stop()
    }

    /// The same for `renew --watch`.
    @Test func theWatchFollowsARotation() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try await owner.enrolled(on: server, ["--ttl", "12s"])
        let watch = try ChildProcess(TestTools.bootstrap, ["renew", "--watch"], environment: environment(owner))
        _ = try await watch.standardOutput.line(containing: "dev7  renewed")
        #expect(try await owner.run(["ca", "rotate"]).succeeded)
        try await eventually("the device has both roots", within: .seconds(90)) {
            try owner.devices.record(named: "dev7")?.roots?.count == 2
        }
        let switched = try await owner.run(["ca", "rotate"])
        #expect(switched.succeeded, "\(switched.standardOutput)\(switched.standardError)")
        let new = try EmbeddedCA.load(directory: owner.bootstrapHome + "/ca").certificate
        try await eventually("the new key signs", within: .seconds(90)) {
            try shownLeaf(owner)?.authorityKeyIdentifier == new.subjectKeyIdentifier
        }
        #expect(watch.isRunning && watch.standardError.text.isEmpty, "\(watch.standardError.text)")
        await watch.stop()
    }
}

import Fleet
import MeshIdentity
import Platform
import TestPeers
import Testing

/// A revocation list of more than a mebibyte, from the CA to a device and back.
@Suite(.timeLimit(.minutes(10))) struct GrowingListTests {
    @Test func aLongListIsDeliveredAndRead() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try await owner.enrolled(on: server)
        let ca = try EmbeddedCA.load(directory: owner.bootstrapHome + "/ca")
        let entries = (0..<22_000).map {
            RevokedCertificate(
                serial: "4" + String(repeating: "0", count: 33) + String(100_000 + $0, radix: 16),
                revokedAt: 1_700_000_000
            )
        }
        let list = try ca.revocationList(of: entries, number: 5, nextUpdate: WallClock.system.seconds + 86_400)
        #expect(list.pem.count > 1 << 20)
        try AtomicFile.write(list.pem, to: owner.bootstrapHome + "/ca/ca-crl.pem")

        let told = try await owner.run(["revoke"])
        #expect(told.succeeded && told.standardOutput.contains("dev7  told"), "\(told.standardError)")
        func present() throws -> RevocationList? {
            let bytes = try AtomicFile.read(owner.state + "/identity/ca-crl.pem", limit: 16 << 20)
            return try RevocationList.all(pem: bytes).first
        }
        #expect(try present()?.serials.count == 22_000)
        let renewed = try await owner.run(["renew", "dev7"])
        #expect(renewed.succeeded, "\(renewed.standardOutput)\(renewed.standardError)")
        let out = owner.home.path("web")
        let issued = try await owner.run(["ca", "issue", "--id", "ns/prod/sa/web", "--out", out])
        #expect(issued.succeeded, "\(issued.standardError)")
        #expect(try CredentialDirectory(out).load().bundle.revocations.pem.count > 1 << 20)
        let serial = try CredentialDirectory(out).load().leaf.serialNumber
        let again = try await owner.run(["revoke", "--serial", serial])
        #expect(again.succeeded && again.standardOutput.contains("dev7  told"), "\(again.standardError)")
        #expect(try present()?.serials.contains(serial) == true)
        #expect(try await owner.run(["status", "--probe"]).succeeded)

        // What only the device has is learned again.
        try AtomicFile.write(
            ca.revocationList(of: [], number: 6, nextUpdate: WallClock.system.seconds + 86_400).pem,
            to: owner.bootstrapHome + "/ca/ca-crl.pem"
        )
        let removed = try await ChildProcess.run("rm", [owner.bootstrapHome + "/ledger.sqlite"])
        #expect(removed.succeeded)
        let enrolled = try await owner.enroll(server, ["--name", "dev7"])
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        #expect(enrolled.standardError.contains("with 22001 certificates"), "\(enrolled.standardError)")
        #expect(try present()?.serials.count == 22_001)
    }
}

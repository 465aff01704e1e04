import Foundation
import TestPeers
import Testing

@testable import MeshIdentity

/// Revocation lists: made by our CA, read by OpenSSL's tool; and what they do to a certificate.
@Suite struct RevocationTests {
    private let now = Int64(Date().timeIntervalSince1970)
    private let home = TemporaryDirectory()
    private let id: SPIFFEID
    private let ca: EmbeddedCA

    init() throws {
        id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/db")
        ca = try EmbeddedCA(trustDomain: TrustDomain("mesh.example"), now: now)
    }

    private func issue(by ca: EmbeddedCA) throws -> (key: PrivateKey, leaf: Certificate) {
        let key = try PrivateKey.generate()
        let request = try CertificateRequest.create(key: key, id: id)
        let issued = try ca.issue(request, id: id, options: IssuanceOptions(), now: now)
        return (key, try #require(issued.leaf))
    }

    private func list(
        of certificates: [Certificate],
        by ca: EmbeddedCA,
        number: Int64 = 1,
        nextUpdate: Int64? = nil
    ) throws -> [UInt8] {
        let entries = certificates.map { RevokedCertificate(serial: $0.serialNumber, revokedAt: now - 10) }
        return try ca.revocationList(of: entries, number: number, nextUpdate: nextUpdate ?? now + 3600, at: now).pem
    }

    private func bundle(_ lists: [UInt8]?, roots: [Certificate]? = nil) throws -> TrustBundle {
        try TrustBundle(trustDomain: ca.trustDomain, roots: roots ?? ca.roots, revocationLists: lists)
    }

    @Test func openSSLAgrees() async throws {
        let (revoked, good) = (try issue(by: ca).leaf, try issue(by: ca).leaf)
        let root = try home.write("root.pem", ca.certificate.pem)
        let lists = try home.write("crl.pem", try list(of: [revoked], by: ca, number: 258))
        let shown = try await ChildProcess.run(
            "openssl",
            ["crl", "-in", lists, "-CAfile", root, "-noout", "-text", "-crlnumber"]
        )
        #expect(shown.succeeded && shown.standardError.contains("verify OK"), "\(shown.standardError)")
        #expect(shown.standardOutput.lowercased().contains(revoked.serialNumber))
        #expect(shown.standardOutput.contains("0x0102"), "\(shown.standardOutput)")
        for (leaf, isRevoked) in [(revoked, true), (good, false)] {
            let file = try home.write("leaf.pem", leaf.pem)
            let verdict = try await ChildProcess.run(
                "openssl",
                ["verify", "-crl_check", "-CAfile", root, "-CRLfile", lists, file]
            )
            #expect(verdict.succeeded != isRevoked, "\(verdict.standardError)")
            #expect(verdict.standardError.contains("certificate revoked") == isRevoked)
        }
    }

    @Test func whatIsListedIsRefused() throws {
        let (revoked, good) = (try issue(by: ca).leaf, try issue(by: ca).leaf)
        let bundle = try bundle(try list(of: [revoked], by: ca))
        #expect(try bundle.verify(leaf: good) == id)
        let error = #expect(throws: SVIDError.self) { try bundle.verify(leaf: revoked) }
        #expect(error?.code == .revoked)
        #expect(error?.message.contains(revoked.serialNumber) == true)
        #expect(try self.bundle(nil).verify(leaf: revoked) == id, "no list: nothing is revoked")
        #expect(!bundle.revocations.isEmpty)
        #expect(try self.bundle(try list(of: [], by: ca)).revocations.isEmpty)
    }

    /// Nobody brought a newer one: what it says is still true.
    @Test func anExpiredListStillCounts() throws {
        let leaf = try issue(by: ca).leaf
        let bundle = try bundle(try list(of: [leaf], by: ca, nextUpdate: now - 60))
        #expect(throws: SVIDError.self) { try bundle.verify(leaf: leaf) }
        #expect(bundle.revocations.nextUpdate == now - 60)
    }

    /// Two roots of the same name, as after a rotation: each speaks for what it has signed itself.
    @Test func aListSpeaksForItsOwnIssuer() throws {
        let next = try EmbeddedCA(trustDomain: ca.trustDomain, now: now)
        let leaf = try issue(by: ca).leaf
        // The new CA lists the same number: not its certificate.
        var bundle = try bundle(try list(of: [leaf], by: next), roots: ca.roots + next.roots)
        #expect(try bundle.verify(leaf: leaf) == id)
        bundle = try self.bundle(
            try list(of: [], by: next) + list(of: [leaf], by: ca),
            roots: ca.roots + next.roots
        )
        #expect(throws: SVIDError.self) { try bundle.verify(leaf: leaf) }
        // That of a root which was dropped is skipped.
        #expect(try self.bundle(try list(of: [leaf], by: next)).revocations.isEmpty)
    }

    @Test func aForgedOrDamagedListIsRefused() throws {
        let leaf = try issue(by: ca).leaf
        let lists = try list(of: [leaf], by: ca)
        // One bit of the signature.
        var der = try #require(Data(base64Encoded: body(of: lists)))
        der[der.count - 1] ^= 1
        let forged = "-----BEGIN X509 CRL-----\n\(der.base64EncodedString())\n-----END X509 CRL-----\n"
        var error = #expect(throws: IdentityError.self) { try bundle(Array(forged.utf8)) }
        #expect(error?.message.contains("was not signed by it") == true)
        error = #expect(throws: IdentityError.self) { try bundle(Array("garbage".utf8)) }
        #expect(error?.message.contains("no revocation list") == true)
        error = #expect(throws: IdentityError.self) { try bundle(lists.dropLast(40)) }
        #expect(error?.message.contains("damaged") == true)
    }

    private func body(of pem: [UInt8]) -> String {
        String(decoding: pem, as: UTF8.self).split(separator: "\n").filter { !$0.hasPrefix("-") }.joined()
    }

    @Test func aCredentialDirectoryKeepsListsOverARenewal() throws {
        let directory = CredentialDirectory(home.path("identity"))
        let stranger = try issue(by: ca).leaf
        let (key, leaf) = try issue(by: ca)
        try directory.write(Credential(key: key, chain: [leaf], roots: ca.roots))
        #expect(try directory.load().bundle.revocations == .none)

        let lists = try list(of: [stranger], by: ca, number: 7)
        #expect(try directory.write(revocationLists: lists))
        #expect(try !directory.write(revocationLists: lists), "nothing new")
        #expect(try home.read("identity/ca-crl.pem") == String(decoding: lists, as: UTF8.self))
        #expect(try directory.load().leaf == leaf)
        #expect(throws: SVIDError.self) { try directory.load().bundle.verify(leaf: stranger) }

        let pending = try directory.prepare(id: id)
        let renewed = try ca.issue(pending.request, id: id, options: IssuanceOptions(), now: now)
        _ = try pending.commit(chain: renewed.chain, roots: renewed.roots)
        #expect(throws: SVIDError.self) { try directory.load().bundle.verify(leaf: stranger) }

        let older = try list(of: [], by: ca, number: 6)
        let error = #expect(throws: IdentityError.self) { try directory.write(revocationLists: older) }
        #expect(error?.code == .refused && error?.message.contains("number 6 is older") == true)
        let another = try directory.prepare(id: id)
        let again = try ca.issue(another.request, id: id, options: IssuanceOptions(), now: now)
        #expect(directory.remark(on: older)?.contains("number 6 is older than the one in use (number 7)") == true)
        _ = try another.commit(chain: again.chain, roots: again.roots, revocationLists: older)
        #expect(try directory.load().leaf == again.leaf, "an older list fails no renewal")
        #expect(throws: SVIDError.self) { try directory.load().bundle.verify(leaf: stranger) }
        #expect(try directory.write(revocationLists: try list(of: [], by: ca, number: 16)), "10 is more than 7")
        #expect(try directory.load().bundle.verify(leaf: stranger) == id)
        // One that the roots here have not signed.
        let other = try EmbeddedCA(trustDomain: ca.trustDomain, now: now)
        #expect(try directory.write(revocationLists: try list(of: [leaf], by: other)))
        #expect(try directory.load().bundle.revocations.isEmpty)
    }

    /// The first list is often brought by `cp`.
    @Test func aListThatIsCopiedBesideTheVersionsHolds() throws {
        let directory = CredentialDirectory(home.path("identity"))
        let stranger = try issue(by: ca).leaf
        let (key, leaf) = try issue(by: ca)
        try directory.write(Credential(key: key, chain: [leaf], roots: ca.roots))
        try home.write("identity/ca-crl.pem", try list(of: [stranger], by: ca, number: 7))
        #expect(throws: SVIDError.self) { try directory.load().bundle.verify(leaf: stranger) }
        #expect(try directory.write(revocationLists: try list(of: [stranger, leaf], by: ca, number: 8)))
        #expect(throws: SVIDError.self) { try directory.load().bundle.verify(leaf: stranger) }
        #expect(try home.read("identity/ca-crl.pem") == home.read("identity/..data/ca-crl.pem"))
    }

    /// The own certificate may be on the list: that is for peers to decide about.
    @Test func aRevokedCredentialStillLoads() throws {
        let directory = CredentialDirectory(home.path("identity"))
        let (key, leaf) = try issue(by: ca)
        try directory.write(Credential(key: key, chain: [leaf], roots: ca.roots))
        try directory.write(revocationLists: try list(of: [leaf], by: ca))
        #expect(try directory.load().id == id)
    }
}

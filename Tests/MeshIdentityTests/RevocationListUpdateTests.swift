import Foundation
import TestPeers
import Testing

@testable import MeshIdentity

/// What becomes of revocation lists where others arrive: nothing that was revoked is taken back.
@Suite struct RevocationListUpdateTests {
    private let now = Int64(Date().timeIntervalSince1970)
    private let ca: EmbeddedCA
    private let next: EmbeddedCA
    private var roots: [Certificate] { ca.roots + next.roots }

    init() throws {
        ca = try EmbeddedCA(trustDomain: TrustDomain("mesh.example"), now: now)
        next = try EmbeddedCA(trustDomain: TrustDomain("mesh.example"), now: now)
    }

    private func list(_ serials: [String], number: Int64, by ca: EmbeddedCA) throws -> [UInt8] {
        let entries = serials.map { RevokedCertificate(serial: $0, revokedAt: now - 10) }
        return try ca.revocationList(of: entries, number: number, nextUpdate: now + 3600, at: now).pem
    }

    @Test func theNewerOneStays() throws {
        let (older, newer) = (try list(["0a"], number: 6, by: ca), try list(["0b"], number: 7, by: ca))
        var update = try RevocationListUpdate(of: older, with: newer, roots: roots)
        #expect(update.pem == newer && update.remark == nil)
        update = try RevocationListUpdate(of: newer, with: older, roots: roots)
        #expect(update.pem == newer)
        #expect(update.remark?.contains("number 6 is older than the one in use (number 7), which stays") == true)
        update = try RevocationListUpdate(of: newer, with: newer, roots: roots)
        #expect(update.pem == newer && update.remark == nil)
        #expect(try RevocationListUpdate(of: nil, with: older, roots: roots).pem == older)
        #expect(try RevocationListUpdate(of: Array("damaged".utf8), with: older, roots: roots).pem == older)
    }

    /// A ledger that was put back gives a number out twice.
    @Test func ofTwoWithOneNumberTheOneThatKnowsMoreStays() throws {
        let (less, more) = (try list(["0a"], number: 7, by: ca), try list(["0a", "0b"], number: 7, by: ca))
        #expect(try RevocationListUpdate(of: more, with: less, roots: roots).pem == more)
        #expect(try RevocationListUpdate(of: less, with: more, roots: roots).pem == more)
    }

    /// Two CAs while a root is replaced: the list of one says nothing of the other's certificates.
    @Test func theListOfOneRootDoesNotReplaceTheOthers() throws {
        let (first, second) = (try list(["0a"], number: 9, by: ca), try list(["0b"], number: 1, by: next))
        let update = try RevocationListUpdate(of: first, with: second, roots: roots)
        #expect(update.pem == second + first && update.remark == nil)
        #expect(
            try RevocationListUpdate(of: first, with: second, roots: next.roots).pem == second,
            "its root was dropped"
        )
        let both = try RevocationListUpdate(of: first + second, with: list(["0c"], number: 2, by: next), roots: roots)
        let kept = try RevocationList.all(pem: both.pem)
        #expect(kept.map(\.serials) == [["0c"], ["0a"]])
    }

    /// A number alone is nobody's word.
    @Test func whatNoRootHasSignedReplacesNothing() throws {
        let stranger = try EmbeddedCA(trustDomain: TrustDomain("mesh.example"), now: now)
        let present = try list(["0a"], number: 7, by: ca)
        let update = try RevocationListUpdate(of: present, with: list([], number: 99, by: stranger), roots: ca.roots)
        let revocations = try Revocations(pem: update.pem, roots: ca.roots)
        let issuer = try #require(ca.certificate.subjectKeyIdentifier)
        #expect(revocations.contain(CertificateName(issuer: issuer, serial: "0a")))
    }

    /// More than a mebibyte, by way of the files of a credential.
    @Test func aLongListIsWrittenAndRead() throws {
        let home = TemporaryDirectory()
        let directory = CredentialDirectory(home.path("identity"))
        let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/db")
        let key = try PrivateKey.generate()
        let issued = try ca.issue(CertificateRequest.create(key: key, id: id), id: id)
        try directory.write(Credential(key: key, chain: issued.chain, roots: issued.roots))
        let serials = (0..<22_000).map { "4" + String(repeating: "0", count: 33) + String(100_000 + $0, radix: 16) }
        let long = try list(serials, number: 3, by: ca)
        #expect(long.count > 1 << 20)
        #expect(try directory.write(revocationLists: long))
        #expect(try directory.load().bundle.revocations.pem == long)
        let pending = try directory.prepare(id: id)
        let renewed = try ca.issue(pending.request, id: id)
        _ = try pending.commit(chain: renewed.chain, roots: renewed.roots, revocationLists: long)
        #expect(try directory.load().leaf == renewed.leaf)
    }
}

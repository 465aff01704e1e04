import Foundation
import Platform
import TestPeers
import Testing

@testable import MeshIdentity

/// What becomes of revocation lists where others arrive: nothing that was revoked is taken back.
@Suite struct RevocationListUpdateTests {
    private let now = Int64(Date().timeIntervalSince1970)
    private let ca: EmbeddedCA
    private let next: EmbeddedCA
    private let id: SPIFFEID
    private var roots: [Certificate] { ca.roots + next.roots }

    init() throws {
        id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/db")
        ca = try EmbeddedCA(trustDomain: TrustDomain("mesh.example"), now: now)
        next = try EmbeddedCA(trustDomain: TrustDomain("mesh.example"), now: now)
    }

    private func list(_ serials: [String], number: Int64, by ca: EmbeddedCA, at time: Int64? = nil) throws -> [UInt8] {
        let time = time ?? now
        let entries = serials.map { RevokedCertificate(serial: $0, revokedAt: time - 10) }
        return try ca.revocationList(of: entries, number: number, nextUpdate: time + 3600, at: time).pem
    }

    private func credential(in home: TemporaryDirectory) throws -> CredentialDirectory {
        let directory = CredentialDirectory(home.path("identity"))
        let key = try PrivateKey.generate()
        let issued = try ca.issue(CertificateRequest.create(key: key, id: id), id: id)
        try directory.write(Credential(key: key, chain: issued.chain, roots: issued.roots))
        return directory
    }

    private func serials(_ pem: [UInt8]) throws -> Set<String> {
        try RevocationList.all(pem: pem).reduce(into: []) { $0.formUnion($1.serials) }
    }

    /// An operator's clock that runs ahead: what its list leaves out as ended may be valid here.
    @Test func aListFromAClockThatIsAheadTakesNothingBack() throws {
        let day: Int64 = 26 * 3600
        let present = try list(["0a"], number: 7, by: ca)
        let ahead = try list(["0b"], number: 8, by: ca, at: now + day)
        let update = try RevocationListUpdate(of: present, with: ahead, roots: roots, at: now)
        #expect(try serials(update.pem) == ["0a", "0b"])
        #expect(update.remark == nil, "it is newer, and holds")
        #expect(update.clockRemark?.contains("number 8 was made 1 d 1 h ahead of this machine's clock") == true)
        // Whoever verifies with both refuses both.
        let revocations = try Revocations(pem: update.pem, roots: roots)
        let issuer = try #require(ca.certificate.subjectKeyIdentifier)
        for serial in ["0a", "0b"] { #expect(revocations.contain(CertificateName(issuer: issuer, serial: serial))) }
        // The same once more is nothing new; nor is the one that was there.
        for given in [ahead, present] {
            #expect(
                try RevocationListUpdate(of: update.pem, with: given, roots: roots, at: now).pem == update.pem
            )
        }
        // A third one: what only the first has stays.
        let third = try list(["0b", "0c"], number: 9, by: ca, at: now + day)
        let more = try RevocationListUpdate(of: update.pem, with: third, roots: roots, at: now)
        #expect(try serials(more.pem) == ["0a", "0b", "0c"])
        #expect(try RevocationList.all(pem: more.pem).count == 2, "the second has nothing that the others have not")
        // Once the clocks agree, a list says all of it; so does this one once its time has come.
        let right = try list(["0a", "0b"], number: 10, by: ca)
        #expect(try RevocationListUpdate(of: more.pem, with: right, roots: roots, at: now).pem == right)
        #expect(try RevocationListUpdate(of: update.pem, with: ahead, roots: roots, at: now + day).pem == ahead)
    }

    /// Clocks of a mesh differ by some minutes.
    @Test func aClockThatIsALittleAheadIsNone() throws {
        let present = try list(["0a"], number: 7, by: ca)
        let list = try list(["0b"], number: 8, by: ca, at: now + RevocationListUpdate.tolerance)
        let update = try RevocationListUpdate(of: present, with: list, roots: roots, at: now)
        #expect(update.pem == list && update.warning == nil)
    }

    /// By way of the files of a credential: with a list alone, with a renewal, and by hand under a program that runs.
    @Test func whatWasRevokedStaysInACredentialDirectory() throws {
        let home = TemporaryDirectory()
        let directory = try credential(in: home)
        let present = try list(["0a"], number: 7, by: ca)
        #expect(try directory.write(revocationLists: present))
        let running = try directory.load()

        let ahead = try list([], number: 8, by: ca, at: now + 26 * 3600)
        #expect(directory.remark(on: ahead)?.contains("ahead of this machine's clock") == true)
        #expect(try directory.write(revocationLists: ahead))
        #expect(try serials(directory.load().bundle.revocations.pem) == ["0a"])
        #expect(try directory.write(revocationLists: ahead) == false, "it is there")
        let pending = try directory.prepare(id: id)
        let renewed = try ca.issue(pending.request, id: id)
        _ = try pending.commit(chain: renewed.chain, roots: renewed.roots, revocationLists: ahead)
        #expect(try serials(directory.load().bundle.revocations.pem) == ["0a"])

        for (text, part) in [(ahead, "ahead of"), (try list([], number: 6, by: ca), "is older")] {
            try AtomicFile.write(text, to: home.path("identity/..data/ca-crl.pem"))
            let (kept, remark) = try directory.load().keepingRevocations(of: running)
            #expect(try serials(kept.bundle.revocations.pem) == ["0a"])
            #expect(remark?.contains(part) == true, "\(remark ?? "")")
        }
        try FileManager.default.removeItem(atPath: home.path("identity/..data/ca-crl.pem"))
        let without = try directory.load().keepingRevocations(of: running)
        #expect(try serials(without.credential.bundle.revocations.pem) == ["0a"])
        #expect(without.remark?.contains("no revocation list any more") == true)
        // A later list that leaves it out says that it has ended.
        try AtomicFile.write(list(["0b"], number: 9, by: ca), to: home.path("identity/..data/ca-crl.pem"))
        let later = try directory.load().keepingRevocations(of: running)
        #expect(try serials(later.credential.bundle.revocations.pem) == ["0b"] && later.remark == nil)
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
        let directory = try credential(in: home)
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

import Foundation
import Platform
import Streams
import TestPeers
import Testing

@testable import Fleet
@testable import MeshIdentity

/// The CA's list, when the ledger that it is made of was lost, put back, or is not the only one.
@Suite struct RevocationPublisherTests {
    private let home = TemporaryDirectory()
    private let ca: EmbeddedCA
    private var records: DeviceDirectory { DeviceDirectory(home.path("home/devices")) }
    private var ledger: Ledger { records.ledger }
    private var issuer: String { ca.certificate.subjectKeyIdentifier ?? "" }

    init() throws {
        ca = try EmbeddedCA.create(directory: home.path("home/ca"), trustDomain: TrustDomain("mesh.example"))
    }

    private func publisher(_ ledger: Ledger) -> RevocationPublisher {
        RevocationPublisher(authority: LiveCA(ca, directory: home.path("home/ca"), passphrase: nil), ledger: ledger)
    }

    /// - Returns: The certificate's serial number.
    private func enroll(_ name: String) async throws -> String {
        var record = try DeviceDirectoryTests.record(name)
        record.identity = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/\(name)")
        let issuer = RecordingIssuer(ca, ledger: ledger, command: "enroll", claim: try ledger.claim(name))
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: record.identity)
        let leaf = try #require(
            try await issuer.issue(request, id: record.identity, options: IssuanceOptions()).leaf
        )
        (record.serial, record.notAfter) = (leaf.serialNumber, leaf.notAfter)
        try records.save(record)
        return leaf.serialNumber
    }

    private func revoke(_ name: String) throws -> RevocationList {
        _ = try ledger.revokeDevice(named: name, reason: "stolen", by: "revoke")
        return try published()
    }

    private func published() throws -> RevocationList {
        let lists = try RevocationList.all(pem: publisher(ledger).publish())
        #expect(lists.count == 1)
        return try #require(lists.first)
    }

    /// Of many devices that are renewed in one run, the list is read for the first, and again when it is another.
    @Test func aListThatDidNotChangeIsReadOnce() async throws {
        _ = (try await enroll("a"), try await enroll("b"))
        _ = try revoke("a")
        let publisher = publisher(ledger)
        for _ in 0..<5 { try publisher.reconcile { Issue.record("\($0)") } }
        #expect(publisher.present != nil)
        #expect(publisher.readings == 1)
        _ = try revoke("b")
        try publisher.reconcile { Issue.record("\($0)") }
        #expect(publisher.readings == 2)
        #expect(try RevocationList.all(pem: publisher.present ?? []).first?.serials.count == 2)
    }

    @Test func aLedgerThatWasDeletedTakesNothingBack() async throws {
        let (a, b) = (try await enroll("a"), try await enroll("b"))
        let before = try revoke("a")
        #expect(before.serials == [a])
        try FileManager.default.removeItem(atPath: ledger.path)
        _ = try await enroll("c")
        let after = try revoke("c")
        #expect(after.serials.contains(a) && after.serials.count == 2)
        #expect(after.isNewer(than: before))
        #expect(!after.serials.contains(b))
        #expect(try ledger.revokedCertificates().contains(CertificateName(issuer: issuer, serial: a)))
        // It stays as long as it may be valid, and no longer.
        let known = try #require(try ledger.certificates().first { $0.serial == a })
        #expect(known.notAfter == before.nextUpdate && known.state == .revoked)
        #expect(try published().serials == after.serials)
        var later = ledger
        later.clock = WallClock { [end = known.notAfter] in (end + 4000) * 1000 }
        #expect(try later.revoked(by: issuer, endingAfter: known.notAfter + 400).isEmpty)
    }

    @Test func aLedgerThatWasPutBackKnowsWhoWasRevoked() async throws {
        let (a, b) = (try await enroll("a"), try await enroll("b"))
        let copy = try AtomicFile.read(ledger.path)
        let before = try revoke("a")
        try AtomicFile.write(copy, to: ledger.path)
        #expect(try records.record(named: "a")?.revokedAt == nil)
        try publisher(ledger).takeOverPresent()
        let device = try #require(try records.record(named: "a"))
        #expect(device.revokedAt != nil && device.revocationReason?.contains("ca-crl.pem") == true)
        #expect(try records.record(named: "b")?.revokedAt == nil)
        let after = try revoke("b")
        #expect(after.serials == [a, b] && after.isNewer(than: before))
    }

    /// A look fails, and then the same files, as far as the kernel says, have a revocation.
    @Test func aLookThatFailedOnceIsRepeated() async throws {
        let a = try await enroll("a")
        let copy = try AtomicFile.read(ledger.path)
        let list = try revoke("a").pem
        try AtomicFile.write(copy, to: ledger.path)
        let file = OverwrittenFile(home.path("home/ca/ca-crl.pem"))
        try file.overwrite([UInt8](repeating: 0x78, count: list.count))
        let said = Notes()
        let reader = publisher(ledger)
        let keeping = Task {
            await reader.keepReconciled { message in
                said.add(message)
                #expect(throws: Never.self) { try file.overwrite(list) }
            }
        }
        defer { keeping.cancel() }
        try await eventually("the revocation is taken over") { try records.record(named: "a")?.revokedAt != nil }
        #expect(said.all.count == 1)
        #expect(try ledger.revokedCertificates().contains(CertificateName(issuer: issuer, serial: a)))
    }

    /// A list that a device has and nobody else: the CA has signed it.
    @Test func whatADeviceKnowsIsLearned() async throws {
        let a = try await enroll("a")
        let copy = try AtomicFile.read(ledger.path)
        let atTheDevice = try revoke("a").pem
        try AtomicFile.write(copy, to: ledger.path)
        try FileManager.default.removeItem(atPath: home.path("home/ca/ca-crl.pem"))
        let said = Notes()
        publisher(ledger).learn(atTheDevice, from: "b") { said.add($0) }
        #expect(said.all.count == 1 && said.all[0].contains("b has a revocation list with 1 certificate that"))
        #expect(try records.record(named: "a")?.revokedAt != nil)
        let lists = try RevocationList.all(pem: AtomicFile.read(home.path("home/ca/ca-crl.pem")))
        #expect(lists.first?.serials == [a])
        publisher(ledger).learn(atTheDevice, from: "c") { said.add($0) }
        #expect(said.all.count == 1, "nothing new")
        // What others have signed, or what is no list, is nobody's word.
        let stranger = try EmbeddedCA(trustDomain: ca.trustDomain, now: Int64(Date().timeIntervalSince1970))
        let entries = [RevokedCertificate(serial: "4f", revokedAt: 1)]
        let forged = try stranger.revocationList(of: entries, number: .max - 1, nextUpdate: 4_000_000_000)
        publisher(ledger).learn(forged.pem, from: "c") { said.add($0) }
        publisher(ledger).learn(Array("no list".utf8), from: "c") { said.add($0) }
        #expect(said.all.count == 1)
        #expect(try published().serials == [a])
    }

    /// Numbers go on although the ledger that counted them is gone, and although a list has come from elsewhere.
    @Test func numbersGoOn() async throws {
        _ = try await enroll("a")
        let first = try revoke("a")
        #expect(try #require(Int64(first.number, radix: 16)) >= Int64(Date().timeIntervalSince1970) - 60)
        let ahead = try ca.revocationList(of: [], number: 1 << 40, nextUpdate: 4_000_000_000)
        try AtomicFile.write(ahead.pem, to: home.path("home/ca/ca-crl.pem"))
        #expect(try published().number == String((1 << 40) + 1, radix: 16))
        #expect(try published().number == String((1 << 40) + 2, radix: 16))
        let last = try ca.revocationList(of: [], number: .max, nextUpdate: 4_000_000_000)
        try AtomicFile.write(last.pem, to: home.path("home/ca/ca-crl.pem"))
        let error = #expect(throws: LedgerError.self) { try publisher(ledger).publish() }
        #expect(error?.message.contains("after which there can be none") == true)
    }

    @Test func aDamagedListIsNotOverwritten() async throws {
        _ = try await enroll("a")
        _ = try revoke("a")
        try home.write("home/ca/ca-crl.pem", "garbage")
        let error = #expect(throws: LedgerError.self) { try publisher(ledger).publish() }
        #expect(error?.code == .damaged)
        #expect(error?.message.contains("ca-crl.pem.damaged`, then `bootstrap revoke`") == true)
        #expect(try home.read("home/ca/ca-crl.pem") == "garbage")
    }

    private func ledger(ahead seconds: Int64) -> Ledger {
        var ledger = ledger
        ledger.clock = WallClock { WallClock.system.milliseconds + seconds * 1000 }
        return ledger
    }

    /// The operator's clock runs ahead by more than a certificate is valid: it stays on the list.
    @Test(arguments: [93_600, 1_728_000] as [Int64]) func aClockThatIsAheadTakesNothingBack(
        _ ahead: Int64
    ) async throws {
        let a = try await enroll("a")
        let before = try revoke("a")
        let made = try RevocationList.all(pem: publisher(ledger(ahead: ahead)).publish())
        #expect(made.map(\.serials) == [[a]] && made[0].isNewer(than: before))
        #expect(made[0].lastUpdate >= before.lastUpdate + ahead, "it says by which time it was made")
        // Without the ledger that knew of it, from the list alone.
        try FileManager.default.removeItem(atPath: ledger.path)
        #expect(try RevocationList.all(pem: publisher(ledger(ahead: ahead)).publish()).map(\.serials) == [[a]])
        #expect(try published().serials == [a])
    }

    /// A month after its end, by any clock that is to be believed, it goes.
    @Test func whatHasLongEndedLeavesTheList() async throws {
        _ = try await enroll("a")
        _ = try revoke("a")
        let later = ledger(ahead: 86_400 + Ledger.keptAfterEnd + 60)
        #expect(try RevocationList.all(pem: publisher(later).publish()).map(\.serials) == [[]])
    }

    /// What has ended makes room for what has not.
    @Test func aListThatWouldBeTooLongLeavesOutWhatHasEnded() async throws {
        _ = try await enroll("a")
        // A signature may be some bytes shorter than another one, and an entry is longer than that.
        let one = try revoke("a").pem.count
        var later = publisher(ledger(ahead: 2 * 86_400))
        later.maximumLength = one - 20
        #expect(try RevocationList.all(pem: later.publish()).map(\.serials) == [[]])
        var now = publisher(ledger)
        now.maximumLength = one - 20
        #expect(throws: LedgerError.self) { try now.publish() }
    }

    /// A certificate is given out without it, so that a device keeps the list that it has.
    @Test(arguments: ["garbage", "", "-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n"])
    func aDamagedListIsGivenToNobody(_ text: String) async throws {
        _ = try await enroll("a")
        _ = try revoke("a")
        let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/b")
        func issue() throws -> IssuedCertificate {
            try ca.issue(CertificateRequest.create(key: PrivateKey.generate(), id: id), id: id)
        }
        #expect(try issue().revocationLists != nil)
        try home.write("home/ca/ca-crl.pem", text)
        #expect(try issue().revocationLists == nil)
        #expect(publisher(ledger).present == nil)
        #expect(throws: LedgerError.self) { try publisher(ledger).reconcile { _ in } }
    }

    /// A command was ended when the ledger had it, and the list had not.
    @Test func whatTheListLacksIsWritten() async throws {
        let (a, b) = (try await enroll("a"), try await enroll("b"))
        _ = try ledger.revokeDevice(named: "a", reason: "stolen", by: "revoke")
        #expect(try publisher(ledger).comparison().unlisted.map(\.serial) == [a])
        let said = Notes()
        try publisher(ledger).reconcile { said.add($0) }
        #expect(said.all.count == 1 && said.all[0].contains("has 1 certificate now"), "\(said.all)")
        #expect(try listed() == [a])
        #expect(try publisher(ledger).comparison().unlisted.isEmpty)
        let before = try home.read("home/ca/ca-crl.pem")
        try publisher(ledger).reconcile { Issue.record("\($0)") }
        #expect(try home.read("home/ca/ca-crl.pem") == before, "nothing is missing, and nothing is written")

        _ = try ledger.revoke(RevocationOrder(serials: [b], reason: "leaked", by: "revoke"))
        let lock = try FileLock(directory: home.path("home/ca"), patience: .zero)
        var impatient = publisher(ledger)
        impatient.patience = .zero
        try impatient.reconcile { said.add($0) }
        withExtendedLifetime(lock) {}
        #expect(said.all.count == 2)
        for part in ["no device refuses 1 certificate yet", "another process is writing", "`bootstrap revoke`"] {
            #expect(said.all.last?.contains(part) == true, "\(said.all)")
        }
        lock.unlock()
        let keeping = Task { [reader = publisher(ledger)] in await reader.keepReconciled { said.add($0) } }
        defer { keeping.cancel() }
        try await eventually("the list is written, and that is said") {
            try listed() == [a, b] && said.all.last?.contains("has 1 certificate now") == true
        }
    }

    private func listed() throws -> Set<String> {
        try RevocationList.all(pem: AtomicFile.read(home.path("home/ca/ca-crl.pem"))).reduce(into: []) {
            $0.formUnion($1.serials)
        }
    }

    /// While another process writes to the ledger: a comparison that finds nothing waits for nobody.
    @Test func whatIsKnownIsNotWrittenAgain() async throws {
        let a = try await enroll("a")
        _ = try revoke("a")
        let writing = try ChildProcess(
            "python3",
            [
                "-c",
                """
                import sqlite3, sys
                db = sqlite3.connect(sys.argv[1], isolation_level=None)
                db.execute("BEGIN IMMEDIATE")
                print("holding", flush=True)
                sys.stdin.readline()
                """,
                ledger.path,
            ],
            keepsInputOpen: true
        )
        _ = try await writing.standardOutput.line(containing: "holding")
        try publisher(ledger).takeOverPresent()
        try publisher(ledger).reconcile { Issue.record("\($0)") }
        #expect(try listed() == [a])
        await writing.stop()
    }

    /// An earlier copy of the ledger: who was only given another certificate is not taken for one that was revoked.
    @Test func aReplacedCertificateIsNotARevokedDevice() async throws {
        let (first, b) = (try await enroll("a"), try await enroll("b"))
        let copy = try AtomicFile.read(ledger.path)
        var record = try #require(try records.record(named: "a"))
        record.serial = try await enroll("a")
        try records.save(record, revokingEarlier: { _ in "host key replaced" })
        let before = try revoke("b")
        #expect(before.serials == [first, b])
        #expect(before.entries.first { $0.serial == first }?.reason == .superseded)
        #expect(before.entries.first { $0.serial == b }?.reason == .privilegeWithdrawn)

        try AtomicFile.write(copy, to: ledger.path)
        try publisher(ledger).takeOverPresent()
        #expect(try records.record(named: "a")?.revokedAt == nil)
        #expect(try records.record(named: "b")?.revokedAt != nil)
        #expect(try ledger.certificates(of: "a").map(\.state) == [.revoked], "its certificate is")
        // What was said once stays, whoever has the name by then.
        try records.remove(named: "b")
        _ = try await enroll("b")
        #expect(try published().entries.first { $0.serial == b }?.reason == .privilegeWithdrawn)
        #expect(try published().entries.first { $0.serial == first }?.reason == .superseded)
    }

    /// An earlier release's list does not say why: then the device counts as revoked.
    @Test func aListThatDoesNotSayWhyRevokesTheDevice() async throws {
        let a = try await enroll("a")
        let entries = [RevokedCertificate(serial: a, revokedAt: 1_700_000_000)]
        let list = try ca.revocationList(of: entries, number: 7, nextUpdate: 4_000_000_000)
        #expect(list.entries.first?.reason == nil)
        try AtomicFile.write(list.pem, to: home.path("home/ca/ca-crl.pem"))
        try publisher(ledger).takeOverPresent()
        #expect(try records.record(named: "a")?.revokedAt != nil)
    }

    /// Signed by others: on no list of this CA, and said so.
    @Test func whatAnotherIssuerHasSignedComesOnNoList() async throws {
        _ = try await enroll("a")
        let other = try EmbeddedCA(trustDomain: ca.trustDomain, now: Int64(Date().timeIntervalSince1970))
        let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/a")
        let recording = RecordingIssuer(other, ledger: ledger, command: "renew", claim: try ledger.claim("a"))
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        let leaf = try #require(try await recording.issue(request, id: id, options: IssuanceOptions()).leaf)
        _ = try revoke("a")
        let comparison = try publisher(ledger).comparison()
        #expect(comparison.foreign.map(\.serial) == [leaf.serialNumber] && comparison.unlisted.isEmpty)
        #expect(try ListComparison(directory: home.path("home/ca"), ledger: ledger).foreign == comparison.foreign)
        let remark = try #require(ListComparison.remark(onForeign: comparison.foreign))
        #expect(remark.hasPrefix("1 revoked certificate can be put on no list"))
        #expect(remark.contains("serial \(leaf.serialNumber) of \(id), accepted until "))
        #expect(ListComparison.remark(onForeign: []) == nil)
    }

    /// Past a mebibyte it is written, read, and given out; past what is read it is not written.
    @Test func aListThatGrows() async throws {
        func put(_ count: Int, startingAt start: Int) throws {
            let entries = (start..<start + count).map {
                RevokedCertificate(
                    serial: "4" + String(repeating: "0", count: 33) + String(1_000_000 + $0, radix: 16),
                    revokedAt: 1_700_000_000
                )
            }
            let list = try ca.revocationList(of: entries, number: 7, nextUpdate: 4_000_000_000)
            try AtomicFile.write(list.pem, to: home.path("home/ca/ca-crl.pem"))
        }
        try put(22_000, startingAt: 0)
        let lists = try publisher(ledger).publish()
        #expect(lists.count > 1 << 20)
        #expect(try RevocationList.all(pem: lists)[0].serials.count == 22_000)
        let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/a")
        let issued = try ca.issue(CertificateRequest.create(key: PrivateKey.generate(), id: id), id: id)
        #expect(issued.revocationLists == lists)
    }
}

/// A file that is written without a change of what ``FileStamp`` looks at.
final class OverwrittenFile: Sendable {
    private let path: String
    private let date = Date(timeIntervalSince1970: 1_700_000_000)

    init(_ path: String) { self.path = path }

    /// - Parameter bytes: As many as there are.
    func overwrite(_ bytes: [UInt8]) throws {
        let handle = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        try handle.write(contentsOf: Data(bytes))
        try handle.close()
        try FileManager.default.setAttributes([.modificationDate: date], ofItemAtPath: path)
    }
}

/// What was said to whoever listens.
private final class Notes: Sendable {
    private let values = Lock<[String]>([])
    func add(_ value: String) { values.withLock { $0.append(value) } }
    var all: [String] { values.withLock { $0 } }
}

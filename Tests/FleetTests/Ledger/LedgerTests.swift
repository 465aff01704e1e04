import Foundation
import Platform
import TestPeers
import Testing

@testable import Fleet
@testable import MeshIdentity

/// What was enrolled, issued and revoked, in one file that several processes write at once.
@Suite struct LedgerTests {
    private let home = TemporaryDirectory()
    private var path: String { home.path("state/ledger.sqlite") }
    private var ledger: Ledger { Ledger(path) }

    private func device(_ name: String, serial: String? = nil, hostKey: String = "SHA256:a") -> LedgerDevice {
        LedgerDevice(
            name: name,
            identity: "spiffe://mesh.example/ns/prod/sa/\(name)",
            destination: "root@\(name)",
            hostKeyAlgorithm: "ssh-ed25519",
            hostKey: hostKey,
            keyOrigin: "device",
            agent: "0.1.0-abc",
            serial: serial,
            notAfter: 2_000_000_000,
            enrolledAt: 1_000_000_000,
            record: "{}"
        )
    }

    private func issue(_ name: String, ca: EmbeddedCA) async throws -> Certificate {
        let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/\(name)")
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        let issuer = RecordingIssuer(ca, ledger: ledger, command: "enroll", claim: try ledger.claim(name))
        return try #require(try await issuer.issue(request, id: id, options: IssuanceOptions()).leaf)
    }

    private func makeCA() throws -> EmbeddedCA {
        try EmbeddedCA(trustDomain: TrustDomain("mesh.example"), now: Int64(Date().timeIntervalSince1970))
    }

    @Test func aDeviceIsFoundByItsNameDestinationOrIdentity() throws {
        #expect(try ledger.devices() == [])
        let seven = device("dev7")
        try ledger.save(device("dev8"), by: "enroll", "enrolled")
        try ledger.save(seven, by: "enroll", "enrolled")
        #expect(try ledger.devices().map(\.name) == ["dev7", "dev8"])
        #expect(try ledger.device(named: "dev7") == seven)
        #expect(try ledger.devices(matching: "root@dev7") == [seven])
        #expect(try ledger.devices(matching: seven.identity) == [seven])
        #expect(try ledger.device(named: "dev9") == nil)
        try ledger.removeDevice(named: "dev7", by: "unenroll")
        #expect(try ledger.devices().map(\.name) == ["dev8"])
        #expect(try ledger.events(of: "dev7").map(\.what) == ["removed", "enrolled"])
    }

    @Test func onlyItsOwnerReadsIt() throws {
        try ledger.save(device("dev7"), by: "enroll", "enrolled")
        let permissions = { (path: String) throws in
            try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
        }
        #expect(try permissions(path) == 0o600)
        #expect(try permissions(home.path("state")) == 0o700)
        #expect(try FileManager.default.contentsOfDirectory(atPath: home.path("state")) == ["ledger.sqlite"])
    }

    @Test func certificatesAreKnownBeforeAnybodyHasThem() async throws {
        let ca = try makeCA()
        let first = try await issue("dev7", ca: ca)
        #expect(first.authorityKeyIdentifier == ca.certificate.subjectKeyIdentifier)
        var known = try #require(try ledger.certificates(of: "dev7").first)
        #expect(known.serial == first.serialNumber)
        #expect(known.issuer == ca.certificate.subjectKeyIdentifier)
        #expect(known.notAfter == first.notAfter)
        #expect(known.command == "enroll")
        #expect(known.state == .issued)
        let second = try await issue("dev7", ca: ca)
        _ = try await issue("dev8", ca: ca)
        try ledger.save(device("dev7", serial: second.serialNumber), by: "renew", "renewed")
        let states = Dictionary(
            uniqueKeysWithValues: try ledger.certificates().map { ($0.serial, $0.state) }
        )
        #expect(states[first.serialNumber] == .superseded)
        #expect(states[second.serialNumber] == .issued)
        #expect(states.values.filter { $0 == .issued }.count == 2, "another device's certificate stays as it is")
        known = try #require(try ledger.certificates(of: "dev7").last)
        #expect(known.changedAt != nil)
    }

    @Test func aReplacedDeviceLosesItsEarlierCertificates() async throws {
        let ca = try makeCA()
        let old = try await issue("dev7", ca: ca)
        let new = try await issue("dev7", ca: ca)
        try ledger.save(
            device("dev7", serial: new.serialNumber),
            by: "enroll",
            "enrolled",
            revokingEarlier: { _ in "host key replaced" }
        )
        let known = try ledger.certificates(of: "dev7")
        #expect(known.first { $0.serial == old.serialNumber }?.state == .revoked)
        #expect(known.first { $0.serial == old.serialNumber }?.reason == "host key replaced")
        #expect(known.first { $0.serial == new.serialNumber }?.state == .issued)
    }

    /// An issuer that cannot write down what it issues hands nothing out.
    @Test func nothingIsIssuedThatCannotBeRecorded() async throws {
        try home.write(
            "state/ledger.sqlite",
            "this is no database, but it is long enough to be taken for one. " + String(repeating: "x", count: 4096)
        )
        let (ca, id) = (try makeCA(), try SPIFFEID("spiffe://mesh.example/ns/prod/sa/dev7"))
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        let claim = DeviceClaim(name: "dev7", device: nil, lastIssued: nil)
        for issuer in [claim, nil].map({ RecordingIssuer(ca, ledger: ledger, command: "enroll", claim: $0) }) {
            let error = await #expect(throws: IdentityError.self) {
                try await issuer.issue(request, id: id, options: IssuanceOptions())
            }
            #expect(error?.message.contains("is damaged") == true)
        }
        #expect(throws: LedgerError.self) { try ledger.claim("dev7") }
    }

    @Test func aDamagedLedgerIsNamedWhereAClaimIsMade() async throws {
        try home.write("state/ledger.sqlite", String(repeating: "garbage ", count: 1000))
        let ca = try makeCA()
        let error = await #expect(throws: LedgerError.self) { try await issue("dev7", ca: ca) }
        #expect(error?.message.contains("is damaged") == true)
    }

    @Test func whatIsDamagedForeignOrNewerIsNamed() throws {
        try home.write("state/ledger.sqlite", String(repeating: "garbage ", count: 1000))
        var error = #expect(throws: LedgerError.self) { try ledger.devices() }
        #expect(error?.code == .damaged)
        #expect(error?.message.contains(path) == true && error?.message.contains("enroll the devices again") == true)

        try FileManager.default.removeItem(atPath: path)
        try sqlite("CREATE TABLE mine (x)")
        error = #expect(throws: LedgerError.self) { try ledger.devices() }
        #expect(error?.message.contains("no ledger of bootstrap") == true)

        try FileManager.default.removeItem(atPath: path)
        _ = try ledger.devices()
        try sqlite("PRAGMA user_version = 99")
        error = #expect(throws: LedgerError.self) { try ledger.devices() }
        #expect(error?.code == .newer)
        #expect(error?.message.contains("later release") == true)
    }

    /// It has lost what was in it: a new one would say that nobody was revoked.
    @Test func anEmptyFileIsNoNewLedger() throws {
        try home.write("state/ledger.sqlite", "")
        let error = #expect(throws: LedgerError.self) { try ledger.devices() }
        #expect(error?.code == .damaged)
        for part in [path, "0 bytes", "Put a copy of it back", "rm \(path)"] {
            #expect(error?.message.contains(part) == true, "\(String(describing: error))")
        }
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)).isEmpty, "it stays as it is")
        try FileManager.default.removeItem(atPath: path)
        #expect(try ledger.devices() == [])
        // Made whole: there is no moment in which it is empty.
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)).count > 4096)
    }

    /// Many at once, on a home without one.
    @Test func theFirstCommandsMakeOneLedger() async throws {
        let ledger = ledger
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<8 {
                let device = device("dev\(number)")
                group.addTask { try ledger.save(device, by: "enroll", "enrolled") }
            }
            try await group.waitForAll()
        }
        #expect(try ledger.devices().count == 8)
        #expect(try FileManager.default.contentsOfDirectory(atPath: home.path("state")) == ["ledger.sqlite"])
    }

    @Test func aDirectoryThatCannotBeWrittenIsNamed() throws {
        try home.write("state", "a file")
        let error = #expect(throws: LedgerError.self) { try ledger.devices() }
        #expect(error?.code == .file)
        #expect(error?.message.contains("is no directory") == true, "\(String(describing: error))")
    }

    /// All that is named, or nothing; and once more is no error.
    @Test func revokingIsOneStep() async throws {
        let ca = try makeCA()
        let (a, b) = (try await issue("dev7", ca: ca), try await issue("dev8", ca: ca))
        for (name, leaf) in [("dev7", a), ("dev8", b)] {
            try ledger.save(device(name, serial: leaf.serialNumber), by: "enroll", "enrolled")
        }
        for (devices, serials) in [(["dev7"], ["00"]), (["dev7", "dev9"], [b.serialNumber])] {
            let error = #expect(throws: LedgerError.self) {
                try ledger.revoke(RevocationOrder(devices: devices, serials: serials, reason: "test", by: "revoke"))
            }
            #expect(error?.message.contains("nothing was revoked") == true)
            #expect(try ledger.liveRevocations().isEmpty)
            #expect(try ledger.device(named: "dev7")?.revokedAt == nil)
        }
        let order = RevocationOrder(devices: ["dev7"], serials: ["00" + b.serialNumber], reason: "test", by: "revoke")
        let first = try ledger.revoke(order)
        #expect(first.map(\.device?.name) == ["dev7", nil])
        #expect(first.map { $0.revoked.map(\.serial) } == [[a.serialNumber], [b.serialNumber]])
        #expect(try ledger.device(named: "dev8")?.revokedAt == nil)
        let again = try ledger.revoke(order)
        #expect(again.allSatisfy { $0.revoked.isEmpty })
        #expect(again.map { $0.before.map(\.serial) } == [[a.serialNumber], [b.serialNumber]])
        var later = ledger
        later.clock = WallClock { [end = b.notAfter] in (end + 1) * 1000 }
        let error = #expect(throws: LedgerError.self) {
            try later.revoke(RevocationOrder(serials: [b.serialNumber], reason: "test", by: "revoke"))
        }
        #expect(error?.message.contains("ended at") == true)
    }

    @Test func importHappensOnce() throws {
        try ledger.importOnce(from: "devices") { [device("dev7")] }
        try ledger.removeDevice(named: "dev7", by: "unenroll")
        try ledger.importOnce(from: "devices") {
            Issue.record("asked again")
            return [device("dev7")]
        }
        #expect(try ledger.devices() == [])
    }

    /// Another process holds the file in the middle of a transaction: we wait. It is killed: what it had not committed
    /// is gone.
    @Test func twoProcessesTakeTurnsAndAKilledOneLeavesNothing() async throws {
        try ledger.save(device("dev7"), by: "enroll", "enrolled")
        let script = """
            import sqlite3, sys
            db = sqlite3.connect(sys.argv[1], isolation_level=None)
            db.execute("BEGIN IMMEDIATE")
            db.execute("DELETE FROM devices")
            print("holding", flush=True)
            if sys.stdin.readline().strip() == "commit":
                db.execute("COMMIT")
            else:
                sys.stdin.readline()
            """
        let committing = try ChildProcess("python3", ["-c", script, path], keepsInputOpen: true)
        _ = try await committing.standardOutput.line(containing: "holding")
        let (ledger, other) = (ledger, device("dev8"))
        let waiting = Task.detached { try ledger.save(other, by: "enroll", "enrolled") }
        try committing.write("commit\n")
        _ = try await waiting.value
        #expect(try await committing.exit() == .exited(0))
        #expect(try ledger.devices().map(\.name) == ["dev8"])

        let killed = try ChildProcess("python3", ["-c", script, path], keepsInputOpen: true)
        _ = try await killed.standardOutput.line(containing: "holding")
        killed.signal(SIGKILL)
        _ = try await killed.exit()
        #expect(try ledger.devices().map(\.name) == ["dev8"])
        try ledger.save(device("dev9"), by: "enroll", "enrolled")
        #expect(try ledger.devices().map(\.name) == ["dev8", "dev9"])
    }

    /// What is read and decided on before writing cannot be changed in between: no number is given out twice.
    @Test func numbersAreGivenOutOnce() async throws {
        let ledger = ledger
        let numbers = try await withThrowingTaskGroup(of: [Int64].self) { group in
            for _ in 0..<6 {
                group.addTask { try (0..<5).map { _ in try ledger.nextListNumber(of: "issuer") } }
            }
            return try await group.reduce(into: []) { $0 += $1 }
        }
        #expect(numbers.sorted() == Array(1...30))
    }

    private func sqlite(_ statement: String) throws {
        // SQLite takes an empty file for a database.
        if !FileManager.default.fileExists(atPath: path) { try home.write("state/ledger.sqlite", "") }
        let database = try SQLiteDatabase(path: path)
        try database.execute(statement)
    }
}

import Foundation
import MeshIdentity
import Platform
import TestPeers
import Testing

@testable import Fleet
@testable import SSHSignal

/// What is read before a wait holds when it is written, or nothing is written.
@Suite struct DeviceClaimTests: LedgerSuite {
    let fixture: LedgerFixture

    init() throws { fixture = try LedgerFixture() }

    @discardableResult
    private func enroll(_ name: String = "dev7") async throws -> Device {
        let issuer = recording(try ledger.claim(name))
        return try devices.save(try await certify(DeviceDirectoryTests.record(name), issuer), on: issuer.claim)
    }

    @Test func oneOfTwoEnrolmentsOfAName() async throws {
        let (first, second) = (recording(try ledger.claim("dev7")), recording(try ledger.claim("dev7")))
        let record = try await certify(DeviceDirectoryTests.record("dev7"), first)
        let late = await refusal { _ = try await certify(DeviceDirectoryTests.record("dev7"), second) }
        #expect(late.contains("another enrolment"), "\(late)")
        #expect(first.objection() == nil && second.objection()?.code == .refused)
        try devices.save(record, on: first.claim)
        #expect(try ledger.certificates(of: "dev7").map(\.serial) == [record.serial])
        // The same once it is recorded, and for one that is known already.
        #expect(await refusal { _ = try await certify(record, second) }.contains("another enrolment"))
        let renewals = [recording(try ledger.claim("dev7")), recording(try ledger.claim("dev7"))]
        _ = try await certify(record, renewals[0])
        #expect(await refusal { _ = try await certify(record, renewals[1]) }.contains("another"))
        // One that was cut goes on from its own certificate.
        _ = try await certify(record, renewals[0])
    }

    @Test func whatIsRevokedStaysRevoked() async throws {
        let device = try await enroll()
        let issuer = recording(try ledger.claim("dev7"))
        let renewed = try await certify(device, issuer)
        _ = try ledger.revokeDevice(named: "dev7", reason: "stolen", by: "revoke")
        #expect(issuer.objection()?.code == .revoked)
        #expect(await refusal { _ = try await certify(device, issuer) }.contains("was revoked at"))
        #expect(await refusal { try devices.save(renewed, on: issuer.claim) }.contains("was revoked at"))
        let changed = await refusal {
            try devices.update("dev7", on: issuer.claim, by: "renew", "renewed") { $0.serial = renewed.serial }
        }
        #expect(changed.contains("was revoked at"), "\(changed)")
        #expect(try devices.record(named: "dev7")?.revokedAt != nil)
        #expect(try ledger.certificates(of: "dev7").allSatisfy { $0.state == .revoked })
        // Whatever is written without a claim does not take it back either.
        try devices.save(renewed)
        #expect(try devices.record(named: "dev7")?.revokedAt != nil)
    }

    /// Trusted again as it was revoked then, not as it is revoked later.
    @Test func reinstatingHoldsForTheRevocationThatWasSeen() async throws {
        let device = try await enroll()
        _ = try ledger.revokeDevice(named: "dev7", reason: "lost", by: "revoke")
        var claim = try ledger.claim("dev7")
        claim.reinstates = true
        let issuer = recording(claim)
        let renewed = try await certify(device, issuer)
        var later = ledger
        later.clock = .system.advanced(by: 60)
        _ = try later.revokeDevice(named: "dev7", reason: "stolen", by: "revoke")
        #expect(await refusal { try devices.save(renewed, on: issuer.claim) }.contains("(stolen)"))
        claim = try ledger.claim("dev7")
        claim.reinstates = true
        let again = recording(claim)
        try devices.save(try await certify(device, again), on: again.claim)
        #expect(try devices.record(named: "dev7")?.revokedAt == nil)
    }

    @Test func whatIsRemovedStaysRemoved() async throws {
        let device = try await enroll()
        let issuer = recording(try ledger.claim("dev7"))
        let renewed = try await certify(device, issuer)
        try devices.remove(named: "dev7", ifStill: device)
        #expect(await refusal { _ = try await certify(device, issuer) }.contains("was unenrolled"))
        #expect(await refusal { try devices.save(renewed, on: issuer.claim) }.contains("was unenrolled"))
        #expect(try devices.all().isEmpty)
    }

    /// A removal that waited for the device does not remove the one that has its name by now.
    @Test func aMachineThatTookTheNameStays() async throws {
        let device = try await enroll()
        var other = try DeviceDirectoryTests.record("dev7")
        other.hostKey.fingerprint = "SHA256:other"
        other.enrolledAt += 60
        let issuer = recording(try ledger.claim("dev7"))
        other = try devices.save(try await certify(other, issuer), on: issuer.claim)
        let refused = await refusal { try devices.remove(named: "dev7", ifStill: device) }
        #expect(refused.contains("was enrolled again meanwhile"), "\(refused)")
        #expect(try devices.record(named: "dev7") == other)
        // Nor is its sshd what was set up on the other.
        let server = SSHServerRecord(configuration: "/etc/ssh/sshd_config", hostCertificates: [])
        #expect(throws: HostError.self) { try devices.save(device, ssh: server, by: "enroll") }
        #expect(try devices.record(named: "dev7")?.sshServer == nil)
        // And its sshd is kept by an enrolment that knows nothing of it.
        try devices.save(other, ssh: server, by: "enroll")
        let again = recording(try ledger.claim("dev7"))
        try devices.save(try await certify(other, again), on: again.claim)
        #expect(try devices.record(named: "dev7")?.sshServer == server)
    }

    /// Its watch looks at any moment: before, while and after the conversation's own certificate is recorded.
    @Test func aConversationDoesNotObjectToItsOwnCertificate() async throws {
        let device = try await enroll()
        var claim = try ledger.claim("dev7")
        let (present, before) = (claim.device, claim.lastIssued)
        claim.issues("own")
        #expect(claim.objection(device: present, lastIssued: before) == nil)
        #expect(claim.objection(device: present, lastIssued: "own") == nil)
        #expect(claim.objection(device: present, lastIssued: "another") != nil)
        claim.issuedNothing()
        #expect(claim.objection(device: present, lastIssued: "own") != nil)
        claim.issued("own")
        #expect(claim.objection(device: present, lastIssued: "own") == nil)

        claim = try ledger.claim("dev7")
        claim.limit = CertificateLimit.byHand
        let issuer = recording(claim)
        let watch = Task.detached {
            var objection: SignalError?
            while !Task.isCancelled, objection == nil {
                objection = issuer.objection()
                await Task.yield()
            }
            return objection?.message
        }
        defer { watch.cancel() }
        for _ in 0..<40 { _ = try await certify(device, issuer) }
        watch.cancel()
        let objection = await watch.value
        #expect(objection == nil)
    }

    @Test func aCertificateLineKnowsItsEnds() {
        let line = CertificateLine(acknowledged: "b")
        #expect(line.place(of: "b", recorded: .issued) == .current)
        #expect(line.place(of: "a", recorded: .superseded) == .forked)
        #expect(line.place(of: "x", recorded: nil) == .unknown)
        // Two were issued since, and nobody knows which of them has arrived.
        #expect(line.place(of: "c", recorded: .issued) == .arrived)
        #expect(line.place(of: "d", recorded: .issued) == .arrived)
        let unnumbered = CertificateLine(acknowledged: nil)
        #expect(unnumbered.place(of: "x", recorded: nil) == .current)
        #expect(unnumbered.place(of: "b", recorded: .issued) == .arrived)
    }

    @Test func aQuarterOfItsTimeHasToPass() {
        #expect(EarliestRenewal.time(issuedAt: 1000, notAfter: 1400) == 1100)
        #expect(EarliestRenewal.time(issuedAt: 1000, notAfter: 900) == 1000)
        #expect(EarliestRenewal.time(issuedAt: .min, notAfter: .max) == .min)
    }

    /// Somebody else is about to write: whoever only asks does not wait for that.
    @Test func aRenewalIsAdmittedBesideAWriter() async throws {
        let device = try await enroll()
        let shown = CertificateName(
            issuer: ca.certificate.subjectKeyIdentifier ?? "",
            serial: try #require(device.serial)
        )
        var later = ledger
        later.clock = .system.advanced(by: 43_200)
        let writer = try SQLiteDatabase(path: ledger.path)
        try writer.execute("BEGIN IMMEDIATE")
        let claim = try later.admitRenewal(of: device.identity.description, showing: shown, by: "ca serve")
        try writer.execute("ROLLBACK")
        #expect(claim.lastIssued == device.serial)
    }

    @Test func anAlarmIsSettledByAnEnrolment() async throws {
        let first = try await enroll()
        try await enroll()
        let shown = CertificateName(
            issuer: ca.certificate.subjectKeyIdentifier ?? "",
            serial: try #require(first.serial)
        )
        let error = #expect(throws: LedgerError.self) {
            try ledger.admitRenewal(of: first.identity.description, showing: shown, by: "ca serve")
        }
        #expect(error?.code == .forked)
        #expect(try ledger.alarms(of: "dev7").count == 1 && ledger.alarms(of: "dev8").isEmpty)
        // Shown again within a minute it is refused, and not written down: nor does it wait for whoever writes.
        do {
            let writer = try SQLiteDatabase(path: ledger.path)
            try writer.execute("BEGIN IMMEDIATE")
            let again = #expect(throws: LedgerError.self) {
                try ledger.admitRenewal(of: first.identity.description, showing: shown, by: "ca serve")
            }
            try writer.execute("ROLLBACK")
            #expect(again?.code == .forked)
        }
        #expect(try ledger.alarms(of: "dev7").first?.count == 1)
        var advanced = ledger
        advanced.clock = .system.advanced(by: 61)
        let later = advanced
        #expect(throws: LedgerError.self) {
            try later.admitRenewal(of: first.identity.description, showing: shown, by: "ca serve")
        }
        #expect(try ledger.alarms(of: "dev7").first?.count == 2)
        // Whoever settles it is told so in the same transaction: it may have been raised while the device was enrolled.
        func settle() async throws -> [Bool] {
            let issuer = recording(try ledger.claim("dev7"))
            let record = try await certify(DeviceDirectoryTests.record("dev7"), issuer)
            var told: [Bool] = []
            try devices.save(
                record,
                on: issuer.claim,
                revokingEarlier: { isAlarmed in
                    told.append(isAlarmed)
                    return isAlarmed ? "used elsewhere" : nil
                }
            )
            return told
        }
        #expect(try await settle() == [true])
        #expect(try ledger.alarms().isEmpty)
        #expect(try ledger.certificates(of: "dev7").filter { $0.state == .revoked }.count == 2)
        #expect(try await settle() == [false])
    }

    /// The ledger of the release before (format 1), with a certificate whose acknowledgement was lost.
    @Test func aLedgerOfTheReleaseBeforeGoesOn() async throws {
        // SQLite takes an empty file for a database.
        try home.write("ledger.sqlite", "")
        do {
            let database = try SQLiteDatabase(path: home.path("ledger.sqlite"))
            for statement in LedgerSchema.steps[0] { try database.execute(statement) }
            for (name, serial) in [("dev7", "b"), ("dev8", nil), ("dev9", "x")] as [(String, String?)] {
                try database.execute(
                    "INSERT INTO devices VALUES (?1, 'id', 'd', 'ssh-ed25519', 'SHA256:a', 'device', NULL, ?2, 9, 1, NULL, NULL, NULL, '{}')",
                    [.text(name), SQLiteValue(serial)]
                )
            }
            for (serial, state) in [("a", "superseded"), ("b", "issued"), ("c", "issued")] {
                try database.execute(
                    "INSERT INTO certificates VALUES ('i', ?, 'id', 'dev7', 1, 9, 1, 'renew', ?, NULL, NULL)",
                    [.text(serial), .text(state)]
                )
            }
            try database.execute("PRAGMA application_id = \(LedgerSchema.applicationID)")
            try database.execute("PRAGMA user_version = 1")
        }
        #expect(try ledger.claim("dev7").lastIssued == "c")
        #expect(try ledger.claim("dev7").device?.serial == "b")
        #expect(try ledger.claim("dev8").lastIssued == nil)
        #expect(try ledger.claim("dev9").lastIssued == "x", "imported, with no certificate on record")
        #expect(try ledger.alarms().isEmpty)
        #expect(try ledger.devices().count == 3 && ledger.certificates().count == 3)
    }
}

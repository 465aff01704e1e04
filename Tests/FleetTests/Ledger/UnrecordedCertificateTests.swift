import MeshIdentity
import Platform
import Testing

@testable import Fleet

/// Certificates whose device is not recorded, or is trusted while they are not.
@Suite struct UnrecordedCertificateTests: LedgerSuite {
    let fixture: LedgerFixture

    init() throws { fixture = try LedgerFixture() }

    private func serials(_ certificates: [LedgerCertificate]) -> [String] { certificates.map(\.serial) }

    /// Killed when the device had its certificate, and the ledger no record of it.
    @Test(arguments: [false, true]) func anEnrolmentThatWasCutIsShownAndRevoked(byIdentity: Bool) async throws {
        let record = try DeviceDirectoryTests.record("dev7")
        let claim = try ledger.claim("dev7")
        let issuer = recording(claim)
        let serial = try #require(try await certify(record, issuer).serial)
        #expect(try serials(ledger.unfinishedEnrolments()) == [serial])
        let remark = try #require(try UnfinishedEnrolments(in: ledger).remarks.first)
        for part in ["dev7: its enrolment", serial, "bootstrap revoke dev7"] {
            #expect(remark.contains(part), "\(remark)")
        }

        #expect(try devices.enrolledIfAny("dev7") == nil)
        for text in ["dev7", "root@dev7"] { #expect(try devices.unrecorded(text) == "dev7") }
        let identity = record.identity.description
        #expect(try devices.unrecorded(identity) == identity)
        #expect(try devices.unrecorded("dev8") == nil)
        #expect(issuer.objection() == nil)
        let meant = byIdentity ? identity : "dev7"
        let done = try ledger.revoke(RevocationOrder(unrecorded: [meant], reason: "stolen", by: "revoke"))
        #expect(done.flatMap(\.revoked).map(\.serial) == [serial])
        #expect(try serials(ledger.liveRevocations()) == [serial])
        #expect(try ledger.unfinishedEnrolments().isEmpty)
        // Where it was not cut, but goes on, it gets no record and nothing more.
        #expect(issuer.objection() != nil)
        // The same again is no error.
        let again = try ledger.revoke(RevocationOrder(unrecorded: [identity], reason: "stolen", by: "revoke"))
        #expect(again.flatMap(\.revoked).isEmpty && again.flatMap(\.before).map(\.serial) == [serial])
    }

    @Test func whatWasUnenrolledIsRevokedByName() async throws {
        let issuer = recording(try ledger.claim("dev7"))
        let record = try await certify(DeviceDirectoryTests.record("dev7"), issuer)
        try devices.save(record, on: issuer.claim)
        #expect(try ledger.unfinishedEnrolments().isEmpty)
        // A record is what counts where there is one.
        #expect(throws: LedgerError.self) {
            try ledger.revoke(RevocationOrder(unrecorded: ["dev7"], reason: "stolen", by: "revoke"))
        }
        try devices.remove(named: "dev7")
        #expect(try ledger.unfinishedEnrolments().isEmpty, "somebody has unenrolled it, and nothing was cut")
        #expect(try devices.unrecorded("dev7") == "dev7")
        let done = try ledger.revoke(RevocationOrder(unrecorded: ["dev7"], reason: "stolen", by: "revoke"))
        #expect(done.flatMap(\.revoked).map(\.serial) == [record.serial])
        // All that is named, or nothing.
        let second = recording(try ledger.claim("dev8"))
        _ = try await certify(DeviceDirectoryTests.record("dev8"), second)
        let error = #expect(throws: LedgerError.self) {
            try ledger.revoke(RevocationOrder(unrecorded: ["dev8", "nobody"], reason: "stolen", by: "revoke"))
        }
        #expect(error?.message.contains("'nobody' is not enrolled, and no certificate of it is valid") == true)
        #expect(try ledger.liveRevocations().count == 1)
    }

    /// The device is trusted: everybody refuses it until it has another certificate, and it may have that.
    @Test func aRevokedCertificateOfATrustedDeviceIsDue() async throws {
        let issuer = recording(try ledger.claim("dev7"))
        try devices.save(try await certify(DeviceDirectoryTests.record("dev7"), issuer), on: issuer.claim)
        let now = WallClock.system.seconds
        var device = try #require(try devices.record(named: "dev7"))
        #expect(device.certificateRevokedAt == nil && DeviceStatus(device, at: now).state == .valid)
        #expect(try devices.due(at: now).isEmpty)

        let serial = try #require(device.serial)
        _ = try ledger.revoke(RevocationOrder(serials: [serial], reason: "lost", by: "revoke"))
        device = try #require(try devices.record(named: "dev7"))
        #expect(device.certificateRevokedAt != nil && device.revokedAt == nil)
        #expect(try devices.due(at: now).map(\.name) == ["dev7"])
        let status = DeviceStatus(device, at: now)
        #expect(status.state == .certificateRevoked)
        #expect(status.warning?.hasSuffix("is revoked, and everybody refuses it: bootstrap renew dev7") == true)
        let table = DeviceStatus.table([status], at: now)
        #expect(table[1].contains("CERT-REVOKED") && table.allSatisfy { $0.count <= 80 }, "\(table)")
        #expect(DeviceFindings(device: device).attention(at: now).first?.text == status.warning, "one remedy")

        // Its next one.
        let renewal = recording(try ledger.claim("dev7"), by: "renew")
        let renewed = try await certify(device, renewal)
        try devices.update("dev7", on: renewal.claim, by: "renew", "renewed") { $0.takeCertificate(of: renewed) }
        device = try #require(try devices.record(named: "dev7"))
        #expect(device.certificateRevokedAt == nil && DeviceStatus(device, at: now).state == .valid)
        #expect(try devices.due(at: now).isEmpty)

        // The device itself: it gets none.
        _ = try ledger.revokeDevice(named: "dev7", reason: "stolen", by: "revoke")
        device = try #require(try devices.record(named: "dev7"))
        #expect(DeviceStatus(device, at: now).state == .revoked && device.certificateRefusal == nil)
        #expect(try devices.due(at: now).isEmpty)
    }

    /// Whoever has too many is told the number of one that can go.
    @Test func theLimitNamesASerialNumber() async throws {
        let issuer = recording(try ledger.claim("dev7"))
        let record = try await certify(DeviceDirectoryTests.record("dev7"), issuer)
        try devices.save(record, on: issuer.claim)
        for _ in 1..<CertificateLimit.byItself {
            _ = try await certify(record, recording(try ledger.claim("dev7"), by: "renew"))
        }
        let said = await refusal { _ = try await certify(record, recording(try ledger.claim("dev7"), by: "renew")) }
        let named = try serials(ledger.certificates(of: "dev7")).filter {
            said.contains("`bootstrap revoke --serial \($0)`")
        }
        #expect(named.count == 1 && named.first != record.serial, "\(said)")
        // That is enough.
        _ = try ledger.revoke(RevocationOrder(serials: named, reason: "room", by: "revoke"))
        _ = try await certify(record, recording(try ledger.claim("dev7"), by: "renew"))
    }
}

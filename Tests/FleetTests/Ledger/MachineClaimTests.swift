import Foundation
import MeshIdentity
import Platform
import TestPeers
import Testing

@testable import Fleet
@testable import SSHSignal

/// One machine has one name, decided where the certificate is recorded; and what was revoked stays so.
@Suite struct MachineClaimTests: LedgerSuite {
    let fixture: LedgerFixture
    private let key = MachineKey(algorithm: "ssh-ed25519", fingerprint: "SHA256:machine")
    private let otherKey = MachineKey(algorithm: "ecdsa-sha2-nistp256", fingerprint: "SHA256:other")

    init() throws { fixture = try LedgerFixture() }

    /// As `enroll` does it: what is known of the machine is looked up, and goes with the claim.
    private func recording(
        _ name: String,
        _ change: (inout MetMachine) -> Void = { _ in },
        reinstates: Bool = false,
        in ledger: Ledger? = nil
    ) throws -> RecordingIssuer {
        let ledger = ledger ?? self.ledger
        var claim = try ledger.claim(name)
        claim.reinstates = reinstates
        var machine = MetMachine(hostKey: key)
        change(&machine)
        machine.known = try ledger.machines(like: machine, besides: name)
        let issuer = recording(claim, in: ledger)
        issuer.meets(machine)
        return issuer
    }

    private func certify(_ name: String, _ issuer: RecordingIssuer) async throws -> Device {
        var device = try DeviceDirectoryTests.record(name)
        device.hostKey = issuer.claim?.machine?.hostKey ?? key
        return try await certify(device, issuer)
    }

    @discardableResult
    private func enroll(_ name: String, _ change: (inout MetMachine) -> Void = { _ in }) async throws -> Device {
        let issuer = try recording(name, change)
        return try devices.save(try await certify(name, issuer), on: issuer.claim)
    }

    /// Both were admitted before either had a certificate.
    @Test func twoEnrolmentsAtOnceGiveAMachineOneName() async throws {
        let (seven, eight) = (try recording("dev7"), try recording("dev8"))
        let record = try await certify("dev7", seven)
        let late = await refusal { _ = try await certify("dev8", eight) }
        #expect(late.contains("is enrolled as dev7 by another enrolment just now"), "\(late)")
        #expect(seven.objection() == nil && eight.objection()?.code == .refused)
        try devices.save(record, on: seven.claim)
        #expect(await refusal { _ = try await certify("dev8", eight) }.contains("is enrolled as dev7"))
        #expect(try ledger.certificates().map(\.serial) == [record.serial])
        // One that begins now is told who has it; and one that was told goes on.
        let accepted = try recording("dev8")
        #expect(accepted.claim?.machine?.known.map(\.name) == ["dev7"])
        try devices.save(try await certify("dev8", accepted), on: accepted.claim)
        // The first goes on, too: it had the machine before.
        let again = try recording("dev7")
        try devices.save(try await certify("dev7", again), on: again.claim)
    }

    /// The first has its certificate, and is cut before its device is recorded.
    @Test func aCutEnrolmentHoldsItsMachineUntilItIsEnded() async throws {
        let seven = try recording("dev7")
        _ = try await certify("dev7", seven)
        let found = try #require(try recording("dev8").claim?.machine?.known.first)
        #expect(found.name == "dev7" && found.standing == .enrolling && found.identity.hasSuffix("/sa/dev7"))
        #expect(try ledger.endEnrolment(named: "dev7", by: "unenroll"))
        #expect(seven.objection()?.message.contains("was unenrolled meanwhile") == true)
        #expect(try recording("dev8").claim?.machine?.known == [])
        #expect(try !ledger.endEnrolment(named: "dev7", by: "unenroll"))
        // No device is forgotten by it.
        try await enroll("dev8")
        #expect(try !ledger.endEnrolment(named: "dev8", by: "unenroll"))
        #expect(try devices.record(named: "dev8") != nil)
    }

    @Test func aMachineThatIsRevokedMeanwhileGetsNothingUnderAnotherName() async throws {
        try await enroll("dev7")
        let (before, between) = (try recording("dev8"), try recording("dev9"))
        let record = try await certify("dev9", between)
        _ = try ledger.revokeDevice(named: "dev7", reason: "stolen", by: "revoke")
        #expect(before.objection()?.code == .revoked && between.objection()?.code == .revoked)
        #expect(await refusal { _ = try await certify("dev8", before) }.contains("stolen"))
        #expect(await refusal { try devices.save(record, on: between.claim) }.contains("stolen"))
        #expect(try devices.all().map(\.name) == ["dev7"])
    }

    @Test func aRevocationOutlivesTheRecord() async throws {
        let device = try await enroll("dev7") { $0.otherKeys = [otherKey] }
        _ = try ledger.revokeDevice(named: "dev7", reason: "stolen", by: "revoke")
        #expect(try devices.remove(named: "dev7"))
        #expect(try devices.all() == [])
        func known(_ machine: MetMachine, as name: String) throws -> KnownMachine? {
            try ledger.machines(like: machine, besides: name).first
        }
        let other = MetMachine(hostKey: otherKey)
        var stranger = MetMachine(hostKey: MachineKey(algorithm: "ssh-rsa", fingerprint: "SHA256:rsa"))
        #expect(try known(stranger, as: "dev7") == nil)
        (stranger.identity, stranger.serial) = (device.identity.description, device.serial)
        // By the key that it has shown, by another that it had, and by what it has from us.
        for machine in [MetMachine(hostKey: key), other, stranger] {
            for name in ["dev7", "dev8"] {
                let found = try #require(try known(machine, as: name))
                #expect(found.isRemoved && found.revocationReason == "stolen" && found.name == "dev7")
            }
        }
        // Another machine takes the name, and is not the one that was revoked.
        let new = MachineKey(algorithm: "ssh-ed25519", fingerprint: "SHA256:new")
        var later = ledger
        later.clock = .system.advanced(by: 60)
        let fresh = try recording("dev7", { $0 = MetMachine(hostKey: new) }, in: later)
        let present = try devices.save(try await certify("dev7", fresh), on: fresh.claim)
        try devices.remove(named: "dev7")
        var back = MetMachine(hostKey: new)
        (back.identity, back.serial) = (present.identity.description, present.serial)
        #expect(try known(back, as: "dev7") == nil)
        #expect(try known(MetMachine(hostKey: key), as: "dev7") != nil)

        // It is trusted again by who says so.
        let again = try recording("dev8", reinstates: true)
        try devices.save(try await certify("dev8", again), on: again.claim)
        #expect(try ledger.machines(like: other, besides: "dev8").isEmpty)
    }

    // MARK: What a machine says of its keys

    @Test func aKeyThatAnotherHasProvenIsNotTaken() async throws {
        try await enroll("dev7")
        try await enroll("dev8") { machine in
            machine = MetMachine(hostKey: otherKey)
            machine.otherKeys = [key]
        }
        #expect(try devices.devices(withHostKey: key.fingerprint).map(\.name) == ["dev7"])
    }

    /// It was first, and is revoked: the machine that has the key in truth goes on.
    @Test func whoOnlySaysThatItHasAKeyIsNotItsMachine() async throws {
        let shown = try #require(HostKey(blob: [0, 0, 0, 11] + Array("ssh-ed25519".utf8) + [7]))
        let proven = MachineKey(algorithm: shown.algorithm, fingerprint: shown.fingerprint)
        let trust = OperatorTrust(records: devices, authority: home.path("ca"))
        try await enroll("dev8") { machine in
            machine = MetMachine(hostKey: otherKey)
            machine.otherKeys = [proven]
        }
        _ = try ledger.revokeDevice(named: "dev8", reason: "stolen", by: "revoke")
        let before = try trust.refusal(of: shown)
        #expect(before?.message.contains("stolen") == true)
        try await enroll("dev7") { $0 = MetMachine(hostKey: proven) }
        let trusted = try trust.refusal(of: shown)
        #expect(trusted == nil, "\(trusted?.message ?? "")")
        _ = try ledger.revokeDevice(named: "dev7", reason: "lost", by: "revoke")
        let after = try trust.refusal(of: shown)
        #expect(after?.message.contains("lost") == true)
    }

    /// The same where the machine that is met does not prove the key, but only says that it has it: who has proven it
    /// counts, and nobody else's word.
    @Test func aKeyThatIsOnlyClaimedIsThatOfWhoHasProvenIt() async throws {
        let claimed = MachineKey(algorithm: "ssh-rsa", fingerprint: "SHA256:claimed")
        try await enroll("liar") { machine in
            machine = MetMachine(hostKey: otherKey)
            machine.otherKeys = [claimed]
        }
        _ = try ledger.revokeDevice(named: "liar", reason: "stolen", by: "revoke")
        var met = MetMachine(hostKey: key)
        met.otherKeys = [claimed]
        // While nobody has proven it, the word is all there is.
        #expect(try ledger.machines(like: met, besides: "new").map(\.name) == ["liar"])
        try await enroll("owner") { $0 = MetMachine(hostKey: claimed) }
        #expect(try ledger.machines(like: met, besides: "new").map(\.name) == ["owner"])
        // So it stays when the record of the other is gone, and its revocation is all that is kept of it.
        try devices.remove(named: "liar")
        #expect(try ledger.machines(like: met, besides: "new").map(\.name) == ["owner"])
        // The one that has shown the very key of a revoked machine is that machine still.
        #expect(try ledger.machines(like: MetMachine(hostKey: otherKey), besides: "new").map(\.name) == ["liar"])
        _ = try ledger.revokeDevice(named: "owner", reason: "lost", by: "revoke")
        #expect(try ledger.machines(like: met, besides: "new").map(\.name).sorted() == ["liar", "owner"])
    }

    // MARK: What a device does not take

    private func renewal(_ ledger: Ledger, byHand: Bool = false) throws -> RecordingIssuer {
        var claim = try ledger.claim("dev7")
        if byHand { claim.limit = CertificateLimit.byHand }
        return recording(claim, by: "renew", in: ledger)
    }

    @Test func certificatesThatADeviceRefusesLockNobodyOut() async throws {
        let device = try await enroll("dev7")
        var at = ledger
        var seconds: Int64 = 0
        var attempts = 0
        while attempts < 20 {
            attempts += 1
            let issuer = try renewal(at)
            _ = try await certify("dev7", issuer)
            #expect(issuer.delivery(.refused("no space left")) == nil)
            // Not at once: what is refused is on the revocation list until it ends.
            let early = await refusal { _ = try await certify("dev7", try renewal(at)) }
            #expect(early.contains("no space left") && early.contains("not before"), "\(early)")
            seconds += min(30 << Int64(min(attempts, 20) - 1), 86_400 / 16 + 60)
            at.clock = .system.advanced(by: seconds + 1)
        }
        let alarm = try #require(try ledger.alarms(of: "dev7").first)
        #expect(alarm.kind == .refused && alarm.count == 20 && alarm.serial == device.serial)
        let record = try #require(try devices.record(named: "dev7"))
        let table = DeviceStatus.table([DeviceStatus(record, alarms: [alarm], at: 0)], at: 0)
        #expect(table[1].contains("ALARM") && table[2].contains("no space left"), "\(table)")
        let states = try ledger.certificates(of: "dev7").map(\.state)
        #expect(states.filter { $0 == .revoked }.count == 20 && states.last == .issued)
        // An operator does not wait, and what is taken in the end settles it.
        var by = ledger
        by.clock = at.clock.advanced(by: -2)
        let issuer = try renewal(by, byHand: true)
        let renewed = try await certify("dev7", issuer)
        // Nobody else has a key of it: what it had before is superseded.
        var wasAlarmed: Bool?
        try devices.update(
            "dev7",
            on: issuer.claim,
            by: "renew",
            "renewed",
            revokingEarlier: { isAlarmed in
                wasAlarmed = isAlarmed
                return isAlarmed ? "a certificate that it had replaced was used elsewhere" : nil
            },
            { $0.serial = renewed.serial }
        )
        #expect(wasAlarmed == false)
        #expect(try ledger.certificates(of: "dev7").first { $0.serial == device.serial }?.state == .superseded)
        #expect(try ledger.alarms().isEmpty)
    }

    @Test func theWaitGrowsAndEnds() {
        let times = [1, 2, 3, 9, 100].map { RefusedDelivery.nextAttempt(after: $0, last: 1000, lifetime: 86_400) }
        #expect(times == [1030, 1060, 1120, 6400, 6400])
        #expect(RefusedDelivery.nextAttempt(after: 1, last: .max, lifetime: .max) == .max)
        #expect(RefusedDelivery.nextAttempt(after: 1, last: 5, lifetime: -1) == 5)
    }

    /// What it says after it has stored the certificate is no refusal.
    @Test func aStoredCertificateIsTheDevices() async throws {
        try await enroll("dev7")
        let issuer = try renewal(ledger)
        let renewed = try await certify("dev7", issuer)
        #expect(issuer.delivery(.stored) == nil)
        #expect(try ledger.device(named: "dev7")?.serial == renewed.serial)
        #expect(try ledger.certificates(of: "dev7").map(\.state) == [.issued, .superseded])
        #expect(try ledger.alarms().isEmpty)
    }

    // MARK: Two renewals at once

    /// The second begins when the first has its certificate, and is recorded when that has arrived.
    @Test func aClaimThatIsReadBetweenIssueAndArrivalHolds() async throws {
        let device = try await enroll("dev7")
        let first = try renewal(ledger)
        let one = try await certify("dev7", first)
        let second = try renewal(ledger)
        try devices.update("dev7", on: first.claim, by: "renew", "renewed") { $0.serial = one.serial }
        let two = try await certify("dev7", second)
        #expect(second.objection() == nil)
        try devices.update("dev7", on: second.claim, by: "renew", "renewed") { $0.serial = two.serial }
        #expect(try ledger.device(named: "dev7")?.serial == two.serial)
        _ = device
    }

    /// The same where the second has its certificate before the first has arrived: that it did is no objection to it,
    /// and the first is told what became of its own.
    @Test func whatWasGivenOutIsNotDenied() async throws {
        try await enroll("dev7")
        let first = try renewal(ledger)
        let one = try await certify("dev7", first)
        let second = try renewal(ledger)
        let two = try await certify("dev7", second)
        let refused = await refusal {
            try devices.update("dev7", on: first.claim, by: "renew", "renewed") { $0.serial = one.serial }
        }
        #expect(refused.contains("(serial \(two.serial ?? ""))"), "\(refused)")
        #expect(refused.contains("given out here (serial \(one.serial ?? "")) is not recorded"), "\(refused)")
        // The device shows it over the mesh.
        let shown = CertificateName(
            issuer: ca.certificate.subjectKeyIdentifier ?? "",
            serial: try #require(one.serial)
        )
        let early = #expect(throws: LedgerError.self) {
            try ledger.admitRenewal(of: one.identity.description, showing: shown, by: "ca serve")
        }
        #expect(early?.message.contains("not due before") == true)
        #expect(try ledger.device(named: "dev7")?.serial == one.serial)
        #expect(second.objection() == nil, "an earlier one has arrived")
        // Another's, which was given out beside it, is an objection still.
        try devices.update("dev7", by: "enroll", "enrolled") { $0.serial = "another" }
        #expect(second.objection()?.message.contains("given out here (serial \(two.serial ?? ""))") == true)
    }
}

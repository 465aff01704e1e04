import Foundation
import MeshIdentity
import TestPeers
import Testing

@testable import Fleet
@testable import SSHSignal

/// A name stays with the host key it was given to.
@Suite struct EnrollmentAdmissionTests {
    private func key(_ fingerprint: String) throws -> Device.HostKeyRecord {
        var key = try DeviceDirectoryTests.record("x").hostKey
        key.fingerprint = fingerprint
        return key
    }

    private func known(_ fingerprint: String = "SHA256:old") throws -> Device {
        var record = try DeviceDirectoryTests.record("dev7", destination: "root@dev7")
        record.hostKey = try key(fingerprint)
        return record
    }

    @Test func whatIsNewOrTheSameIsAdmitted() throws {
        let admission = EnrollmentAdmission()
        #expect(admission.decide(nil, destination: "root@dev7", hostKey: try key("SHA256:new")) == .admitted)
        #expect(admission.decide(try known(), destination: "root@dev7", hostKey: try key("SHA256:old")) == .admitted)
        // A machine that moved.
        #expect(
            admission.decide(try known(), destination: "root@10.0.0.9", hostKey: try key("SHA256:old")) == .admitted
        )
    }

    @Test(arguments: [("root@dev7", "HOST KEY CHANGED"), ("root@10.0.0.9", "this name belongs to root@dev7")])
    func anotherHostKeyNeedsTheFlag(destination: String, mention: String) throws {
        let new = try key("SHA256:new")
        guard
            case .refused(let error) = EnrollmentAdmission().decide(try known(), destination: destination, hostKey: new)
        else {
            Issue.record("not refused")
            return
        }
        #expect(error.reason == .hostKeyRefused)
        for part in [mention, "SHA256:old", "SHA256:new", "--accept-new-host-key", destination] {
            #expect(error.message.contains(part), "\(error.message)")
        }
        let verdict = EnrollmentAdmission(acceptsNewHostKey: true)
            .decide(try known(), destination: destination, hostKey: new)
        #expect(verdict == .replaces("host key ssh-ed25519 SHA256:old replaced by ssh-ed25519 SHA256:new"))
    }

    @Test func aRevokedDeviceComesBackOnlyByName() throws {
        var revoked = try known()
        revoked.revokedAt = 1_700_000_000
        revoked.revocationReason = "stolen"
        let verdict = EnrollmentAdmission(acceptsNewHostKey: true)
            .decide(revoked, destination: "root@dev7", hostKey: revoked.hostKey)
        guard case .refused(let error) = verdict else {
            Issue.record("not refused")
            return
        }
        #expect(error.reason == .denied)
        #expect(error.message.contains("stolen") && error.message.contains("--reinstate"))
        let reinstated = EnrollmentAdmission(reinstates: true)
            .decide(revoked, destination: "root@dev7", hostKey: revoked.hostKey)
        #expect(reinstated == .admitted)
    }

    // MARK: One machine, one name

    private func refusal(_ acquaintance: EnrollmentAdmission.Acquaintance?) -> HostError? {
        if case .refused(let error) = acquaintance { error } else { nil }
    }

    @Test func aSecondNameForAKnownHostKeyNeedsTheFlag() throws {
        let seven = try known()
        func acquaintance(
            _ admission: EnrollmentAdmission = EnrollmentAdmission(),
            known: Device? = nil,
            among others: [KnownMachine]? = nil
        ) throws -> EnrollmentAdmission.Acquaintance? {
            admission.acquaintance(
                "dev8",
                destination: "root@10.0.0.8",
                hostKey: try key("SHA256:old"),
                known: known,
                among: others ?? [machine(seven)]
            )
        }
        let error = try #require(refusal(try acquaintance()))
        #expect(error.reason == .hostKeyRefused)
        for part in [
            "dev8", "root@10.0.0.8", "dev7", "SHA256:old", "root@dev7", "--name dev7", "--accept-known-machine",
        ] {
            #expect(error.message.contains(part), "\(part): \(error.message)")
        }
        let accepting = EnrollmentAdmission(acceptsKnownMachine: true)
        guard case .accepted(let warning) = try acquaintance(accepting) else {
            Issue.record("not accepted")
            return
        }
        #expect(warning.contains("dev7"))
        // The same name again, whatever others there are; another key; nobody else.
        var eight = try known()
        eight.name = "dev8"
        #expect(try acquaintance(known: eight) == nil)
        #expect(try acquaintance(among: []) == nil)

        // A revoked device does not come back under another name.
        var revoked = machine(seven)
        revoked.revokedAt = 1_700_000_000
        let denied = try #require(refusal(try acquaintance(accepting, among: [revoked])))
        #expect(denied.reason == .denied && denied.message.contains("--reinstate"))
        let both = EnrollmentAdmission(reinstates: true, acceptsKnownMachine: true)
        #expect(refusal(try acquaintance(both, among: [revoked])) == nil)

        // Nor does one of two names go on when the other was revoked.
        let itself = try #require(refusal(try acquaintance(accepting, known: eight, among: [revoked])))
        #expect(itself.reason == .denied && itself.message.contains("--reinstate --accept-known-machine"))
        #expect(try acquaintance(both, known: eight, among: [revoked]) == nil)

        // A key that it only says it has is no proof where somebody who is trusted has shown it.
        var claiming = revoked
        (claiming.name, claiming.hostKey) = ("dev9", try key("SHA256:new"))
        #expect(try acquaintance(known: eight, among: [claiming]) == nil)
        #expect(refusal(try acquaintance(among: [claiming]))?.reason == .denied)
        #expect(refusal(try acquaintance(among: [claiming, machine(seven)]))?.reason == .hostKeyRefused)

        // Nor after its record is gone: under no name, not even its own.
        revoked.standing = .removed(number: 1)
        for name in ["dev7", "dev8"] {
            revoked.name = name
            let gone = try #require(refusal(try acquaintance(accepting, among: [revoked])))
            #expect(gone.reason == .denied && gone.message.contains("unenrolled since"), "\(gone.message)")
            let again = EnrollmentAdmission(reinstates: true)
            guard case .accepted(let warning) = try acquaintance(again, among: [revoked]) else {
                Issue.record("not accepted")
                return
            }
            #expect(warning.contains("is trusted again"))
        }
    }

    private func machine(_ device: Device) -> KnownMachine {
        KnownMachine(
            name: device.name,
            identity: device.identity.description,
            destination: device.destination,
            hostKey: device.hostKey
        )
    }

    /// Another host key, and the identity of one that was revoked.
    @Test func theIdentityOfARevokedDeviceIsNotTakenOver() throws {
        let present = try SPIFFEID("spiffe://demo.example/ns/default/sa/dev7")
        let id = try SPIFFEID("spiffe://demo.example/ns/default/sa/dev8")
        var revoked = machine(try known())
        (revoked.revokedAt, revoked.revocationReason) = (1_700_000_000, "stolen")
        for (flags, isRefused) in [
            (EnrollmentAdmission(acceptsKnownMachine: true), true), (EnrollmentAdmission(reinstates: true), true),
            (EnrollmentAdmission(reinstates: true, acceptsKnownMachine: true), false),
        ] {
            let refused = refusal(flags.acquaintance("dev8", id, present: present, known: nil, revoked: revoked))
            #expect((refused != nil) == isRefused)
            #expect(
                refused?.reason != .failed && refused?.message.contains("stolen") != false,
                "\(refused?.message ?? "")"
            )
        }
        // Its own name, which was forgotten.
        revoked.standing = .removed(number: 1)
        let own = EnrollmentAdmission(acceptsKnownMachine: true)
            .acquaintance("dev7", present, present: present, known: nil, revoked: revoked)
        #expect(refusal(own)?.reason == .denied)
        #expect(
            EnrollmentAdmission(reinstates: true)
                .acquaintance("dev7", present, present: present, known: nil, revoked: revoked) == nil
        )
    }

    @Test func anIdentityThatIsThereNeedsTheFlag() throws {
        let present = try SPIFFEID("spiffe://demo.example/ns/default/sa/dev7")
        let id = try SPIFFEID("spiffe://demo.example/ns/default/sa/dev8")
        let admission = EnrollmentAdmission()
        let error = try #require(refusal(admission.acquaintance("dev8", id, present: present, known: nil)))
        #expect(error.reason == .denied)
        for part in [present.description, "--name dev7", "--accept-known-machine"] {
            #expect(error.message.contains(part), "\(part): \(error.message)")
        }
        // Its own earlier one: the namespace changes.
        var seven = try known()
        seven.identity = present
        #expect(admission.acquaintance("dev7", id, present: present, known: seven) == nil)
        let accepting = EnrollmentAdmission(acceptsKnownMachine: true)
        #expect(refusal(accepting.acquaintance("dev8", id, present: present, known: nil)) == nil)
    }
}

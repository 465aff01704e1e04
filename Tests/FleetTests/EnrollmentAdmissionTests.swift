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
}

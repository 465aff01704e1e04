import Foundation
import MeshIdentity
import TestPeers
import Testing

@testable import SSHSignal

/// A name stays with the host key it was given to.
@Suite struct EnrollmentAdmissionTests {
    private func key(_ fingerprint: String) throws -> DeviceRecord.HostKeyRecord {
        var key = try DeviceDirectoryTests.record("x").hostKey
        key.fingerprint = fingerprint
        return key
    }

    private func known(_ fingerprint: String = "SHA256:old") throws -> DeviceRecord {
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

extension EnrollmentOverSSHTests {
    /// Another machine under a known name gets nothing, unless somebody says so; then the old certificate is revoked.
    @Test func anotherMachineUnderAKnownName() async throws {
        let (first, second) = (try await OpenSSHServer(), try await OpenSSHServer())
        let owner = try await Operator()
        defer { owner.stopNode() }
        for server in [first, second] {
            try owner.know(server.directory.path("host_ed25519.pub"), port: server.port)
        }
        let enrolled = try await owner.enroll(port: first.port, key: first.userKey, ["--name", "dev7"])
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        let before = try #require(try owner.devices.record(named: "dev7"))
        let serial = try #require(before.serial)

        let refused = try await owner.enroll(port: second.port, key: second.userKey, ["--name", "dev7"])
        #expect(refused.status == .exited(3), "\(refused.standardError)")
        #expect(refused.standardError.contains("--accept-new-host-key"))
        #expect(try owner.devices.record(named: "dev7") == before)
        #expect(try owner.devices.ledger.certificates().count == 1, "nothing was signed")

        let accepted = try await owner.enroll(
            port: second.port,
            key: second.userKey,
            ["--name", "dev7", "--accept-new-host-key"]
        )
        #expect(accepted.succeeded, "\(accepted.standardError)")
        let after = try #require(try owner.devices.record(named: "dev7"))
        #expect(after.hostKey.fingerprint == (try await second.hostKeyFingerprint()))
        let old = try #require(try owner.devices.ledger.certificates(of: "dev7").first { $0.serial == serial })
        #expect(old.state == .revoked)
        #expect(old.reason?.contains(before.hostKey.fingerprint) == true)

        let table = try await owner.run(["status"])
        #expect(table.succeeded, "\(table.standardError)")
        let lines = table.standardOutput.split(separator: "\n")
        #expect(lines.count == 2)
        #expect(lines[0].hasPrefix("NAME  STATE  CERTIFICATE"))
        #expect(lines[1].hasPrefix("dev7  valid  23 h 59 min left  -  ") || lines[1].contains("  valid  "))
        #expect(lines[1].contains(after.identity))
        let details = try await owner.run(["status", "dev7"])
        #expect(details.standardOutput.contains("2 issued so far, 1 of them revoked"), "\(details.standardOutput)")
        #expect(details.standardOutput.contains("enroll by "))
    }

    @Test func statusOfNothingSaysWhatToDo() async throws {
        let owner = try await Operator()
        let status = try await owner.run(["status"])
        #expect(status.succeeded)
        #expect(status.standardOutput.contains("bootstrap enroll DEST"))
        let unknown = try await owner.run(["status", "nobody"])
        #expect(unknown.status == .exited(1))
        #expect(unknown.standardError.contains("'nobody' is not enrolled"))
    }
}

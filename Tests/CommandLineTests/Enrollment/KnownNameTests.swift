import Fleet
import MeshIdentity
import SSHSignal
import TestPeers
import Testing

/// A name stays with the machine it was given to.
extension EnrollmentOverSSHTests {
    /// Another machine under a known name gets nothing, unless somebody says so; then the old certificate is revoked.
    @Test func anotherMachineUnderAKnownName() async throws {
        let (first, second) = (try await OpenSSHServer(), try await OpenSSHServer())
        let owner = try await Operator()
        defer { owner.stopNode() }
        for server in [first, second] {
            try owner.know(server)
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
        let details = try await owner.run(["status", "dev7"])
        #expect(details.standardOutput.contains("2 issued so far, 1 of them revoked"), "\(details.standardOutput)")
        #expect(details.standardOutput.contains("enroll by "))
        #expect(details.standardOutput.contains(after.identity.description))
    }

    @Test func statusOfNothingSaysWhatToDo() async throws {
        let owner = try await Operator()
        let status = try await owner.run(["status"])
        #expect(status.succeeded)
        #expect(status.standardOutput.contains("bootstrap enroll DEST"))
        let unknown = try await owner.run(["status", "nobody"])
        #expect(unknown.status == .exited(2))
        #expect(unknown.standardError.contains("'nobody' is not enrolled"))
    }
}

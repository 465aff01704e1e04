import Fleet
import Foundation
import MeshIdentity
import SSHSignal
import TestPeers
import Testing

/// What `unenroll` takes away, and what an enrolment without an agent leaves to it.
extension EnrollmentOverSSHTests {
    @Test func overSSHItIsRecordedRenewedAndRemoved() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        try owner.know(server)
        let destination = "\(OpenSSHServer.user)@127.0.0.1:\(server.port)"
        let (directory, note) = (owner.base.path("mesh"), owner.base.path("note"))
        let output = try await owner.run(
            [
                "enroll", destination, "-i", server.userKey, "-o", "IdentitiesOnly=yes", "--name", "router",
                "--agentless",
            ]
                + ["--credential-dir", directory, "--after", "echo again >>'\(note)'"]
        )
        #expect(output.succeeded, "\(output.standardOutput)\(output.standardError)")
        let record = try #require(try owner.devices.record(named: "router"))
        #expect(record.keyOrigin == .openssl)
        let first = try CredentialDirectory(directory).load()
        #expect(first.id == record.identity)

        let renewed = try await owner.run(["renew", "router"])
        #expect(renewed.succeeded, "\(renewed.standardError)")
        #expect(try CredentialDirectory(directory).load().leaf.serialNumber != first.leaf.serialNumber)
        #expect(try String(contentsOfFile: note, encoding: .utf8) == "again\nagain\n")
        #expect(try owner.devices.record(named: "router")?.enrolledAt == record.enrolledAt)

        #expect(try await owner.run(["unenroll", "router"]).succeeded)
        #expect(!FileManager.default.fileExists(atPath: directory))
        #expect(try owner.devices.all() == [])
    }

    @Test func aMachineThatIsGoneCanBeForgotten() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try await owner.enrolled(on: server)
        await server.stop()
        let unreachable = try await owner.run(["unenroll", "dev7"])
        #expect(unreachable.status == .exited(6), "\(unreachable.standardError)")
        for part in [
            "Nothing was changed. If the machine is gone for good, bootstrap unenroll dev7 --forget",
            "stays there: service, node, credential and agent, and others take its certificate until ",
            "bootstrap revoke dev7 ends that before",
        ] {
            #expect(unreachable.standardError.contains(part), "\(unreachable.standardError)")
        }
        #expect(try owner.devices.all().count == 1)
        let forgotten = try await owner.run(["unenroll", "dev7", "--forget"])
        #expect(forgotten.succeeded, "\(forgotten.standardError)")
        #expect(try owner.devices.all() == [])
    }

    @Test func overSSHWithTheLedger() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try await owner.enrolled(on: server)
        let output = try await owner.run(["unenroll", "dev7"])
        #expect(output.succeeded, "\(output.standardError)")
        #expect(output.standardOutput.contains("removed  \(owner.state)"), "\(output.standardOutput)")
        #expect(try FileManager.default.contentsOfDirectory(atPath: owner.base.path) == [])
        #expect(try owner.devices.all() == [])
        let again = try await owner.run(
            [
                "unenroll", "\(OpenSSHServer.user)@127.0.0.1:\(server.port)", "-i", server.userKey, "--base",
                owner.base.path,
            ]
        )
        #expect(again.succeeded, "\(again.standardError)")
        #expect(again.standardOutput.contains("nothing of ours is there"))
        #expect(again.standardOutput.contains("was not recorded"))
    }
}

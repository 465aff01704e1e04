import Fleet
import Foundation
import MeshIdentity
import SSHSignal
import TestDevices
import TestPeers
import Testing

/// What was chosen at the first enrolment holds until the operator says otherwise, and nothing is left behind.
@Suite(.serialized, .timeLimit(.minutes(10))) struct EnrollAgainTests {
    private let server: OpenSSHServer
    private let owner: Operator

    init() async throws {
        server = try await OpenSSHServer()
        owner = try await Operator()
        try owner.know(server)
    }

    private func enroll(_ arguments: [String]) async throws -> ChildProcess.Output {
        try await owner.run(["enroll", "--agent-binary", TestTools.bootstrap] + arguments)
    }

    private func entries(_ directory: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: directory)
    }

    @Test func anotherBaseIsRefusedWhileTheFirstOneIsInUse() async throws {
        defer { owner.stopNode() }
        let first = try await owner.enroll(server, ["--name", "dev7"])
        #expect(first.succeeded, "\(first.standardError)")
        let record = try #require(try owner.devices.record(named: "dev7"))
        let other = TemporaryDirectory()
        let destination = "\(OpenSSHServer.user)@127.0.0.1:\(server.port)"

        let moved = try await enroll(["dev7", "--base", other.path])
        #expect(moved.status == .exited(2), "\(moved.standardOutput)\(moved.standardError)")
        for part in [
            "dev7: it has an agent in \(owner.base.path)/bootstrap, and gets no other one in \(other.path)/bootstrap",
            "bootstrap unenroll dev7, then bootstrap enroll \(destination) --name dev7",
        ] {
            #expect(moved.standardError.contains(part), "\(moved.standardError)")
        }
        #expect(try entries(other.path) == [])
        // Nor may it be left with a credential only.
        let bare = try await owner.run(["enroll", "dev7", "--agentless", "--credential-dir", other.path("mesh")])
        #expect(bare.status == .exited(2), "\(bare.standardOutput)\(bare.standardError)")
        #expect(bare.standardError.contains("it has an agent in \(owner.base.path)/bootstrap"), "\(bare.standardError)")
        #expect(try entries(other.path) == [])
        #expect(try owner.devices.record(named: "dev7") == record)

        // Nor is it forgotten where it is, because of a place where it is not.
        let missed = try await owner.run(["unenroll", "dev7", "--base", other.path])
        #expect(missed.status == .exited(2), "\(missed.standardOutput)\(missed.standardError)")
        #expect(
            missed.standardError.contains(
                "nothing of ours is in \(other.path); it is installed in \(owner.base.path)/bootstrap"
            ),
            "\(missed.standardError)"
        )
        #expect(try owner.devices.record(named: "dev7") == record)

        // The machine was emptied: it may be installed anywhere, and listens where it did.
        owner.stopNode()
        try FileManager.default.removeItem(atPath: owner.base.path("bootstrap"))
        defer { LocalDevice.stopNode(state: other.path("bootstrap/state")) }
        let anew = try await enroll(["dev7", "--base", other.path, "--service", "none"])
        #expect(anew.succeeded, "\(anew.standardOutput)\(anew.standardError)")
        let now = try #require(try owner.devices.record(named: "dev7"))
        #expect(now.agent.state == other.path("bootstrap/state"))
        #expect(now.listener?.hasPrefix("127.0.0.1:") == true, "\(now.listener ?? "nowhere")")
    }

    @Test func serviceAndLifetimeHold() async throws {
        defer { owner.stopNode() }
        let first = try await owner.enroll(server, ["--name", "dev7", "--ttl", "3h"])
        #expect(first.succeeded, "\(first.standardError)")
        #expect(try owner.devices.record(named: "dev7")?.lifetime == 3 * 3600)

        let again = try await enroll(["dev7"])
        #expect(again.succeeded, "\(again.standardOutput)\(again.standardError)")
        #expect(again.standardOutput.contains("none: a reboot ends the node"), "\(again.standardOutput)")
        // What `auto` says where it finds nothing.
        #expect(!again.standardError.contains("nothing starts the node again"), "\(again.standardError)")
        #expect(try String(contentsOfFile: owner.state + "/service", encoding: .utf8).hasPrefix("none\n"))
        #expect(try owner.devices.record(named: "dev7")?.lifetime == 3 * 3600)
    }

    @Test func whatListensFurtherIsSaid() async throws {
        defer { owner.stopNode() }
        #expect(try await owner.enroll(server, ["--name", "dev7"]).succeeded)
        let same = try await enroll(["dev7"])
        #expect(same.succeeded && !same.standardError.contains("listens on"), "\(same.standardError)")
        let wider = try await enroll(["dev7", "--hbone-address", "0.0.0.0"])
        #expect(wider.succeeded, "\(wider.standardError)")
        let remark = "dev7: the node listened on 127.0.0.1 only, and listens on 0.0.0.0:"
        #expect(wider.standardError.contains(remark), "\(wider.standardError)")
        #expect(wider.standardError.contains("`--hbone-address 127.0.0.1` takes that back"), "\(wider.standardError)")
        let narrower = try await enroll(["dev7", "--hbone-address", "127.0.0.1"])
        #expect(narrower.succeeded && !narrower.standardError.contains("listens on"), "\(narrower.standardError)")
    }

    @Test func aDeviceWithoutAnAgentStaysOne() async throws {
        let (directory, note) = (owner.base.path("mesh"), owner.base.path("note"))
        let destination = "\(OpenSSHServer.user)@127.0.0.1:\(server.port)"
        let first = try await owner.run(
            ["enroll", destination, "-i", server.userKey, "-o", "IdentitiesOnly=yes", "--name", "router"]
                + ["--agentless", "--credential-dir", directory, "--after", "echo again >>'\(note)'"]
        )
        #expect(first.succeeded, "\(first.standardOutput)\(first.standardError)")
        let again = try await owner.run(["enroll", "router"])
        #expect(again.succeeded, "\(again.standardOutput)\(again.standardError)")
        #expect(try String(contentsOfFile: note, encoding: .utf8) == "again\nagain\n")
        let record = try #require(try owner.devices.record(named: "router"))
        #expect(record.keyOrigin == .openssl && record.agent.state == directory && record.after != nil)

        for other in [["--agentless", "--credential-dir", owner.base.path("other")], ["--base", owner.base.path]] {
            let moved = try await owner.run(["enroll", "router"] + other)
            #expect(moved.status == .exited(2), "\(moved.standardOutput)\(moved.standardError)")
            let remark = "router: it has a credential without an agent in \(directory)"
            #expect(moved.standardError.contains(remark), "\(moved.standardError)")
        }
        #expect(try entries(owner.base.path).sorted() == ["mesh", "note"])
        #expect(try owner.devices.record(named: "router") == record)
    }
}

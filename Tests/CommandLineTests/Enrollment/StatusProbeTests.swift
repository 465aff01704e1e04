import Fleet
import Foundation
import MeshIdentity
import Platform
import TestDevices
import TestPeers
import Testing

@testable import SSHSignal

/// `status --probe`: what devices really have, against what the ledger says. Real sshd, agents and nodes.
extension EnrollmentOverSSHTests {
    private struct Probed: Decodable {
        struct Probe: Decodable {
            struct Answer: Decodable {
                var ok: Bool
                var path: String?
                var serial: String?
                var reason: String?
            }
            struct Shown: Decodable {
                var serial: String
                var isRecorded: Bool
                var secondsLeft: Int64
            }
            var ssh: Answer?
            var mesh: Answer?
            var certificate: Shown?
            var agent: String?
            var clockSkewMilliseconds: Int64?
            var attention: [String]
        }
        var state: String
        var device: Device
        var probe: Probe?
    }

    private func json(_ output: ChildProcess.Output) throws -> [Probed] {
        try JSONDecoder().decode([Probed].self, from: Data(output.standardOutput.utf8))
    }

    @Test func theProbeFindsWhatIsWrong() async throws {
        let devices = try await TwoDevices()
        let (owner, a, b) = (devices.owner, devices.a, devices.b)
        let fine = try await owner.run(["status", "--probe"])
        #expect(fine.succeeded, "\(fine.standardOutput)\(fine.standardError)")
        let rows = fine.standardOutput.split(separator: "\n").map { $0.split(separator: " ").map(String.init) }
        #expect(rows.count == 3 && rows[0].first == "NAME")
        for (row, device) in zip(rows.dropFirst(), [a, b]) {
            #expect(row.prefix(2) == [device.name, "ok"] && row.contains("h2"), "\(row)")
        }
        let listed = try json(try await owner.run(["status", "--probe", "--output", "json"]))
        #expect(listed.map(\.device.name) == ["a", "b"])
        for found in listed {
            let probe = try #require(found.probe)
            #expect(found.state == "valid" && probe.attention == [] && probe.ssh?.ok == true && probe.mesh?.ok == true)
            #expect(probe.mesh?.path == "h2" && probe.mesh?.serial == found.device.serial)
            #expect(probe.certificate?.serial == found.device.serial && probe.certificate?.isRecorded == true)
            #expect(probe.agent == found.device.agent.release)
            #expect(abs(probe.clockSkewMilliseconds ?? .max) < 60_000)
        }

        // A certificate that the ledger does not know; a node that is gone. Each is named, with what to do.
        let ca = try EmbeddedCA.load(directory: owner.bootstrapHome + "/ca")
        let id = a.identity
        let pending = try CredentialDirectory("\(a.agent.state)/identity").prepare(id: id)
        let issued = try ca.issue(pending.request, id: id)
        let other = try pending.commit(chain: issued.chain, roots: issued.roots)
        LocalDevice.stopNode(state: b.agent.state)
        let wrong = try await owner.run(["status", "--probe"])
        #expect(wrong.status == .exited(1), "\(wrong.standardOutput)")
        for text in [
            "attention: a: it has the certificate \(other.leaf.serialNumber.prefix(12))…, the ledger \((a.serial ?? "").prefix(12))…: bootstrap renew a",
            "attention: b: its node does not run",
        ] { #expect(wrong.standardOutput.contains(text), "\(wrong.standardOutput)") }
        #expect(!wrong.standardOutput.contains("b: its node does not answer"), "once is enough")
        let one = try json(try await owner.run(["status", "--probe", "b", "--output", "json"]))
        #expect(one.count == 1 && one[0].probe?.mesh?.ok == false && one[0].probe?.certificate?.isRecorded == true)

        #expect(try await owner.run(["renew", "a"]).succeeded)
        try await eventually("a is as the ledger says") { try await owner.run(["status", "--probe", "a"]).succeeded }
        // One that is revoked is not visited.
        #expect(try await owner.run(["revoke", "b", "--list-only"]).succeeded)
        let revoked = try await owner.run(["status", "--probe"])
        #expect(revoked.succeeded && revoked.standardOutput.contains("b     REVOKED"), "\(revoked.standardOutput)")

        // sshd is gone, and the node is not.
        await devices.server.stop()
        let unreachable = try await owner.run(["status", "--probe", "a"])
        #expect(unreachable.status == .exited(6), "\(unreachable.standardOutput)\(unreachable.standardError)")
        #expect(unreachable.standardOutput.contains("attention: a: "), "\(unreachable.standardOutput)")
        let deaf = try json(try await owner.run(["status", "--probe", "--output", "json"]))
        #expect(deaf[0].probe?.ssh?.ok == false && deaf[0].probe?.mesh?.ok == true && deaf[0].probe?.certificate == nil)
        #expect(deaf[1].probe == nil && deaf[1].state == "revoked")
    }

    /// A node that only sshd reaches, and a certificate that has ended.
    @Test func theProbeGoesTheWaysThatPathsGo() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        var record = try await owner.enrolled(on: server)
        let port = try #require(record.hbone.first?.port)
        // Where nobody listens.
        record.hbone = [try Authority(parsing: "127.0.0.2:\(port)")]
        try owner.devices.save(record)
        let over = try await owner.run(["status", "--probe", "--output", "json"])
        #expect(over.succeeded, "\(over.standardOutput)")
        let found = try #require(try json(over).first?.probe?.mesh)
        #expect(found.ok && found.path == "h2-over-ssh" && found.serial == record.serial)
        #expect(found.reason?.contains("127.0.0.2:\(port)") == true, "\(found.reason ?? "")")

        #expect(try await owner.run(["renew", "dev7", "--ttl", "8s"]).succeeded)
        try await eventually("the certificate has ended") {
            try await owner.run(["status", "--probe"]).standardOutput.contains("dev7: its certificate ended ")
        }
        // Another machine at its address.
        let other = try await OpenSSHServer()
        try owner.know(other.directory.path("host_ed25519.pub"), port: other.port)
        record.destination = "\(OpenSSHServer.user)@127.0.0.1:\(other.port)"
        record.ssh.identityFiles = [other.userKey]
        record.hbone = []
        try owner.devices.save(record)
        let stranger = try await owner.run(["status", "--probe"])
        #expect(stranger.status == .exited(3), "\(stranger.standardOutput)\(stranger.standardError)")
        #expect(
            stranger.standardOutput.contains("HOST KEY CHANGED since it was enrolled"),
            "\(stranger.standardOutput)"
        )
    }

    /// A node goes on with what it has read; the next start finds what is there.
    @Test func theProbeFindsWhatKeepsANodeFromStartingAgain() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try await owner.enrolled(on: server)
        for (name, mention) in [
            ("identity/key.pem", "no private key"), ("identity/root-cert.pem", "no certificate"),
            ("node.yaml", "must be a mapping"),
        ] {
            let path = "\(owner.state)/\(name)"
            let content = try Data(contentsOf: URL(filePath: path))
            func write(_ data: Data) throws {
                // In its place: these are links.
                let file = try FileHandle(forWritingTo: URL(filePath: path))
                try file.truncate(atOffset: 0)
                try file.write(contentsOf: data)
                try file.close()
            }
            try write(name == "node.yaml" ? Data("garbage\n".utf8) : Data())
            let probed = try await owner.run(["status", "--probe", "dev7"])
            #expect(probed.status == .exited(1), "\(name): \(probed.standardOutput)")
            let text = "attention: dev7: its node cannot be started again: "
            #expect(
                probed.standardOutput.contains(text) && probed.standardOutput.contains(mention),
                "\(name): \(probed.standardOutput)"
            )
            try write(content)
        }
        let fine = try await owner.run(["status", "--probe", "dev7"])
        #expect(fine.succeeded, "\(fine.standardOutput)")
    }

    @Test func theProbeVisitsDevicesWithoutAnAgent() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        try owner.know(server)
        let directory = owner.base.path("mesh")
        let enrolled = try await owner.run([
            "enroll", "\(OpenSSHServer.user)@127.0.0.1:\(server.port)", "-i", server.userKey, "-o",
            "IdentitiesOnly=yes", "--name", "router", "--agentless", "--credential-dir", directory,
        ])
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        let probed = try await owner.run(["status", "--probe", "--output", "json"])
        #expect(probed.succeeded, "\(probed.standardOutput)")
        let probe = try #require(try json(probed).first?.probe)
        #expect(probe.certificate?.isRecorded == true && probe.mesh == nil && probe.agent == nil)
        try FileManager.default.removeItem(atPath: directory + "/cert-chain.pem")
        let missing = try await owner.run(["status", "--probe"])
        #expect(missing.status == .exited(1))
        let text = "attention: router: there is no \(directory)/cert-chain.pem: bootstrap enroll "
        #expect(missing.standardOutput.contains(text), "\(missing.standardOutput)")
        let wrong = try await owner.run(["status", "--parallel", "3"])
        #expect(wrong.status == .exited(2) && wrong.standardError.contains("are for --probe"))
    }
}

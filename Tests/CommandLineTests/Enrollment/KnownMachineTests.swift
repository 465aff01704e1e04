import Fleet
import Foundation
import MeshIdentity
import SSHSignal
import TestPeers
import Testing

/// One machine has one name, and the names of the mesh's own services are no device's.
@Suite(.serialized, .timeLimit(.minutes(10))) struct KnownMachineTests {
    @Test func aSecondNameIsSaidAndRefused() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        let before = try await owner.enrolled(on: server)
        let credential = CredentialDirectory(owner.state + "/identity")

        let second = try await owner.enroll(server, ["--name", "dev8"])
        #expect(second.status == .exited(3), "\(second.standardError)")
        for part in ["host key of dev7", before.hostKey.fingerprint, "--accept-known-machine"] {
            #expect(second.standardError.contains(part), "\(second.standardError)")
        }
        #expect(try owner.devices.all() == [before])
        #expect(try owner.devices.ledger.certificates().count == 1, "nothing was signed")
        #expect(try credential.load().leaf.serialNumber == before.serial)
        // The same name again is what it always was.
        #expect(try await owner.enroll(server, ["--name", "dev7"]).succeeded)

        let accepted = try await owner.enroll(
            server,
            ["--name", "dev8", "--accept-known-machine"]
        )
        #expect(accepted.succeeded, "\(accepted.standardOutput)\(accepted.standardError)")
        #expect(accepted.standardError.contains("dev8: it has the host key of dev7"), "\(accepted.standardError)")
        #expect(accepted.standardError.contains("it was \(before.identity) until now"), "\(accepted.standardError)")
        #expect(try credential.load().id.serviceAccount == "dev8")
        #expect(try await owner.enroll(server, ["--name", "dev8"]).succeeded)
    }

    /// A revoked machine does not come back as another.
    @Test func aRevokedMachineGetsNoSecondName() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try await owner.enrolled(on: server)
        #expect(try await owner.run(["revoke", "dev7", "--reason", "stolen"]).succeeded)
        for flags in [[], ["--accept-known-machine"], ["--reinstate"]] {
            let refused = try await owner.enroll(server, ["--name", "dev8"] + flags)
            #expect(refused.status == .exited(5), "\(flags) \(refused.standardError)")
            #expect(refused.standardError.contains("stolen"), "\(refused.standardError)")
        }
        #expect(try owner.devices.ledger.certificates().count == 1)
    }

    /// Nor after it was unenrolled, with whatever key it shows.
    @Test func aRevocationOutlivesTheRecord() async throws {
        let server = try await OpenSSHServer(hostKeys: ["ed25519", "ecdsa"])
        let owner = try await Operator()
        defer { owner.stopNode() }
        for type in ["ed25519", "ecdsa"] {
            try owner.know(server.directory.path("host_\(type).pub"), port: server.port)
        }
        func enroll(_ name: String, _ flags: [String] = []) async throws -> ChildProcess.Output {
            try await owner.enroll(server, ["--name", name] + flags)
        }
        let ecdsa = ["-o", "HostKeyAlgorithms=ecdsa-sha2-nistp256"]
        #expect(try await enroll("dev7", ["-o", "HostKeyAlgorithms=ssh-ed25519"]).succeeded)
        #expect(try await owner.run(["revoke", "dev7", "--reason", "stolen", "--list-only"]).succeeded)
        // By the identity that it has, while it is recorded and after.
        for flags in [ecdsa + ["--accept-known-machine"], ecdsa + ["--reinstate"]] {
            let refused = try await enroll("dev8", flags)
            #expect(refused.status == .exited(5), "\(refused.standardOutput)\(refused.standardError)")
            #expect(refused.standardError.contains("stolen"), "\(refused.standardError)")
        }
        let gone = try await owner.run(["unenroll", "dev7", "--forget"])
        #expect(gone.standardOutput.contains("stays revoked"), "\(gone.standardOutput)")
        for (name, flags) in [("dev7", []), ("dev8", []), ("dev7", ecdsa), ("dev8", ecdsa)] {
            let refused = try await enroll(name, flags + ["--accept-known-machine"])
            #expect(refused.status == .exited(5), "\(refused.standardOutput)\(refused.standardError)")
            #expect(refused.standardError.contains("stolen"), "\(refused.standardError)")
        }
        #expect(try owner.devices.ledger.certificates().count == 1)
        let again = try await enroll("dev7", ["--reinstate"])
        #expect(again.succeeded, "\(again.standardOutput)\(again.standardError)")
        #expect(again.standardError.contains("is trusted again"), "\(again.standardError)")
        #expect(try await enroll("dev7").succeeded)
    }

    /// Two machines made of one image, with one host key; in one run, and in two.
    @Test func aClonedHostKeyIsNoticed() async throws {
        let original = try await OpenSSHServer()
        let key = original.directory.path("host_ed25519")
        let clone = try await OpenSSHServer(configuration: ["HostKey \(key)"], hostKeys: ["ecdsa"])
        let owner = try await Operator()
        defer { owner.stopNode() }
        for port in [original.port, clone.port] { try owner.know(key + ".pub", port: port) }
        let inventory = try owner.home.write(
            "hosts.yaml",
            """
            defaults: {user: "\(OpenSSHServer.user)"}
            hosts:
            - {host: 127.0.0.1, port: \(original.port), name: one, identityFile: "\(original.userKey)"}
            - {host: 127.0.0.1, port: \(clone.port), name: two, identityFile: "\(clone.userKey)"}
            """
        )
        let arguments = [
            "enroll", "--inventory", inventory, "-o", "IdentitiesOnly=yes", "--base", owner.base.path, "--agent-binary",
            TestTools.bootstrap, "--hbone-port", "0", "--hbone-address", "127.0.0.1", "--service", "none",
        ]
        let both = try await owner.run(arguments)
        #expect(both.status == .exited(3), "\(both.standardOutput)\(both.standardError)")
        #expect(both.standardOutput.contains("1 of 2 devices enrolled, 1 failed"), "\(both.standardOutput)")
        #expect(both.standardError.contains("ssh-keygen -A"), "\(both.standardError)")
        let first = try owner.devices.all()
        #expect(first.count == 1)
        let again = try await owner.run(arguments)
        #expect(again.status == .exited(3), "\(again.standardError)")
        #expect(try owner.devices.all().map(\.name) == first.map(\.name))
    }

    /// The ledger knows nothing, and the machine says who it is.
    @Test func theIdentityThatIsThereIsNotReplacedUnasked() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        let record = try await owner.enrolled(on: server)
        try owner.devices.remove(named: "dev7")
        let second = try await owner.enroll(server, ["--name", "dev8"])
        #expect(second.status == .exited(5), "\(second.standardError)")
        #expect(second.standardError.contains("the machine is \(record.identity) already"), "\(second.standardError)")
        #expect(try CredentialDirectory(owner.state + "/identity").load().leaf.serialNumber == record.serial)
        #expect(try await owner.enroll(server, ["--name", "dev7"]).succeeded)

        // Without an agent, too.
        let directory = owner.base.path("mesh")
        func agentless(_ name: String) async throws -> ChildProcess.Output {
            try await owner.run([
                "enroll", "\(OpenSSHServer.user)@127.0.0.1:\(server.port)", "-i", server.userKey, "-o",
                "IdentitiesOnly=yes", "--name", name, "--agentless", "--credential-dir", directory,
            ])
        }
        try owner.devices.remove(named: "dev7")
        #expect(try await agentless("router").succeeded)
        try owner.devices.remove(named: "router")
        let other = try await agentless("switch")
        #expect(other.status == .exited(5), "\(other.standardError)")
    }

    @Test func reservedNamesAreNoDevices() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        let inventory = try owner.home.write(
            "hosts.yaml",
            "- {host: 127.0.0.1, port: \(server.port), name: issuer, namespace: bootstrap}\n"
        )
        for arguments in [
            ["--name", "operator"], ["--name", "dev7", "--namespace", "bootstrap"],
            ["--name", "issuer", "--namespace", "bootstrap", "--agentless"],
            ["--name", "operator", "--push-key"],
            ["--name", "operator", "--issuer", "exec:/bin/false", "--trust-domain", "test.example"],
        ] {
            let refused = try await owner.enroll(server, arguments)
            #expect(refused.status == .exited(2), "\(arguments) \(refused.standardError)")
            #expect(refused.standardError.contains("is reserved"), "\(refused.standardError)")
        }
        let listed = try await owner.run(["enroll", "--inventory", inventory])
        #expect(listed.status == .exited(2) && listed.standardError.contains("is reserved"), "\(listed.standardError)")
        #expect(!server.log.contains("Accepted publickey"), "nobody logged in")

        let out = owner.home.path("issuer")
        for command in ["issue", "sign"] {
            let options = command == "issue" ? ["--out", out] : []
            for id in ["ns/bootstrap/sa/issuer", "ns/bootstrap/other", "ns/default/sa/operator"] {
                let refused = try await owner.run(["ca", command, "--id", id] + options)
                #expect(refused.status == .exited(2), "\(refused.standardError)")
                #expect(refused.standardError.contains("--reserved"), "\(refused.standardError)")
            }
        }
        #expect(!FileManager.default.fileExists(atPath: out))
        #expect(try owner.devices.ledger.certificates() == [])
        let meant = try await owner.run(["ca", "issue", "--id", "ns/bootstrap/sa/issuer", "--reserved", "--out", out])
        #expect(meant.succeeded, "\(meant.standardError)")
    }
}

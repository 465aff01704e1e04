import Agent
import Fleet
import Foundation
import MeshIdentity
import Platform
import Streams
import Synchronization
import TestDevices
import TestPeers
import Testing

@testable import SSHSignal

/// `enroll`, from the command to the node that serves: real sshd, dropbear, agent and node.
@Suite(.serialized) struct EnrollmentOverSSHTests {
    @Test func openSSH() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        let first = try await owner.enroll(
            server,
            ["--name", "dev7", "--allow-port", "22"]
        )
        #expect(first.succeeded, "\(first.standardOutput)\(first.standardError)")
        for step in ["connect", "probe", "agent", "identity", "node", "enrolled"] {
            #expect(first.standardOutput.contains("dev7  \(step)"), "\(first.standardOutput)")
        }
        #expect(!first.standardError.contains("%"), "a progress bar is for a terminal")

        let record = try #require(try owner.devices.record(named: "dev7"))
        #expect(record.identity.description == "spiffe://test.example/ns/default/sa/dev7")
        #expect(record.destination == "\(OpenSSHServer.user)@127.0.0.1:\(server.port)")
        #expect(record.hostKey.fingerprint == (try await server.hostKeyFingerprint()))
        #expect(record.hostKey.algorithm == "ssh-ed25519")
        #expect(record.agent.path.hasPrefix(owner.base.path("bootstrap/0.")))
        #expect(try record.agent.sha256 == AgentBinary(path: TestTools.bootstrap).sha256)
        #expect(record.ssh.identityFiles == [server.userKey])
        let address = try #require(record.hbone.first).description
        #expect(NodeProcess.accepts(address))

        let credential = try CredentialDirectory(owner.state + "/identity").load()
        #expect(credential.id == record.identity)
        #expect(credential.notAfter == record.notAfter)
        let root = try AtomicFile.read(owner.bootstrapHome + "/ca/root-cert.pem")
        #expect(credential.bundle.pem == root)

        // The second run changes the certificate and nothing else.
        let process = try String(contentsOfFile: owner.state + "/node.pid", encoding: .utf8)
        let second = try await owner.enroll(
            server,
            ["--name", "dev7", "--allow-port", "22"]
        )
        #expect(second.succeeded, "\(second.standardError)")
        #expect(second.standardOutput.contains("agent     unchanged"))
        #expect(second.standardOutput.contains("(unchanged: configuration, node)"))
        #expect(try String(contentsOfFile: owner.state + "/node.pid", encoding: .utf8) == process)
        #expect(
            try CredentialDirectory(owner.state + "/identity").load().leaf.serialNumber != credential.leaf.serialNumber
        )
    }

    @Test func dropbear() async throws {
        let server = try await DropbearServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        let output = try await owner.enroll(
            port: server.port,
            key: server.userKey,
            ["--name", "small", "-o", "StrictHostKeyChecking=accept-new", "--output", "json"]
        )
        #expect(output.succeeded, "\(output.standardError)")
        // Hashed or not, as the system's ssh_config has it.
        let known = ["-F", "[127.0.0.1]:\(server.port)", "-f", owner.home.path(".ssh/known_hosts")]
        #expect(try await ChildProcess.run("ssh-keygen", known).succeeded)
        struct Outcome: Decodable {
            var ok: Bool
            var record: Device
        }
        let outcome = try JSONDecoder().decode(Outcome.self, from: Data(output.standardOutput.utf8))
        #expect(outcome.ok)
        #expect(outcome.record == (try owner.devices.record(named: "small")))
    }

    @Test func hostKeyThatIsUnknownOrChanged() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        let unknown = try await owner.enroll(server)
        #expect(unknown.status == .exited(3))
        #expect(unknown.standardError.contains("there is no terminal to ask on"))
        #expect(unknown.standardError.contains(try await server.hostKeyFingerprint()))

        try await OpenSSHServer.makeKey("ed25519", owner.home.path("other"))
        try owner.know(owner.home.path("other.pub"), port: server.port)
        for mode in ["accept-new", "no", "ask"] {
            let changed = try await owner.enroll(
                server,
                ["-o", "StrictHostKeyChecking=\(mode)"]
            )
            #expect(changed.status == .exited(3))
            let named = "HOST KEY CHANGED for [127.0.0.1]:\(server.port)"
            #expect(changed.standardError.contains(named), "\(changed.standardError)")
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: owner.base.path) == [])
        #expect(try owner.devices.all() == [])
        #expect(!server.log.contains("Accepted publickey"))
    }

    @Test func loginThatIsRefused() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        try owner.know(server)
        try await OpenSSHServer.makeKey("ed25519", owner.home.path("stranger"))
        #expect(try await owner.enroll(port: server.port, key: owner.home.path("stranger")).status == .exited(4))
        let nobody = try await owner.enroll(server, user: "no-such-user")
        #expect(nobody.status == .exited(4))
        #expect(try await owner.enroll(port: FreePort.next(), key: server.userKey).status == .exited(6))
        #expect(try owner.devices.all() == [])
    }

    @Test func forcedCommandIsRecognised() async throws {
        let server = try await OpenSSHServer(configuration: ["ForceCommand echo 'only backups here'"])
        let owner = try await Operator()
        try owner.know(server)
        let output = try await owner.enroll(server)
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains("only backups here"), "\(output.standardError)")
        #expect(output.standardError.contains("ForceCommand"))
    }

    /// The connection dies while the agent is on its way; the next run finishes.
    @Test func connectionLostDuringTheUpload() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        let id = try SPIFFEID("spiffe://test.example/ns/default/sa/dev")
        let installation = DeviceEnrollment.Installation(
            node: .init(bind: "127.0.0.1", port: 0),
            agent: try AgentBinary(path: TestTools.bootstrap),
            bases: [owner.base.path]
        )
        let arguments = SSHArguments(
            configurationFile: "none",
            options: ["UserKnownHostsFile=\(owner.home.path(".ssh/known_hosts"))", "IdentitiesOnly=yes"],
            identityFiles: [server.userKey]
        )
        let login = try SSHLogin(
            to: Destination(user: OpenSSHServer.user, host: "127.0.0.1", port: server.port),
            arguments: arguments,
            prompts: .init(warn: { _ in })
        )
        let issuer = try EmbeddedCA.load(directory: owner.bootstrapHome + "/ca")
        let isCut = Atomic(false)
        let uploads = Atomic(0)
        let cut = EnrollmentOptions(name: "dev", id: id) { progress in
            guard case .uploading(let sent, let total) = progress else { return }
            uploads.wrappingAdd(1, ordering: .relaxed)
            if sent > total / 2, !isCut.exchange(true, ordering: .relaxed) { server.killSessions() }
        }
        let enrollment = DeviceEnrollment(cut, installation, issuer: issuer)
        let loop = EventLoopGroup(count: 1).next()
        let error = await #expect(throws: HostError.self) {
            try await enrollment.run(login, destination: "dev", arguments: arguments, on: loop)
        }
        #expect(error?.reason == .interrupted)
        #expect(!FileManager.default.fileExists(atPath: owner.base.path("bootstrap/current")))
        #expect(!FileManager.default.fileExists(atPath: owner.state))
        let steps = Mutex<[String]>([])
        let whole = EnrollmentOptions(name: "dev", id: id) { progress in
            if case .step(let step, let text, _) = progress { steps.withLock { $0.append("\(step): \(text)") } }
        }
        let again = DeviceEnrollment(whole, installation, issuer: issuer)
        let record = try await again.run(login, destination: "dev", arguments: arguments, on: loop)
        #expect(record.identity == id)
        #expect(steps.withLock { $0.contains { $0.hasPrefix("agent: installed") && $0.hasSuffix("that was cut") } })
        let release = owner.base.path("bootstrap/\(installation.agent.release)")
        #expect(try FileManager.default.contentsOfDirectory(atPath: release) == ["bootstrap"])
    }

    @Test func oneFailureDoesNotStopTheOthers() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        let closed = FreePort.next()
        let inventory = try owner.home.write(
            "inventory",
            """
            # two devices, one of which is off
            \(OpenSSHServer.user)@127.0.0.1:\(closed) off

            \(OpenSSHServer.user)@127.0.0.1:\(server.port) on  # the other
            """
        )
        let output = try await owner.run(
            [
                "enroll", "--inventory", inventory, "-i", server.userKey, "-o", "IdentitiesOnly=yes", "--base",
                owner.base.path,
            ]
                + ["--hbone-port", "0", "--hbone-address", "127.0.0.1", "--service", "none"]
        )
        #expect(output.status == .exited(6), "\(output.standardError)")
        #expect(output.standardOutput.contains("1 of 2 devices enrolled, 1 failed"))
        #expect(output.standardError.contains("off: "))
        #expect(try owner.devices.all().map(\.name) == ["on"])
    }

    @Test(
        arguments: [
            ([], 2), (["-oProxyCommand=x"], 2), (["host:0"], 2), (["host", "--namespace", "a/b"], 2),
            (["host", "--parallel", "0"], 2),
            (["host", "--agent-binary", "/nonexistent"], 2), (["a", "b", "--name", "x"], 2),
            (["host", "-o", "Port=x"], 2),
            (["host", "host"], 2), (["host", "--base", "relative"], 2), (["--inventory", "/nonexistent"], 2),
        ] as [([String], Int32)]
    )
    func usage(arguments: [String], code: Int32) async throws {
        let owner = try await Operator()
        let output = try await owner.run(["enroll"] + arguments)
        #expect(output.status == .exited(code), "\(output.standardError)")
        #expect(!output.standardError.isEmpty)
    }
}

import Foundation
import TestPeers
import Testing

/// `trace` names the step that fails, and what each of the others took.
@Suite(.timeLimit(.minutes(10))) struct TraceTests {
    struct Trace: Decodable {
        struct Path: Decodable {
            var path: String
            var address: String?
            var up: Bool
            var ok: Bool
            var seconds: Double
            var steps: [Step]

            func step(_ name: String, at place: String? = nil) -> Step? {
                steps.first { $0.step == name && (place == nil || $0.at == place) }
            }
            /// `name` of the step that failed.
            var failed: [String] { steps.filter { $0.status == "failed" }.map(\.step) }
            var notReached: [String] { steps.filter { $0.status == "not reached" }.map(\.step) }
        }

        struct Step: Decodable {
            var step: String
            var at: String?
            var status: String
            var seconds: Double?
            var shared: Bool?
            var detail: String?
            var error: String?
            var fix: String?
        }

        var destination: String
        var target: String?
        var paths: [Path]

        func path(_ name: String) -> Path? { paths.first { $0.path == name } }
    }

    private static let login = ["dns", "tcp", "ssh key exchange", "ssh host key", "ssh login"]
    private static let tunnel = ["tls", "http/2 settings", "connect", "first byte"]

    private func trace(
        _ journey: Journey,
        _ arguments: [String]
    ) async throws -> (trace: Trace, output: ChildProcess.Output) {
        let output = try await journey.run(["trace"] + arguments + ["--json"])
        let lines = output.standardOutput.split(separator: "\n")
        #expect(lines.count == 1, "\(output.standardOutput)\(output.standardError)")
        let object = try #require(lines.first, "\(output.standardError)")
        return (try JSONDecoder().decode(Trace.self, from: Data(object.utf8)), output)
    }

    private func enrolled(_ backend: UInt16) async throws -> Journey {
        let journey = try await Journey()
        try await journey.makeAuthority()
        let enrolled = try await journey.enroll(allow: backend)
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        return journey
    }

    // MARK: What works

    @Test func eachPathOfADeviceIsGone() async throws {
        // It speaks first, as sshd and many others do.
        let backend = try SourceServer(count: 7)
        let journey = try await enrolled(backend.port)
        let logins = { journey.sshd.log.components(separatedBy: "Accepted publickey").count }
        try await journey.sshd.logged("Accepted publickey")
        let before = logins()
        let (trace, output) = try await trace(journey, ["device1"])
        #expect(output.succeeded && output.standardError.isEmpty, "\(output)")
        #expect(trace.destination == "device1" && trace.target == "localhost:\(backend.port)")
        #expect(trace.paths.map(\.path) == ["h2", "h2-over-ssh", "ssh"])
        #expect(trace.path("h2")?.address == "127.0.0.1:\(journey.hbonePort)")
        #expect(trace.path("h2")?.steps.map(\.step) == ["dns", "tcp"] + Self.tunnel)
        #expect(trace.path("h2-over-ssh")?.steps.map(\.step) == Self.login + ["ssh channel"] + Self.tunnel)
        #expect(trace.path("ssh")?.steps.map(\.step) == Self.login + ["ssh channel", "first byte"])
        for path in trace.paths {
            #expect(path.ok && path.up, "\(path)")
            for step in path.steps { #expect(step.status == "ok" && step.seconds != nil, "\(path.path): \(step)") }
            #expect(path.seconds > 0 && path.seconds >= path.steps.compactMap(\.seconds).max() ?? .infinity)
            #expect(path.step("first byte")?.detail == "7 bytes at once")
        }
        for name in ["h2", "h2-over-ssh"] {
            let detail = trace.path(name)?.step("tls")?.detail ?? ""
            #expect(detail.hasPrefix("spiffe://journey.example/") && detail.contains("TLS_AES"), "\(detail)")
        }
        // One login for both: whoever is asked for a passphrase is asked once.
        try await journey.sshd.logged("Accepted publickey", count: before)
        #expect(logins() == before + 1)
        #expect(trace.path("ssh")?.steps.filter { $0.shared == true }.map(\.step) == Self.login)
        #expect(trace.path("h2-over-ssh")?.steps.contains { $0.shared == true } == false)
        let hostKey = trace.path("ssh")?.step("ssh host key")?.detail ?? ""
        #expect(hostKey.contains(try await journey.sshd.hostKeyFingerprint()), "\(hostKey)")
        await journey.stop()
    }

    @Test func itIsATableForPeople() async throws {
        let backend = try EchoServer()
        let journey = try await enrolled(backend.port)
        let output = try await journey.run(["trace", "device1", "--path", "h2"])
        #expect(output.succeeded, "\(output)")
        var lines = output.standardOutput.split(separator: "\n").map(String.init)
        #expect(lines.removeFirst() == "path h2 127.0.0.1:\(journey.hbonePort)")
        let words = lines.map { $0.split(separator: " ").map(String.init) }
        #expect(words.map(\.first) == ["dns", "tcp", "tls", "http/2", "connect", "first"])
        // A service that waits for the client has not failed.
        #expect(lines.last?.contains("skipped") == true && lines.last?.contains("wait for the client") == true)
        for line in lines.dropLast() {
            #expect(line.contains("  ok ") && line.contains(#/ [0-9]+\.[0-9][0-9] ms/#), "\(line)")
        }
        // One column under the other.
        let columns = lines.dropLast().map { $0.components(separatedBy: " ok ")[0].count }
        #expect(Set(columns).count == 1, "\(lines)")
        await journey.stop()
    }

    /// Each host on the way has steps of its own.
    @Test func aJumpHostIsShown() async throws {
        let backend = try SourceServer(count: 3)
        let journey = try await Journey()
        let behind = try await OpenSSHServer()
        try behind.authorize(journey.sshd.userKey + ".pub")
        let key = try behind.directory.read("host_ed25519.pub").split(separator: " ").prefix(2).joined(separator: " ")
        let known = try journey.directory.read("home/.ssh/known_hosts")
        try journey.directory.write("home/.ssh/known_hosts", known + "[127.0.0.1]:\(behind.port) \(key)\n")
        // As with ssh, -i is for the last host only.
        try journey.directory.write("ssh_config", "IdentityFile \(journey.sshd.userKey)\n")
        let (trace, output) = try await trace(
            journey,
            [
                "\(OpenSSHServer.user)@127.0.0.1:\(behind.port)", "-J", journey.destination, "-W",
                "localhost:\(backend.port)",
            ] + journey.sshOptions
        )
        #expect(output.succeeded, "\(output)")
        let path = try #require(trace.paths.first)
        #expect(trace.paths.count == 1 && path.path == "ssh" && path.ok)
        let first = Self.login
        let second = ["ssh channel", "ssh key exchange", "ssh host key", "ssh login"]
        #expect(path.steps.map(\.step) == first + second + ["ssh channel", "first byte"])
        let places = path.steps.prefix(9).map(\.at)
        #expect(Array(places.prefix(5)) == Array(repeating: "127.0.0.1:\(journey.sshd.port)", count: 5))
        #expect(Array(places.suffix(4)) == Array(repeating: "127.0.0.1:\(behind.port)", count: 4))
        await behind.stop()
        await journey.stop()
    }

    /// The user's own program does not tell its steps.
    @Test func theOtherEngineIsOneStep() async throws {
        let backend = try SourceServer(count: 3)
        let journey = try await Journey()
        let (trace, output) = try await trace(
            journey,
            [journey.destination, "--ssh-engine", "openssh", "-W", "localhost:\(backend.port)"] + journey.sshOptions
        )
        #expect(output.succeeded, "\(output)")
        #expect(trace.paths.first?.steps.map(\.step) == ["ssh", "ssh channel", "first byte"])
        #expect(trace.paths.first?.steps.map(\.status) == ["ok", "ok", "ok"])
        await journey.stop()
    }

    // MARK: What does not

    @Test func aNodeThatIsGone() async throws {
        let backend = try SourceServer(count: 3)
        let journey = try await enrolled(backend.port)
        kill(try #require(journey.node), SIGKILL)
        let (trace, output) = try await trace(journey, ["device1"])
        // As `connect`, which goes over SSH then.
        #expect(output.succeeded, "\(output)")
        let native = try #require(trace.path("h2"))
        #expect(native.failed == ["tcp"] && native.notReached == Self.tunnel && !native.up && !native.ok)
        #expect(native.step("tcp")?.error?.contains("refused") == true)
        #expect(native.step("tcp")?.fix?.contains("start its node") == true)
        let over = try #require(trace.path("h2-over-ssh"))
        #expect(over.failed == ["ssh channel"] && over.notReached == Self.tunnel)
        let fix = over.step("ssh channel")?.fix ?? ""
        #expect(fix.hasPrefix("no node listens at 127.0.0.1:\(journey.hbonePort) there"), "\(fix)")
        #expect(fix.contains("bootstrap enroll device1") && !fix.contains("\(backend.port)"), "\(fix)")
        #expect(trace.path("ssh")?.ok == true)
        let (_, only) = try await self.trace(journey, ["device1", "--path", "h2"])
        #expect(only.status == .exited(6), "\(only)")
        await journey.stop()
    }

    /// A port that takes connections and swallows what comes: nothing says no, and nothing answers.
    @Test func aPortThatSwallows() async throws {
        let backend = try SourceServer(count: 3)
        let journey = try await enrolled(backend.port)
        let node = try #require(journey.node)
        kill(node, SIGKILL)
        try await eventually("the port is free") { kill(node, 0) != 0 }
        let silent = try SinkServer(port: journey.hbonePort)
        let (trace, output) = try await trace(journey, ["device1", "--path", "h2", "--timeout", "1s"])
        #expect(output.status == .exited(6), "\(output)")
        let path = try #require(trace.paths.first)
        #expect(path.step("tcp")?.status == "ok")
        #expect(path.failed == ["tls"] && path.notReached == ["http/2 settings", "connect", "first byte"])
        #expect(path.step("tls")?.error?.contains("no answer within") == true, "\(path)")
        #expect((path.step("tls")?.seconds ?? 0) >= 1)
        #expect(path.step("tls")?.fix?.contains("firewall") == true)
        #expect(silent.accepted == 1)
        await journey.stop()
    }

    /// Somebody else of the same mesh listens at the device's address.
    @Test func aWrongIdentity() async throws {
        let backend = try SourceServer(count: 3)
        let journey = try await enrolled(backend.port)
        let node = try #require(journey.node)
        kill(node, SIGKILL)
        try await eventually("the port is free") { kill(node, 0) != 0 }
        let other = try await self.node(journey, "ns/default/sa/other")
        let (trace, output) = try await trace(journey, ["device1"])
        #expect(output.status == .exited(4), "\(output)")
        let path = try #require(trace.path("h2"))
        #expect(path.failed == ["tls"] && path.notReached == ["http/2 settings", "connect", "first byte"])
        #expect(path.step("tls")?.error?.contains("sa/other") == true, "\(path)")
        #expect(path.step("tls")?.fix?.contains("bootstrap renew device1") == true)
        await other.stop()
        await journey.stop()
    }

    /// TLS 1.3 tells a client after its handshake that its certificate is not accepted: that is the handshake's failure
    /// all the same.
    @Test func aServerThatDoesNotAcceptOurCertificate() async throws {
        let backend = try SourceServer(count: 3)
        let journey = try await enrolled(backend.port)
        let node = try #require(journey.node)
        kill(node, SIGKILL)
        try await eventually("the port is free") { kill(node, 0) != 0 }
        let identity = journey.directory.path("device/bootstrap/state/identity")
        let stranger = TestCertificates.shared.path(.server) + "/root-cert.pem"
        let server = try ChildProcess(
            "openssl",
            [
                "s_server", "-accept", "127.0.0.1:\(journey.hbonePort)", "-Verify", "1", "-verify_return_error",
                "-CAfile",
                stranger, "-cert", "\(identity)/cert-chain.pem", "-key", "\(identity)/key.pem", "-alpn", "h2",
                "-tls1_3",
            ],
            keepsInputOpen: true
        )
        _ = try await server.standardOutput.line(containing: "ACCEPT")
        let (trace, output) = try await trace(journey, ["device1", "--path", "h2"])
        #expect(output.status == .exited(4), "\(output)")
        let path = try #require(trace.paths.first)
        #expect(path.failed == ["tls"] && path.notReached == ["http/2 settings", "connect", "first byte"], "\(path)")
        await server.stop()
        await journey.stop()
    }

    /// The policy of the device decides on each path, and its answer is the last one.
    @Test func whatTheDeviceDenies() async throws {
        let (allowed, other) = (try EchoServer(), try EchoServer())
        let journey = try await enrolled(allowed.port)
        let (trace, output) = try await trace(journey, ["device1", "-W", "localhost:\(other.port)"])
        #expect(output.status == .exited(5), "\(output)")
        for (path, step) in [("h2", "connect"), ("h2-over-ssh", "connect"), ("ssh", "ssh channel")] {
            let path = try #require(trace.path(path))
            #expect(path.failed == [step] && path.notReached == ["first byte"] && path.up, "\(path)")
            #expect(path.step(step)?.fix?.contains("bootstrap allow device1 \(other.port)") == true, "\(path)")
        }
        #expect(other.accepted == 0)
        // Nothing listens: the device was reached all the same.
        let port = FreePort.next()
        #expect(try await journey.run(["allow", "device1", "\(port)"]).succeeded)
        let (closed, ended) = try await self.trace(journey, ["device1", "-W", "localhost:\(port)"])
        #expect(ended.status == .exited(1), "\(ended)")
        #expect(closed.paths.allSatisfy { $0.up && !$0.ok })
        await journey.stop()
    }

    @Test(
        arguments: [
            ("host key", 3, "ssh host key"), ("login", 4, "ssh login"), ("nobody", 6, "tcp"), ("name", 6, "dns"),
        ] as [(String, Int32, String)]
    )
    func whereALoginFails(cause: String, code: Int32, step: String) async throws {
        let journey = try await Journey(knowsHost: cause != "host key")
        let other = try await OpenSSHServer()
        var options = journey.sshOptions + ["-o", "BatchMode=yes"]
        var destination = journey.destination
        switch cause {
        case "login": options = options.map { $0 == journey.sshd.userKey ? other.userKey : $0 }
        case "nobody": destination = "\(OpenSSHServer.user)@127.0.0.1:\(FreePort.next())"
        case "name": destination = "does-not-exist.invalid"
        default: break
        }
        let (trace, output) = try await trace(journey, [destination, "-W", "localhost:1"] + options)
        #expect(output.status == .exited(code), "\(output)")
        let path = try #require(trace.paths.first)
        #expect(path.failed == [step], "\(path)")
        let at = try #require(path.steps.firstIndex { $0.step == step })
        #expect(path.steps[..<at].allSatisfy { $0.status == "ok" })
        #expect(path.notReached == path.steps[(at + 1)...].map(\.step))
        #expect(path.steps[at].error?.isEmpty == false && path.steps[at].fix?.isEmpty == false)
        await other.stop()
        await journey.stop()
    }

    @Test(arguments: [
        (["device2", "--path", "h2"], "'device2' is not enrolled"),
        (["host", "-W", "nonsense"], "-W"),
        (["a:1", "--config", "missing.yaml"], "missing.yaml"),
        (["a:1", "--config", "x", "--path", "h2"], "--config says itself"),
    ])
    func whatMakesNoSense(arguments: [String], mention: String) async throws {
        let journey = try await Journey()
        let output = try await journey.run(["trace"] + arguments)
        #expect(output.status == .exited(2), "\(output)")
        #expect(output.standardError.contains(mention), "\(output.standardError)")
        await journey.stop()
    }

    // MARK: The paths of a node

    /// The endpoint of a configuration, with a gateway on the way: another CA's node, by its own credential.
    @Test func thePathsOfANodesConfiguration() async throws {
        let backend = try SourceServer(count: 5)
        let journey = try await Journey()
        try await journey.makeAuthority()
        let workload = try await node(
            journey,
            "ns/default/sa/workload",
            port: FreePort.next(),
            "endpoints: [{match: \"db.mesh:7\", address: \"127.0.0.1:\(backend.port)\", direct: true}]"
        )
        let gateway = try await node(
            journey,
            "ns/default/sa/gateway",
            port: FreePort.next(),
            "endpoints: [{match: \"db.mesh:7\", address: \"127.0.0.1:\(workload.port)\", direct: true}]"
        )
        let identity = try await credential(journey, "ns/default/sa/client")
        let file = try journey.directory.write(
            "client.yaml",
            """
            identity: \(identity)
            listeners: [{name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "db.mesh:7"}]
            endpoints:
            - match: "db.mesh:7"
              via: ["127.0.0.1:\(gateway.port)"]
              viaIdentity: ["spiffe://journey.example/ns/default/sa/gateway"]
              identity: "spiffe://journey.example/ns/default/sa/workload"
            """
        )
        let (trace, output) = try await trace(journey, ["--config", file, "db.mesh:7"])
        #expect(output.succeeded, "\(output)")
        let path = try #require(trace.paths.first)
        #expect(trace.paths.count == 1 && path.path == "h2-via-gateway" && path.ok, "\(path)")
        #expect(path.address == "127.0.0.1:\(gateway.port)")
        #expect(path.steps.map(\.step) == ["dns", "tcp", "tls", "http/2 settings", "connect"] + Self.tunnel)
        let place = "gateway 127.0.0.1:\(gateway.port)"
        #expect(path.steps.map(\.at) == Array(repeating: place, count: 5) + Array(repeating: nil, count: 4))
        #expect(path.steps[2].detail?.contains("sa/gateway") == true)
        #expect(path.steps[5].detail?.contains("sa/workload") == true)
        #expect(path.steps.last?.detail == "5 bytes at once")

        // The workload is another than the endpoint names: the gateway's part of the way is as it was.
        let text = try journey.directory.read("client.yaml")
        try journey.directory.write("client.yaml", text.replacing("sa/workload", with: "sa/somebody"))
        let (wrong, ended) = try await self.trace(journey, ["--config", file, "db.mesh:7"])
        #expect(ended.status == .exited(4), "\(ended)")
        #expect(wrong.paths.first?.steps[5].status == "failed")
        #expect(wrong.paths.first?.steps[..<5].allSatisfy { $0.status == "ok" } == true)
        // Nor is the target to blame where the gateway finds nobody at the workload's.
        await workload.process.stop()
        let (gone, _) = try await self.trace(journey, ["--config", file, "db.mesh:7"])
        let last = try #require(gone.paths.first?.steps[4])
        #expect(last.status == "failed" && last.fix?.contains("no node listens at db.mesh:7") == true, "\(last)")
        let elsewhere = try await journey.run(["trace", "--config", file, "other.mesh:7"])
        #expect(elsewhere.status == .exited(2), "\(elsewhere)")
        await gateway.process.stop()
        await workload.process.stop()
        await journey.stop()
    }

    /// A gateway that the device should hold a connection to, and does not.
    @Test func aDeviceThatHoldsNoConnectionToItsGateway() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        let device = "spiffe://journey.example/ns/default/sa/device"
        let gateway = try await node(
            journey,
            "ns/default/sa/gateway",
            port: FreePort.next(),
            "endpoints: [{match: \"cam.mesh:7\", address: \"127.0.0.1:7\", reverse: true, identity: \"\(device)\"}]"
        )
        let identity = try await credential(journey, "ns/default/sa/client")
        let file = try journey.directory.write(
            "client.yaml",
            """
            identity: \(identity)
            listeners: [{name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "cam.mesh:7"}]
            endpoints:
            - {match: "cam.mesh:7", hbone: "127.0.0.1:\(gateway.port)", identity: "spiffe://journey.example/ns/default/sa/gateway"}
            """
        )
        let (trace, _) = try await trace(journey, ["--config", file, "cam.mesh:7"])
        let step = try #require(trace.paths.first?.step("connect"))
        #expect(step.status == "failed" && step.error?.contains("503") == true, "\(trace)")
        #expect(step.fix?.hasPrefix("the device holds no reverse connection to that gateway") == true, "\(step)")
        #expect(step.fix?.contains("bootstrap doctor") == true, "\(step)")
        await gateway.process.stop()
        await journey.stop()
    }

    // MARK: -

    private func credential(_ journey: Journey, _ id: String) async throws -> String {
        let directory = journey.directory.path("identities/" + id.replacing("/", with: "-"))
        try journey.directory.makeDirectory("identities", permissions: 0o755)
        let issued = try await journey.run(["ca", "issue", "--id", id, "--out", directory])
        #expect(issued.succeeded, "\(issued.standardError)")
        return directory
    }

    private struct StartedNode {
        let process: ChildProcess
        let port: UInt16

        func stop() async { await process.stop() }
    }

    /// A node of the same mesh, by default in the place of the device's.
    private func node(
        _ journey: Journey,
        _ id: String,
        port: UInt16? = nil,
        _ more: String = ""
    ) async throws -> StartedNode {
        let port = port ?? journey.hbonePort
        let file = try journey.directory.write(
            "node-\(port).yaml",
            """
            identity: \(try await credential(journey, id))
            listeners: [{name: hbone, bind: "127.0.0.1:\(port)", protocol: hbone}]
            policy: [{name: all, action: ALLOW, rules: [{to: [{hosts: ["*.mesh"]}]}]}]
            \(more)
            """
        )
        let process = try journey.start(["node", "--config", file])
        _ = try await process.standardOutput.line(containing: "ready hbone")
        return StartedNode(process: process, port: port)
    }
}

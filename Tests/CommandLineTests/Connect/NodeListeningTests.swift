import Fleet
import Foundation
import Platform
import TestDevices
import TestPeers
import Testing

/// `connect -R` without SSH: the device's node listens, where that is allowed. The sshd here forwards nothing.
@Suite(.timeLimit(.minutes(10))) struct NodeListeningTests {
    private final class Bench: Sendable {
        let server: OpenSSHServer
        let owner: Operator
        let backend: EchoServer
        let far = FreePort.next()

        init(_ more: [String] = []) async throws {
            server = try await OpenSSHServer(configuration: ["AllowTcpForwarding no"])
            owner = try await Operator()
            backend = try EchoServer()
            try owner.know(server.directory.path("host_ed25519.pub"), port: server.port)
            let enrolled = try await owner.enroll(
                port: server.port,
                key: server.userKey,
                ["--name", "dev", "--allow-port", "\(backend.port)"] + more
            )
            try #require(enrolled.succeeded, "\(enrolled.standardError)")
        }

        deinit { owner.stopNode() }

        var environment: [String: String?] {
            ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil]
        }

        func start(_ more: [String] = []) throws -> ChildProcess {
            let forward = ["-R", "\(far):localhost:\(backend.port)"]
            return try ChildProcess(TestTools.bootstrap, ["connect", "dev"] + forward + more, environment: environment)
        }

        /// Of one that is refused.
        func refusal(_ forward: String) async throws -> ChildProcess.Output {
            try await owner.run(["connect", "dev", "-R", forward, "-o", "ExitOnForwardFailure=yes"])
        }

        func change(_ command: String) async throws -> ChildProcess.Output {
            let output = try await owner.run([command, "dev", "--listen", "\(far)"])
            #expect(output.succeeded, "\(output.standardError)")
            return output
        }

        func exchange(seed: UInt64) async throws {
            let sent = Pattern.bytes(300_000, seed: seed)
            let (received, ending) = try await TCPClient.exchange(port: far, sending: sent)
            #expect(ending == .endOfStream)
            #expect(Checksum.of(received) == Checksum.of(sent))
        }

        /// How often something listens on the port, at which addresses: as the kernel writes them.
        func listeners() throws -> [String] {
            let port = ":" + String(far, radix: 16, uppercase: true)
            var addresses: [String] = []
            for line in try String(contentsOfFile: "/proc/net/tcp", encoding: .utf8).split(separator: "\n") {
                let fields = line.split(separator: " ").map(String.init)
                guard fields.count > 3, fields[3] == "0A", fields[1].hasSuffix(port) else { continue }
                addresses.append(String(fields[1].prefix(8)))
            }
            return addresses
        }

        func nobodyListens() async throws {
            try await eventually("nobody listens on the port") { try listeners().isEmpty }
        }
    }

    @Test("the device's node listens where that is allowed, on loopback, and as long as it is")
    func whatIsAllowed() async throws {
        let bench = try await Bench()
        let forward = "\(bench.far):localhost:\(bench.backend.port)"
        let denied = try await bench.refusal(forward)
        #expect(denied.status == .exited(5), "\(denied.standardError)")
        let remedy = "Add it: bootstrap allow dev --listen \(bench.far)"
        #expect(denied.standardError.contains(remedy), "\(denied.standardError)")
        #expect(denied.standardError.contains("AllowTcpForwarding"), "\(denied.standardError)")
        #expect(!denied.standardError.contains("earlier release"), "\(denied.standardError)")

        let allowed = try await bench.change("allow")
        #expect(allowed.standardOutput == "dev  allows \(bench.backend.port), listen.bootstrap:\(bench.far)\n")
        let connect = try bench.start()
        let line = "listening localhost:\(bench.far) on dev → localhost:\(bench.backend.port)"
        _ = try await connect.standardOutput.line(containing: line)
        #expect(try bench.listeners() == ["0100007F"])
        try await withThrowingTaskGroup(of: Void.self) { group in
            for seed in 1...8 as ClosedRange<UInt64> { group.addTask { try await bench.exchange(seed: seed) } }
            try await group.waitForAll()
        }
        // It is no way to the port for streams.
        let reached = try await bench.owner.run(["connect", "dev", "--path", "h2", "-W", "localhost:\(bench.far)"])
        #expect(reached.status == .exited(5), "\(reached.standardError)")

        let wide = try await bench.refusal("*:\(forward)")
        #expect(wide.status == .exited(5) && wide.standardError.contains("not on *"), "\(wide.standardError)")
        let taken = try await bench.refusal(forward)
        #expect(taken.status == .exited(5), "\(taken.standardError)")
        #expect(taken.standardError.contains("another process does"), "\(taken.standardError)")
        let unnamed = try await bench.refusal("0:localhost:\(bench.backend.port)")
        #expect(unnamed.status == .exited(5), "\(unnamed.standardError)")

        // Denied again, it ends at once, with what it carries; and is asked for until it is allowed.
        let conversation = try await TCPConversation(port: bench.far)
        #expect(try await conversation.echo([1, 2, 3]) == [1, 2, 3])
        _ = try await bench.change("deny")
        #expect(try await conversation.end(finishing: false).1 == .broken(ECONNRESET))
        try await bench.nobodyListens()
        _ = try await connect.standardError.line(containing: "trying again")
        _ = try await bench.change("allow")
        try await eventually("the node listens again") {
            connect.standardOutput.text.components(separatedBy: line).count == 3
        }
        try await bench.exchange(seed: 9)
        connect.signal(SIGTERM)
        #expect(try await connect.exit() == .exited(0))
        try await bench.nobodyListens()

        // One that is killed says nothing, and is waited for; the next one need not wait.
        let killed = try bench.start()
        _ = try await killed.standardOutput.line(containing: line)
        kill(killed.pid, SIGKILL)
        _ = try await killed.exit()
        let next = try bench.start()
        _ = try await next.standardOutput.line(containing: line)
        try await bench.exchange(seed: 10)
        await next.stop()
        await bench.server.stop()
    }

    @Test("through a gateway, without SSH: what is open outlives the gateway, and a takeover of the device's node")
    func throughAGateway() async throws {
        let gatewayPort = FreePort.next()
        let gatewayID = "spiffe://test.example/ns/default/sa/gw"
        let bench = try await Bench(["--reverse", "127.0.0.1:\(gatewayPort)=\(gatewayID)"])
        _ = try await bench.change("allow")
        let place = try #require(try bench.owner.devices.record(named: "dev")?.hbone.first)
        let nowhere = try Authority(parsing: "127.0.0.2:\(FreePort.next())")
        try bench.owner.devices.update("dev", by: "test", "moved") { $0.hbone = [nowhere] }
        await bench.server.stop()
        let files = TemporaryDirectory()
        let issue = ["ca", "issue", "--id", "ns/default/sa/gw", "--out", files.path("gw")]
        #expect(try await bench.owner.run(issue).succeeded)
        let file = try files.write(
            "gw.yaml",
            """
            identity: \(files.path("gw"))
            listeners: [{name: hbone, bind: "127.0.0.1:\(gatewayPort)", protocol: hbone}]
            endpoints:
            - {match: "dev.default:*", address: "\(place)", reverse: true, identity: "spiffe://test.example/ns/default/sa/dev"}
            """
        )
        func startGateway() async throws -> ChildProcess {
            let gateway = try ChildProcess(TestTools.bootstrap, ["node", "--config", file])
            _ = try await gateway.standardError.line(containing: "holds a connection to this node")
            return gateway
        }
        let gateway = try await startGateway()
        let connect = try bench.start()
        _ = try await connect.standardOutput.line(containing: "path h2-via-gateway 127.0.0.1:\(gatewayPort)")
        _ = try await connect.standardOutput.line(containing: "listening localhost:\(bench.far) on dev")
        try await bench.exchange(seed: 1)
        let conversation = try await TCPConversation(port: bench.far)
        #expect(try await conversation.echo([1]) == [1])

        kill(gateway.pid, SIGKILL)
        _ = try await gateway.exit()
        // Accepted while there is no path: it waits.
        async let late = TCPClient.exchange(port: bench.far, sending: [7, 8, 9])
        let again = try await startGateway()
        #expect(try await conversation.echo(Array("still here".utf8)) == Array("still here".utf8))
        #expect(try await late.received == [7, 8, 9])
        #expect(try await conversation.end().1 == .endOfStream)
        try await bench.exchange(seed: 2)
        // It was never asked for again.
        let lines = connect.standardOutput.text.components(separatedBy: "listening localhost:\(bench.far)").count
        #expect(lines == 2, "\(connect.standardOutput.text)")

        // Another process takes the place of the device's: it is asked, and what is open goes on through the former.
        let open = try await TCPConversation(port: bench.far)
        #expect(try await open.echo([1]) == [1])
        let state = bench.owner.state
        let arguments = ["node", "--config", "\(state)/node.yaml", "--runtime", "\(state)/run"]
        let next = try ChildProcess(TestTools.bootstrap, arguments)
        try await eventually("the next process listens") {
            connect.standardOutput.text.components(separatedBy: "listening localhost:\(bench.far)").count == 3
        }
        try await bench.exchange(seed: 3)
        #expect(try await open.echo([2]) == [2])
        #expect(try await open.end().1 == .endOfStream)
        #expect(!next.standardError.text.contains("was not resumed"), "\(next.standardError.text)")
        connect.signal(SIGTERM)
        #expect(try await connect.exit() == .exited(0))
        try await bench.nobodyListens()
        await next.stop()
        await again.stop()
    }
}

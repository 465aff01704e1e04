import Fleet
import Foundation
import Platform
import TestDevices
import TestPeers
import Testing

/// `connect` to a device of which nothing is reached but a gateway: no address of it, and no SSH.
@Suite(.timeLimit(.minutes(10))) struct GatewayConnectTests {
    private static let deviceID = "spiffe://test.example/ns/default/sa/dev"
    private static let gatewayID = "spiffe://test.example/ns/default/sa/gw"

    /// A device that is enrolled and runs; its sshd is gone, and nothing listens where it is on record.
    private final class Bench: Sendable {
        let owner: Operator
        let backend: EchoServer
        let gateway = FreePort.next()
        let files = TemporaryDirectory()
        /// Where its HBONE server really listens.
        let place: Authority

        /// - Parameter more: For `enroll`, with the gateway's port.
        init(_ more: (UInt16) -> [String] = { _ in [] }) async throws {
            let server = try await OpenSSHServer()
            owner = try await Operator()
            backend = try EchoServer()
            try owner.know(server.directory.path("host_ed25519.pub"), port: server.port)
            let enrolled = try await owner.enroll(
                port: server.port,
                key: server.userKey,
                ["--name", "dev", "--allow-port", "\(backend.port)"] + more(gateway)
            )
            try #require(enrolled.succeeded, "\(enrolled.standardError)")
            let record = try #require(try owner.devices.record(named: "dev"))
            place = try #require(record.hbone.first)
            let nowhere = try Authority(parsing: "127.0.0.2:\(FreePort.next())")
            try owner.devices.update("dev", by: "test", "moved") { $0.hbone = [nowhere] }
            await server.stop()
            for name in ["gw", "other"] {
                let arguments = ["ca", "issue", "--id", "ns/default/sa/\(name)", "--out", files.path(name)]
                let issued = try await owner.run(arguments)
                try #require(issued.succeeded, "\(issued.standardError)")
            }
        }

        deinit { owner.stopNode() }

        /// A node of the mesh.
        func node(_ identity: String, port: UInt16, _ lines: String) async throws -> ChildProcess {
            let text = """
                identity: \(files.path(identity))
                listeners: [{name: hbone, bind: "127.0.0.1:\(port)", protocol: hbone}]
                \(lines)
                """
            let file = try files.write("\(identity)-\(port).yaml", text)
            let node = try ChildProcess(TestTools.bootstrap, ["node", "--config", file])
            _ = try await node.standardOutput.line(containing: "ready hbone")
            return node
        }

        func connect(_ more: [String]) throws -> ChildProcess {
            try ChildProcess(
                TestTools.bootstrap,
                ["connect", "dev"] + more,
                environment: ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil]
            )
        }

        /// Through a forward of `connect`, until that is stopped.
        func echoes(_ more: [String]) async throws {
            let port = FreePort.next()
            let connect = try connect(["-L", "\(port):localhost:\(backend.port)"] + more)
            let output = connect.standardOutput
            let path = try await output.line(containing: "path h2-via-gateway 127.0.0.1:\(gateway)")
            #expect(path.contains("first path that answered"))
            let identities = try await output.line(containing: "identities: ")
            #expect(identities.hasSuffix("peer \(GatewayConnectTests.deviceID)"), "\(identities)")
            let sent = Pattern.bytes(300_000, seed: 1)
            let (received, ending) = try await TCPClient.exchange(port: port, sending: sent)
            #expect(ending == .endOfStream)
            #expect(Checksum.of(received) == Checksum.of(sent))
            connect.signal(SIGTERM)
            #expect(try await connect.exit() == .exited(0), "\(connect.standardError.text)")
        }

        /// Of one that does not come up.
        func fails(_ more: [String]) async throws -> ChildProcess.Output {
            try await owner.run(["connect", "dev", "-W", "localhost:\(backend.port)"] + more)
        }
    }

    @Test("a gateway that the operator names leads to the device, and must be who it was said to be")
    func named() async throws {
        let bench = try await Bench()
        let leads = "endpoints: [{match: \"dev.default:*\", address: \"\(bench.place)\", direct: true}]"
        let gateway = try await bench.node("gw", port: bench.gateway, leads)
        let here = "127.0.0.1:\(bench.gateway)"
        let nothing = try await bench.fails([])
        #expect(nothing.status == .exited(6), "\(nothing.standardError)")
        let none = try await bench.fails(["--path", "h2-via-gateway"])
        #expect(none.status == .exited(2) && none.standardError.contains("dev has named none"), "\(none.standardError)")
        try await bench.echoes(["--gateway", "\(here)=\(Self.gatewayID)"])
        // Without a name it is any of the device's namespace.
        try await bench.echoes(["--gateway", here, "--path", "h2-via-gateway"])

        let traced = try await bench.owner.run(["trace", "dev", "--gateway", here])
        #expect(traced.succeeded, "\(traced.standardOutput)\(traced.standardError)")
        #expect(traced.standardOutput.contains("path h2-via-gateway \(here)\n"), "\(traced.standardOutput)")

        let stranger = try await bench.fails(["--gateway", "\(here)=spiffe://test.example/ns/default/sa/other"])
        #expect(stranger.status == .exited(4), "\(stranger.standardError)")
        #expect(stranger.standardError.contains(Self.gatewayID), "\(stranger.standardError)")

        // For all devices, without a word on the command line.
        let line = "gateways: [{gateway: \"\(here)\", identity: \"\(Self.gatewayID)\"}]"
        try FileManager.default.createDirectory(atPath: bench.owner.bootstrapHome, withIntermediateDirectories: true)
        try Data(line.utf8).write(to: URL(filePath: bench.owner.bootstrapHome + "/config.yaml"))
        try await bench.echoes([])
        await gateway.stop()
    }

    @Test("a gateway that does not know the device is no way; one that leads to somebody else is refused")
    func elsewhere() async throws {
        let bench = try await Bench()
        let another = FreePort.next()
        let stranger = try await bench.node("other", port: another, "")
        let (ignorant, wrong) = (FreePort.next(), FreePort.next())
        let first = try await bench.node("gw", port: ignorant, "")
        let leads = "endpoints: [{match: \"dev.default:*\", address: \"127.0.0.1:\(another)\", direct: true}]"
        let second = try await bench.node("gw", port: wrong, leads)

        let unknown = try await bench.fails(["--gateway", "127.0.0.1:\(ignorant)"])
        #expect(unknown.status == .exited(6), "\(unknown.standardError)")
        #expect(unknown.standardError.contains("answered 403 for dev.default:"), "\(unknown.standardError)")
        let misled = try await bench.fails(["--gateway", "127.0.0.1:\(wrong)"])
        #expect(misled.status == .exited(4), "\(misled.standardError)")
        #expect(misled.standardError.contains("spiffe://test.example/ns/default/sa/other"), "\(misled.standardError)")
        for node in [stranger, first, second] { await node.stop() }
    }

    @Test("a gateway that the device names at its enrolment is enough")
    func recorded() async throws {
        let bench = try await Bench { port in ["--reverse", "127.0.0.1:\(port)=\(Self.gatewayID)"] }
        // What it listens to itself it is asked for over the connection that it holds.
        let endpoint =
            "{match: \"dev.default:*\", address: \"\(bench.place)\", reverse: true, identity: \"\(Self.deviceID)\"}"
        let gateway = try await bench.node(
            "gw",
            port: bench.gateway,
            """
            endpoints: [\(endpoint)]
            policy:
            - {name: all, action: ALLOW, rules: [{from: [{namespaces: [default]}], to: [{hosts: ["dev.default"]}]}]}
            """
        )
        _ = try await gateway.standardError.line(containing: "holds a connection to this node")
        try await bench.echoes([])
        // Nothing but gateways: those that it has named are some.
        try await bench.echoes(["--path", "h2-via-gateway"])
        let traced = try await bench.owner.run(["trace", "dev", "--path", "h2-via-gateway"])
        #expect(traced.succeeded, "\(traced.standardOutput)\(traced.standardError)")
        #expect(traced.standardOutput.hasPrefix("path h2-via-gateway 127.0.0.1:\(bench.gateway)\n"))
        await gateway.stop()
    }

    @Test("what names no gateway is said")
    func misspelt() async throws {
        let owner = try await Operator()
        for (arguments, mention) in [
            (["host.invalid", "--gateway", "127.0.0.1:1"], "--gateway: "),
            (["host.invalid", "--path", "h2-via-gateway"], "--path h2-via-gateway: "),
        ] {
            let output = try await owner.run(["connect"] + arguments + ["-N"])
            #expect(output.status == .exited(2), "\(arguments): \(output.standardError)")
            #expect(output.standardError.contains(mention), "\(output.standardError)")
        }
    }
}

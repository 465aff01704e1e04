import Foundation
import MeshIdentity
import MeshNode
import Platform
import Streams
import TestPeers
import Testing

/// Devices that nobody can dial: they hold connections to gateways, and streams come over those.
@Suite(.timeLimit(.minutes(10))) struct ReverseTests {
    /// With several event loops, most streams are on another one than the connection that carries them.
    @Test(arguments: [1, 4]) func streamsReachADeviceThatListensNowhere(loops: Int) async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(to: backend.port, loops: loops)
        try await nodes.held()
        try await nodes.deviceLog.line(containing: "reachable through the gateway 127.0.0.1:\(nodes.port)")
        // The client's connection to the gateway is on one loop; those of the gateway's own listener are on all.
        let ports = [nodes.entry, nodes.gatewayEntry]
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<24 {
                group.addTask {
                    let bytes = Pattern.bytes(number % 8 == 0 ? 3_000_000 : 1000 + number, seed: UInt64(number))
                    let (received, ending) = try await TCPClient.exchange(port: ports[number % 2], sending: bytes)
                    #expect(received == bytes && ending == .endOfStream, "\(number): \(received.count)")
                }
            }
            try await group.waitForAll()
        }
        for line in try await nodes.lines(24, of: "device") {
            #expect(line["over"] == "h2-reverse" && line["path"] == "direct", "\(line.text)")
            // Who is known to the device is who opens the stream: the gateway.
            #expect(line["source"] == ReverseNodes.gatewayID, "\(line.text)")
        }
        for line in try await nodes.lines(24, of: "gateway") {
            #expect(line["path"] == "h2-reverse" && line["peer"] == ReverseNodes.deviceID, "\(line.text)")
        }
        let paths = try await OperationClient.get("/paths", nodes.admin).object
        let held = try #require(paths["held"] as? [[String: Any]])
        #expect(
            held.count == 1 && held[0]["peer"] as? String == ReverseNodes.deviceID
                && held[0]["state"] as? String == "up"
        )
        let gateways = try #require(
            try await OperationClient.get("/paths", nodes.deviceAdmin).object["gateways"] as? [[String: Any]]
        )
        #expect(gateways.count == 1 && gateways[0]["gateway"] as? String == "127.0.0.1:\(nodes.port)", "\(gateways)")
        #expect(gateways[0]["peer"] as? String == ReverseNodes.gatewayID && gateways[0]["state"] as? String == "up")
        let metrics = try await OperationClient.get("/metrics", nodes.admin).body
        #expect(metrics.contains(#"bootstrap_reverse_connections{by="peer"} 1"#), "\(metrics)")
        await nodes.stop()
    }

    /// Bytes that are lost must not look like an end, whichever loop the stream is on.
    @Test(arguments: [1, 4]) func endsAndAbortsComeThrough(loops: Int) async throws {
        let source = try SourceServer(count: 3_000_000, seed: 1)
        let nodes = try await ReverseNodes(to: source.port, loops: loops)
        try await nodes.held()
        for _ in 0..<6 {
            let talk = try await TCPConversation(port: nodes.gatewayEntry)
            // The server ends first; the other way goes on.
            let (count, ending) = try await talk.end(finishing: false)
            #expect(count == 3_000_000 && ending == .endOfStream)
            let (_, end) = try await talk.end()
            #expect(end == .endOfStream)
        }
        let echo = try EchoServer()
        let other = try await ReverseNodes(to: echo.port, loops: loops)
        try await other.held()
        var talks: [TCPConversation] = []
        for _ in 0..<6 {
            let talk = try await TCPConversation(port: other.gatewayEntry)
            #expect(try await talk.echo([1, 2, 3]) == [1, 2, 3])
            talks.append(talk)
        }
        await other.device.drain(deadline: .zero)
        for talk in talks {
            let (_, ending) = try await talk.end(finishing: false)
            #expect(ending == .broken(ECONNRESET), "\(ending)")
        }
        await nodes.stop()
        await other.stop()
    }

    @Test func whereNobodyHoldsAConnectionAStreamFailsAtOnceAndSaysWhy() async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(to: backend.port, loops: 2, starts: false)
        let (received, ending) = try await TCPClient.exchange(port: nodes.gatewayEntry, sending: [1])
        #expect(received.isEmpty && ending != .endOfStream)
        try await nodes.gatewayLog.line(containing: "\(ReverseNodes.deviceID) holds no connection to this node")
        // It comes, and nobody has to wait for anything but it.
        #expect(try await nodes.device.start().isEmpty)
        try await nodes.held()
        for port in [nodes.gatewayEntry, nodes.entry, nodes.gatewayEntry] {
            #expect(try await TCPClient.exchange(port: port, sending: [2]).received == [2])
        }
        await nodes.stop()
    }

    /// The gateway's rule is about the way to the device, the device's about the way that a stream has come.
    @Test(arguments: [true, false]) func policyDecidesOnBothSides(isAtGateway: Bool) async throws {
        let backend = try EchoServer()
        let when = ", when: [{transport: [h2]}]"
        let nodes = try await ReverseNodes(
            to: backend.port,
            gatewayPolicy: isAtGateway ? when : "",
            devicePolicy: isAtGateway ? "" : "\n    when: [{transport: [h2]}]"
        )
        try await nodes.held()
        let (received, _) = try await TCPClient.exchange(port: nodes.entry, sending: [1])
        #expect(received.isEmpty && backend.accepted == 0)
        let log = isAtGateway ? nodes.gatewayLog : nodes.deviceLog
        try await log.line(containing: "allows it over h2 only, not over h2-reverse")
        await nodes.stop()
    }

    /// Whoever comes with `h2r` is who its certificate says.
    @Test func whomNoEndpointNamesIsRefused() async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(to: backend.port, identity: TestCertificates.shared.path(.client))
        try await nodes.gatewayLog.line(containing: "a reverse connection was refused")
        let line = try #require(nodes.gatewayLog.lines.first { $0.contains("was refused") })
        #expect(line.contains("spiffe://mesh.example/ns/prod/sa/client") && line.contains("reverse: true"), "\(line)")
        try await nodes.deviceLog.line(containing: "needs an endpoint with 'reverse: true'")
        #expect(try await TCPClient.exchange(port: nodes.entry, sending: [1]).received.isEmpty)
        #expect(backend.accepted == 0)
        await nodes.stop()
    }

    @Test func aGatewayThatIsSomebodyElseGetsNothing() async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(
            to: backend.port,
            gatewayIdentity: "spiffe://mesh.example/ns/prod/sa/other"
        )
        try await nodes.deviceLog.line(containing: "no connection to the gateway")
        let line = try #require(nodes.deviceLog.lines.first { $0.contains("no connection to the gateway") })
        #expect(line.contains(ReverseNodes.gatewayID) && line.contains("sa/other"), "\(line)")
        #expect(!nodes.gatewayLog.lines.contains { $0.contains("holds a connection to this node") })
        await nodes.stop()
    }

    @Test func oneOfTwoGatewaysGoesAndTheOtherCarries() async throws {
        let backend = try EchoServer()
        let second = try await ReverseNodes(to: backend.port, starts: false)
        let nodes = try await ReverseNodes(to: backend.port, others: [second.port])
        try await nodes.held()
        try await second.held()
        for port in [nodes.gatewayEntry, second.gatewayEntry] {
            #expect(try await TCPClient.exchange(port: port, sending: [1]).received == [1])
        }
        let talk = try await TCPConversation(port: second.gatewayEntry)
        await nodes.gateway.drain(deadline: .zero)
        #expect(try await talk.echo([1, 2]) == [1, 2])
        #expect(try await TCPClient.exchange(port: second.gatewayEntry, sending: [3]).received == [3])
        try await nodes.deviceLog.line(containing: "not reachable through the gateway 127.0.0.1:\(nodes.port) any more")
        await nodes.stop()
        await second.stop()
    }

    @Test func aGatewayThatRestartsIsDialledAgain() async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(to: backend.port)
        try await nodes.held()
        await nodes.gateway.drain(deadline: .zero)
        let file = nodes.directory.path("gateway.yaml")
        let log = LogRecorder()
        let again = Node(try NodeConfiguration.check(file), configurationFile: file, loops: 2, logger: log.logger)
        let entry = try #require(try await again.start().first { $0.name == "in" }).address.port
        try await log.line(containing: "holds a connection to this node")
        #expect(try await TCPClient.exchange(port: entry, sending: [1]).received == [1])
        await nodes.stop()
        await again.drain(deadline: .zero)
    }

    @Test func aReloadChangesWhoHoldsAndWhatIsHeld() async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(to: backend.port)
        try await nodes.held()
        let talk = try await TCPConversation(port: nodes.gatewayEntry)
        #expect(try await talk.echo([1]) == [1])
        // What does not concern it cuts nothing.
        try await nodes.device.reload()
        try await nodes.gateway.reload()
        #expect(try await talk.echo([2]) == [2])
        #expect(nodes.gatewayLog.lines.filter { $0.contains("holds a connection to this node") }.count == 1)
        // The endpoint is for somebody else: what the device holds ends.
        let yaml = ReverseNodes.gatewayYAML(
            port: nodes.port,
            backend: backend.port,
            expected: "spiffe://mesh.example/ns/prod/sa/other",
            admin: nodes.admin
        )
        try nodes.directory.write("gateway.yaml", yaml)
        try await nodes.gateway.reload()
        let (_, ending) = try await talk.end(finishing: false)
        #expect(ending == .broken(ECONNRESET))
        try await nodes.gatewayLog.line(containing: "holds a connection no more")
        // The device goes elsewhere: nothing is dialled any more.
        let device = ReverseNodes.deviceYAML(
            gateways: [FreePort.next()],
            backend: backend.port,
            admin: nodes.deviceAdmin
        )
        try nodes.directory.write("device.yaml", device)
        try await nodes.device.reload()
        let gateways = try await OperationClient.get("/paths", nodes.deviceAdmin).object["gateways"] as? [[String: Any]]
        #expect(gateways?.count == 1 && gateways?[0]["gateway"] as? String != "127.0.0.1:\(nodes.port)")
        await nodes.stop()
    }

    /// A device and a gateway of a CA that can renew and revoke.
    private final class Issued: Sendable {
        let directory = TemporaryDirectory()
        let ca: EmbeddedCA
        let serial = Lock("")

        init() throws {
            ca = try EmbeddedCA.create(directory: directory.path("ca"), trustDomain: TrustDomain("mesh.example"))
            _ = try issue("gateway", "gateway")
            let serial = try issue("device", "server")
            self.serial.withLock { $0 = serial }
        }

        @discardableResult
        func issue(_ name: String, _ account: String) throws -> String {
            let identity = CredentialDirectory(directory.path(name))
            let pending = try identity.prepare(id: SPIFFEID("spiffe://mesh.example/ns/prod/sa/\(account)"))
            let issued = try ca.issue(pending.request, id: pending.id)
            return try pending.commit(chain: issued.chain, roots: issued.roots).leaf.serialNumber
        }

        func node(_ name: String, _ yaml: String, _ log: LogRecorder) throws -> Node {
            let own = yaml.split(separator: "\n", maxSplits: 1)[1]
            let file = try directory.write("\(name).yaml", "identity: \(name)\n\(own)\n")
            return Node(try NodeConfiguration.check(file), configurationFile: file, loops: 1, logger: log.logger)
        }
    }

    @Test func aRenewedCertificateIsShownAndARevokedOneIsCut() async throws {
        let backend = try EchoServer()
        let issued = try Issued()
        let (gatewayLog, deviceLog) = (LogRecorder(), LogRecorder())
        let port = FreePort.next()
        let gateway = try issued.node(
            "gateway",
            ReverseNodes.gatewayYAML(port: port, backend: backend.port),
            gatewayLog
        )
        let device = try issued.node(
            "device",
            ReverseNodes.deviceYAML(gateways: [port], backend: backend.port),
            deviceLog
        )
        let entry = try #require(try await gateway.start().first { $0.name == "in" }).address.port
        _ = try await device.start()
        try await gatewayLog.line(containing: "holds a connection to this node")
        let old = try await TCPConversation(port: entry)
        #expect(try await old.echo([1]) == [1])
        // The new one is dialled before the old one is let go, whose streams go on.
        let serial = try issued.issue("device", "server")
        try await device.reload()
        try await eventually("it is dialled again") {
            gatewayLog.lines.filter { $0.contains("holds a connection to this node") }.count == 2
        }
        #expect(!deviceLog.lines.contains { $0.contains("not reachable through") })
        #expect(try await old.echo([2]) == [2])
        let new = try await TCPConversation(port: entry)
        #expect(try await new.echo([3]) == [3])
        // Either is cut by itself.
        let now = Int64(Date().timeIntervalSince1970)
        let entries = [serial].map { RevokedCertificate(serial: $0, revokedAt: now) }
        let list = try issued.ca.revocationList(of: entries, number: 1, nextUpdate: now + 3600)
        try CredentialDirectory(issued.directory.path("gateway")).write(revocationLists: list.pem)
        try await gateway.reload()
        let (_, ending) = try await new.end(finishing: false)
        #expect(ending == .broken(ECONNRESET), "\(ending)")
        #expect(try await old.echo([4]) == [4])
        // It may come as often as it likes.
        try await deviceLog.line(containing: "no connection to the gateway")
        #expect(try await TCPClient.exchange(port: entry, sending: [5]).received.isEmpty)
        await device.drain(deadline: .zero)
        await gateway.drain(deadline: .zero)
    }

    /// The gateway sees ciphertext, and the device who really asks: mutual TLS with the device itself, inside of a
    /// stream that the gateway carries over what the device holds.
    @Test(arguments: [1, 4]) func aClientSpeaksWithTheDeviceThroughAGatewayThatSeesNothing(loops: Int) async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(
            to: backend.port,
            loops: loops,
            address: "127.0.0.1:15008",
            device: "endpoints: [{match: \"cam.mesh:*\", address: \"127.0.0.1:\(backend.port)\", direct: true}]",
            client: """
                - match: "cam.mesh:*"
                  via: ["GATEWAY"]
                  viaIdentity: "\(ReverseNodes.gatewayID)"
                  identity: "\(ReverseNodes.deviceID)"
                """
        )
        try await nodes.held()
        let bytes = Pattern.bytes(2_000_000, seed: 3)
        let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: bytes)
        #expect(received == bytes && ending == .endOfStream)
        let line = try #require(try await nodes.lines(1, of: "device").first)
        #expect(line["source"] == "spiffe://mesh.example/ns/prod/sa/client" && line["over"] == "h2", "\(line.text)")
        #expect(line["destination"] == "cam.mesh:\(backend.port)", "\(line.text)")
        let client = try #require(try await nodes.lines(1, of: "client").first)
        #expect(client["path"] == "h2-via-gateway" && client["peer"] == ReverseNodes.deviceID, "\(client.text)")
        await nodes.stop()
    }

    @Test func keysThatContradictEachOtherAreTold() throws {
        func issues(_ endpoint: String, _ top: String = "") -> String {
            let text = """
                identity: i
                listeners: [{name: a, bind: "127.0.0.1:1", protocol: hbone}]
                endpoints: [{match: "cam:*", \(endpoint)}]
                \(top)
                """
            do {
                try NodeConfiguration.parse(text, file: "f").validate(checkingFiles: false)
                return ""
            } catch {
                return "\(error)"
            }
        }
        let id = "identity: \"spiffe://mesh.example/ns/prod/sa/cam\""
        #expect(issues("reverse: true, \(id), address: \"127.0.0.1:*\"") == "")
        #expect(issues("reverse: true, \(id), hbone: \"h:1\", resumable: true") == "")
        #expect(issues("reverse: true").contains("'reverse: true' needs 'identity'"))
        #expect(issues("reverse: true, \(id), via: [\"g:1\"]").contains("two ways to the same peer"))
        #expect(
            issues("reverse: true, \(id), path: h2, hbone: \"h:1\"").contains("'path: h2' leaves 'reverse: true' out")
        )
        #expect(issues("reverse: true, \(id), resumable: true") == "")
        #expect(issues("reverse: true, direct: true").contains("means nothing with 'direct: true'"))
        #expect(issues("reverse: false").contains("'reverse: true' or 'direct: true'"))
        #expect(issues("direct: true", "reverse: [{gateway: \"g:1\"}, {gateway: \"g:1\"}]").contains("there twice"))
        #expect(issues("direct: true", "reverse: [{identity: \"x\"}]").contains("needs the key 'gateway'"))
        // Who is reached through a gateway need not listen.
        let device = "identity: i\nreverse: [{gateway: \"g:15008\"}]\n"
        #expect(throws: Never.self) {
            let configuration = try NodeConfiguration.parse(device, file: "f")
            try configuration.validate(checkingFiles: false)
            let again = try NodeConfiguration.parse(try #require(configuration.inEffect), file: "f")
            #expect(again.inEffect == configuration.inEffect)
        }
        #expect(throws: ConfigurationError.self) { try NodeConfiguration.parse("identity: i\n", file: "f") }
    }
}

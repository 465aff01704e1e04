import Foundation
import Logging
import MeshNode
import Platform
import Streams
import TestPeers
import Testing

/// Streams to a workload through gateways, with mutual TLS from end to end.
@Suite(.timeLimit(.minutes(10))) struct DoubleHBONETests {
    @Test func streamsGoThroughAndTheGatewaySeesCiphertext() async throws {
        let backend = try EchoServer()
        let wire = Lock<RelayServer?>(nil)
        let nodes = try await GatewayNodes(
            to: backend.port,
            front: { port in
                let relay = try RelayServer(to: port)
                relay.record()
                wire.withLock { $0 = relay }
                return relay.port
            },
            workloadSettings: "labels: {service.name: db}",
            gatewaySettings: "labels: {service.name: edge}",
            clientSettings: "labels: {service.name: web, topology.istio.io/network: east}"
        )
        let secret = Array("this is not for the gateway".utf8)
        for _ in 0..<3 {
            let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: secret)
            #expect(received == secret && ending == .endOfStream)
        }
        let large = Pattern.bytes(8_000_000, seed: 7)
        let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: large)
        #expect(received == large && ending == .endOfStream)

        let near = try await nodes.lines(4, of: "client")
        let far = try await nodes.lines(4, of: "workload")
        for line in near {
            #expect(line["path"] == "h2-via-gateway" && line["peer"] == GatewayNodes.workloadID, "\(line.text)")
            #expect(line.text.contains(#""answerBaggage":{"service.name":"db"}"#), "\(line.text)")
        }
        for line in far {
            #expect(line["source"] == "spiffe://mesh.example/ns/prod/sa/client" && line["over"] == "h2", "\(line.text)")
            #expect(line["destination"] == GatewayNodes.destination && line["network"] == "east", "\(line.text)")
            #expect(line.text.contains(#""baggage":{"service.name":"web"}"#), "\(line.text)")
        }
        await nodes.stop()

        // All of it was one stream to the gateway, which knows who and where, and nothing else.
        let hop = try await nodes.lines(1, of: "gateway")
        #expect(hop.count == 1)
        let line = try #require(hop.first)
        #expect(line["source"] == "spiffe://mesh.example/ns/prod/sa/client" && line["path"] == "direct", "\(line.text)")
        #expect(line["destination"] == GatewayNodes.destination && line["network"] == nil, "\(line.text)")
        #expect(line["forwarded"]?.contains("by=_mesh.example_ns_prod_sa_client") == true, "\(line.text)")
        #expect(line.text.contains(#""baggage":{"service.name":"web"}"#), "\(line.text)")
        let recorded = wire.withLock { $0?.recorded } ?? []
        #expect(recorded.count > 16_000_000)
        let text = Data(recorded)
        #expect(text.range(of: Data(secret)) == nil && text.range(of: Data(GatewayNodes.destination.utf8)) == nil)
        #expect(text.range(of: Data("service.name".utf8)) == nil)
    }

    @Test func endsAndAbortsComeThroughBothLevels() async throws {
        let source = try SourceServer(count: 3_000_000, seed: 1)
        let nodes = try await GatewayNodes(to: source.port)
        // The server ends first; the other way goes on.
        let talk = try await TCPConversation(port: nodes.entry)
        let (count, ending) = try await talk.end(finishing: false)
        #expect(count == 3_000_000 && ending == .endOfStream)
        let (_, end) = try await talk.end()
        #expect(end == .endOfStream)
        #expect(try await source.transfers(1).first?.ending == .endOfStream)
        // The server dies.
        let cut = try await TCPConversation(port: nodes.entry)
        try await eventually("it is connected") { source.accepted == 2 }
        source.close()
        let (_, broken) = try await cut.end(finishing: false)
        // What it had sent may end in order before it is gone.
        #expect(broken == .broken(ECONNRESET) || broken == .endOfStream)
        await nodes.stop()
    }

    /// A reader that reads nothing stops its own stream, and none of those beside it in the same inner connection.
    @Test func aSlowReaderStopsNobodyElse() async throws {
        let source = try SourceServer(count: 12_000_000, seed: 1)
        let nodes = try await GatewayNodes(to: source.port)
        let idle = try await TCPConversation(port: nodes.entry)
        do {
            try await withThrowingTaskGroup(of: Int.self) { group in
                for _ in 0..<4 {
                    group.addTask { [entry = nodes.entry] in
                        try await TCPClient.exchange(port: entry, sending: []).received.count
                    }
                }
                for try await count in group { #expect(count == 12_000_000) }
            }
        }
        let (late, ending) = try await idle.end()
        #expect(late == 12_000_000 && ending == .endOfStream)
        await nodes.stop()
        #expect(try await nodes.lines(1, of: "gateway").count == 1)
    }

    @Test func whoIsNotWhoItMustBeIsRefused() async throws {
        let backend = try EchoServer()
        for (endpoint, hop) in [
            (
                "  viaIdentity: \"\(GatewayNodes.gatewayID)\"\n  identity: \"spiffe://mesh.example/ns/prod/sa/other\"",
                "echo.mesh:7"
            ),
            (
                "  viaIdentity: \"spiffe://mesh.example/ns/prod/sa/other\"\n  identity: \"\(GatewayNodes.workloadID)\"",
                "127.0.0.1"
            ),
        ] {
            let nodes = try await GatewayNodes(to: backend.port, client: endpoint)
            let (_, ending) = try await TCPClient.exchange(port: nodes.entry, sending: [1])
            #expect(ending == .broken(ECONNRESET))
            let line = try #require(try await nodes.lines(1, of: "client").first)
            #expect(line["code"] == "authentication" && line["reason"]?.contains(hop) == true, "\(line.text)")
            await nodes.stop()
        }
        #expect(backend.accepted == 0)
    }

    @Test func errorsSayWhichHopFailedAndWhy() async throws {
        let backend = try EchoServer()
        // The gateway's policy: its answer is final.
        let denied = try await GatewayNodes(
            to: backend.port,
            gatewaySettings:
                "- {name: no, action: DENY, rules: [{from: [{principals: [\"mesh.example/ns/prod/sa/client\"]}]}]}"
        )
        _ = try await TCPClient.exchange(port: denied.entry, sending: [1])
        let refusal = try #require(try await denied.lines(1, of: "client").first)
        let gateway = "gateway 127.0.0.1:\(denied.gatewayPort): \(GatewayNodes.gatewayID) "
        #expect(refusal["code"] == "denied", "\(refusal.text)")
        #expect(refusal["reason"]?.hasPrefix("\(gateway)answered 403 for echo.mesh:7") == true, "\(refusal.text)")
        await denied.stop()

        // Nobody is behind the gateway.
        let nobody = FreePort.next()
        let empty = try await GatewayNodes(to: backend.port, front: { _ in nobody })
        _ = try await TCPClient.exchange(port: empty.entry, sending: [1])
        let missing = try #require(try await empty.lines(1, of: "client").first)
        #expect(missing["code"] == "unreachable", "\(missing.text)")
        #expect(missing["reason"]?.contains("gateway 127.0.0.1:\(empty.gatewayPort): ") == true, "\(missing.text)")
        await empty.stop()

        // What is behind it is no HBONE server.
        let stranger = try EchoServer()
        let odd = try await GatewayNodes(to: backend.port, front: { _ in stranger.port })
        _ = try await TCPClient.exchange(port: odd.entry, sending: [1])
        let line = try #require(try await odd.lines(1, of: "client").first)
        #expect(line["outcome"] == "refused" && line["reason"]?.contains("echo.mesh:7 through") == true, "\(line.text)")
        await odd.stop()

        // The gateway is gone.
        let gone = try await GatewayNodes(to: backend.port)
        await gone.gateway.drain(deadline: .seconds(1))
        _ = try await TCPClient.exchange(port: gone.entry, sending: [1])
        let lost = try #require(try await gone.lines(1, of: "client").first)
        #expect(lost["code"] == "unreachable", "\(lost.text)")
        #expect(lost["reason"]?.contains("gateway 127.0.0.1:\(gone.gatewayPort): ") == true, "\(lost.text)")
        await gone.stop()
        #expect(backend.accepted == 0)
    }

    /// The workload's answer is that of the stream, and the path stays.
    @Test func theWorkloadsPolicyDecides() async throws {
        let backend = try EchoServer()
        let nodes = try await GatewayNodes(
            to: backend.port,
            workloadSettings:
                "- {name: no, action: DENY, rules: [{from: [{principals: [\"mesh.example/ns/prod/sa/client\"]}]}]}"
        )
        for _ in 0..<2 { _ = try await TCPClient.exchange(port: nodes.entry, sending: [1]) }
        let lines = try await nodes.lines(2, of: "client")
        for line in lines {
            #expect(
                line["code"] == "denied" && line["reason"]?.hasPrefix(GatewayNodes.workloadID) == true,
                "\(line.text)"
            )
        }
        await nodes.stop()
        #expect(try await nodes.lines(1, of: "gateway").count == 1)
        #expect(backend.accepted == 0)
    }

    /// Each destination has an inner connection of its own, since the gateway may lead it to another workload.
    @Test func severalDestinationsBehindOneGateway() async throws {
        let backend = try EchoServer()
        let nodes = try await GatewayNodes(
            to: backend.port,
            match: "*.mesh"
        )
        let file = nodes.directory.path("client.yaml")
        let text = try String(contentsOfFile: file, encoding: .utf8)
        let other = FreePort.next()
        let more =
            "- {name: more, bind: \"127.0.0.1:\(other)\", protocol: tcp, forwardTo: \"other.mesh:9\"}\nendpoints:"
        try nodes.directory.write("client.yaml", text.replacingOccurrences(of: "endpoints:", with: more))
        try await nodes.client.reload()
        for port in [nodes.entry, other, nodes.entry, other] {
            #expect(try await TCPClient.exchange(port: port, sending: [1, 2]).received == [1, 2])
        }
        await nodes.stop()
        let lines = try await nodes.lines(2, of: "gateway")
        #expect(lines.compactMap { $0["destination"] }.sorted() == ["echo.mesh:7", "other.mesh:9"], "\(lines)")
    }

    /// Three gateways in a row, each of which is reached through those before it.
    @Test func aChainOfThreeGateways() async throws {
        let backend = try EchoServer()
        let nodes = try await GatewayNodes(to: backend.port)
        func gateway() async throws -> (Node, UInt16) {
            let yaml = """
                identity: \(GatewayNodes.gatewayCredential)
                listeners:
                - {name: hbone, bind: "127.0.0.1:0", protocol: hbone}
                endpoints:
                - {match: "127.0.0.0/8", direct: true}
                policy:
                - {name: all, action: ALLOW, rules: [{from: [{namespaces: [prod]}], to: [{ports: ["1024-65535"]}]}]}
                """
            let node = Node(try NodeConfiguration.parse(yaml, file: "gateway"), loops: 1, logger: LogRecorder().logger)
            return (node, try #require(try await node.start().first).address.port)
        }
        let (first, second) = (try await gateway(), try await gateway())
        let file = nodes.directory.path("client.yaml")
        let text = try String(contentsOfFile: file, encoding: .utf8)
        let via = "\"127.0.0.1:\(first.1)\", \"127.0.0.1:\(second.1)\", \"127.0.0.1:\(nodes.gatewayPort)\""
        try nodes.directory.write(
            "client.yaml",
            text.replacingOccurrences(of: "\"127.0.0.1:\(nodes.gatewayPort)\"", with: via)
        )
        try await nodes.client.reload()
        let bytes = Pattern.bytes(2_000_000, seed: 3)
        let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: bytes)
        #expect(received == bytes && ending == .endOfStream)
        // The same by the gateways' own routes: each of them leads it on to the next by HBONE.
        await second.0.drain(deadline: .milliseconds(100))
        _ = try await TCPClient.exchange(port: nodes.entry, sending: [1])
        let line = try #require(try await nodes.lines(2, of: "client").last)
        #expect(line["reason"]?.contains("gateway 127.0.0.1:\(first.1): ") == true, "\(line.text)")
        await nodes.stop()
        await first.0.drain(deadline: .seconds(1))
    }

    /// Two gateways that lead the destination through each other.
    @Test func aLoopEndsWithAMessage() async throws {
        let (one, two) = (FreePort.next(), FreePort.next())
        func node(_ identity: String, _ own: UInt16, _ other: UInt16, _ log: LogRecorder) throws -> Node {
            let yaml = """
                identity: \(identity)
                listeners:
                - {name: hbone, bind: "127.0.0.1:\(own)", protocol: hbone}
                - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "echo.mesh:7"}
                endpoints:
                - {match: "echo.mesh:7", via: ["127.0.0.1:\(other)"]}
                """
            return Node(try NodeConfiguration.parse(yaml, file: "n"), loops: 1, logger: log.logger)
        }
        let log = LogRecorder()
        let first = try node(GatewayNodes.gatewayCredential, one, two, log)
        let second = try node(TestCertificates.shared.path(.server), two, one, LogRecorder())
        let entry = try #require(try await first.start().first { $0.name == "in" }).address.port
        _ = try await second.start()
        let (_, ending) = try await TCPClient.exchange(port: entry, sending: [1])
        #expect(ending == .broken(ECONNRESET))
        #expect(log.lines.contains { $0.hasPrefix("warning a loop") }, "\(log.lines)")
        #expect(log.lines.contains { $0.contains("the way to the destination is a loop") }, "\(log.lines)")
        await first.drain(deadline: .milliseconds(100))
        await second.drain(deadline: .milliseconds(100))
    }

    /// A gateway that stops is left: what is open goes on, and what is new goes through the one that follows.
    @Test func aGatewayThatDrainsIsLeft() async throws {
        let backend = try EchoServer()
        let nodes = try await GatewayNodes(to: backend.port)
        let open = try await TCPConversation(port: nodes.entry)
        #expect(try await open.echo([1]) == [1])
        let yaml = try String(contentsOfFile: nodes.directory.path("gateway.yaml"), encoding: .utf8)
            .replacingOccurrences(of: "\"127.0.0.1:0\"", with: "\"127.0.0.1:\(nodes.gatewayPort)\"")
            .replacingOccurrences(of: "gateway.log", with: "next.log")
        let draining = Task { [gateway = nodes.gateway] in await gateway.drain(deadline: .seconds(60)) }
        let started = Lock<Node?>(nil)
        try await eventually("the gateway listens no more") {
            let node = Node(try NodeConfiguration.parse(yaml, file: "next"), loops: 1, logger: LogRecorder().logger)
            guard (try? await node.start()) != nil else { return false }
            started.withLock { $0 = node }
            return true
        }
        let next = try #require(started.withLock { $0 })
        // The client learns of it by GOAWAY, which takes a round trip.
        try await eventually("a stream goes through the next gateway") {
            let received = try await TCPClient.exchange(port: nodes.entry, sending: [2]).received
            #expect(received == [2])
            return await next.liveStreams() > 0
        }
        #expect(try await open.echo([3]) == [3])
        let (_, ending) = try await open.end()
        #expect(ending == .endOfStream)
        await draining.value
        let lines = try await nodes.lines(1, of: "gateway")
        #expect(lines.count == 1 && lines[0]["outcome"] == "ended", "\(lines.map(\.text))")
        await nodes.stop()
        await next.drain(deadline: .seconds(1))
    }

    /// A connection that nobody uses is let go on both levels, in order, and made again when somebody does.
    @Test func whatNobodyUsesIsLetGo() async throws {
        let backend = try EchoServer()
        let nodes = try await GatewayNodes(to: backend.port, clientSettings: "connections: {idleTimeout: 200ms}")
        for round in 1...2 {
            #expect(try await TCPClient.exchange(port: nodes.entry, sending: [1]).received == [1])
            let lines = try await nodes.lines(round, of: "gateway")
            #expect(lines.last?["outcome"] == "ended", "\(lines.map(\.text))")
        }
        await nodes.stop()
    }
}

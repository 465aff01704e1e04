import Foundation
import H2Transport
import Logging
import MeshIdentity
import MeshNode
import Platform
import Streams
import Synchronization
import TestPeers
import Testing

/// A node that a stream comes to and goes on from: what it passes on, what it stops, and what it asks.
@Suite(.timeLimit(.minutes(10))) struct GatewayTests {
    private static let server = "spiffe://mesh.example/ns/prod/sa/server"
    private static let destination = "target.lan:7"

    private static func source(_ kind: TestCertificates.Kind) -> CredentialSource {
        .directory(TestCertificates.shared.path(kind))
    }

    /// A node with one endpoint for the destination.
    private static func gateway(
        _ kind: TestCertificates.Kind,
        bind: UInt16 = 0,
        next: UInt16,
        expecting: String,
        log: LogRecorder
    ) async throws -> (node: Node, port: UInt16) {
        let yaml = """
            identity: \(TestCertificates.shared.path(kind))
            listeners:
            - {name: hbone, bind: "127.0.0.1:\(bind)", protocol: hbone}
            endpoints:
            - {match: "\(destination)", hbone: "127.0.0.1:\(next)", identity: "\(expecting)"}
            """
        let node = Node(try NodeConfiguration.parse(yaml, file: "gateway"), loops: 1, logger: log.logger)
        return (node, try #require(try await node.start().first).address.port)
    }

    private static func withClient<Result>(
        of port: UInt16,
        _ body: (HBONEClient, HBONEPeer) async throws -> Result
    ) async throws -> Result {
        let client = try await HBONEClient(credentials: source(.client), logger: Logger(label: "client"))
        let peer = HBONEPeer(try Authority(parsing: "127.0.0.1:\(port)"))
        let result: Swift.Result<Result, any Error>
        do { result = .success(try await body(client, peer)) } catch { result = .failure(error) }
        await client.shutDown()
        return try result.get()
    }

    @Test func passesOnWhatMayGoOnAndNothingElse() async throws {
        let seen = Mutex<[HeaderFields]>([])
        let listener = try await HBONEListener(
            bind: SocketAddress(ip: "127.0.0.1", port: 0),
            credentials: Self.source(.server),
            logger: Logger(label: "listener")
        )
        let serving = Task {
            await listener.serve { request in
                seen.withLock { $0.append(request.request.headers) }
                return .admit
            } handler: { _ in
            }
        }
        let (node, port) = try await Self.gateway(
            .server,
            next: listener.localAddress.port,
            expecting: Self.server,
            log: LogRecorder()
        )
        try await Self.withClient(of: port) { client, peer in
            let headers: HeaderFields = [
                "baggage": "service.name=web",
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
                "x-service": "web.prod", "forwarded": "for=10.1.2.3",
                // Each of these means something to some node on the way.
                "authorization": "Bearer secret", "x-transport": "h2-over-ssh", "x-forwarded-client-cert": "By=me",
                "x-istio-source": "gateway", "resumable": "1", "cookie": "a=b", "x-forwarded-for": "10.0.0.1",
            ]
            try await client.withStream(to: Authority(parsing: Self.destination), through: peer, headers: headers) {
                _ in
            }
            try await client.withStream(
                to: Authority(parsing: Self.destination),
                through: peer,
                headers: ["baggage": String(repeating: "a", count: 8193)]
            ) { _ in }
        }
        let own = "for=127.0.0.1;by=_mesh.example_ns_prod_sa_server"
        // Who is in no trace begins one.
        let begun = seen.withLock { $0.last?["traceparent"] }
        #expect(TraceParent(parsing: begun) != nil)
        seen.withLock { if $0.count == 2 { $0[1]["traceparent"] = nil } }
        let fields = seen.withLock { $0.map { $0.map { "\($0.name): \($0.value)" }.sorted() } }
        #expect(
            fields == [
                [
                    "baggage: service.name=web", "forwarded: for=10.1.2.3, \(own)",
                    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "x-service: web.prod",
                ], ["forwarded: \(own)"],
            ]
        )
        await node.drain(deadline: .seconds(1))
        await listener.close()
        await serving.value
    }

    /// Inside of such a tunnel its client speaks TLS to the workload: who does not reaches nothing.
    @Test func xTunWithoutTLSInsideReachesNobody() async throws {
        let backend = try EchoServer()
        let pair = try await NodePair(to: backend.port)
        try await Self.withClient(of: pair.hbone) { client, peer in
            for authority in ["127.0.0.1:\(backend.port)", "proxy.example:443"] {
                let headers: HeaderFields = ["x-tun": "127.0.0.1:\(backend.port)"]
                // Whether it is reset or ends, nothing comes back.
                let received = try? await client.withStream(
                    to: Authority(parsing: authority),
                    through: peer,
                    headers: headers
                ) { stream in
                    try await stream.write(Array("GET / HTTP/1.1\r\n\r\n".utf8))
                    return try await stream.read()
                }
                #expect(received == nil)
            }
        }
        #expect(backend.accepted == 0)
        await pair.stop()
    }

    /// Two gateways that point at each other: the first one notices at its second turn, and the client is told.
    @Test func aLoopEndsAtItsSecondTurn() async throws {
        let (first, second) = (FreePort.next(), FreePort.next())
        let (firstLog, secondLog) = (LogRecorder(), LogRecorder())
        let client = "spiffe://mesh.example/ns/prod/sa/client"
        let one = try await Self.gateway(.server, bind: first, next: second, expecting: client, log: firstLog)
        let two = try await Self.gateway(.client, bind: second, next: first, expecting: Self.server, log: secondLog)
        let failure = try await Self.withClient(of: first) { client, peer in
            await #expect(throws: ConnectFailure.self) {
                try await client.withStream(to: Authority(parsing: Self.destination), through: peer) { _ in }
            }
        }
        #expect(failure?.response?.status == 508)
        #expect(failure?.error.code == .loop)
        #expect(failure?.error.message.contains("the way to the destination is a loop") == true, "\(failure as Any)")
        let lines = firstLog.lines.filter { $0.hasPrefix("warning a loop") }
        #expect(lines.count == 1 && lines[0].contains("_mesh.example_ns_prod_sa_client"), "\(lines)")
        #expect(!secondLog.lines.contains { $0.hasPrefix("warning a loop") })
        await one.node.drain(deadline: .seconds(1))
        await two.node.drain(deadline: .seconds(1))
    }

    /// A front that leads to itself through two other nodes: each stream of it ends with a message that says so.
    @Test(arguments: ["tcp", "socks5"]) func aFrontThatLeadsToItselfEndsWithAMessage(kind: String) async throws {
        let ports = [FreePort.next(), FreePort.next(), FreePort.next()]
        let kinds: [TestCertificates.Kind] = [.server, .client, .intruder]
        let ids = ["prod/sa/server", "prod/sa/client", "intruder/sa/client"].map { "spiffe://mesh.example/ns/\($0)" }
        let logs = [LogRecorder(), LogRecorder(), LogRecorder()]
        let files = TemporaryDirectory()
        var nodes: [Node] = []
        var entry: UInt16 = 0
        for place in 0..<3 {
            let next = (place + 1) % 3
            let forward = kind == "tcp" ? ", forwardTo: \"\(Self.destination)\"" : ""
            let yaml = """
                identity: \(TestCertificates.shared.path(kinds[place]))
                listeners:
                - {name: hbone, bind: "127.0.0.1:\(ports[place])", protocol: hbone}
                - {name: front, bind: "127.0.0.1:0", protocol: \(kind)\(forward)}
                endpoints:
                - {match: "\(Self.destination)", hbone: "127.0.0.1:\(ports[next])", identity: "\(ids[next])"}
                policy:
                - {name: all, action: ALLOW, rules: [{from: [{principals: ["mesh.example/*"]}]}]}
                accessLog: {file: "\(files.path("log\(place)"))"}
                """
            let node = Node(try NodeConfiguration.parse(yaml, file: "ring"), loops: 1, logger: logs[place].logger)
            let ready = try await node.start()
            if place == 0 { entry = try #require(ready.first { $0.name == "front" }).address.port }
            nodes.append(node)
        }
        if kind == "tcp" {
            let (received, ending) = try await TCPClient.exchange(port: entry, sending: [1], staysOpen: true)
            #expect(received.isEmpty && ending == .broken(ECONNRESET))
        } else {
            let name = Self.destination.prefix { $0 != ":" }
            let request = [5, 1, 0, 5, 1, 0, 3, UInt8(name.utf8.count)] + Array(name.utf8) + [0, 7]
            let (received, _) = try await TCPClient.exchange(port: entry, sending: request, staysOpen: true)
            // RFC 1928 §6: forbidden by the ruleset.
            #expect(received.count > 3 && received[3] == 2, "\(received)")
        }
        // One turn: the first node was asked again, and led it on; the second one knew itself.
        // Of two: the one of the stream that came round may be written before.
        let lines = try await AccessLogTests.wait(for: 2, in: files.path("log0"))
        let line = try #require(lines.first { $0["listener"] == "front" })
        #expect(line["outcome"] == "refused" && line["code"] == "loop", "\(line)")
        #expect(logs[0].lines.contains { $0.contains("no stream to \(Self.destination)") && $0.contains("a loop") })
        let loops = logs.map { $0.lines.count { $0.hasPrefix("warning a loop") } }
        #expect(loops == [0, 1, 0])
        for node in nodes { await node.drain(deadline: .seconds(1)) }
    }

    /// `when: transport` holds for what a stream comes over, with each kind of SSH server.
    @Test(arguments: [
        ("DENY", "h2-over-ssh", "h2", true), ("DENY", "h2-over-ssh", "h2-over-ssh", false),
        ("DENY", "h2", "h2", false), ("DENY", "h2", "h2-over-ssh", true),
    ]) func theTransportOfAnIncomingStreamIsKnown(
        action: String,
        transport: String,
        path: String,
        isServed: Bool
    ) async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let pair = try await NodePair(
            to: backend.port,
            ssh: try await sshd.endpointYAML(),
            path: path,
            serverSettings: "- {name: way, action: \(action), rules: [{when: [{transport: [\(transport)]}]}]}"
        )
        let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: [1, 2, 3])
        #expect(received == (isServed ? [1, 2, 3] : []))
        #expect(ending == (isServed ? .endOfStream : .broken(ECONNRESET)))
        #expect(backend.accepted == (isServed ? 1 : 0))
        await pair.stop()
        await sshd.stop()
    }

    /// A local user's direct dial by name is judged by the address, and after a reload again.
    @Test func anAddressIsJudgedForLocalUsersAndAfterAReload() async throws {
        let backend = try EchoServer()
        let directory = TemporaryDirectory()
        let open = """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "localhost:\(backend.port)"}
            endpoints:
            - {match: "localhost:\(backend.port)", direct: true}

            """
        let denied = open + "policy: [{name: shut, action: DENY, rules: [{to: [{hosts: [\"127.0.0.0/8\"]}]}]}]\n"
        let file = try directory.write("node.yaml", open)
        let log = LogRecorder()
        let node = Node(try NodeConfiguration.load(file), configurationFile: file, loops: 1, logger: log.logger)
        let entry = try #require(try await node.start().first).address.port
        let conversation = try await TCPConversation(port: entry)
        #expect(try await conversation.echo([1]) == [1])
        try directory.write("node.yaml", denied)
        try await node.reload()
        let (_, cut) = try await conversation.end(finishing: false)
        #expect(cut == .broken(ECONNRESET))
        let (_, ending) = try await TCPClient.exchange(port: entry, sending: [1])
        #expect(ending == .broken(ECONNRESET))
        #expect(backend.accepted == 1)
        await node.drain(deadline: .seconds(1))
    }
}

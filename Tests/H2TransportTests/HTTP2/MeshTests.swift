import H2Transport
import MeshIdentity
import Streams
import TestPeers
import Testing

/// Client pool and HBONE server over mutual TLS on loopback, with relays at both ends: the product's main path.
@Suite struct MeshTests {
    private func withMesh(
        server: HBONEServer.Configuration = .defaults,
        pool: H2ClientPool.Configuration = .defaults,
        _ body: (OnLoop<RelayingServer>, OnLoop<PoolUser>) async throws -> Void
    ) async throws {
        try await withLoop { loop in
            let ours = try await OnLoop(loop) { try RelayingServer(on: loop, configuration: server) }
            let port = try await ours { $0.port }
            let user = try await OnLoop(loop) { try PoolUser(on: loop, port: port, configuration: pool) }
            try await body(ours, user)
            try await user { $0.close() }
            try await ours { $0.close() }
        }
    }

    @Test("up: every byte arrives, the client ends first, the answer comes back")
    func up() async throws {
        let sink = try SinkServer()
        try await withMesh { server, user in
            try await user { try $0.relay(sink.authority) }
            try await user.until("the tunnel opens") { $0.streams.count == 1 }
            try await user { $0.streams[0].send(100_000_000) }
            let transfer = try await sink.transfers(1)[0]
            #expect(transfer.checksum == Pattern.checksum(100_000_000))
            #expect(transfer.ending == .endOfStream)
            try await user.until("both relays are done") { $0.streams[0].readEnded && $0.relayed.count == 1 }
            try await server.until("the server's relay is done") { $0.results.count == 1 }
            let results = try await (user { $0.relayed[0] }, server { $0.results[0] })
            #expect(results.0.failure == nil)
            #expect(results.0.bytesForward == 100_000_000)
            #expect(results.1.bytesForward == 100_000_000)
            #expect(results.1.failure == nil)
        }
        sink.close()
    }

    @Test("down: every byte arrives, the server ends first, and the client still sends")
    func down() async throws {
        let source = try SourceServer(count: 100_000_000)
        try await withMesh { server, user in
            try await user { try $0.relay(source.authority) }
            try await user.until("everything is read") { $0.streams.first?.readEnded == true }
            let checksum = try await user { $0.streams[0].takeChecksum() }
            #expect(checksum == Pattern.checksum(100_000_000))
            try await user { $0.streams[0].send("late words", finish: true) }
            let transfer = try await source.transfers(1)[0]
            #expect(transfer.received == 10)
            #expect(transfer.ending == .endOfStream)
            try await user.until("the relay is done") { $0.relayed.count == 1 }
        }
        source.close()
    }

    @Test("the server sees who asks, and the client whom it reached")
    func identities() async throws {
        let echo = try EchoServer()
        try await withMesh { server, user in
            try await user { $0.open(echo.authority) }
            try await user.until("the tunnel opens") { $0.streams.count == 1 }
            let peer = try await server { $0.peers[0]?.description }
            #expect(peer == "spiffe://mesh.example/ns/prod/sa/client")
            let reached = try await user { $0.pool.connections(to: $0.endpoint.key)[0].peer?.description }
            #expect(reached == "spiffe://mesh.example/ns/prod/sa/server")
        }
        echo.close()
    }

    @Test("an abort by the backend is a reset for the client, and the other way round")
    func aborts() async throws {
        try await withLoop { loop in
            let backend = try await OnLoop(loop) { try AbortingServer(on: loop) }
            let server = try await OnLoop(loop) { try RelayingServer(on: loop) }
            let ports = try await (backend { $0.port }, server { $0.port })
            let user = try await OnLoop(loop) { try PoolUser(on: loop, port: ports.1) }
            try await user { user in for _ in 0..<2 { user.open("127.0.0.1:\(ports.0)") } }
            try await user.until("the tunnels open") { $0.streams.count == 2 }
            try await user { $0.streams[0].stream.reset(StreamError(.reset, "the client aborts")) }
            try await server.until("one relay is cut") { $0.results.count == 1 }
            let first = try await server { $0.results[0].failure?.code }
            #expect(first == .reset)
            try await user { $0.streams[1].send("hello") }
            try await backend.until("the bytes arrive") { $0.reads == 5 }
            try await backend { $0.abort() }
            try await user.until("the stream fails") { $0.streams[1].failed }
            let code = try await user { $0.streams[1].stream.failure?.code }
            #expect(code == .reset)
            try await user { $0.close() }
            try await server { $0.close() }
            try await backend { $0.close() }
        }
    }

    @Test("refusals by the server say why")
    func refusals() async throws {
        let refused = FreePort.next()
        try await withMesh { server, user in
            try await user { $0.open("127.0.0.1:\(refused)") }
            try await user.until("the first request fails") { $0.failures.count == 1 }
            try await server { $0.rejection = .denied("policy") }
            try await user { $0.open("127.0.0.1:1") }
            try await user.until("the second request fails") { $0.failures.count == 2 }
            let codes = try await user { $0.failures.map(\.error.code) }
            #expect(codes == [.refused, .denied])
        }
    }

    // MARK: The pool

    @Test("streams to one peer share one connection, also those that ask while it is dialled")
    func sharing() async throws {
        let echo = try EchoServer()
        try await withMesh { server, user in
            try await user { user in for _ in 0..<50 { user.open(echo.authority) } }
            try await user.until("all tunnels open") { $0.streams.count == 50 }
            let (connected, count) = try await (user { $0.connected }, server { $0.server?.connectionCount })
            #expect(connected == 1)
            #expect(count == 1)
        }
        echo.close()
    }

    @Test("the peer's stream limit makes a second connection; none of the requests fails")
    func streamLimit() async throws {
        let echo = try EchoServer()
        var configuration = HBONEServer.Configuration.defaults
        configuration.http2.limits.concurrentStreams = 20
        try await withMesh(server: configuration) { server, user in
            try await user { user in for _ in 0..<50 { user.open(echo.authority) } }
            try await user.until("all tunnels open") { $0.streams.count == 50 }
            let (connected, failures) = try await (user { $0.connected }, user { $0.failures })
            #expect(connected >= 3)
            #expect(failures == [])
        }
        echo.close()
    }

    @Test("at the limit of connections, requests wait for a stream to end")
    func connectionLimit() async throws {
        let echo = try EchoServer()
        var server = HBONEServer.Configuration.defaults
        server.http2.limits.concurrentStreams = 2
        var pool = H2ClientPool.Configuration.defaults
        pool.connectionsPerEndpoint = 1
        try await withMesh(server: server, pool: pool) { _, user in
            try await user { $0.open(echo.authority) }
            try await user.until("the first tunnel opens") { $0.streams.count == 1 }
            try await user { user in for _ in 0..<2 { user.open(echo.authority) } }
            try await user.until("the second tunnel opens") { $0.streams.count == 2 }
            try await user { $0.streams[0].stream.close() }
            try await user.until("the third tunnel opens") { $0.streams.count == 3 }
        }
        echo.close()
    }

    @Test("an idle connection is closed, the next request makes a new one")
    func idle() async throws {
        let echo = try EchoServer()
        var configuration = H2ClientPool.Configuration.defaults
        configuration.idleTimeout = .milliseconds(20)
        try await withMesh(pool: configuration) { _, user in
            try await user { $0.open(echo.authority) }
            try await user.until("the tunnel opens") { $0.streams.count == 1 }
            try await user { $0.streams[0].stream.close() }
            try await user.until("the connection is closed") { $0.disconnected.count == 1 }
            let reason = try await user { $0.disconnected[0] }
            #expect(reason == nil)
            try await user { $0.open(echo.authority) }
            try await user.until("the second tunnel opens") { $0.streams.count == 2 }
        }
        echo.close()
    }

    @Test("a draining server finishes its streams; new ones go to a new connection")
    func drain() async throws {
        let echo = try EchoServer()
        try await withLoop { loop in
            let first = try await OnLoop(loop) { try RelayingServer(on: loop) }
            let port = try await first { $0.port }
            let user = try await OnLoop(loop) { try PoolUser(on: loop, port: port) }
            try await user { $0.open(echo.authority, keepsBytes: true) }
            try await user.until("the tunnel opens") { $0.streams.count == 1 }
            try await first { server in
                server.server?.forEachConnection { $0.drain(deadline: .seconds(60)) }
            }
            try await user.until("the pool has no connection left to use") {
                $0.pool.connections(to: $0.endpoint.key).isEmpty
            }
            try await user { $0.open(echo.authority) }
            try await user.until("the second tunnel opens") { $0.streams.count == 2 }
            try await user { $0.streams[0].send("still here", finish: true) }
            try await user.until("the first stream ends in peace") { $0.streams[0].readEnded }
            let (text, connected) = try await user { ($0.streams[0].text, $0.connected) }
            #expect(text == "still here")
            #expect(connected == 2)
            try await user { $0.close() }
            try await first { $0.close() }
        }
        echo.close()
    }

    @Test("a peer that is not there, or somebody else, fails every request with the reason")
    func dialFailures() async throws {
        let port = FreePort.next()
        try await withLoop { loop in
            let user = try await OnLoop(loop) { try PoolUser(on: loop, port: port) }
            try await user { user in for _ in 0..<3 { user.open("10.0.0.1:80") } }
            try await user.until("all fail") { $0.failures.count == 3 }
            let (codes, dials) = try await user { ($0.failures.map(\.error.code), $0.dialFailures.count) }
            #expect(codes == [.refused, .refused, .refused])
            #expect(dials == 1)
            try await user { $0.close() }

            let server = try await OnLoop(loop) { try RelayingServer(on: loop) }
            let other = try await server { $0.port }
            let strict = try await OnLoop(loop) {
                let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/other")
                return try PoolUser(on: loop, port: other, expecting: .identities([id]))
            }
            try await strict { $0.open("10.0.0.1:80") }
            try await strict.until("it fails") { $0.failures.count == 1 }
            let code = try await strict { $0.failures[0].error.code }
            #expect(code == .authentication)
            try await server.until("the server saw it fail") { $0.server?.failedHandshakes == 1 }
            try await strict { $0.close() }
            try await server { $0.close() }
        }
    }

    // MARK: The server's limits

    @Test("connections that do not finish their handshake are limited")
    func handshakeLimit() async throws {
        var configuration = HBONEServer.Configuration.defaults
        configuration.handshakesInProgress = 2
        try await withLoop { loop in
            let server = try await OnLoop(loop) { [configuration] in
                try RelayingServer(on: loop, configuration: configuration)
            }
            let address = try SocketAddress(ip: "127.0.0.1", port: try await server { $0.port })
            var ends: [LoopBound<StreamEnd>] = []
            for _ in 0..<3 {
                // The third may be reset before it knows that it was connected.
                if let end = try? await Dialer.connect(
                    to: .address(address),
                    on: loop,
                    body: { LoopBound(StreamEnd($0), on: loop) }
                ) {
                    ends.append(end)
                }
            }
            try await server.until("the first makes place for the third") { $0.server?.refusedConnections == 1 }
            for end in ends { try await loop.execute { end.withValue { $0.stream.close() } } }
            try await server.until("the others fail") { $0.server?.failedHandshakes == 2 }
            try await server { $0.close() }
        }
    }

    /// Bytes of a client that has proved nothing, perhaps with a request for `port`.
    private static func beginning(asking port: UInt16? = nil) -> [UInt8] {
        let hello = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + [0, 0, 0, 4, 0, 0, 0, 0, 0]
        guard let port else { return hello }
        let authority = Array("127.0.0.1:\(port)".utf8)
        let block = [2, 7] + Array("CONNECT".utf8) + [1, UInt8(authority.count)] + authority
        return hello + [0, 0, UInt8(block.count), 1, 4, 0, 0, 0, 1] + block
    }

    @Test("clients that have proved nothing and ask for nothing make room for others")
    func idleStrangersMakeRoom() async throws {
        var configuration = HBONEServer.Configuration.defaults
        (configuration.connections, configuration.handshakesInProgress) = (8, 2)
        try await withLoop { loop in
            let server = try await OnLoop(loop) { [configuration] in
                try RelayingServer(on: loop, configuration: configuration)
            }
            let port = try await server { $0.port }
            var clients: [OnLoop<StreamEnd>] = []
            for number in 0..<24 {
                // The first has a stream.
                let bytes = Self.beginning(asking: number == 0 ? port : nil)
                let client = try await OnLoop(
                    server {
                        let (inside, outside) = try Socket.pair(on: loop)
                        let end = StreamEnd(outside)
                        $0.server?.acceptClear(inside)
                        end.send(bytes)
                        return LoopBound(end, on: loop)
                    }
                )
                try await client.until("it is served") { $0.receivedCount > 0 }
                if number == 0 { try await server.until("it has its stream") { !$0.requests.isEmpty } }
                clients.append(client)
            }
            try await clients[1].until("the first that has nothing is told to go") { $0.readEnded || $0.failed }
            let (count, refused) = try await server { ($0.server?.connectionCount ?? 0, $0.server?.refusedConnections) }
            #expect(count <= 8 && refused == 0)
            let busy = clients[0]
            let isCut = try await busy { $0.readEnded || $0.failed }
            #expect(!isCut, "who has a stream stays")
            for client in clients { try await client { $0.stream.close() } }
            try await server { $0.close() }
        }
    }
}

import H2Transport
import MeshIdentity
import Streams
import TestPeers
import Testing

/// Envoy 1.40 as HBONE server of our client, and as HBONE client of our server.
@Suite struct EnvoyTests {
    private static let bytes = 50_000_000

    // MARK: Envoy is the server

    private func withTerminator(
        credential: TestCertificates.Kind = .client,
        streams: Int = 100,
        requests: Int = 0,
        pool: H2ClientPool.Configuration = .defaults,
        _ body: (OnLoop<PoolUser>, Envoy) async throws -> Void
    ) async throws {
        let port = FreePort.next()
        let envoy = try await Envoy.start(
            "terminator",
            [
                "PORT": String(port), "STREAMS": String(streams), "REQUESTS": String(requests),
                "CREDENTIAL": TestCertificates.shared.path(.server),
            ]
        )
        try await withLoop { loop in
            let user = try await OnLoop(loop) {
                try PoolUser(on: loop, port: port, credential: credential, configuration: pool)
            }
            try await body(user, envoy)
            try await user { $0.close() }
        }
        await envoy.stop()
    }

    @Test("up through Envoy, the client ends first", arguments: [ConnectRequest.Method.connect, .post])
    func up(_ method: ConnectRequest.Method) async throws {
        let sink = try SinkServer()
        try await withTerminator { user, _ in
            try await user { $0.open(sink.authority, method: method, keepsBytes: true) }
            try await user.until("the tunnel opens") { $0.streams.count == 1 || !$0.failures.isEmpty }
            try await user { $0.streams.first?.send(Self.bytes) }
            try await user.until("the answer is read") { $0.streams.first?.readEnded == true }
            let text = try await user { $0.streams[0].text }
            #expect(text == "\(Pattern.checksum(Self.bytes)) \(Self.bytes)\n")
        }
        sink.close()
    }

    @Test("Envoy gets the trace that this side records: its SETTINGS do not say that it makes it")
    func trace() async throws {
        let echo = try EchoServer()
        var configuration = H2ClientPool.Configuration.defaults
        configuration.http2.traces = .foreign
        try await withTerminator(pool: configuration) { user, _ in
            for count in 1...2 {
                try await user { $0.open(echo.authority) }
                try await user.until("the tunnel opens") { $0.streams.count == count || !$0.failures.isEmpty }
            }
            let seen = try await user { user in
                user.streams.compactMap { $0.stream as? H2Stream }.map {
                    ($0.response?.headers["x-seen-traceparent"], $0.ownTrace?.description)
                }
            }
            #expect(seen.count == 2)
            for (seen, recorded) in seen { #expect(seen != nil && seen == recorded, "\(seen ?? "nothing")") }
        }
        echo.close()
    }

    @Test("down through Envoy, the server ends first: a clean end although Envoy resets what we might still send")
    func down() async throws {
        let source = try SourceServer(count: Self.bytes)
        // Larger than what comes: Envoy drops what does not fit the window when a server ends first (see below).
        var configuration = H2ClientPool.Configuration.defaults
        configuration.http2.windows.stream = 64 << 20
        configuration.http2.windows.connection = 64 << 20
        configuration.http2.limits.queuedBytes = 64 << 20
        try await withTerminator(pool: configuration) { user, _ in
            try await user { $0.open(source.authority) }
            try await user.until("everything is read") { $0.streams.first?.readEnded == true }
            let checksum = try await user { $0.streams[0].takeChecksum() }
            #expect(checksum == Pattern.checksum(Self.bytes))
        }
        source.close()
    }

    @Test("where Envoy drops the tail of a server that ends first, we see a reset and never a clean end")
    func downInASmallWindow() async throws {
        // Envoy's deferred reset is "best effort": what the window has no room for is thrown away (codec_impl.cc).
        let source = try SourceServer(count: Self.bytes)
        var configuration = H2ClientPool.Configuration.defaults
        configuration.http2.windows.stream = 65535
        try await withTerminator(pool: configuration) { user, _ in
            try await user { $0.open(source.authority) }
            try await user.until("the stream is over") { user in
                user.streams.first.map { $0.readEnded || $0.failed } == true
            }
            let (count, failure) = try await user { ($0.streams[0].receivedCount, $0.streams[0].stream.failure?.code) }
            #expect(failure == .reset || count == Self.bytes)
        }
        source.close()
    }

    @Test("a refused backend is 503, a refused identity 403, each with Envoy's reason")
    func refusals() async throws {
        let refused = FreePort.next()
        try await withTerminator { user, _ in
            try await user { $0.open("127.0.0.1:\(refused)") }
            try await user.until("the request fails") { $0.failures.count == 1 }
            let failure = try await user { $0.failures[0] }
            #expect(failure.response?.status == 503)
            #expect(failure.error.code == .unreachable)
            #expect(failure.error.message.contains("upstream connect error"))
        }
        try await withTerminator(credential: .intruder) { user, _ in
            try await user { $0.open("127.0.0.1:\(refused)") }
            try await user.until("the request fails") { $0.failures.count == 1 }
            let failure = try await user { $0.failures[0] }
            #expect(failure.response?.status == 403)
            #expect(failure.error.code == .denied)
            #expect(failure.error.message.contains("RBAC"))
        }
    }

    @Test("an abort by the backend comes through Envoy as a reset")
    func backendAborts() async throws {
        try await withTerminator { user, _ in
            let backend = try await OnLoop(user.loop) { try AbortingServer(on: user.loop) }
            let port = try await backend { $0.port }
            try await user { $0.open("127.0.0.1:\(port)") }
            try await user.until("the tunnel opens") { $0.streams.count == 1 }
            try await user { $0.streams[0].send("hello") }
            try await backend.until("the bytes arrive") { $0.reads == 5 }
            try await backend { $0.abort() }
            try await user.until("the stream fails") { $0.streams[0].failed }
            let code = try await user { $0.streams[0].stream.failure?.code }
            #expect(code == .reset)
            try await backend { $0.close() }
        }
    }

    @Test("more streams than Envoy allows on one connection take a second one", arguments: [10, 100])
    func streamLimit(_ limit: Int) async throws {
        let echo = try EchoServer()
        let count = limit * 5 / 2
        try await withTerminator(streams: limit) { user, _ in
            try await user { user in for _ in 0..<count { user.open(echo.authority) } }
            try await user.until("all tunnels open") {
                $0.streams.count == count || !$0.failures.isEmpty
            }
            let (connected, failures) = try await user { ($0.connected, $0.failures) }
            #expect(connected >= 3)
            #expect(failures == [])
        }
        echo.close()
    }

    @Test("Envoy's two GOAWAYs: open streams live on, the next request takes a new connection, none fails")
    func goAway() async throws {
        let echo = try EchoServer()
        // Each connection is drained at its second request.
        try await withTerminator(requests: 2) { user, _ in
            for index in 0..<6 {
                try await user { $0.open(echo.authority) }
                try await user.until("tunnel \(index) opens") { $0.streams.count > index || !$0.failures.isEmpty }
                if index % 2 == 1 { try await user.until("GOAWAY") { $0.draining == (index + 1) / 2 } }
            }
            let (connected, failures) = try await user { ($0.connected, $0.failures) }
            #expect(connected == 3)
            #expect(failures == [])
            // The second GOAWAY, with the last stream's identifier, comes after drain_timeout (200 ms): whichever is
            // first.
            try await user { user in
                for (index, end) in user.streams.enumerated() { end.send(500_000, seed: UInt64(index)) }
            }
            try await user.until("all echoes are back") { $0.streams.allSatisfy { $0.readEnded || $0.failed } }
            let checksums = try await user { $0.streams.map { $0.takeChecksum() } }
            #expect(checksums == (0..<6).map { Pattern.checksum(500_000, seed: $0) })
            try await user.until("the drained connections are gone") { $0.disconnected.count == 3 }
            let reasons = try await user { $0.disconnected }
            #expect(reasons == [nil, nil, nil])
        }
        echo.close()
    }

    @Test("a tunnel that is not read does not stop the others through Envoy")
    func stalled() async throws {
        let (source, sink) = (try SourceServer(count: Self.bytes), try SinkServer())
        try await withTerminator { user, _ in
            try await user { $0.open(source.authority, readLimit: 1000) }
            try await user.until("the first tunnel stalls") { $0.streams.first?.receivedCount == 1000 }
            try await user { $0.open(sink.authority, keepsBytes: true) }
            try await user.until("the second tunnel opens") { $0.streams.count == 2 }
            try await user { $0.streams[1].send(Self.bytes) }
            try await user.until("the answer is read") { $0.streams[1].readEnded }
            let (text, stalled) = try await user { ($0.streams[1].text, $0.streams[0].receivedCount) }
            #expect(text == "\(Pattern.checksum(Self.bytes)) \(Self.bytes)\n")
            #expect(stalled == 1000)
        }
        source.close()
        sink.close()
    }

    /// Envoy closes its connection to the backend; it does not reset it.
    @Test("our abort ends the connection of the backend behind Envoy")
    func weAbort() async throws {
        let echo = try EchoServer()
        try await withTerminator { user, _ in
            try await user { $0.open(echo.authority) }
            try await user.until("the tunnel opens") { $0.streams.count == 1 }
            try await user { $0.streams[0].send("hello") }
            try await user.until("the echo comes") { $0.streams[0].receivedCount == 5 }
            try await user { $0.streams[0].stream.reset(StreamError(.reset, "the client aborts")) }
            let transfer = try await echo.transfers(1)[0]
            #expect(transfer.received == 5)
        }
        echo.close()
    }

    @Test("when Envoy dies, open streams fail as truncated or reset, never as ended")
    func killed() async throws {
        let echo = try EchoServer()
        try await withTerminator { user, envoy in
            try await user { $0.open(echo.authority) }
            try await user.until("the tunnel opens") { $0.streams.count == 1 }
            envoy.process.signal(9)
            try await user.until("the stream fails") { $0.streams[0].failed }
            let (ended, reason) = try await user { ($0.streams[0].readEnded, $0.streams[0].stream.failure?.code) }
            #expect(!ended)
            #expect(reason == .truncated || reason == .reset)
        }
        echo.close()
    }

    // MARK: Envoy is the client

    /// A TCP application beside Envoy.
    final class Application {
        private(set) var ends: [StreamEnd] = []

        func connect(_ port: UInt16, on loop: EventLoop) throws {
            Dialer.connect(to: .address(try SocketAddress(ip: "127.0.0.1", port: port)), on: loop) { result in
                if case .success(let socket) = result { self.ends.append(StreamEnd(socket)) }
            }
        }
    }

    private func withOriginator(
        to authority: String,
        _ body: (OnLoop<RelayingServer>, OnLoop<Application>, _ connect: UInt16, _ post: UInt16) async throws -> Void
    ) async throws {
        try await withLoop { loop in
            let server = try await OnLoop(loop) { try RelayingServer(on: loop) }
            let application = try await OnLoop(loop) { Application() }
            let (connect, post) = (FreePort.next(), FreePort.next())
            let envoy = try await Envoy.start(
                "originator",
                [
                    "SERVER": String(try await server { $0.port }), "CONNECT": String(connect), "POST": String(post),
                    "AUTHORITY": authority, "CREDENTIAL": TestCertificates.shared.path(.client),
                ]
            )
            try await body(server, application, connect, post)
            try await application { for end in $0.ends { end.stream.close() } }
            await envoy.stop()
            try await server { $0.close() }
        }
    }

    @Test("up from Envoy by CONNECT and by POST, with its metadata")
    func fromEnvoyUp() async throws {
        let sink = try SinkServer()
        try await withOriginator(to: sink.authority) { server, application, connect, post in
            for (index, port) in [connect, post].enumerated() {
                try await application { try $0.connect(port, on: server.loop) }
                try await application.until("Envoy accepts") { $0.ends.count == index + 1 }
                try await application { $0.ends[index].send(Self.bytes) }
                try await application.until("the answer is read") { $0.ends[index].readEnded }
                let text = try await application { $0.ends[index].text }
                #expect(text == "\(Pattern.checksum(Self.bytes)) \(Self.bytes)\n")
            }
            let requests = try await server { $0.requests }
            #expect(requests.map(\.method) == [.connect, .post])
            #expect(requests[0].baggage?.contains("service.name=client") == true)
            #expect(requests[0].forwarded?.hasPrefix("for=\"127.0.0.1") == true)
            #expect(requests[1].tunnelDestination == sink.authority)
            let peer = try await server { $0.peers[0]?.description }
            #expect(peer == "spiffe://mesh.example/ns/prod/sa/client")
        }
        sink.close()
    }

    @Test("down to Envoy, our server ends first, and what its client sends afterwards still arrives")
    func fromEnvoyDown() async throws {
        let source = try SourceServer(count: Self.bytes)
        try await withOriginator(to: source.authority) { server, application, connect, _ in
            try await application { try $0.connect(connect, on: server.loop) }
            try await application.until("everything is read") { $0.ends.first?.readEnded == true }
            let count = try await application { $0.ends[0].receivedCount }
            #expect(count == Self.bytes)
            try await application { $0.ends[0].send("late words", finish: true) }
            let transfer = try await source.transfers(1)[0]
            #expect(transfer.received == 10)
            #expect(transfer.ending == .endOfStream)
        }
        source.close()
    }

    @Test("a request that our server refuses resets Envoy's client")
    func fromEnvoyRefused() async throws {
        try await withOriginator(to: "127.0.0.1:\(FreePort.next())") { server, application, connect, _ in
            try await application { try $0.connect(connect, on: server.loop) }
            try await application.until("the connection is cut") {
                $0.ends.first?.failed == true || $0.ends.first?.readEnded == true
            }
            let requests = try await server { $0.requests.count }
            #expect(requests >= 1)
        }
    }

    @Test("Envoy's tunnels share one connection; its PINGs are answered; our GOAWAY costs none of them")
    func fromEnvoyDraining() async throws {
        let echo = try EchoServer()
        try await withOriginator(to: echo.authority) { server, application, connect, post in
            for (index, port) in [connect, post, connect].enumerated() {
                try await application { try $0.connect(port, on: server.loop) }
                try await application.until("Envoy accepts") { $0.ends.count == index + 1 }
                try await application { $0.ends[index].send("hello") }
                try await application.until("the echo comes") { $0.ends[index].receivedCount == 5 }
            }
            let connections = try await server { $0.server?.connectionCount }
            #expect(connections == 1)
            try await server.until("several PINGs have come") { server in
                var frames: UInt64 = 0
                server.server?.forEachConnection { frames += $0.counters.controlFramesReceived }
                return frames >= 5
            }
            try await server { server in server.server?.forEachConnection { $0.drain(deadline: .seconds(60)) } }
            try await application { try $0.connect(connect, on: server.loop) }
            try await application.until("Envoy accepts") { $0.ends.count == 4 }
            try await application { $0.ends[3].send("hello") }
            try await application.until("the echo comes by a new connection") { $0.ends[3].receivedCount == 5 }
            try await server.until("two connections") { $0.server?.connectionCount == 2 }
            try await application { application in
                for end in application.ends { end.send(100_000) }
            }
            try await application.until("all echoes are back") { $0.ends.allSatisfy(\.readEnded) }
            let counts = try await application { $0.ends.map(\.receivedCount) }
            #expect(counts == [100_005, 100_005, 100_005, 100_005])
        }
        echo.close()
    }

    /// Envoy 1.40 makes an end of our RST_STREAM(CONNECT_ERROR), by CONNECT and by POST: its application learns no more
    /// than that.
    @Test("an abort by Envoy's application resets our backend; one by our backend ends Envoy's application")
    func fromEnvoyAborts() async throws {
        let echo = try EchoServer()
        try await withOriginator(to: echo.authority) { server, application, connect, post in
            for (index, port) in [connect, post].enumerated() {
                try await application { try $0.connect(port, on: server.loop) }
                try await application.until("Envoy accepts") { $0.ends.count == index + 1 }
                try await application { $0.ends[index].send("hello") }
                try await application.until("the echo comes") { $0.ends[index].receivedCount == 5 }
                try await application { $0.ends[index].stream.reset(StreamError(.reset, "the application aborts")) }
                let transfer = try await echo.transfers(index + 1)[index]
                #expect(transfer.ending == .broken(104))
            }
        }
        echo.close()
        try await withLoop { loop in
            let backend = try await OnLoop(loop) { try AbortingServer(on: loop) }
            let address = "127.0.0.1:\(try await backend { $0.port })"
            try await withOriginator(to: address) { server, application, connect, post in
                for (index, port) in [connect, post].enumerated() {
                    try await application { try $0.connect(port, on: server.loop) }
                    try await application.until("Envoy accepts") { $0.ends.count == index + 1 }
                    try await application { $0.ends[index].send("hello") }
                    try await backend.until("the bytes arrive") { $0.reads == 5 * (index + 1) }
                    try await backend { $0.abort() }
                    try await application.until("the application knows") {
                        $0.ends[index].failed || $0.ends[index].readEnded
                    }
                }
            }
            try await backend { $0.close() }
        }
    }
}

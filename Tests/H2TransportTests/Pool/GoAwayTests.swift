import MetricsTestKit
import Streams
import TestPeers
import Testing

@testable import H2Transport

/// Nothing that the pool was asked for fails because a server goes away at a bad moment. The servers are python-h2
/// processes that are moved by hand.
@Suite(.timeLimit(.minutes(10))) struct GoAwayTests {
    @Test("a GOAWAY that refuses the request: it is repeated on a new connection")
    func refusedByGoAway() async throws {
        let metrics = TestMetrics()
        var configuration = H2ClientPool.Configuration.defaults
        configuration.http2.metrics = H2Metrics(factory: metrics)
        try await withPeers(2, configuration: configuration) { ours, peers in
            try await ours { $0.open() }
            try await peers[0].event("RequestReceived")
            try peers[0].send("goaway 0 0")
            try await serve(peers[1], ours)
            let repeated = try await ours { $0.pool.counters.repeatedRequests }
            #expect(repeated == 1)
        }
        let label = "bootstrap_h2_repeated_requests_total"
        #expect(metrics.counterTotal(label: label, dimensions: [("role", "client")]) == 1)
    }

    @Test("a GOAWAY that covers the request, and an abort before the answer: it is repeated")
    func abortAfterGoAway() async throws {
        try await withPeers(2) { ours, peers in
            try await ours { $0.open() }
            try await peers[0].event("RequestReceived")
            try peers[0].send("goaway 2147483647 0", "goaway 1 0", "abort")
            try await serve(peers[1], ours)
        }
    }

    @Test("no GOAWAY at all, only an end before the answer, as Envoy ends on SIGTERM: it is repeated")
    func endWithoutGoAway() async throws {
        try await withPeers(2) { ours, peers in
            try await ours { $0.open() }
            try await peers[0].event("RequestReceived")
            try peers[0].send("half")
            try await serve(peers[1], ours)
        }
    }

    @Test("a GOAWAY with the first SETTINGS, before any request was seen")
    func goAwayAtOnce() async throws {
        try await withPeers(2) { ours, peers in
            // It waits in the peer's standard input until somebody has connected.
            try peers[0].send("goaway 0 0")
            try await ours { $0.open() }
            try await serve(peers[1], ours)
        }
    }

    @Test("a GOAWAY in one segment with an answer, whose receiver at once asks for another stream")
    func goAwayWithAnswer() async throws {
        try await withPeers(2) { ours, peers in
            try await ours { client in
                client.onOpen = { [unowned client] in client.open() }
                client.open()
            }
            try await peers[0].event("RequestReceived")
            // HEADERS of stream 1 with :status 200 (static table, 8), then GOAWAY with last stream 1.
            try peers[0].send("raw 000001010400000001880000080700000000000000000100000000")
            try await ours.until("the first tunnel opens") { $0.streams.count == 1 }
            try await serve(peers[1], ours, count: 2)
            // The first one lives on where it is.
            try await ours { $0.streams[0].send("still here") }
            try await peers[0].event("DataReceived") { $0.text == "still here" }
        }
    }

    @Test("REFUSED_STREAM: another connection is asked, not the one that refused")
    func refusedStream() async throws {
        try await withPeers(2) { ours, peers in
            try await ours { $0.open() }
            try await peers[0].event("RequestReceived")
            try peers[0].send("reset 1 7")
            try await serve(peers[1], ours)
            #expect(peers[0].events.count { $0.name == "RequestReceived" } == 1)
        }
    }

    @Test("a request is not repeated for ever")
    func bounded() async throws {
        var configuration = H2ClientPool.Configuration.defaults
        configuration.attempts = 3
        try await withPeers(4, configuration: configuration) { ours, peers in
            try await ours { $0.open() }
            for peer in peers[..<3] {
                try await peer.event("RequestReceived")
                try peer.send("goaway 0 0")
            }
            try await ours.until("it fails") { $0.failures.count == 1 }
            let (code, dials) = try await ours { ($0.failures[0].error.code, $0.dials) }
            #expect(code == .draining)
            #expect(dials == 3)
        }
    }

    @Test("a stream that was open when its connection broke is not begun again")
    func openStreamFails() async throws {
        try await withPeers(2) { ours, peers in
            try await ours { $0.open() }
            try await serve(peers[0], ours)
            try peers[0].send("goaway 1 0", "abort")
            try await ours.until("the stream fails") { $0.streams[0].failed }
            let dials = try await ours { $0.dials }
            #expect(dials == 1)
        }
    }

    @Test("a refusal of what was asked is an answer, and not repeated")
    func answersAreFinal() async throws {
        try await withPeers(2) { ours, peers in
            try await ours { $0.open() }
            try await peers[0].event("RequestReceived")
            try peers[0].send("headers 1 end :status=503")
            try await ours.until("it fails") { $0.failures.count == 1 }
            let dials = try await ours { $0.dials }
            #expect(dials == 1)
        }
    }

    @Test("a request that GOAWAY overtook before it could be sent can be repeated")
    func goAwayBeforeTheRequestIsSent() async throws {
        try await withLoop { loop in
            let log = try await OnLoop(loop) { ConnectionLog() }
            let failure = try await OnLoop(loop) { Reference<ConnectFailure?>(nil) }
            let far = try await OnLoop<MemoryStream>(loop) {
                // So small that not even the preface and SETTINGS get through: the request waits inside of nghttp2.
                let (near, far) = MemoryStream.pair(on: loop, capacity: 32)
                let client = try log.value { try H2Connection(over: near, role: .client, delegate: $0) }
                loop.nextTurn(
                    Call {
                        client.openStream(ConnectRequest(authority: "10.0.0.1:80")) { result in
                            if case .failure(let error) = result { failure.value { $0.value = error } }
                        }
                    }
                )
                return far
            }
            // SETTINGS, then GOAWAY with last stream 0; 26 bytes.
            let frames: [UInt8] =
                [0, 0, 0, 4, 0, 0, 0, 0, 0]
                + [0, 0, 8, 7, 0, 0, 0, 0, 0] + [0, 0, 0, 0, 0, 0, 0, 0]
            try await far { far in
                let result = frames.withUnsafeBytes { far.write($0) }
                #expect(result == .bytes(26))
            }
            try await log.until("the client has read GOAWAY") { $0.isDraining }
            // Only now what the client had to say is read.
            try await far.until("the connection ends") { far in
                let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: 1024, alignment: 8)
                defer { scratch.deallocate() }
                while case .bytes = far.read(into: scratch) {}
                return log.value { $0.isClosed } || failure.value { $0.value != nil }
            }
            let isRetryable = try await failure { $0.value?.isRetryable }
            #expect(isRetryable == true)
            try await far { $0.close() }
            try await log.until("the client is closed") { $0.isClosed }
        }
    }

    private final class Reference<Value> {
        var value: Value
        init(_ value: Value) { self.value = value }
    }

    private final class Call: TurnTask {
        private let body: () -> Void
        init(_ body: @escaping () -> Void) { self.body = body }
        func runTurn() { body() }
    }
}

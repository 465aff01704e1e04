import Glibc
import H2Transport
import Streams
import TestPeers
import Testing

/// PING, keep-alive, GOAWAY and draining, against exact frames from python-h2.
@Suite struct LifecycleTests {
    private func open(_ ours: OnLoop<PeerSide>, _ peer: FramePeer, stream: Int = 1) async throws {
        let count = stream / 2 + 1
        try await ours { $0.open() }
        try await peer.event("RequestReceived") { $0["stream_id"] == stream }
        try peer.send("headers \(stream) :status=200")
        try await ours.until("the tunnel opens") { $0.streams.count == count }
    }

    private func accept(_ ours: OnLoop<PeerSide>, _ peer: FramePeer) async throws {
        try peer.send("headers 1 :method=CONNECT :authority=10.0.0.1:80")
        try await ours.until("the request arrives") { $0.log.requests.count == 1 }
        try await ours { side in
            if let stream = side.log.requests.removeFirst().accept() { side.streams.append(StreamEnd(stream)) }
        }
        try await peer.event("ResponseReceived")
    }

    @Test("PING measures the round trip")
    func ping() async throws {
        try await withClient { ours, peer in
            try await ours { side in
                side.connection.ping { result in side.log.isDraining = (try? result.get()) != nil }
            }
            try await ours.until("the answer comes") { $0.log.isDraining }
            let time = try await ours { $0.connection.roundTripTime }
            #expect(time ?? .zero > .zero)
        }
    }

    /// How soon another way is made ready hangs on it: a path is given up, and most never send a PING before.
    @Test("a connection that has sent no PING yet knows its round trip by the acknowledgment of SETTINGS")
    func settings() async throws {
        var configuration = H2Configuration.defaults
        configuration.keepAlive.interval = .seconds(600)
        try await withClient(configuration) { ours, peer in
            try await ours.until("the round trip is known") { $0.connection.roundTripTime != nil }
        }
    }

    @Test("a probe succeeds by any byte, and fails when none comes")
    func probe() async throws {
        try await withClient { ours, peer in
            try await ours { side in
                side.connection.probe(timeout: .seconds(20)) { side.log.isDraining = $0 }
            }
            try await ours.until("the probe succeeds") { $0.log.isDraining }
            // A stopped process answers nothing.
            try await suspend(peer.process.pid)
            try await ours { side in
                side.connection.probe(timeout: .milliseconds(50)) { side.log.isDraining = $0 }
            }
            try await ours.until("the probe fails") { !$0.log.isDraining }
            let isClosed = try await ours { $0.connection.isClosed }
            #expect(!isClosed)
            peer.process.signal(SIGCONT)
        }
    }

    @Test("keep-alive leaves a peer that answers alone, and ends a connection whose peer is silent")
    func keepAlive() async throws {
        var configuration = H2Configuration.defaults
        configuration.keepAlive.interval = .milliseconds(20)
        // A machine that is busy for a while is not silent.
        configuration.keepAlive.timeout = .seconds(3)
        try await withClient(configuration) { ours, peer in
            try await open(ours, peer)
            try await eventually("several keep-alives were answered") {
                peer.events.filter { $0.name == "PingReceived" }.count >= 3
            }
            let isClosed = try await ours { $0.connection.isClosed }
            #expect(!isClosed)
            peer.process.signal(SIGSTOP)
            try await ours.until("the stream fails") { $0.streams[0].failed }
            let codes = try await ours { [$0.streams[0].stream.failure?.code, $0.log.failure?.code] }
            #expect(codes == [.timedOut, .timedOut])
            peer.process.signal(SIGCONT)
        }
    }

    @Test("GOAWAY: streams it covers live on, others can be repeated, new ones are not begun")
    func goAway() async throws {
        try await withClient { ours, peer in
            try await open(ours, peer, stream: 1)
            try await ours { $0.open() }
            try await peer.event("RequestReceived") { $0["stream_id"] == 3 }
            try peer.send("goaway 1 0")
            try await ours.until("the second request fails") { $0.failures.count == 1 }
            let failure = try await ours { $0.failures[0] }
            #expect(failure.isRetryable)
            #expect(failure.error.code == .draining)
            try await ours.until("the delegate is told") { $0.log.isDraining }
            try await ours { $0.open() }
            try await ours.until("the third request fails") { $0.failures.count == 2 }
            let isRetryable = try await ours { $0.failures[1].isRetryable }
            #expect(isRetryable)
            // The first one goes on, both ways.
            try peer.send("data 1 alive")
            try await ours.until("bytes arrive") { $0.streams[0].text == "alive" }
            try await ours { $0.streams[0].send("yes", finish: true) }
            try await peer.event("DataReceived") { $0.text == "yes" }
            try peer.send("end 1")
            try await ours.until("the connection ends after its last stream") { $0.log.isClosed }
            let reason = try await ours { $0.log.failure }
            #expect(reason == nil)
        }
    }

    @Test("a server drains in two steps: requests on their way are served, open streams end in peace")
    func drain() async throws {
        try await withServer { ours, peer in
            try await accept(ours, peer)
            try await ours { $0.connection.drain(deadline: .seconds(60)) }
            let notice = try await peer.event("ConnectionTerminated")
            #expect(notice["last_stream_id"] == Int(Int32.max))
            #expect(notice["error_code"] == 0)
            try await peer.event("ConnectionTerminated") { $0["last_stream_id"] == 1 }
            // Its answer tells that the peer knows, and so comes behind.
            let names = peer.events.map(\.name)
            let first = try #require(names.firstIndex(of: "ConnectionTerminated"))
            let last = try #require(names.lastIndex(of: "ConnectionTerminated"))
            #expect(names[first..<last].contains("PingReceived"), "\(names)")
            try await ours { $0.streams[0].send("last words", finish: true) }
            try await peer.event("DataReceived") { $0.ends }
            let isClosed = try await ours { $0.log.isClosed }
            #expect(!isClosed)
        }
    }

    @Test("what is open when the time to drain is over is cut")
    func drainDeadline() async throws {
        try await withServer { ours, peer in
            try await accept(ours, peer)
            try await ours { side in
                side.connection.drain(deadline: .milliseconds(50)) { side.log.isDraining = true }
            }
            try await ours.until("the connection ends") { $0.log.isClosed && $0.log.isDraining }
            let codes = try await ours { [$0.log.failure?.code, $0.streams[0].stream.failure?.code] }
            #expect(codes == [.draining, .draining])
            try await peer.event("aborted")
        }
    }

    @Test("an idle connection is closed with GOAWAY and nothing lost")
    func closeIdle() async throws {
        try await withClient { ours, peer in
            try await peer.roundTrip()
            try await ours { $0.connection.close() }
            try await peer.event("ConnectionTerminated") { $0["error_code"] == 0 }
            try await ours.until("the delegate is told") { $0.log.isClosed }
            let reason = try await ours { $0.log.failure }
            #expect(reason == nil)
        }
    }

    @Test("a protocol error ends the connection with a reason, for the peer and for the streams")
    func protocolError() async throws {
        try await withServer { ours, peer in
            try await accept(ours, peer)
            // DATA on stream 0 (RFC 9113 §6.1).
            try peer.send("frame 0 0 0 00")
            #expect(try await peer.event("ConnectionTerminated")["error_code"] == 1)
            try await ours.until("the connection ends") { $0.log.isClosed }
            let codes = try await ours { [$0.log.failure?.code, $0.streams[0].stream.failure?.code] }
            #expect(codes == [.protocolViolation, .protocolViolation])
        }
    }

    @Test("who speaks no HTTP/2 is cut off")
    func notHTTP2() async throws {
        try await withClient { ours, peer in
            try await peer.roundTrip()
            try peer.send("raw 485454502f312e3120343030204261642052657175657374")
            try await ours.until("the connection ends") { $0.log.isClosed }
            let code = try await ours { $0.log.failure?.code }
            #expect(code == .protocolViolation)
        }
    }
}

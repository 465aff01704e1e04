import H2Transport
import Platform
import Streams
import TestPeers
import Testing

/// Many requests at once, and some that nobody answers.
@Suite(.timeLimit(.minutes(10))) struct BurstTests {
    private final class Held: @unchecked Sendable {
        // @unchecked Sendable: touched on the server's loop only.
        var requests: [PendingConnect] = []

        func takeAll() -> [PendingConnect] {
            defer { requests = [] }
            return requests
        }
    }

    /// With a budget that no other test uses.
    private var configuration: H2Configuration {
        var configuration = H2Configuration.defaults
        configuration.memory = H2MemoryBudget(limit: 1 << 28)
        return configuration
    }

    @Test("as many streams as were announced are served, also when they are all asked for at once")
    func allServed() async throws {
        let held = Held()
        try await withAttackedServer(configuration) { server, peer in
            try await server { $0.onRequest = { held.requests.append($0) } }
            try peer.send("flood 1000 1:1+:4:\(FramePeer.connect)")
            // Each answer comes later, as that of a backend which is dialled.
            try await server.until("every stream opens") { server in
                for request in held.takeAll() {
                    if let stream = request.accept() { server.streams.append(StreamEnd(stream, keepsBytes: false)) }
                }
                return server.streams.count == 1000
            }
            let counters = try await server { $0.attacker?.counters }
            #expect(counters?.requestsOverLimit == 0)
            #expect(counters?.streamsOpened == 1000)
        }
    }

    @Test("a destination that never answers is no harm to the others behind the same peer")
    func deadDestination() async throws {
        let held = Held()
        try await withAttackedServer(configuration) { server, peer in
            try await server { server in
                server.onRequest = { request in
                    guard request.destination.host == "10.0.0.2" else { return held.requests.append(request) }
                    if let stream = request.accept() { server.streams.append(StreamEnd(stream, keepsBytes: false)) }
                }
            }
            try peer.send("flood 900 1:1+:4:\(FramePeer.connect)", "request 2001 10.0.0.2:80")
            #expect(try await peer.event("headers") { $0["stream_id"] == 2001 }["status"] == 200)
            // Dials in flight.
            #expect(try await server { _ in held.requests.count } == 256)
            try await server { _ in for request in held.takeAll() { request.reject(.denied()) } }
            try await server.until("the others are asked in their turn") { _ in held.requests.count == 256 }
            try await server { _ in held.requests = [] }
        }
    }

    @Test("what a peer refuses although it had announced it waits for room, however often it is refused")
    func refusedStreams() async throws {
        var configuration = H2ClientPool.Configuration.defaults
        configuration.connectionsPerEndpoint = 1
        try await withPeers(1, configuration: configuration) { ours, peers in
            let peer = peers[0]
            try await ours { $0.open() }
            try await serve(peer, ours)
            try await ours { $0.open() }
            for stream in [3, 5, 7, 9, 11] {
                try await peer.event("RequestReceived") { $0["stream_id"] == stream }
                try peer.send("reset \(stream) 7")
            }
            try await serve(peer, ours, count: 2, stream: 13)
        }
    }
}

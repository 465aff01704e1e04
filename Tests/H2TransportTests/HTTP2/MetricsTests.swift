import H2Transport
import MetricsTestKit
import Streams
import TestPeers
import Testing

/// What a metrics backend is told.
@Suite struct MetricsTests {
    @Test("handshakes, streams, bytes, resets and refusals of both sides")
    func counted() async throws {
        let backend = TestMetrics()
        var server = HBONEServer.Configuration.defaults
        server.http2.metrics = H2Metrics(factory: backend)
        var client = H2ClientPool.Configuration.defaults
        client.http2.metrics = H2Metrics(factory: backend)
        try await withLoop { [server, client] loop in
            let ours = try await OnLoop(loop) { try RelayingServer(on: loop, configuration: server) }
            let port = try await ours { $0.port }
            let user = try await OnLoop(loop) { try PoolUser(on: loop, port: port, configuration: client) }
            let foreign = try await OnLoop(loop) {
                try PoolUser(on: loop, port: port, credential: .rogue)
            }
            // To the server itself, which accepts whatever connects.
            try await user { $0.open("127.0.0.1:\(port)") }
            try await user.until("a stream opens") { $0.streams.count == 1 }
            try await ours { $0.rejection = .denied() }
            try await user { $0.open("127.0.0.1:\(port)") }
            try await user.until("a request is refused") { $0.failures.count == 1 }
            try await foreign { $0.open("127.0.0.1:\(port)") }
            try await foreign.until("a stranger is refused") { !$0.failures.isEmpty }
            // While the connection stands: within a second of its last byte.
            for role in ["client", "server"] {
                try await eventually("\(role): the streams are counted") {
                    backend.counterTotal(label: "bootstrap_h2_streams_opened_total", dimensions: [("role", role)]) == 1
                        && (try? backend.expectMeter("bootstrap_h2_streams", [("role", role)]))?.values.isEmpty == false
                }
            }
            try await user { $0.close() }
            try await foreign { $0.close() }
            try await ours { $0.close() }
            try await ours.until("the connections end") { $0.server?.connectionCount == 0 }
        }
        func total(_ name: String, _ role: String, _ more: (String, String)...) -> Int64 {
            backend.counterTotal(label: "bootstrap_h2_\(name)", dimensions: [("role", role)] + more)
        }
        for role in ["client", "server"] {
            #expect(total("handshakes_total", role, ("result", "ok")) == 1)
            #expect(total("streams_refused_total", role) == 1)
            #expect(total("received_bytes_total", role) > 0)
            #expect(
                total("resets_total", role, ("reason", "sent")) + total("resets_total", role, ("reason", "received"))
                    > 0
            )
            // What goes up comes down.
            let connections = try backend.expectMeter("bootstrap_h2_connections", [("role", role)])
            #expect(connections.lastValue == 0)
            let streams = try backend.expectMeter("bootstrap_h2_streams", [("role", role)])
            #expect(streams.lastValue == 0)
        }
        // A client learns of its refusal only after its own side of the handshake (RFC 8446 §2).
        #expect(total("handshakes_total", "server", ("result", "authentication")) >= 1)
        // One side's bytes are the other's.
        #expect(total("received_bytes_total", "client") <= total("sent_bytes_total", "server"))
    }

    @Test("queued bytes and floods")
    func limits() async throws {
        let backend = TestMetrics()
        var configuration = H2Configuration.defaults
        configuration.windows.stream = 100_000
        configuration.windows.connection = 150_000
        configuration.limits.queuedBytes = 150_000
        configuration.limits.controlFrames = .init(burst: 20, perSecond: 0)
        configuration.metrics = H2Metrics(factory: backend)
        configuration.memory = H2MemoryBudget(limit: 1 << 30)
        configuration.limits.overloadGrace = .seconds(3600)
        let role = [("role", "server")]
        try await withAttackedServer(configuration) { server, peer in
            try await server { $0.readLimit = 0 }
            for stream in [1, 3] { try peer.send("request \(stream) 10.0.0.1:80", "fill \(stream) 70000") }
            try await eventually("queued bytes are told") {
                (try? backend.expectMeter("bootstrap_h2_queued_bytes", role))?.lastValue ?? 0 >= 70000
            }
            try peer.send("flood 200 6:0:0:0102030405060708")
            try await server.until("the attacker is cut off") { $0.attackerLog?.isClosed == true }
        }
        #expect(backend.counterTotal(label: "bootstrap_h2_floods_total", dimensions: role) == 1)
        #expect(try backend.expectMeter("bootstrap_h2_queued_bytes", role).lastValue == 0)
    }

    @Test("round-trip times")
    func roundTrip() async throws {
        let backend = TestMetrics()
        var configuration = H2Configuration.defaults
        configuration.metrics = H2Metrics(factory: backend)
        try await withClient(configuration) { ours, _ in
            try await ours { $0.connection.ping { _ in } }
            try await eventually("a round trip is recorded") {
                (try? backend.expectTimer("bootstrap_h2_round_trip_time", [("role", "client")]))?.values.isEmpty
                    == false
            }
        }
    }
}

import Logging
import MeshIdentity
import Streams
import TestPeers
import Testing

@testable import H2Transport

/// Peers that make this side hold what they do not take or do not let it deliver: memory stays within its limits, the
/// slow and the hostile pay, and nobody else.
@Suite struct MemoryLimitTests {
    private var configuration: H2Configuration {
        var configuration = H2Configuration.defaults
        configuration.windows.stream = 262_144
        configuration.windows.connection = 1 << 20
        configuration.limits.queuedBytes = 1 << 20
        configuration.limits.memory = 8 << 20
        configuration.limits.overloadGrace = .seconds(3600)
        configuration.memory = H2MemoryBudget(limit: 64 << 20)
        return configuration
    }

    /// Streams 1, 3, 5… of the attacker, each with so many bytes that nobody reads.
    private func fill(
        _ server: OnLoop<AttackedServer>,
        _ peer: FramePeer,
        streams: Int,
        bytes: Int
    ) async throws {
        try await server { $0.readLimit = 0 }
        for index in 0..<streams {
            try peer.send("request \(2 * index + 1) 10.0.0.1:80", "fill \(2 * index + 1) \(bytes)")
        }
        try await server.until("the streams open") { $0.streams.count == streams }
    }

    @Test("over a connection's memory, the streams that hold most are reset")
    func connectionMemory() async throws {
        var configuration = configuration
        configuration.windows.connection = 4 << 20
        configuration.limits.queuedBytes = 4 << 20
        configuration.limits.memory = 4 << 20
        try await withAttackedServer(configuration) { [configuration] server, peer in
            try await fill(server, peer, streams: 20, bytes: 262_144)
            try await server.until("streams are reset") { ($0.attacker?.counters.memoryResets ?? 0) >= 4 }
            try await peer.event("reset") { $0["error_code"] == 11 }
            try await server.until("what is left is within the limit") {
                ($0.attacker?.heldBytes ?? .max) <= configuration.limits.memory
            }
            // Their readers learn it, and the others stay.
            let failed = try await server { $0.streams.count { $0.stream.failure?.code == .limit } }
            #expect((4...8).contains(failed))
            let isClosed = try await server { $0.attackerLog?.isClosed }
            #expect(isClosed == false)
        }
    }

    @Test("over the budget of all connections, the one above its share pays")
    func totalMemory() async throws {
        var configuration = configuration
        configuration.memory = H2MemoryBudget(limit: 1 << 20)
        try await withAttackedServer(configuration) { [configuration] server, peer in
            try await fill(server, peer, streams: 8, bytes: 200_000)
            try await server.until("streams are reset") { ($0.attacker?.counters.memoryResets ?? 0) >= 3 }
            try await eventually("the budget holds") { configuration.memory.held <= configuration.memory.limit + 16384 }
            let others = try await server { $0.connections[0].connection.counters.memoryResets }
            #expect(others == 0)
        }
    }

    @Test("a budget divides itself among those who hold something")
    func shares() {
        let budget = H2MemoryBudget(limit: 1000)
        #expect(budget.fairShare == 1000)
        budget.changed(by: 600, to: 600)
        budget.changed(by: 300, to: 300)
        #expect(budget.fairShare == 500)
        #expect(!budget.isExceeded)
        budget.changed(by: 200, to: 500)
        #expect(budget.isExceeded)
        budget.changed(by: -600, to: 0)
        #expect(budget.held == 500)
        #expect(budget.fairShare == 1000)
    }

    @Test("streams that are over still count until their last bytes are read")
    func lingeringStreams() async throws {
        var configuration = configuration
        configuration.limits.memory = 1_100_000
        // The peer minds no window, so all of it must fit into what it may send however the bytes are cut on their way:
        // credit is told for half a window at least, and withheld beyond `queuedBytes`, so that half a window and 1 MiB
        // are sure.
        let (streams, size) = (10, 150_000)
        #expect(streams * size < configuration.windows.connection * 3 / 2)
        try await withAttackedServer(configuration) { [configuration] server, peer in
            try await server { server in
                server.readLimit = 0
                server.onRequest = { pending in
                    guard let stream = pending.accept() else { return }
                    stream.finish()
                    server.streams.append(StreamEnd(stream, keepsBytes: false, readLimit: 0))
                }
            }
            // All are accepted before the first byte: one that memory resets while its request waits is never seen
            // here.
            for index in 0..<streams { try peer.send("request \(2 * index + 1) 10.0.0.1:80") }
            try await server.until("the streams open") { $0.streams.count == streams }
            // Both sides end each stream, so that no limit on open streams applies: only memory does.
            for index in 0..<streams {
                let stream = 2 * index + 1
                try peer.send("fill \(stream) \(size)", "flood 1 0:\(stream):1:")
            }
            try await server.until("the streams are over, and held") { server in
                server.streams.count == streams && server.attacker?.streamCount == 0
            }
            try await server.until("memory is within the limit") {
                let held = $0.attacker?.heldBytes ?? .max
                return held <= configuration.limits.memory && held > size
            }
            let resets = try await server { $0.attacker?.counters.memoryResets ?? 0 }
            #expect(resets >= 2)
            // Those that were spared can be read to their end, by and by.
            try await server { server in
                for end in server.streams {
                    end.readLimit = .max
                    end.resume()
                }
            }
            let (ended, failed) = try await server { server in
                (server.streams.count(where: \.readEnded), server.streams.count(where: \.failed))
            }
            #expect(ended >= 1)
            #expect(ended + failed == streams)
            let isClosed = try await server { $0.attackerLog?.isClosed }
            #expect(isClosed == false)
            try await server.until("nothing is held") { $0.attacker?.heldBytes == 0 }
        }
    }

    @Test("readers that take nothing do not withhold the window from the others for ever")
    func overload() async throws {
        var configuration = configuration
        configuration.limits.overloadGrace = .milliseconds(50)
        try await withAttackedServer(configuration) { server, peer in
            try await fill(server, peer, streams: 6, bytes: 262_144)
            try await server.until("slow readers are reset") { ($0.attacker?.counters.memoryResets ?? 0) >= 1 }
            try await server.until("the window is given back") { $0.attacker?.window.withheld == 0 }
            try await server { $0.readLimit = .max }
            try peer.send("request 1001 10.0.0.1:80", "fill 1001 200000", "flood 1 0:1001:1:")
            try await server.until("another stream is served") { $0.streams.last?.readEnded == true }
            let received = try await server { $0.streams[6].receivedCount }
            #expect(received == 200_000)
        }
    }

    // MARK: Standing still

    @Test(
        "slow read (CVE-2019-9517): a peer that reads nothing costs one queue a stream, and ends by the stall timeout"
    )
    func slowRead() async throws {
        var configuration = configuration
        configuration.limits.stallTimeout = .seconds(1)
        // INITIAL_WINDOW_SIZE and the connection's window as large as they go.
        try await withAttackedServer(configuration, settings: ["4=2147483647"]) { [configuration] server, peer in
            try peer.send(
                "pause",
                "flood 1 8:0:0:7fff0000",
                "flood 8 1:1+:4:\(FramePeer.connect)"
            )
            try await server.until("the streams open") { $0.streams.count == 8 }
            try await server { for end in $0.streams { end.send(50_000_000) } }
            try await server.until("the writers wait") { $0.streams.allSatisfy(\.writeBlocked) }
            let held = try await server { $0.attacker?.heldBytes ?? .max }
            #expect(held <= 8 * (configuration.sendQueue + 65536))
            try await server.until("the connection is given up") { $0.attackerLog?.isClosed == true }
            let (code, count) = try await server {
                ($0.attackerLog?.failure?.code, $0.attacker?.counters.stalledConnections)
            }
            #expect(code == .timedOut)
            #expect(count == 1)
            try peer.send("resume")
        }
    }

    @Test("window starvation (CVE-2019-9511): a stream without credit is reset, its connection goes on")
    func windowStarvation() async throws {
        var configuration = configuration
        configuration.limits.stallTimeout = .milliseconds(500)
        try await withAttackedServer(configuration, settings: ["4=0"]) { server, peer in
            try peer.send("request 1 10.0.0.1:80")
            try await server.until("the stream opens") { $0.streams.count == 1 }
            try await server { $0.streams[0].send("hello") }
            #expect(try await peer.event("reset")["error_code"] == 11)
            try await server.until("the writer learns it") { $0.streams[0].failed }
            let (code, count) = try await server {
                ($0.streams[0].stream.failure?.code, $0.attacker?.counters.stalledStreams)
            }
            #expect(code == .timedOut)
            #expect(count == 1)
            try peer.send("request 3 10.0.0.1:80", "flood 1 0:3:1:6161")
            try await server.until("another stream is served") { $0.streams.count == 2 && $0.streams[1].readEnded }
        }
    }

    @Test("a stream whose reader takes nothing is reset; one that idles without bytes is not")
    func stalledReader() async throws {
        var configuration = configuration
        configuration.limits.stallTimeout = .milliseconds(500)
        try await withAttackedServer(configuration) { server, peer in
            try await server { $0.readLimit = 0 }
            try peer.send("request 1 10.0.0.1:80", "request 3 10.0.0.1:80", "fill 3 1000")
            #expect(try await peer.event("reset")["stream_id"] == 3)
            let (idleFailed, stalledFailed) = try await server {
                ($0.streams[0].failed, $0.streams[1].failed)
            }
            #expect(!idleFailed)
            #expect(stalledFailed)
        }
    }

    @Test("our client: a server that reads nothing, and one that sends what nobody reads")
    func onClient() async throws {
        var configuration = configuration
        configuration.limits.stallTimeout = .seconds(1)
        try await withAttackedClient(configuration, settings: ["4=2147483647"]) { [configuration] client, peer in
            try await client { $0.open() }
            try await peer.event("headers")
            try peer.send("answer 1", "flood 1 8:0:0:7fff0000", "pause")
            try await client.until("the stream opens") { $0.streams.count == 1 }
            try await client { $0.streams[0].send(50_000_000) }
            try await client.until("the writer waits") { $0.streams[0].writeBlocked }
            let held = try await client { $0.connection.heldBytes }
            #expect(held <= configuration.sendQueue + 65536)
            try await client.until("the connection is given up") { $0.log.isClosed }
            let code = try await client { $0.log.failure?.code }
            #expect(code == .timedOut)
            try peer.send("resume")
        }
        configuration.limits.stallTimeout = .seconds(600)
        configuration.windows.connection = 4 << 20
        configuration.limits.queuedBytes = 4 << 20
        configuration.limits.memory = 4 << 20
        try await withAttackedClient(configuration) { [configuration] client, peer in
            try await client { client in
                client.readLimit = 0
                for _ in 0..<20 { client.open() }
            }
            try await peer.event("headers") { $0["stream_id"] == 39 }
            for index in 0..<20 { try peer.send("answer \(2 * index + 1)", "fill \(2 * index + 1) 262144") }
            try await client.until("streams are reset") { $0.connection.counters.memoryResets >= 3 }
            try await client.until("memory is within the limit") {
                $0.connection.heldBytes <= configuration.limits.memory
            }
        }
    }

    // MARK: Before the answer

    @Test("dials in flight are bounded, whatever the client does with its streams meanwhile")
    func dialsInFlight() async throws {
        var configuration = configuration
        configuration.limits.pendingRequests = 10
        let dials = Dials()
        try await withAttackedServer(configuration) { server, peer in
            try await server { server in server.onRequest = { dials.append($0) } }
            try peer.send("flood 30 1:1+:4:\(FramePeer.connect) 3:1+:0:00000008")
            try await server.until("the others are refused") { $0.attacker?.counters.requestsOverLimit == 20 }
            let (count, pending) = try await server { (dials.count, $0.attacker?.pendingRequests) }
            #expect(count == 10)
            #expect(pending == 10)
            // The dials end: there is room again.
            try await server { _ in dials.removeAll() }
            try peer.send("request 1001 10.0.0.1:80")
            try await server.until("the next is dialled") { _ in dials.count == 1 }
            try await server { _ in dials.removeAll() }
        }
    }

    @Test("a request that the client gave up, let go by another thread, counts no more")
    func requestLetGoElsewhere() async throws {
        let dials = Dials()
        try await withAttackedServer(configuration) { server, peer in
            try await server { server in server.onRequest = { dials.append($0) } }
            for stream in [1, 3, 5] { try peer.send("request \(stream) 10.0.0.1:80") }
            try await server.until("the requests arrive") { $0.attacker?.pendingRequests == 3 }
            for stream in [1, 3, 5] { try peer.send("flood 1 3:\(stream):0:00000008") }
            try await server.until("the client gives up") { $0.attacker?.streamCount == 0 }
            let pending = try await server { $0.attacker?.pendingRequests }
            #expect(pending == 3)
            let loop = server.loop
            do {
                let requests = try await server { _ in dials.takeAll().map { LoopBound($0, on: loop) } }
                #expect(requests.count == 3)
            }
            try await server.until("none is pending") { $0.attacker?.pendingRequests == 0 }
        }
    }

    @Test("early data is held, at most one window, and dropped with the refusal (CVE-2025-64763)")
    func earlyData() async throws {
        let dials = Dials()
        try await withAttackedServer(configuration) { server, peer in
            try await server { server in server.onRequest = { dials.append($0) } }
            try peer.send("request 1 10.0.0.1:80", "fill 1 262144")
            try await server.until("one window is held") { $0.attacker?.queuedBytes == 262_144 }
            try await server { _ in
                dials.first?.reject(.denied())
                dials.removeAll()
            }
            #expect(try await peer.event("headers")["status"] == 403)
            let held = try await server { $0.attacker?.heldBytes }
            #expect(held == 0)
        }
    }

    // MARK: Before the handshake

    @Test("connections that do not shake hands: bounded in all, and for each address")
    func handshakes() async throws {
        try await withLoop { loop in
            var configuration = HBONEServer.Configuration.defaults
            configuration.handshakesPerAddress = 3
            let server = try await OnLoop(loop) { [configuration] in
                try RelayingServer(on: loop, configuration: configuration)
            }
            let port = try await server { $0.port }
            let address = try SocketAddress(ip: "127.0.0.1", port: port)
            let silent = try await OnLoop(loop) { Silent() }
            for _ in 0..<6 {
                // Those that are refused may see their reset at once.
                _ = try? await Dialer.connect(to: .address(address), on: loop) { socket in
                    silent.value { $0.add(socket) }
                }
            }
            try await server.until("three are refused") { $0.server?.refusedByAddress == 3 }
            // Room again once the silent ones are gone: a client with a certificate gets in.
            try await silent { $0.closeAll() }
            try await server.until("the handshakes are over") { $0.server?.failedHandshakes == 3 }
            let user = try await OnLoop(loop) { try PoolUser(on: loop, port: port) }
            try await user { $0.open("127.0.0.1:1") }
            try await user.until("a client gets in") { $0.connected == 1 }
            try await user { $0.close() }
            try await server { $0.close() }
        }
    }

    private final class Silent {
        private var sockets: [Socket] = []
        func add(_ socket: Socket) { sockets.append(socket) }
        func closeAll() {
            for socket in sockets { socket.close() }
            sockets = []
        }
    }

    /// Requests that somebody dials for. Used on one loop only.
    private final class Dials: @unchecked Sendable {
        // @unchecked Sendable, the proof: every use is inside a closure that runs on the test's loop.
        private var requests: [PendingConnect] = []
        var count: Int { requests.count }
        var first: PendingConnect? { requests.first }
        func append(_ request: PendingConnect) { requests.append(request) }
        func removeAll() { requests.removeAll() }
        func takeAll() -> [PendingConnect] {
            defer { requests = [] }
            return requests
        }
    }
}

import Glibc
import MeshIdentity
import MetricsTestKit
import Platform
import Streams
import TestPeers
import Testing

@testable import H2Transport

/// When the pool makes another connection, and when it lets one go.
@Suite(.timeLimit(.minutes(10))) struct PoolTests {
    private func withMesh(
        server: HBONEServer.Configuration = .defaults,
        pool: H2ClientPool.Configuration = .defaults,
        _ body: (OnLoop<RelayingServer>, OnLoop<PoolUser>, EchoServer) async throws -> Void
    ) async throws {
        let echo = try EchoServer()
        try await withLoop { loop in
            let ours = try await OnLoop(loop) { try RelayingServer(on: loop, configuration: server) }
            let port = try await ours { $0.port }
            let user = try await OnLoop(loop) { try PoolUser(on: loop, port: port, configuration: pool) }
            try await body(ours, user, echo)
            try await user { $0.close() }
            try await ours { $0.close() }
        }
        echo.close()
    }

    @Test("a connection that is too old is replaced first, and then ends with its last stream")
    func age() async throws {
        let metrics = TestMetrics()
        var pool = H2ClientPool.Configuration.defaults
        pool.http2.age.maximum = .milliseconds(300)
        pool.http2.metrics = H2Metrics(factory: metrics)
        try await withMesh(pool: pool) { server, user, echo in
            try await user { $0.open(echo.authority, keepsBytes: true) }
            try await user.until("the tunnel opens") { $0.streams.count == 1 }
            try await user.until("another connection is up") { $0.connected >= 2 }
            try await user.until("the first one takes no more streams") { $0.draining >= 1 }
            // The stream has noticed nothing.
            try await user { $0.streams[0].send("still here", finish: true) }
            try await user.until("the stream ends in peace") { $0.streams[0].readEnded }
            let (text, failures) = try await user { ($0.streams[0].text, $0.failures) }
            #expect(text == "still here")
            #expect(failures == [])
            try await user { $0.streams[0].stream.close() }
            try await user.until("the first connection is closed") { !$0.disconnected.isEmpty }
            let (reason, replacements) = try await user { ($0.disconnected[0], $0.pool.counters.replacements) }
            #expect(reason == nil)
            #expect(replacements >= 1)
        }
        let dimensions = [("role", "client"), ("reason", "age")]
        #expect(metrics.counterTotal(label: "bootstrap_h2_retired_total", dimensions: dimensions) >= 1)
    }

    @Test("streams that are opened all the time while connections are replaced again and again: none fails")
    func ageUnderLoad() async throws {
        var pool = H2ClientPool.Configuration.defaults
        pool.http2.age.maximum = .milliseconds(50)
        var server = HBONEServer.Configuration.defaults
        server.http2.age.maximum = .milliseconds(70)
        try await withMesh(server: server, pool: pool) { _, user, echo in
            let deadline = ContinuousClock.now + .seconds(60)
            var round = 0
            while try await user({ $0.connected }) < 5, ContinuousClock.now < deadline {
                round += 1
                let round = round
                try await user { $0.open(echo.authority, keepsBytes: true) }
                try await user.until("tunnel \(round) opens") { $0.streams.count == round || !$0.failures.isEmpty }
                let failures = try await user { $0.failures }
                try #require(failures == [])
                try await user { $0.streams[round - 1].send("round \(round)", finish: round % 7 != 0) }
            }
            try await user.until("every answer is there") { user in
                user.streams.enumerated().allSatisfy { $1.text == "round \($0 + 1)" }
            }
            let connected = try await user { $0.connected }
            #expect(connected >= 5)
        }
    }

    @Test("where the replacement does not come up, the old connection goes on")
    func replacementFails() async throws {
        try await withMesh { server, user, echo in
            try await user { $0.open(echo.authority) }
            try await user.until("the tunnel opens") { $0.streams.count == 1 }
            try await server { $0.listener?.close() }
            try await user { user in
                let connection = user.pool.connections(to: user.endpoint.key)[0]
                connection.delegate?.connectionIsTooOld(connection)
            }
            try await user.until("the replacement fails") { !$0.dialFailures.isEmpty }
            try await user { $0.open(echo.authority, keepsBytes: true) }
            try await user.until("another tunnel opens") { $0.streams.count == 2 }
            try await user { $0.streams[1].send("over the old one", finish: true) }
            try await user.until("the answer comes") { $0.streams[1].readEnded }
            let (text, connected) = try await user { ($0.streams[1].text, $0.connected) }
            #expect(text == "over the old one")
            #expect(connected == 1)
        }
    }

    @Test("both sides know when the first certificate expires, and a server drains then; streams go on")
    func expiry() async throws {
        try await withMesh { server, user, echo in
            try await user { $0.open(echo.authority, keepsBytes: true) }
            try await user.until("the tunnel opens") { $0.streams.count == 1 }
            let expected = try await user.loop.execute {
                let (ours, theirs) = (TLSSide(credential: .client), TLSSide(credential: .server))
                return min(
                    try ours.context(.client).notAfter ?? 0,
                    try theirs.context(.server).notAfter ?? 0
                )
            }
            let client = try await user { $0.pool.connections(to: $0.endpoint.key)[0].certificatesExpireAt }
            #expect(client == expected)
            let found = try await server { server in
                var found: Int64?
                server.server?.forEachConnection { connection in
                    found = connection.certificatesExpireAt
                    // One second ago.
                    connection.certificatesExpireAt = WallClock.system.seconds - 1
                }
                return found
            }
            #expect(found == expected)
            try await user.until("the connection takes no more streams") { $0.draining == 1 }
            try await user { $0.open(echo.authority) }
            try await user.until("a new one is made") { $0.streams.count == 2 && $0.connected == 2 }
            try await user { $0.streams[0].send("still here", finish: true) }
            try await user.until("the first stream ends in peace") { $0.streams[0].readEnded }
            let text = try await user { $0.streams[0].text }
            #expect(text == "still here")
        }
    }

    @Test("the streams of a connection that is too old can be given a limit")
    func drainTimeout() async throws {
        var server = HBONEServer.Configuration.defaults
        // Long enough for the tunnel to open on a busy machine.
        server.http2.age.maximum = .milliseconds(500)
        server.http2.age.drainTimeout = .milliseconds(50)
        try await withMesh(server: server) { _, user, echo in
            try await user { $0.open(echo.authority) }
            try await user.until("the tunnel opens") { $0.streams.count == 1 }
            try await user.until("it is cut") { $0.streams[0].failed }
        }
    }

    @Test("a peer that stops reading its connection: new streams go to another one")
    func stalledWindow() async throws {
        var configuration = H2ClientPool.Configuration.defaults
        configuration.http2.windows.stallTime = .milliseconds(20)
        let metrics = TestMetrics()
        configuration.http2.metrics = H2Metrics(factory: metrics)
        try await withPeers(2, configuration: configuration) { ours, peers in
            try await ours { $0.open() }
            try await serve(peers[0], ours)
            // The peer's window of the connection is 65,535 bytes, and it gives no credit.
            try await ours { $0.streams[0].send(200_000) }
            try await ours.until("the window is stalled") { $0.connections.first?.isWindowStalled == true }
            try await ours { $0.open() }
            try await serve(peers[1], ours, count: 2)
            let (overflows, stalls) = try await ours {
                ($0.pool.counters.overflows, $0.connections[0].counters.sendWindowStalls)
            }
            #expect(overflows == 1)
            #expect(stalls == 1)
            // With credit the first one is good again.
            try peers[0].send("credit 1 1000000")
            try await ours.until("the window is open") { $0.connections.first?.isWindowStalled == false }
            try await ours { $0.open() }
            try await serve(peers[0], ours, count: 3, stream: 3)
        }
        let dimensions = [("role", "client")]
        #expect(metrics.counterTotal(label: "bootstrap_h2_send_window_stalls_total", dimensions: dimensions) >= 1)
    }

    @Test(
        "a burst before the server has said how many streams it allows: all are served, on as many connections as it takes"
    )
    func burst() async throws {
        var server = HBONEServer.Configuration.defaults
        server.http2.limits.concurrentStreams = 10
        var pool = H2ClientPool.Configuration.defaults
        pool.http2.requestTimeout = .seconds(5)
        try await withMesh(server: server, pool: pool) { _, user, echo in
            try await user { for _ in 0..<40 { $0.open(echo.authority) } }
            try await user.until("every tunnel opens") { $0.streams.count + $0.failures.count == 40 }
            let (failures, connections) = try await user { ($0.failures, $0.connected) }
            #expect(failures == [])
            #expect(connections == 4)
        }
    }

    @Test("a drain while the first connection is being made leaves nothing behind")
    func drainWhileDialing() async throws {
        try await withLoop { loop in
            let dialing = try await OnLoop(loop) { Dialing(on: loop) }
            try await dialing { $0.group.drain(deadline: .seconds(60)) }
            try await dialing.until("who waited is told") { $0.failures.count == 1 }
            let (code, isUnused) = try await dialing { ($0.failures[0].error.code, $0.isUnused) }
            #expect(code == .closed)
            #expect(isUnused)
        }
    }

    @Test("a certificate that the server refuses fails the request, and is not tried again")
    func refusedCertificate() async throws {
        try await withLoop { loop in
            let server = try await OnLoop(loop) { try RelayingServer(on: loop) }
            let port = try await server { $0.port }
            let user = try await OnLoop(loop) { try PoolUser(on: loop, port: port, credential: .rogue) }
            try await user { $0.open("10.0.0.1:80") }
            try await user.until("it fails") { $0.failures.count == 1 }
            let (code, dials) = try await user { ($0.failures[0].error.code, $0.connected + $0.dialFailures.count) }
            #expect(code == .authentication)
            #expect(dials == 1)
            try await user { $0.close() }
            try await server { $0.close() }
        }
    }
}

/// Connections of which the first is never made, and somebody who waits for it. Confined to its loop.
private final class Dialing {
    let group: ConnectionGroupDriver
    private(set) var isUnused = false
    private(set) var failures: [ConnectFailure] = []

    init(on loop: EventLoop) {
        let key = H2Endpoint.Key(credential: ObjectIdentifier(loop), expectation: .anyTrusted, location: "test")
        let settings = ConnectionGroupDriver.Settings(
            http2: .defaults,
            firstAnswer: nil,
            rules: ConnectionGroupDriver.Settings.Rules(),
            repeatsRequests: true
        )
        group = ConnectionGroupDriver(to: H2Endpoint(key: key) { _, _ in }, settings: settings, on: loop)
        group.onEvent = { [weak self] event in
            if case .unused = event { self?.isUnused = true }
        }
        group.open(ConnectRequest(authority: "10.0.0.1:80")) { result in
            if case .failure(let failure) = result { self.failures.append(failure) }
        }
    }
}

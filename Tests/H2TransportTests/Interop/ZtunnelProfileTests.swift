import H2Transport
import Streams
import TestPeers
import Testing

/// An emulation of Istio's ztunnel on python-h2: its settings, its answers and its habits, not its code. No ztunnel
/// runs here.
@Suite(.timeLimit(.minutes(10)))
struct ZtunnelProfileTests {
    private static let bytes = 4_000_000

    // MARK: The emulation is the server

    @Test(
        "our client, ztunnel's profile: bytes up, down and both ways, true half-close, and frames as large as we send them"
    )
    func server() async throws {
        try await OurClient.of(.ztunnel) { ours in
            try await ours.moves(Self.bytes)
            try await ours.serverEndsFirst(Self.bytes, then: .stillReads)
            let request = try await ours.peer.event("request")
            #expect(request.headers?[":method"] == "CONNECT")
            #expect(request.headers?[":scheme"] == nil && request.headers?[":path"] == nil)
            let baggage = try await ours.user { ($0.streams[0].stream as? H2Stream)?.response?.headers["baggage"] }
            #expect(baggage?.contains("k8s.namespace.name=prod") == true)
            // Both sides read larger frames than they get: the sender's choice holds.
            try await ours.user { $0.close() }
            let frames = try await ours.peer.event("frames")
            #expect(frames.received == H2Configuration.defaults.frameSize)
            #expect((16384...H2Configuration.defaults.frameSize).contains(frames.sent ?? 0))
        }
    }

    @Test("our client, ztunnel's profile: 401 is a denial, 400 a bad request, 503 an unreachable backend")
    func serverRefuses() async throws {
        let nobody = FreePort.next()
        try await OurClient.of(.ztunnel) { ours in
            let unreachable = try await ours.refusal("127.0.0.1:\(nobody)")
            #expect(unreachable.response?.status == 503)
            #expect(unreachable.error.code == .unreachable)
            // An address that is not the one the connection goes to.
            let mismatch = try await ours.refusal("127.0.0.2:\(nobody)")
            #expect(mismatch.response?.status == 400)
            #expect(mismatch.error.code == .badRequest)
            #expect(!mismatch.isRetryable)
        }
        try await OurClient.of(.ztunnel, credential: .intruder) { ours in
            let denied = try await ours.refusal("127.0.0.1:\(nobody)")
            #expect(denied.response?.status == 401)
            #expect(denied.error.code == .denied)
            #expect(!denied.isRetryable)
        }
    }

    @Test("our client, ztunnel's profile: it swallows its backend's reset, so the end looks clean; our resets arrive")
    func serverResets() async throws {
        try await OurClient.of(.ztunnel) { ours in
            // istio/ztunnel#1483: nothing on the wire tells this end from a good one. A protocol inside must notice.
            let (ended, code) = try await ours.backendAborts()
            #expect(ended)
            #expect(code == nil)
            // It takes CANCEL for an end, and CONNECT_ERROR for what it is; the backend's connection ends by either.
            let echo = try EchoServer()
            for (index, reason) in [StreamError.Code.closed, .reset].enumerated() {
                let stream = try await ours.open(echo.authority)
                try await ours.user { $0.streams[stream].send("hello") }
                try await ours.user.until("the echo comes") { $0.streams[stream].receivedCount == 5 }
                try await ours.user { $0.streams[stream].stream.reset(StreamError(reason, "the client aborts")) }
                _ = try await echo.transfers(index + 1)
            }
            try await ours.peer.event("reset") { $0.code == 10 }
            #expect(ours.peer.events.filter { $0.event == "reset" }.count == 1)
            echo.close()
        }
    }

    @Test("our client, ztunnel's profile: 200 tunnels on one connection, then a second one")
    func serverLimit() async throws {
        try await OurClient.of(.ztunnel) { try await $0.limit(200) }
    }

    @Test("our client, ztunnel's profile: GOAWAY(2^31-1), PING, GOAWAY(last) costs no stream")
    func serverDrains() async throws {
        try await OurClient.of(.ztunnel) { ours in
            try await ours.drains { try ours.peer.send("goaway") }
        }
    }

    @Test("our client, ztunnel's profile: its PINGs are answered, and do not add up to a flood")
    func serverPings() async throws {
        try await OurClient.of(.ztunnel, options: ["--ping", "0.02"]) { ours in
            let echo = try EchoServer()
            let stream = try await ours.open(echo.authority)
            try await eventually("ten PINGs are answered") {
                ours.peer.events.filter { $0.event == "ping" }.count >= 10
            }
            try await ours.user { $0.streams[stream].send("still here", finish: true) }
            try await ours.ended(stream)
            let text = try await ours.user { $0.streams[stream].text }
            #expect(text == "still here")
            echo.close()
        }
    }

    // MARK: The emulation is the client

    @Test("ztunnel's profile, our server: bytes up, down and both ways, true half-close, and its metadata")
    func client() async throws {
        try await OurServer.of(.ztunnel) { ours in
            let settings = try await ours.peer.event("settings").settings
            // What it may send: no frame beyond this.
            #expect(settings?["5"] == H2Configuration.defaults.frameSize)
            try await ours.moves(Self.bytes)
            try await ours.endsFirst(Self.bytes)
            let request = try await ours.server { $0.requests[0] }
            #expect(request.baggage?.contains("k8s.deployment.name=peer") == true)
            #expect(request.forwarded == "for=\"127.0.0.1:80\"")
            #expect(request.traceparent?.count == 55)
            try ours.peer.send("close")
            let frames = try await ours.peer.event("frames")
            #expect(frames.sent == H2Configuration.defaults.frameSize)
            #expect(frames.received == H2Configuration.defaults.frameSize)
        }
    }

    @Test("ztunnel's profile, our server: a reset is a reset, in both directions")
    func clientResets() async throws {
        try await OurServer.of(.ztunnel) { ours in
            #expect(try await ours.backendAborts().code == 10)
            let (ending, result) = try await ours.clientAborts(6, "reset 6 8")
            #expect(ending == .broken(104))
            #expect(result.failure?.code == .reset)
        }
    }

    @Test("ztunnel's profile, our server: refusals by status, and no second attempt")
    func clientIsRefused() async throws {
        try await OurServer.of(.ztunnel) { ours in
            try ours.peer.send("open 1 127.0.0.1:\(FreePort.next())")
            #expect(try await ours.peer.event("response", 1).status == 503)
            try await ours.server { $0.rejection = .denied("policy") }
            try ours.peer.send("open 2 127.0.0.1:1")
            #expect(try await ours.peer.event("response", 2).status == 403)
            #expect(try await ours.server { $0.requests.count } == 2)
        }
    }

    @Test("ztunnel's profile, our server: 100 tunnels on one connection, and our GOAWAY costs none")
    func clientInParallel() async throws {
        try await OurServer.of(.ztunnel) { try await $0.parallel(100, bytes: 10_000) }
        try await OurServer.of(.ztunnel) { ours in
            try await ours.drains()
            try await ours.peer.event("goaway") { $0.code == 0 }
        }
    }
}

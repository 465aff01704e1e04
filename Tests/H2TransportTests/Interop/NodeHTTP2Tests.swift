import H2Transport
import Streams
import TestPeers
import Testing

/// Node's `http2`, as server of our client and as client of our server.
@Suite(.timeLimit(.minutes(10)))
struct NodeHTTP2Tests {
    private static let bytes = 8_000_000

    // MARK: Node is the server

    @Test("our client, Node's server: bytes up, down and both ways, and true half-close")
    func server() async throws {
        try await OurClient.of(.node) { ours in
            try await ours.moves(Self.bytes)
            try await ours.serverEndsFirst(Self.bytes, then: .stillReads)
            let request = try await ours.peer.event("request")
            #expect(request.peer == "spiffe://mesh.example/ns/prod/sa/client")
            #expect(request.authority?.hasPrefix("127.0.0.1:") == true)
        }
    }

    @Test(
        "our client, Node's server: a reset is a reset, in both directions and after END_STREAM",
        arguments: ["", "close"]
    )
    func serverResets(_ mode: String) async throws {
        try await OurClient.of(.node, options: mode.isEmpty ? [] : [mode]) { ours in
            // destroy(error) is RST_STREAM(INTERNAL_ERROR); close(CONNECT_ERROR) is END_STREAM and
            // RST_STREAM(CONNECT_ERROR).
            let (ended, code) = try await ours.backendAborts()
            if mode.isEmpty {
                #expect(!ended)
                #expect(code == .reset)
            } else {
                // The end may have been read before the reset arrives; that makes the stream fail all the same.
                try await ours.user.until("the reset arrives") { $0.streams[0].failed }
                let late = try await ours.user { $0.streams[0].stream.failure?.code }
                #expect(late == .reset)
            }
            try await ours.weAbort()
            // CONNECT_ERROR for a reset, CANCEL for giving up.
            try await ours.peer.event("reset") { $0.code == 10 }
            try await ours.peer.event("reset") { $0.code == 8 }
        }
    }

    @Test("our client, Node's server: refusals by status")
    func serverRefuses() async throws {
        let nobody = "127.0.0.1:\(FreePort.next())"
        try await OurClient.of(.node) { ours in
            let failure = try await ours.refusal(nobody)
            #expect(failure.response?.status == 503)
            #expect(failure.error.code == .unreachable)
        }
        try await OurClient.of(.node, credential: .intruder) { ours in
            let failure = try await ours.refusal(nobody)
            #expect(failure.response?.status == 403)
            #expect(failure.error.code == .denied)
        }
    }

    @Test("our client, Node's server: 100 tunnels on one connection, then a second one")
    func serverLimit() async throws {
        try await OurClient.of(.node) { try await $0.limit(100) }
    }

    @Test("our client, Node's server: GOAWAY costs no stream")
    func serverDrains() async throws {
        try await OurClient.of(.node) { ours in
            try await ours.drains { try ours.peer.send("goaway") }
        }
    }

    // MARK: Node is the client

    @Test("Node's client, our server: bytes up, down and both ways, and true half-close")
    func client() async throws {
        try await OurServer.of(.node) { ours in
            #expect(try await ours.peer.event("connected").peer == "spiffe://mesh.example/ns/prod/sa/server")
            try await ours.moves(Self.bytes)
            try await ours.endsFirst(Self.bytes)
        }
    }

    @Test("Node's client, our server: a reset is a reset, in both directions")
    func clientResets() async throws {
        try await OurServer.of(.node) { ours in
            #expect(try await ours.backendAborts().code == 10)
            // RST_STREAM with nothing before it: the backend is reset.
            let (ending, result) = try await ours.clientAborts(6, "destroy 6")
            #expect(ending == .broken(104))
            #expect(result.failure?.code == .reset)
            // close(CANCEL) says END_STREAM first: what was sent is complete, and what comes back has no reader.
            let (after, _) = try await ours.clientAborts(7, "reset 7 8")
            #expect(after == .endOfStream)
        }
    }

    @Test("Node's client, our server: refusals by status")
    func clientIsRefused() async throws {
        try await OurServer.of(.node) { ours in
            try ours.peer.send("open 1 127.0.0.1:\(FreePort.next())")
            #expect(try await ours.peer.event("response", 1).status == 503)
            try await ours.server { $0.rejection = .denied("policy") }
            try ours.peer.send("open 2 127.0.0.1:1")
            #expect(try await ours.peer.event("response", 2).status == 403)
        }
    }

    @Test("Node's client, our server: 300 tunnels on one connection, and our GOAWAY costs none")
    func clientInParallel() async throws {
        try await OurServer.of(.node) { try await $0.parallel(300, bytes: 10_000) }
        try await OurServer.of(.node) { ours in
            try await ours.drains()
            try await ours.peer.event("goaway") { $0.code == 0 }
        }
    }
}

import H2Transport
import Streams
import TestPeers
import Testing

/// How a tunnel's ends and aborts map to frames (RFC 9113 §8.5), against exact frames from python-h2.
@Suite struct EndsOfStreamsTests {
    // MARK: As a client

    /// Opens stream 1 and answers 200.
    private func open(_ ours: OnLoop<PeerSide>, _ peer: FramePeer, readLimit: Int = .max) async throws {
        try await ours { $0.open(readLimit: readLimit) }
        try await peer.event("RequestReceived")
        try peer.send("headers 1 :status=200")
        try await ours.until("the tunnel opens") { $0.streams.count == 1 }
    }

    @Test("a request has :method and :authority and nothing else")
    func requestShape() async throws {
        try await withClient { ours, peer in
            try await ours { $0.open("db.prod:5432", headers: ["baggage": "k8s.cluster.name=lab"]) }
            let request = try await peer.event("RequestReceived")
            #expect(
                request.headers == [
                    [":method", "CONNECT"], [":authority", "db.prod:5432"], ["baggage", "k8s.cluster.name=lab"],
                ]
            )
            #expect(!request.ends)
        }
    }

    @Test("finish sends END_STREAM with the last bytes, and the other direction goes on")
    func clientFinishesFirst() async throws {
        try await withClient { ours, peer in
            try await open(ours, peer)
            try await ours { $0.streams[0].send("request", finish: true) }
            let data = try await peer.event("DataReceived")
            #expect(data.text == "request")
            #expect(data.ends)
            try peer.send("data 1 answer", "end 1")
            try await ours.until("the answer has been read") { $0.streams[0].readEnded }
            let seen1 = try await ours { $0.streams[0].text }
            #expect(seen1 == "answer")
            try await ours.until("HTTP/2 has forgotten the stream") { $0.connection.streamCount == 0 }
            #expect(peer.events.allSatisfy { $0.name != "StreamReset" })
        }
    }

    @Test("END_STREAM is the end for the reader, and the writer goes on")
    func serverFinishesFirst() async throws {
        try await withClient { ours, peer in
            try await open(ours, peer)
            try peer.send("data 1 all end")
            try await ours.until("the end has been read") { $0.streams[0].readEnded }
            try await ours { $0.streams[0].send("late", finish: true) }
            let data = try await peer.event("DataReceived")
            #expect(data.text == "late")
            #expect(data.ends)
            let seen2 = try await ours { $0.streams[0].text }
            #expect(seen2 == "all")
        }
    }

    @Test("a stream with no bytes at all ends cleanly both ways")
    func emptyStream() async throws {
        try await withClient { ours, peer in
            try await open(ours, peer)
            try await ours { $0.streams[0].send("", finish: true) }
            let data = try await peer.event("DataReceived")
            #expect(data["length"] == 0)
            #expect(data.ends)
            try peer.send("end 1")
            try await ours.until("the end has been read") { $0.streams[0].readEnded }
            let seen3 = try await ours { $0.streams[0].failed }
            #expect(seen3 == false)
        }
    }

    @Test("RST_STREAM without END_STREAM is a reset, whatever its code", arguments: [0, 8, 10, 2])
    func resetInTheMiddle(_ code: Int) async throws {
        try await withClient { ours, peer in
            try await open(ours, peer)
            try peer.send("data 1 some")
            try await ours.until("the bytes have been read") { $0.streams[0].text == "some" }
            try peer.send("reset 1 \(code)")
            try await ours.until("the stream fails") { $0.streams[0].failed }
            let seen4 = try await ours { $0.streams[0].stream.failure?.code }
            #expect(seen4 == .reset)
            let seen5 = try await ours { $0.streams[0].readEnded }
            #expect(seen5 == false)
        }
    }

    @Test("END_STREAM, then RST_STREAM(NO_ERROR or CANCEL): a clean end, and EPIPE for the writer", arguments: [0, 8])
    func stoppedAfterEnd(_ code: Int) async throws {
        try await withClient { ours, peer in
            try await open(ours, peer, readLimit: 3)
            try peer.send("data 1 answer", "end 1", "reset 1 \(code)")
            try await peer.done("reset 1 \(code)")
            // Not read to its end yet when the reset arrives: nothing of it may be lost.
            try await ours.until("HTTP/2 has forgotten the stream") { $0.connection.streamCount == 0 }
            let seen6 = try await ours { $0.streams[0].failed }
            #expect(seen6 == false)
            try await ours {
                $0.streams[0].readLimit = .max
                $0.streams[0].resume()
            }
            let seen7 = try await ours { $0.streams[0].text }
            #expect(seen7 == "answer")
            let seen8 = try await ours { $0.streams[0].readEnded }
            #expect(seen8 == true)
            try await ours { $0.streams[0].send("late") }
            let seen9 = try await ours { $0.streams[0].writeFailed }
            #expect(seen9 == true)
            let seen10 = try await ours { $0.streams[0].stream.failure?.code }
            #expect(seen10 == .closed)
        }
    }

    @Test("END_STREAM, then RST_STREAM(CONNECT_ERROR): the connection behind was reset")
    func connectErrorAfterEnd() async throws {
        try await withClient { ours, peer in
            try await open(ours, peer, readLimit: 3)
            try peer.send("data 1 answer", "end 1", "reset 1 10")
            try await ours.until("the stream fails") { $0.streams[0].failed }
            let seen11 = try await ours { $0.streams[0].stream.failure?.code }
            #expect(seen11 == .reset)
        }
    }

    @Test("our abort is RST_STREAM(CONNECT_ERROR); giving up is CANCEL")
    func ourResets() async throws {
        for (reason, code) in [(StreamError.Code.reset, 10), (.timedOut, 10), (.closed, 8), (.limit, 11)] {
            try await withClient { ours, peer in
                try await open(ours, peer)
                try await ours { $0.streams[0].stream.reset(StreamError(reason, "test")) }
                let reset = try await peer.event("StreamReset")
                #expect(reset["error_code"] == code, "for \(reason)")
            }
        }
    }

    @Test("close before the end is an abort")
    func closeIsAnAbort() async throws {
        try await withClient { ours, peer in
            try await open(ours, peer)
            try await ours { $0.streams[0].stream.close() }
            #expect(try await peer.event("StreamReset")["error_code"] == 8)
        }
    }

    @Test("finish and close: what was accepted is delivered, then the peer is stopped")
    func closeAfterFinish() async throws {
        try await withClient { ours, peer in
            try await open(ours, peer)
            try await ours {
                $0.streams[0].send(100_000, finish: true)
                $0.streams[0].stream.close()
            }
            try await peer.event("DataReceived") { $0.ends == false }
            try peer.send("credit 1 100000")
            try await peer.event("DataReceived") { $0.ends }
            #expect(peer.received(on: 1) == 100_000)
            #expect(try await peer.event("StreamReset")["error_code"] == 8)
        }
    }

    @Test("a connection that is lost fails its streams, and never looks like an end", arguments: ["half", "abort"])
    func connectionLost(_ how: String) async throws {
        try await withClient { ours, peer in
            try await open(ours, peer)
            try peer.send("data 1 some")
            try await ours.until("the bytes have been read") { $0.streams[0].text == "some" }
            try peer.send(how)
            try await ours.until("the stream fails") { $0.streams[0].failed }
            let seen12 = try await ours { $0.streams[0].readEnded }
            #expect(seen12 == false)
            let code = try await ours { $0.streams[0].stream.failure?.code }
            #expect(code == (how == "half" ? .truncated : .reset))
            try await ours.until("the delegate is told") { $0.log.isClosed }
            let seen13 = try await ours { $0.log.failure?.code }
            #expect(seen13 == code)
        }
    }

    // MARK: As a server

    /// Asks for stream 1 and accepts it.
    private func accept(_ ours: OnLoop<PeerSide>, _ peer: FramePeer) async throws {
        try peer.send("headers 1 :method=CONNECT :authority=10.0.0.1:80")
        try await ours.until("the request arrives") { $0.log.requests.count == 1 }
        try await ours { side in
            if let stream = side.log.requests.removeFirst().accept() { side.streams.append(StreamEnd(stream)) }
        }
        try await peer.event("ResponseReceived")
    }

    @Test("a server speaks first, ends first, and still reads")
    func serverSpeaksFirst() async throws {
        try await withServer { ours, peer in
            try await accept(ours, peer)
            try await ours { $0.streams[0].send("banner", finish: true) }
            let data = try await peer.event("DataReceived")
            #expect(data.text == "banner")
            #expect(data.ends)
            // Not stopped by RST_STREAM, as Envoy and Go would: true half-close.
            try peer.send("data 1 late end")
            try await ours.until("the late bytes are read") { $0.streams[0].readEnded }
            let seen14 = try await ours { $0.streams[0].text }
            #expect(seen14 == "late")
            #expect(peer.events.allSatisfy { $0.name != "StreamReset" })
        }
    }

    @Test("finish and close by a server stops the client with NO_ERROR")
    func serverCloses() async throws {
        try await withServer { ours, peer in
            try await accept(ours, peer)
            try await ours {
                $0.streams[0].send("bye", finish: true)
                $0.streams[0].stream.close()
            }
            try await peer.event("DataReceived") { $0.ends }
            #expect(try await peer.event("StreamReset")["error_code"] == 0)
        }
    }

    @Test("the client's reset fails the stream")
    func clientResets() async throws {
        try await withServer { ours, peer in
            try await accept(ours, peer)
            try peer.send("data 1 some", "reset 1 8")
            try await ours.until("the stream fails") { $0.streams[0].failed }
            let seen15 = try await ours { $0.streams[0].stream.failure?.code }
            #expect(seen15 == .reset)
        }
    }
}

import Platform
import Streams
import TestPeers
import Testing

@testable import H2Transport

/// Requests that are no tunnel, on the same session: any method, a body before the answer, any status, trailers.
@Suite struct ExchangeTests {
    private func open(_ ours: OnLoop<PeerSide>, _ body: String) async throws {
        try await ours { side in
            let head = RequestHead(
                "PUT",
                scheme: "https",
                authority: "api.example",
                path: "/v1/item",
                fields: ["te": "trailers"]
            )
            let stream = side.connection.openExchange(head) { result in
                if case .failure(let failure) = result { side.failures.append(failure) }
            }
            let end = StreamEnd(try #require(stream))
            end.send(body, finish: true)
            side.streams.append(end)
        }
    }

    private func answer(_ ours: OnLoop<PeerSide>) async throws -> (status: Int?, body: String, end: String?) {
        try await ours.until("the answer has ended") { $0.streams[0].readEnded }
        return try await ours { side in
            let stream = side.streams[0].stream as? H2Stream
            return (stream?.response?.status, side.streams[0].text, stream?.trailers?.fields["x-end"])
        }
    }

    @Test("the body does not wait for the answer, whose status is no failure")
    func bodyFirst() async throws {
        try await withClient { ours, peer in
            try await open(ours, "seven bytes and more")
            let request = try await peer.event("RequestReceived")
            #expect(
                request.headers.prefix(4) == [
                    [":method", "PUT"], [":scheme", "https"], [":path", "/v1/item"], [":authority", "api.example"],
                ]
            )
            try await peer.event("StreamEnded")
            #expect(peer.received(on: 1) == 20)
            try peer.send("headers 1 :status=404", "data 1 nothing", "headers 1 end x-end=1")
            #expect(try await answer(ours) == (404, "nothing", "1"))
            #expect(try await ours { $0.failures.isEmpty })
            try await ours.until("HTTP/2 has forgotten the stream") { $0.connection.streamCount == 0 }
        }
    }

    @Test("head, body and trailers that come at once are kept apart")
    func oneWrite() async throws {
        try await withClient { ours, peer in
            try await open(ours, "")
            try await peer.event("RequestReceived")
            // :status 200; "hi"; x-end: 1, with END_STREAM.
            try peer.send(
                "raw 00000101040000000188" + "0000020000000000016869" + "000009010500000001" + "0005782d656e640131"
            )
            #expect(try await answer(ours) == (200, "hi", "1"))
        }
    }

    @Test("trailers of a tunnel that come with its answer do not hide it, and are no clean end")
    func tunnelWithTrailers() async throws {
        try await withClient { ours, peer in
            try await ours { $0.open() }
            try await peer.event("RequestReceived")
            try peer.send(
                "raw 00000101040000000188" + "0000020000000000016869" + "000009010500000001" + "0005782d656e640131"
            )
            try await ours.until("the tunnel opens and fails") { $0.streams.first?.failed == true }
            let (text, ended) = try await ours { ($0.streams[0].text, $0.streams[0].readEnded) }
            #expect(text == "hi")
            #expect(!ended)
            #expect(try await peer.event("StreamReset")["error_code"] == 1)
        }
    }

    @Test("a request that is reset before its answer fails, with a body as without")
    func reset() async throws {
        try await withClient { ours, peer in
            try await open(ours, "body")
            try await peer.event("StreamEnded")
            try peer.send("reset 1 7")
            try await ours.until("the request fails") { $0.failures.count == 1 }
            let failure = try await ours { $0.failures[0] }
            #expect(failure.isRetryable && failure.error.code == .draining)
        }
    }
}

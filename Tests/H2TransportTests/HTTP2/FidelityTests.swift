import Streams
import TestPeers
import Testing

@testable import H2Transport

/// A tunnel does to bytes what a TCP connection does: as a server, where EndsOfStreamsTests looks at the client; and
/// what is held, dropped, or put together. Against exact frames from python-h2.
@Suite struct FidelityTests {
    private func accept(
        _ ours: OnLoop<PeerSide>,
        _ peer: FramePeer,
        stream: Int = 1,
        readLimit: Int = .max
    ) async throws {
        try peer.send("headers \(stream) :method=CONNECT :authority=10.0.0.1:80")
        try await ours.until("the request arrives") { $0.log.requests.count == 1 }
        try await ours { side in
            if let stream = side.log.requests.removeFirst().accept() {
                side.streams.append(StreamEnd(stream, readLimit: readLimit))
            }
        }
        try await peer.event("ResponseReceived") { $0["stream_id"] == stream }
    }

    // MARK: Ends

    @Test(
        "a client's END_STREAM, then RST_STREAM(NO_ERROR or CANCEL): a clean end, and EPIPE for the writer",
        arguments: [0, 8]
    )
    func stoppedAfterEnd(_ code: Int) async throws {
        try await withServer { ours, peer in
            try await accept(ours, peer, readLimit: 3)
            try peer.send("data 1 request", "end 1", "reset 1 \(code)")
            try await ours.until("HTTP/2 has forgotten the stream") { $0.connection.streamCount == 0 }
            try await ours {
                $0.streams[0].readLimit = .max
                $0.streams[0].resume()
                $0.streams[0].send("answer")
            }
            let (text, ended, failed, refused) = try await ours {
                ($0.streams[0].text, $0.streams[0].readEnded, $0.streams[0].failed, $0.streams[0].writeFailed)
            }
            #expect(text == "request")
            #expect(ended && !failed && refused)
        }
    }

    @Test(
        "a client's END_STREAM, then any other reset: it was cut off, and what was sent so far is no whole",
        arguments: [10, 2]
    )
    func cutAfterEnd(_ code: Int) async throws {
        try await withServer { ours, peer in
            try await accept(ours, peer, readLimit: 3)
            try peer.send("data 1 request", "end 1", "reset 1 \(code)")
            try await ours.until("the stream fails") { $0.streams[0].failed }
            let (ended, reason) = try await ours { ($0.streams[0].readEnded, $0.streams[0].stream.failure?.code) }
            #expect(!ended)
            #expect(reason == .reset)
        }
    }

    @Test("a client that is lost never looks like one that ended", arguments: ["half", "abort"])
    func clientLost(_ how: String) async throws {
        try await withServer { ours, peer in
            try await accept(ours, peer)
            try peer.send("data 1 some", how)
            try await ours.until("the stream fails") { $0.streams[0].failed }
            let (ended, reason) = try await ours { ($0.streams[0].readEnded, $0.streams[0].stream.failure?.code) }
            #expect(!ended)
            #expect(reason == (how == "half" ? .truncated : .reset))
        }
    }

    @Test("a connection that is lost in the middle of a DATA frame delivers no end, though the frame says END_STREAM")
    func cutInAFrame() async throws {
        try await withServer { ours, peer in
            try await accept(ours, peer)
            // DATA, END_STREAM, ten bytes announced and four sent.
            try peer.send("raw 00000a000100000001" + "61626364", "half")
            try await ours.until("the stream fails") { $0.streams[0].failed }
            let (ended, reason) = try await ours { ($0.streams[0].readEnded, $0.streams[0].stream.failure?.code) }
            #expect(!ended)
            #expect(reason == .truncated)
        }
    }

    @Test("a stream without a byte ends cleanly in both directions, whoever begins", arguments: [true, false])
    func emptyStream(_ clientFirst: Bool) async throws {
        try await withServer { ours, peer in
            try await accept(ours, peer)
            if clientFirst {
                try peer.send("end 1")
                try await ours.until("the end is read") { $0.streams[0].readEnded }
                try await ours { $0.streams[0].send("", finish: true) }
            } else {
                try await ours { $0.streams[0].send("", finish: true) }
                try await peer.event("DataReceived") { $0.ends }
                try peer.send("end 1")
            }
            try await ours.until("HTTP/2 has forgotten the stream") { $0.connection.streamCount == 0 }
            try await peer.roundTrip()
            let data = peer.events.filter { $0.name == "DataReceived" }
            #expect(data.map { $0["length"] } == [0])
            #expect(data.allSatisfy { $0.ends })
            #expect(peer.events.allSatisfy { $0.name != "StreamReset" })
            let (count, failed) = try await ours { ($0.streams[0].receivedCount, $0.streams[0].failed) }
            #expect(count == 0 && !failed)
        }
    }

    // MARK: Early data

    @Test("early data is dropped with a request that policy or the dial refuses, and costs the others no window")
    func earlyDataDropped() async throws {
        var configuration = H2Configuration.defaults
        configuration.windows.stream = 100_000
        configuration.windows.connection = 150_000
        configuration.limits.queuedBytes = 150_000
        try await withServer(configuration) { ours, peer in
            let rejections = [ConnectRejection.denied("policy"), ConnectRejection(StreamError(.refused, "no backend"))]
            for (index, id) in [1, 3, 5, 7].enumerated() {
                try peer.send("headers \(id) :method=CONNECT :authority=10.0.0.1:80", "fill \(id) 200000")
                // One window of it, and no more until the answer.
                #expect(try await peer.event("filled") { $0["stream"] == id }["count"] == 100_000)
                try await ours.until("it is held") { $0.connection.queuedBytes == 100_000 }
                try await ours { $0.log.requests.removeFirst().reject(rejections[index % 2]) }
                let response = try await peer.event("ResponseReceived") { $0["stream_id"] == id }
                #expect(response.headers[0] == [":status", index % 2 == 0 ? "403" : "503"])
                let held = try await ours { $0.connection.queuedBytes }
                #expect(held == 0)
            }
            try await accept(ours, peer, stream: 9)
            try peer.send("fill 9 100000 end")
            try await ours.until("another stream is read to its end") { $0.streams[0].readEnded }
            let received = try await ours { $0.streams[0].receivedCount }
            #expect(received == 100_000)
        }
    }

    /// What becomes of bytes that are held.
    enum Release: String, CaseIterable, Sendable { case peerResets, ownerCloses, readersCatchUp }

    @Test(
        "credit that was withheld comes back when what was held is gone, however little of it each stream held",
        arguments: Release.allCases
    )
    func withheldCredit(_ release: Release) async throws {
        var configuration = H2Configuration.defaults
        configuration.windows.stream = 100_000
        configuration.windows.connection = 150_000
        configuration.limits.queuedBytes = 150_000
        try await withServer(configuration) { ours, peer in
            // Less than half of a stream's window in each: no stream has credit of its own to return.
            let streams = [1, 3, 5, 7, 9, 11]
            for (index, id) in streams.enumerated() {
                try await accept(ours, peer, stream: id, readLimit: 0)
                try peer.send("fill \(id) 49000")
                try await ours.until("the bytes are held") { $0.connection.queuedBytes == 49_000 * (index + 1) }
            }
            let stalls = try await ours { $0.connection.counters.windowStalls }
            #expect(stalls == 1)
            switch release {
            case .peerResets:
                for id in streams { try peer.send("reset \(id) 8") }
            case .ownerCloses:
                try await ours { side in for end in side.streams { end.stream.close() } }
            case .readersCatchUp:
                try await ours { side in
                    for end in side.streams {
                        end.readLimit = .max
                        end.resume()
                    }
                }
            }
            try await ours.until("nothing is held") { $0.connection.queuedBytes == 0 }
            try await accept(ours, peer, stream: 13)
            try await peer.roundTrip()
            try peer.send("fill 13 100000 end")
            #expect(try await peer.event("filled") { $0["stream"] == 13 }["count"] == 100_000)
            try await ours.until("another stream is read to its end") { $0.streams[6].readEnded }
            let received = try await ours { $0.streams[6].receivedCount }
            #expect(received == 100_000)
        }
    }

    // MARK: Frames

    @Test("while the peer's window is closed, tiny writes are put together; writes of nothing send nothing")
    func tinyWrites() async throws {
        try await withServer(settings: ["INITIAL_WINDOW_SIZE=0"]) { ours, peer in
            try await accept(ours, peer)
            for round in 0..<100 {
                // Each in a turn of its own.
                try await ours { side in
                    side.streams[0].send([UInt8(ascii: "a") + UInt8(round % 26)])
                    _ = side.streams[0].stream.write(UnsafeRawBufferPointer(start: nil, count: 0))
                }
            }
            try await peer.roundTrip()
            #expect(peer.events.allSatisfy { $0.name != "DataReceived" })
            try peer.send("credit 1 60000")
            try await eventually("the bytes arrive") { peer.received(on: 1) == 100 }
            #expect(peer.events.filter { $0.name == "DataReceived" }.compactMap { $0["length"] } == [100])
            try await ours { $0.streams[0].send("", finish: true) }
            try await peer.event("DataReceived") { $0.ends }
            #expect(peer.events.filter { $0.name == "DataReceived" && $0["length"] == 0 }.count == 1)
        }
    }

    // MARK: Counters

    /// Claims to push a hundred times a gibibyte, and then that it has ended.
    private final class Torrent: ByteStream {
        static let piece = 1 << 30
        override var peerDescription: String { "a torrent" }

        override func push(to sink: ByteStream, for pump: Pump) -> Bool {
            for _ in 0..<100 { pump.moved(Self.piece) }
            sink.finish()
            pump.sourceEnded()
            return true
        }

        override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult { .end }
        override func finish() {}
        override func close() {}
        override func reset(_ reason: StreamError) {}
    }

    @Test("what counts bytes counts beyond 100 GiB (no such amount is moved here)")
    func counters() async throws {
        let total = UInt64(100) << 30
        try await withLoop { loop in
            let result =
                try await withCheckedThrowingContinuation { continuation in
                    loop.submit {
                        Relay(Torrent(loop: loop), Torrent(loop: loop)) { continuation.resume(returning: $0) }.start()
                    }
                } as RelayResult
            #expect(result.bytesForward == total)
            #expect(result.bytesBackward == total)
            #expect(result.failure == nil)
        }
        let counts: [WritableKeyPath<H2ConnectionCounters, UInt64>] = [\.bytesReceived, \.bytesSent]
        for count in counts {
            var counters = H2ConnectionCounters()
            counters[keyPath: count] = total
            counters[keyPath: count] += total
            #expect(counters[keyPath: count] == total * 2)
        }
    }
}

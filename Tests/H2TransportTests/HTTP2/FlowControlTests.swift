import Streams
import TestPeers
import Testing

@testable import H2Transport

/// Back-pressure: nobody sends more than is read.
@Suite struct FlowControlTests {
    private func accept(_ ours: OnLoop<PeerSide>, _ peer: FramePeer, readLimit: Int = .max) async throws {
        try peer.send("headers 1 :method=CONNECT :authority=10.0.0.1:80")
        try await ours.until("the request arrives") { $0.log.requests.count == 1 }
        try await ours { side in
            if let stream = side.log.requests.removeFirst().accept() {
                side.streams.append(StreamEnd(stream, readLimit: readLimit))
            }
        }
        try await peer.event("ResponseReceived")
    }

    @Test("a reader that does not read costs at most its window, and none is credited")
    func slowReader() async throws {
        var configuration = H2Configuration.defaults
        configuration.windows.stream = 100_000
        configuration.windows.connection = 1_000_000
        try await withServer(configuration) { ours, peer in
            try await accept(ours, peer, readLimit: 10_000)
            // In two batches: the first is partly read, the second meets a queue.
            try peer.send("fill 1 40000")
            try await ours.until("the first batch is queued") { $0.connection.queuedBytes == 30_000 }
            try peer.send("fill 1 500000")
            #expect(try await peer.event("filled") { $0["count"] != 40_000 }["count"] == 60_000)
            try await ours.until("the window is queued") { $0.connection.queuedBytes == 90_000 }
            try await peer.roundTrip("first   ".replacing(" ", with: "x"))
            #expect(peer.events.allSatisfy { $0.name != "WindowUpdated" || $0["stream_id"] != 1 })
            // Read all of it: half a window at least is credited again.
            try await ours {
                $0.streams[0].readLimit = .max
                $0.streams[0].resume()
            }
            let credit = try await peer.event("WindowUpdated") { $0["stream_id"] == 1 }
            #expect((50_000...100_000).contains(credit["delta"] ?? 0))
            let queued = try await ours { $0.connection.queuedBytes }
            #expect(queued == 0)
        }
    }

    @Test("the connection window is replenished although one reader does not read")
    func othersGoOn() async throws {
        var configuration = H2Configuration.defaults
        configuration.windows.stream = 100_000
        configuration.windows.connection = 150_000
        try await withServer(configuration) { ours, peer in
            try await accept(ours, peer, readLimit: 0)
            try peer.send("fill 1 100000", "headers 3 :method=CONNECT :authority=10.0.0.1:80")
            try await ours.until("the second request arrives") { $0.log.requests.count == 1 }
            try await ours { side in
                if let stream = side.log.requests.removeFirst().accept() { side.streams.append(StreamEnd(stream)) }
            }
            try await peer.event("WindowUpdated") { $0["stream_id"] == 0 && ($0["delta"] ?? 0) > 70_000 }
            try peer.send("fill 3 100000 end")
            try await ours.until("the second stream is read to its end") { $0.streams[1].readEnded }
            let received = try await ours { $0.streams[1].receivedCount }
            #expect(received == 100_000)
        }
    }

    @Test("over the limit of queued bytes the connection window is withheld, until readers catch up")
    func queuedBytesLimit() async throws {
        var configuration = H2Configuration.defaults
        configuration.windows.stream = 100_000
        configuration.windows.connection = 150_000
        configuration.limits.queuedBytes = 150_000
        configuration.limits.overloadGrace = .seconds(3600)
        try await withServer(configuration) { ours, peer in
            for (index, id) in [1, 3, 5].enumerated() {
                try peer.send("headers \(id) :method=CONNECT :authority=10.0.0.1:80")
                try await ours.until("a request arrives") { $0.log.requests.count == 1 }
                try await ours { side in
                    if let stream = side.log.requests.removeFirst().accept() {
                        side.streams.append(StreamEnd(stream, readLimit: 0))
                    }
                }
                try await peer.event("ResponseReceived") { $0["stream_id"] == id }
                try peer.send("fill \(id) 100000")
                try await peer.event("filled") { $0["stream"] == id }
                try await peer.roundTrip("round00\(index)")
            }
            let (queued, stalls) = try await ours { ($0.connection.queuedBytes, $0.connection.counters.windowStalls) }
            #expect(queued > 150_000 && queued <= 300_000)
            #expect(stalls == 1)
            try await ours { side in
                for end in side.streams {
                    end.readLimit = .max
                    end.resume()
                }
            }
            // The credit has arrived when this is answered; `fill` sends only what the windows allow at once.
            try await peer.roundTrip("caughtup")
            for id in [1, 3, 5] {
                let missing = 100_000 - (peer.events.first { $0.name == "filled" && $0["stream"] == id }?["count"] ?? 0)
                if missing > 0 { try peer.send("fill \(id) \(missing)") }
            }
            try await ours.until("everything is read") { side in
                side.streams.allSatisfy { $0.receivedCount == 100_000 }
            }
        }
    }

    @Test("a sender stops at the peer's window, holds one queue, and goes on with credit")
    func slowPeer() async throws {
        try await withServer(settings: ["INITIAL_WINDOW_SIZE=65535"]) { ours, peer in
            try await accept(ours, peer)
            try await ours { $0.streams[0].send(1_000_000) }
            try await eventually("the window is used up") { peer.received(on: 1) == 65535 }
            try await ours.until("the writer waits") { $0.streams[0].writeBlocked }
            try await peer.roundTrip()
            #expect(peer.received(on: 1) == 65535)
            let written = try await ours { $0.streams[0].written }
            #expect(written <= 65535 + H2Configuration.defaults.sendQueue)
            try peer.send("credit 1 2000000")
            try await peer.event("DataReceived") { $0.ends }
            #expect(peer.received(on: 1) == 1_000_000)
        }
    }

    @Test("frames are as large as the peer allows, up to 64 KiB", arguments: [16384, 65536, 1_048_576])
    func frameSizes(_ allowed: Int) async throws {
        let settings = ["MAX_FRAME_SIZE=\(allowed)", "INITIAL_WINDOW_SIZE=4194304"]
        try await withServer(settings: settings) { ours, peer in
            try await accept(ours, peer)
            try peer.send("credit 1 4000000")
            try await ours { $0.streams[0].send(3_000_000) }
            try await peer.event("DataReceived") { $0.ends }
            let lengths = peer.events.filter { $0.name == "DataReceived" }.compactMap { $0["length"] }
            #expect(lengths.max() == min(allowed, 65536))
            #expect(lengths.allSatisfy { $0 > 0 })
        }
    }

    @Test("no stream is starved: streams that send share the connection, and one that was idle goes first")
    func fairness() async throws {
        try await withServer(settings: ["MAX_FRAME_SIZE=65536", "INITIAL_WINDOW_SIZE=4194304"]) { ours, peer in
            for id in [1, 3, 5] {
                try peer.send("headers \(id) :method=CONNECT :authority=10.0.0.1:80")
                try await ours.until("a request arrives") { $0.log.requests.count == 1 }
                try await ours { side in
                    if let stream = side.log.requests.removeFirst().accept() { side.streams.append(StreamEnd(stream)) }
                }
            }
            try await peer.event("ResponseReceived") { $0["stream_id"] == 5 }
            try peer.send("credit 1 4000000", "credit 3 4000000", "credit 5 4000000")
            try await peer.roundTrip()
            try await ours { side in
                side.streams[0].send(2_000_000, finish: false)
                side.streams[1].send(2_000_000, finish: false)
                side.streams[2].send("key")
            }
            try await eventually("everything arrives") { peer.received(on: 1) + peer.received(on: 3) == 4_000_000 }
            let order = peer.events.filter { $0.name == "DataReceived" }.compactMap { $0["stream_id"] }
            // All three became ready together; the third comes after one quantum of the others.
            #expect((order.firstIndex(of: 5) ?? .max) <= 4)
            // And the two take turns: neither gets more than four frames in a row while the other has more to send.
            let ends = [order.lastIndex(of: 1) ?? 0, order.lastIndex(of: 3) ?? 0].min() ?? 0
            var run = 0
            var longest = 0
            for index in 1..<ends {
                run = order[index] == order[index - 1] ? run + 1 : 0
                longest = max(longest, run)
            }
            #expect(longest <= 4)
        }
    }

    @Test("settings announce windows, frame size and limits")
    func announcedSettings() async throws {
        try await withServer { _, peer in
            let settings = try await peer.event("RemoteSettingsChanged").settings
            // INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE, MAX_CONCURRENT_STREAMS, NO_RFC7540_PRIORITIES.
            #expect(settings["4"] == 1 << 20)
            #expect(settings["5"] == 65536)
            #expect(settings["6"] == 16384)
            #expect(settings["3"] == 1024)
            #expect(settings["9"] == 1)
            let update = try await peer.event("WindowUpdated")
            #expect(update["stream_id"] == 0)
            #expect(update["delta"] == (16 << 20) - 65535)
        }
        try await withClient { _, peer in
            let settings = try await peer.event("RemoteSettingsChanged").settings
            #expect(settings["2"] == 0)
        }
    }

    @Test("the settings of a ztunnel are answered in kind (an emulation: its SETTINGS, not its code)")
    func ztunnelProfile() async throws {
        let settings = [
            "ENABLE_PUSH=0", "INITIAL_WINDOW_SIZE=4194304", "MAX_FRAME_SIZE=1048576", "MAX_HEADER_LIST_SIZE=16384",
        ]
        try await withServer(settings: settings) { ours, peer in
            try peer.send(
                "headers 1 :method=CONNECT :authority=10.0.0.1:80"
                    + " baggage=k8s.cluster.name=Kubernetes,k8s.namespace.name=default"
                    + " forwarded=for=\"10.1.1.1\" traceparent=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
            )
            try await ours.until("the request arrives") { $0.log.requests.count == 1 }
            let request = try await ours { $0.log.requests[0].request }
            #expect(request.baggage == "k8s.cluster.name=Kubernetes,k8s.namespace.name=default")
            #expect(request.forwarded == "for=\"10.1.1.1\"")
            #expect(request.traceparent?.count == 55)
            try await ours { side in
                let baggage: HeaderFields = ["baggage": "service.name=ours"]
                if let stream = side.log.requests.removeFirst().accept(headers: baggage) {
                    side.streams.append(StreamEnd(stream))
                    side.streams[0].send(300_000)
                }
            }
            let response = try await peer.event("ResponseReceived")
            #expect(response.headers == [[":status", "200"], ["baggage", "service.name=ours"]])
            try peer.send("credit 1 300000")
            try await peer.event("DataReceived") { $0.ends }
        }
    }
}

import H2Transport
import Streams
import TestPeers
import Testing

/// Our server and a client that is not ours, with what our server must do for every such client.
struct OurServer: Sendable {
    let server: OnLoop<RelayingServer>
    let peer: InteropPeer

    static func of(
        _ program: InteropPeer.Program,
        credential: TestCertificates.Kind = .client,
        options: [String] = [],
        _ body: (OurServer) async throws -> Void
    ) async throws {
        try await withLoop { loop in
            let server = try await OnLoop(loop) { try RelayingServer(on: loop) }
            let port = try await server { $0.port }
            let peer = try await InteropPeer.client(program, port: port, credential: credential, options: options)
            try await body(OurServer(server: server, peer: peer))
            await peer.stop()
            try await server { $0.close() }
        }
    }

    func open(_ stream: Int, _ authority: String) async throws {
        try peer.send("open \(stream) \(authority)")
        let status = try await peer.event("response", stream).status
        #expect(status == 200)
    }

    // MARK: Bytes

    /// Up, with the client's end first; both ways at once; and no bytes at all. Takes streams 1…3.
    func moves(_ bytes: Int) async throws {
        let (sink, echo) = (try SinkServer(), try EchoServer())
        try await open(1, sink.authority)
        try peer.send("send 1 \(bytes)", "end 1")
        let transfer = try await sink.transfers(1)[0]
        let up = try await peer.event("sent", 1)
        #expect(transfer.received == bytes)
        #expect(transfer.checksum == up.sha256)
        #expect(transfer.ending == .endOfStream)
        let answer = Array("\(transfer.checksum) \(bytes)\n".utf8)
        let ended = try await peer.event("ended", 1)
        #expect(ended.count == answer.count)
        #expect(ended.sha256 == Checksum.of(answer))

        try await open(2, echo.authority)
        try peer.send("send 2 \(bytes)", "end 2")
        let back = try await peer.event("ended", 2)
        #expect(back.count == bytes)
        #expect(try await back.sha256 == peer.event("sent", 2).sha256)

        try await open(3, echo.authority)
        try peer.send("end 3")
        #expect(try await peer.event("ended", 3).count == 0)
        #expect(try await echo.transfers(2).allSatisfy { $0.ending == .endOfStream })
        let failures = try await results(3).map(\.failure)
        #expect(failures == [nil, nil, nil])
        sink.close()
        echo.close()
    }

    /// Down, with our end first; what the client sends after that still arrives. Takes stream 4.
    func endsFirst(_ bytes: Int) async throws {
        let source = try SourceServer(count: bytes)
        try await open(4, source.authority)
        let down = try await peer.event("ended", 4)
        #expect(down.count == bytes)
        #expect(down.sha256 == Pattern.checksum(bytes))
        try peer.send("send 4 1000", "end 4")
        let transfer = try await source.transfers(1)[0]
        #expect(transfer.received == 1000)
        #expect(transfer.ending == .endOfStream)
        source.close()
    }

    // MARK: Aborts

    /// The backend's RST: what the client is told. Takes stream 5.
    func backendAborts() async throws -> InteropPeer.Event {
        let backend = try await OnLoop(server.loop) { [loop = server.loop] in try AbortingServer(on: loop) }
        let port = try await backend { $0.port }
        try await open(5, "127.0.0.1:\(port)")
        try peer.send("send 5 5")
        try await backend.until("the bytes arrive") { $0.reads == 5 }
        try await backend { $0.abort() }
        let reset = try await peer.event("reset", 5)
        try await backend { $0.close() }
        return reset
    }

    /// The client's abort, made by `command`: how the backend sees it, and how our relay ended.
    func clientAborts(_ stream: Int, _ command: String) async throws -> (Transfer.Ending, RelayResult) {
        let echo = try EchoServer()
        let before = try await server { $0.results.count }
        try await open(stream, echo.authority)
        try peer.send("send \(stream) 5")
        try await eventually("the bytes arrive") { echo.open == 1 }
        try peer.send(command)
        let ending = try await echo.transfers(1)[0].ending
        let result = try await results(before + 1)[before]
        echo.close()
        return (ending, result)
    }

    // MARK: Connections

    /// That many tunnels at once on one connection.
    func parallel(_ count: Int, bytes: Int) async throws {
        let echo = try EchoServer()
        for stream in 1...count { try peer.send("open \(stream) \(echo.authority)") }
        for stream in 1...count { try peer.send("send \(stream) \(bytes)") }
        try await eventually("all tunnels are open") {
            if let failed = peer.events.first(where: { $0.event == "reset" }) { throw DeadlineExceeded("\(failed)") }
            return echo.open == count
        }
        #expect(try await server { $0.server?.connectionCount } == 1)
        for stream in 1...count { try peer.send("end \(stream)") }
        let transfers = try await echo.transfers(count)
        #expect(transfers.allSatisfy { $0.received == bytes && $0.ending == .endOfStream })
        try await eventually("all echoes are back") {
            peer.events.filter { $0.event == "ended" && $0.count == bytes }.count == count
        }
        #expect(peer.events.allSatisfy { $0.event != "reset" })
        echo.close()
    }

    /// Our GOAWAY: the open stream lives on.
    func drains() async throws {
        let echo = try EchoServer()
        try await open(1, echo.authority)
        try await server { server in server.server?.forEachConnection { $0.drain(deadline: .seconds(60)) } }
        try peer.send("send 1 300000", "end 1")
        let ended = try await peer.event("ended", 1)
        #expect(ended.count == 300_000)
        #expect(try await ended.sha256 == peer.event("sent", 1).sha256)
        try await server.until("the connection ends with its stream") { $0.server?.connectionCount == 0 }
        echo.close()
    }

    private func results(_ count: Int) async throws -> [RelayResult] {
        try await server.until("\(count) relays are done") { $0.results.count >= count }
        return try await server { $0.results }
    }
}

import Foundation
import H2Transport
import MeshIdentity
import Streams
import TestPeers
import Testing

/// nghttpx between our client and our server: a hop on nghttp2 that sees each CONNECT.
///
/// It carries bytes, the server's end and the client's reset; the client's end it keeps to itself, so that nothing that
/// waits for one works through it, and a backend's reset it passes on as an end.
@Suite(.timeLimit(.minutes(10)))
struct NghttpxTests {
    private static let bytes = 8_000_000

    private func withNghttpx(_ body: (OnLoop<PoolUser>, OnLoop<RelayingServer>) async throws -> Void) async throws {
        let nghttpx = InteropProxy(
            name: "nghttpx",
            program: "/usr/sbin/nghttpx",
            configuration: "nghttpx/nghttpx.conf",
            arguments: { ["--conf=\($0)"] }
        )
        let front = FreePort.next()
        let values = ["FRONT": "\(front)", "CREDENTIAL": TestCertificates.shared.path(.intermediate)]
        try await nghttpx.run(port: front, values: values, body)
    }

    private func open(_ user: OnLoop<PoolUser>, _ authority: String) async throws -> Int {
        try await InteropProxy.open(user, authority)
    }

    @Test("bytes both ways")
    func bytes() async throws {
        let echo = try EchoServer()
        try await withNghttpx { user, server in
            let stream = try await open(user, echo.authority)
            try await user { $0.streams[stream].send(Self.bytes, finish: false) }
            try await user.until("the echo is read") { $0.streams[stream].receivedCount == Self.bytes }
            let checksum = try await user { $0.streams[stream].takeChecksum() }
            #expect(checksum == Pattern.checksum(Self.bytes))
        }
        echo.close()
    }

    @Test("the client's end is not passed on")
    func clientEndsFirst() async throws {
        try await withNghttpx { user, _ in
            let loop = user.loop
            let backend = try await OnLoop(loop) { try Backend(on: loop) }
            let port = try await backend { $0.port }
            for round in 0..<2 {
                let stream = try await open(user, "127.0.0.1:\(port)")
                try await user { $0.streams[stream].send("hello", finish: true) }
                try await backend.until("the bytes arrive") {
                    $0.ends.count == round + 1 && $0.ends[round].text == "hello"
                }
            }
            // What came before the second stream has been handled long ago.
            let (ended, failed) = try await backend { ($0.ends[0].readEnded, $0.ends[0].failed) }
            #expect(!ended)
            #expect(!failed)
            try await backend { $0.close() }
        }
    }

    @Test("the server ends first: all its bytes arrive, and the end")
    func serverEndsFirst() async throws {
        let source = try SourceServer(count: Self.bytes)
        try await withNghttpx { user, _ in
            let down = try await open(user, source.authority)
            try await user.until("everything is read") { $0.streams[down].readEnded || $0.streams[down].failed }
            let (checksum, ended) = try await user { ($0.streams[down].takeChecksum(), $0.streams[down].readEnded) }
            #expect(checksum == Pattern.checksum(Self.bytes))
            #expect(ended)
        }
        source.close()
    }

    @Test("the client's reset is one to the backend; of the backend's it makes a clean end")
    func resets() async throws {
        try await withNghttpx { user, _ in
            let loop = user.loop
            let backend = try await OnLoop(loop) { try Backend(on: loop) }
            let port = try await backend { $0.port }
            let first = try await open(user, "127.0.0.1:\(port)")
            try await user { $0.streams[first].send("hello") }
            try await backend.until("the bytes arrive") { $0.ends.count == 1 && $0.ends[0].text == "hello" }
            try await backend { $0.ends[0].stream.reset(StreamError(.reset, "the backend aborts")) }
            try await user.until("the client learns it") { $0.streams[first].failed || $0.streams[first].readEnded }
            // Nothing tells it that bytes were lost.
            let ended = try await user { $0.streams[first].readEnded }
            #expect(ended)

            let second = try await open(user, "127.0.0.1:\(port)")
            try await user { $0.streams[second].send("hello", finish: false) }
            try await backend.until("the bytes arrive") { $0.ends.count == 2 && $0.ends[1].text == "hello" }
            try await user { $0.streams[second].stream.reset(StreamError(.reset, "the client aborts")) }
            try await backend.until("the backend learns it") { $0.ends[1].failed || $0.ends[1].readEnded }
            let backendFailed = try await backend { $0.ends[1].failed }
            #expect(backendFailed)
            try await backend { $0.close() }
        }
    }

    /// A TCP server, seen from inside. Confined to its loop.
    private final class Backend {
        private(set) var ends: [StreamEnd] = []
        private var listener: Listener?
        var port: UInt16 { listener?.localAddress.port ?? 0 }

        init(on loop: EventLoop) throws {
            let bound = LoopBound(Reference(self), on: loop)
            listener = try Listener(bind: SocketAddress(ip: "127.0.0.1", port: 0), on: loop) { socket in
                bound.withValue { $0.object?.ends.append(StreamEnd(socket)) }
            }
        }

        func close() {
            for end in ends { end.stream.close() }
            listener?.close()
        }

        private final class Reference {
            weak var object: Backend?
            init(_ object: Backend) { self.object = object }
        }
    }
}

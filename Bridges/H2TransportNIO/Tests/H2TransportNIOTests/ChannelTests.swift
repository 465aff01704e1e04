import Foundation
import H2Transport
import Logging
import MeshIdentity
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import Testing

import struct Platform.Authority
import struct Streams.SocketAddress
import struct Streams.StreamError

@testable import H2TransportNIO

/// NIO channels over CONNECT streams, with real certificates over loopback.
@Suite(.timeLimit(.minutes(3))) struct ChannelTests {
    @Test("bytes and the half-close go both ways through a channel at each end")
    func echo() async throws {
        try await Mesh.with(server: Mesh.echoChannel) { mesh in
            let channel = try await mesh.connect()
            let bytes = ByteBuffer(bytes: (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31) })
            let received = try await channel.executeThenClose { inbound, outbound in
                async let received: ByteBuffer = {
                    var all = ByteBuffer()
                    for try await buffer in inbound { all.writeImmutableBuffer(buffer) }
                    return all
                }()
                for start in stride(from: 0, to: bytes.readableBytes, by: 77_777) {
                    let end = min(start + 77_777, bytes.readableBytes)
                    try await outbound.write(bytes.getSlice(at: start, length: end - start) ?? ByteBuffer())
                }
                outbound.finish()
                return try await received
            }
            #expect(received.readableBytes == bytes.readableBytes)
            let isSame = received == bytes
            #expect(isSame)
        }
    }

    @Test("the handler in the pipeline knows who is there")
    func identity() async throws {
        let seen = NIOLockedValueBox<[String]>([])
        try await Mesh.with { channel, request in
            let handler = try? await channel.channel.pipeline.handler(type: MeshStreamHandler.self).map { "\($0.peer)" }
                .get()
            seen.withLockedValue { $0 += ["\(request.peer) \(request.request.baggage ?? "")", handler ?? "none"] }
            try await channel.executeThenClose { _, _ in }
        } body: { mesh in
            let channel = try await mesh.connect(headers: ["baggage": "a=b"])
            try await channel.executeThenClose { inbound, _ in for try await _ in inbound {} }
            let peer = try await channel.channel.eventLoop.submit { "spiffe://mesh.example/ns/prod/sa/server" }.get()
            #expect(mesh.server.identity.description == peer)
            let client = "spiffe://mesh.example/ns/prod/sa/client"
            #expect(seen.withLockedValue { $0 } == ["\(client) a=b", client])
        }
    }

    @Test("a stream that is reset is an error in the channel, not an end")
    func reset() async throws {
        struct Mistake: Error {}
        let handler: @Sendable (HBONEStream) async throws -> Void = { stream in
            try await stream.write("half of it")
            _ = try await stream.read()
            throw Mistake()
        }
        try await Mesh.with(stream: handler) { mesh in
            let channel = try await mesh.connect()
            let error = await #expect(throws: StreamError.self) {
                try await channel.executeThenClose { inbound, outbound in
                    var count = 0
                    for try await buffer in inbound {
                        count += buffer.readableBytes
                        // All of the first half is here: now let the handler fail.
                        if count == 10 { try await outbound.write(ByteBuffer(string: "go on")) }
                    }
                }
            }
            #expect(error?.code == .reset)
        }
    }

    @Test("closing the channel ends the stream")
    func close() async throws {
        let ends = NIOLockedValueBox<[Int]>([])
        let handler: @Sendable (HBONEStream) async throws -> Void = { stream in
            var count = 0
            for try await chunk in stream.inbound { count += chunk.count }
            ends.withLockedValue { $0.append(count) }
        }
        try await Mesh.with(stream: handler) { mesh in
            let channel = try await mesh.connect()
            try await channel.executeThenClose { _, outbound in
                try await outbound.write(ByteBuffer(repeating: 1, count: 300_000))
                try await channel.flushed()
            }
            try await eventually { ends.withLockedValue { $0 } == [300_000] }
        }
    }

    @Test("who does not read stops who writes")
    func backPressure() async throws {
        let gate = NIOLockedValueBox(false)
        let total = 64 << 20
        let handler: @Sendable (HBONEStream) async throws -> Void = { stream in
            try await eventually { gate.withLockedValue { $0 } }
            var count = 0
            for try await chunk in stream.inbound { count += chunk.count }
            try await stream.write("\(count)")
        }
        try await Mesh.with(stream: handler) { mesh in
            let channel = try await mesh.connect()
            let written = NIOLockedValueBox(0)
            let answer = try await channel.executeThenClose { inbound, outbound in
                async let writing: Void = {
                    let block = ByteBuffer(repeating: 7, count: 65536)
                    for _ in 0..<(total >> 16) {
                        // Not `outbound.write`, which runs far ahead of the event loop before it learns that it must
                        // wait.
                        try await channel.channel.writeAndFlush(block).get()
                        written.withLockedValue { $0 += 65536 }
                    }
                    outbound.finish()
                }()
                try await eventually { written.withLockedValue { $0 } >= 1 << 20 }
                for _ in 0..<2000 { try await mesh.group.next().submit {}.get() }
                // Windows, queues and kernel buffers: a few megabytes, not what a writer that nobody stops has written
                // by then.
                #expect(written.withLockedValue { $0 } <= 6 << 20)
                gate.withLockedValue { $0 = true }
                var answer = ""
                for try await buffer in inbound { answer += String(buffer: buffer) }
                try await writing
                return answer
            }
            #expect(answer == "\(total)")
        }
    }

    @Test("a refused stream makes no channel")
    func refused() async throws {
        let admit: HBONEAdmissionHook = { _ in .deny("no") }
        try await Mesh.with(admit: admit, server: Mesh.echoChannel) { mesh in
            let failure = await #expect(throws: ConnectFailure.self) { _ = try await mesh.connect() }
            #expect(failure?.error.code == .denied)
        }
    }
}

import Streams
import TestPeers
import Testing

@testable import H2Transport

/// The part between loop and tasks, over streams that do everything the contract allows.
@Suite(.timeLimit(.minutes(10))) struct MailboxTests {
    /// A pump with its mailbox on one end, a stream that tests drive on the other.
    final class Ends {
        let mailbox = StreamMailbox()
        let pump: MailboxPump
        let far: StreamEnd

        init(_ near: ByteStream, _ far: ByteStream, readLimit: Int = .max) {
            pump = MailboxPump(near, mailbox: mailbox)
            self.far = StreamEnd(far, keepsBytes: false, readLimit: readLimit)
            pump.start()
        }

        func close() {
            pump.reset(StreamError(.closed, "done"))
            far.stream.reset(StreamError(.closed, "done"))
        }
    }

    enum Transport: CaseIterable, Sendable {
        case memory, ragged, oneByte

        func make(_ loop: EventLoop) -> (ByteStream, ByteStream) {
            switch self {
            case .memory: MemoryStream.pair(on: loop)
            case .ragged: HostileStream.pair(on: loop, .ragged(seed: 5))
            case .oneByte: HostileStream.pair(on: loop, .oneByte(seed: 6))
            }
        }

        var bytes: Int { self == .oneByte ? 30_000 : 4_000_000 }
    }

    private func read(_ mailbox: StreamMailbox, _ ends: OnLoop<Ends>) async throws -> (Int, String) {
        var checksum = Checksum()
        var count = 0
        while true {
            let result = await mailbox.receive(isolation: nil) {
                ends.loop.submit { ends.value { $0.pump.read() } }
            }
            guard let chunk = try result.get() else { return (count, checksum.finish()) }
            #expect(!chunk.isEmpty && chunk.count <= 65536)
            chunk.withUnsafeBytes { checksum.update($0) }
            count += chunk.count
        }
    }

    private func write(_ bytes: ArraySlice<UInt8>, _ mailbox: StreamMailbox, _ ends: OnLoop<Ends>) async throws {
        let (mustTell, mustWait) = try mailbox.send(bytes)
        if mustTell { ends.loop.submit { ends.value { $0.pump.flush() } } }
        if mustWait { try await mailbox.waitForRoom(StreamMailbox.outboundLimit) }
    }

    @Test("every byte passes, both ways, and both ends", arguments: Transport.allCases)
    func bothWays(_ transport: Transport) async throws {
        try await withLoop { loop in
            let ends = try await OnLoop(loop) {
                let (near, far) = transport.make(loop)
                return Ends(near, far)
            }
            let mailbox = try await ends { $0.mailbox }
            let bytes = transport.bytes
            try await ends { $0.far.send(bytes, seed: 3) }
            async let received = read(mailbox, ends)
            let pattern = Pattern.bytes(bytes, seed: 4)
            var start = 0
            while start < bytes {
                let end = min(bytes, start + 1 + start % 70_001)
                try await write(pattern[start..<end], mailbox, ends)
                start = end
            }
            if mailbox.finish() { loop.submit { ends.value { $0.pump.flush() } } }
            try await mailbox.waitForRoom(0)
            let (count, checksum) = try await received
            #expect(count == bytes)
            #expect(checksum == Pattern.checksum(bytes, seed: 3))
            try await ends.until("the far end reads the end") { $0.far.readEnded }
            #expect(try await ends { $0.far.takeChecksum() } == Pattern.checksum(bytes, seed: 4))
            try await ends { $0.close() }
        }
    }

    @Test("the loop stops reading when nobody receives")
    func inboundLimit() async throws {
        try await withLoop { loop in
            let ends = try await OnLoop(loop) {
                let (near, far) = MemoryStream.pair(on: loop, capacity: 4096)
                return Ends(near, far)
            }
            try await ends { $0.far.send(10 << 20) }
            try await ends.until("the writer is stopped") { $0.far.writeBlocked }
            for _ in 0..<1000 { try await loop.execute {} }
            let written = try await ends { $0.far.written }
            #expect(written <= StreamMailbox.inboundLimit + 65536 + 4096)
            #expect(written >= StreamMailbox.inboundLimit)
            let mailbox = try await ends { $0.mailbox }
            let (count, checksum) = try await read(mailbox, ends)
            #expect(count == 10 << 20)
            #expect(checksum == Pattern.checksum(10 << 20))
            try await ends { $0.close() }
        }
    }

    @Test("a stream that dies wakes the reader and the writer, after what had arrived")
    func failure() async throws {
        try await withLoop { loop in
            let ends = try await OnLoop(loop) {
                let (near, far) = MemoryStream.pair(on: loop, capacity: 4096)
                return Ends(near, far, readLimit: 0)
            }
            let mailbox = try await ends { $0.mailbox }
            try await ends { $0.far.send("last words") }
            let first = await mailbox.receive(isolation: nil) {}
            #expect(try first.get() == Array("last words".utf8))
            let reading = Task { await mailbox.receive(isolation: nil) {} }
            let writing = Task { try await write([UInt8](repeating: 1, count: 1 << 20)[...], mailbox, ends) }
            // The mailbox has the megabyte, the stream below a part of it.
            try await ends.until("the writer waits") { _ in mailbox.hasWaitingWriter && mailbox.hasWaitingReader }
            try await ends { $0.far.stream.reset(StreamError(.reset, "aborted")) }
            let writeError = await #expect(throws: StreamError.self) { try await writing.value }
            #expect(writeError?.code == .reset)
            let end = await reading.value
            let readError = #expect(throws: StreamError.self) { _ = try end.get() }
            #expect(readError?.code == .reset)
            let lateError = #expect(throws: StreamError.self) { _ = try mailbox.send([1]) }
            #expect(lateError?.code == .reset)
            try await ends { $0.close() }
        }
    }
}

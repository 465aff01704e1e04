import H2Transport
import Streams
import TestPeers
import Testing

/// Streams of the public API from end to end: client, TLS, HTTP/2, listener, handler.
@Suite(.timeLimit(.minutes(10))) struct HBONEStreamTests {
    @Test("bytes go both ways at once, complete and in order", arguments: [1, 2])
    func bothWays(loops: Int) async throws {
        let bytes = 5_000_000
        try await MeshPair.with(loops: loops, handler: MeshPair.echo) { pair in
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for seed in 1...3 as ClosedRange<UInt64> {
                    tasks.addTask {
                        let received = try await pair.withStream { stream in
                            async let received = stream.readAll()
                            try await stream.writePattern(bytes, seed: seed)
                            try await stream.finish()
                            return try await received
                        }
                        #expect(received.count == bytes)
                        #expect(received.checksum == Pattern.checksum(bytes, seed: seed))
                    }
                }
                try await tasks.waitForAll()
            }
        }
    }

    @Test("a half-closed stream still carries the answer")
    func halfClose() async throws {
        try await MeshPair.with { stream in
            let question = try await stream.readText()
            try await stream.write("you said: \(question)")
        } body: { pair in
            let answer = try await pair.withStream { stream in
                try await stream.write("hello ")
                try await stream.write("there")
                try await stream.finish()
                try await stream.finish()
                return try await stream.readText()
            }
            #expect(answer == "you said: hello there")
        }
    }

    @Test("after finish() nothing can be written")
    func writeAfterFinish() async throws {
        try await MeshPair.with(handler: MeshPair.echo) { pair in
            try await pair.withStream { stream in
                try await stream.finish()
                let error = await #expect(throws: StreamError.self) { try await stream.write("late") }
                #expect(error?.code == .closed)
                #expect(try await stream.read() == nil)
            }
        }
    }

    @Test("leaving the scope sends what was written and ends cleanly")
    func leaving() async throws {
        let received = Notes<(count: Int, checksum: String)>()
        try await MeshPair.with { stream in
            received.add(try await stream.readAll())
        } body: { pair in
            try await pair.withStream { try await $0.writePattern(3_000_000) }
            let all = try await received.until("the server has read to the end")
            #expect(all[0].count == 3_000_000)
            #expect(all[0].checksum == Pattern.checksum(3_000_000))
        }
    }

    struct Mistake: Error, Equatable {}

    @Test("a scope that throws resets the stream, and throws the same")
    func throwing() async throws {
        let ends = Notes<StreamError.Code>()
        try await MeshPair.with { stream in
            do { _ = try await stream.readAll() } catch let error as StreamError { ends.add(error.code) }
        } body: { pair in
            await #expect(throws: Mistake()) {
                try await pair.withStream { stream in
                    try await stream.write("half of it")
                    throw Mistake()
                }
            }
            let codes = try await ends.until("the server sees the reset")
            #expect(codes == [.reset])
        }
    }

    @Test("a handler that throws resets its stream and no other")
    func handlerThrows() async throws {
        try await MeshPair.with { stream in
            let first = try await stream.read().map { String(decoding: $0, as: UTF8.self) }
            if first == "bad" { throw Mistake() }
            try await stream.write("good")
        } body: { pair in
            try await pair.withStream { good in
                try await pair.withStream { bad in
                    try await bad.write("bad")
                    let error = await #expect(throws: StreamError.self) { try await bad.readAll() }
                    #expect(error?.code == .reset)
                }
                try await good.write("fine")
                try await good.finish()
                #expect(try await good.readText() == "good")
            }
        }
    }

    @Test("cancelling the task resets the stream")
    func cancelled() async throws {
        let (starts, ends) = (Notes<Void>(), Notes<StreamError.Code>())
        try await MeshPair.with { stream in
            starts.add(())
            do { _ = try await stream.readAll() } catch let error as StreamError { ends.add(error.code) }
        } body: { pair in
            let task = Task {
                try await pair.withStream { stream in
                    try await stream.write("x")
                    return try await stream.read()
                }
            }
            _ = try await starts.until("the handler runs")
            task.cancel()
            let error = await #expect(throws: StreamError.self) { try await task.value }
            #expect(error?.code == .cancelled)
            let codes = try await ends.until("the server sees the reset")
            #expect(codes == [.reset])
        }
    }

    @Test("cancelling a task that only reads leaves the stream in use")
    func cancelledReader() async throws {
        try await MeshPair.with(handler: MeshPair.echo) { pair in
            try await pair.withStream { stream in
                let reader = Task { try await stream.read() }
                reader.cancel()
                let error = await #expect(throws: StreamError.self) { try await reader.value }
                #expect(error?.code == .cancelled)
                try await stream.write("still here")
                try await stream.finish()
                #expect(try await stream.readText() == "still here")
            }
        }
    }

    @Test("cancelling while the stream opens")
    func cancelledOpening() async throws {
        let asked = Notes<Void>()
        let gate = Gate()
        let admit: HBONEAdmissionHook = { _ in
            asked.add(())
            try? await gate.wait()
            return .admit
        }
        try await MeshPair.with(
            admit: admit,
            handler: MeshPair.echo
        ) { pair in
            let task = Task { try await pair.withStream { _ in } }
            _ = try await asked.until("the hook is asked")
            task.cancel()
            let error = await #expect(throws: StreamError.self) { try await task.value }
            #expect(error?.code == .cancelled)
            gate.open()
            // The late stream is reset, not kept: the next one is alone on the connection.
            try await pair.withStream { stream in
                try await stream.write("y")
                #expect(try await stream.read() == Array("y".utf8))
            }
        }
    }

    @Test("who does not read stops who writes")
    func backPressure() async throws {
        let gate = Gate()
        let received = Notes<(count: Int, checksum: String)>()
        let total = 64 << 20
        try await MeshPair.with { stream in
            try await gate.wait()
            received.add(try await stream.readAll())
        } body: { pair in
            let loop = EventLoop(name: "turns")
            let written = Counter()
            try await pair.withStream { stream in
                async let writing: Void = {
                    var pattern = Pattern()
                    for _ in 0..<(total >> 16) {
                        let chunk = [UInt8](unsafeUninitializedCapacity: 65536) { buffer, count in
                            pattern.fill(UnsafeMutableRawBufferPointer(buffer))
                            count = 65536
                        }
                        try await stream.write(chunk)
                        written.add(65536)
                    }
                    try await stream.finish()
                }()
                // The window (1 MiB) fills; a writer that nobody stops needs no longer than these turns for the rest.
                try await eventually("a window's worth is written") { written.value >= 1 << 20 }
                for _ in 0..<2000 { try await loop.execute {} }
                let ahead = written.value
                // Window 1024, the connection's send queue 256, the mailboxes 128 and 256, and the chunks in hand.
                let most = (1024 + 256 + 128 + 256 + 128) << 10
                #expect(ahead <= most)
                gate.open()
                try await writing
            }
            let all = try await received.until("the server has read to the end")
            #expect(all[0].count == total)
            #expect(all[0].checksum == Pattern.checksum(total))
            await loop.shutDown()
        }
    }
}

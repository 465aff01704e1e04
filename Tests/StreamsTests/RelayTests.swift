import CLinux
import Glibc
import TestPeers
import Testing

@testable import Streams

@Suite("Relay", .timeLimit(.minutes(10)))
struct RelayTests {
    /// What runs below the relay's two streams, and between it and its users.
    enum Kind: CaseIterable {
        case tcpToTCP
        case tcpToUnix
        case memory
        case hostile
        case oneByte
        case push
        case hostileOverTCP

        /// The outer ends, which the users have, and the inner ends, which the relay joins.
        func streams(
            on loop: EventLoop
        ) throws -> (user: ByteStream, first: ByteStream, second: ByteStream, server: ByteStream) {
            switch self {
            case .tcpToTCP:
                let (a, b) = try tcpPair(on: loop)
                let (c, d) = try tcpPair(on: loop)
                return (a, b, c, d)
            case .tcpToUnix:
                let (a, b) = try tcpPair(on: loop)
                let (c, d) = try Socket.pair(on: loop)
                return (a, b, c, d)
            case .memory:
                let (a, b) = MemoryStream.pair(on: loop)
                let (c, d) = MemoryStream.pair(on: loop, capacity: 10)
                return (a, b, c, d)
            case .hostile, .oneByte:
                let behavior: HostileStream.Behavior = self == .hostile ? .ragged(seed: 5) : .oneByte(seed: 6)
                let (a, b) = MemoryStream.pair(on: loop)
                let (c, d) = MemoryStream.pair(on: loop, capacity: 999)
                return (a, HostileStream(over: b, behavior), HostileStream(over: c, behavior), d)
            case .push:
                let (a, b) = MemoryStream.pair(on: loop)
                let (c, d) = try tcpPair(on: loop)
                return (a, DirectStream(over: b), c, d)
            case .hostileOverTCP:
                let (a, b) = try tcpPair(on: loop)
                let (c, d) = try tcpPair(on: loop)
                return (a, HostileStream(over: b, .ragged(seed: 8)), HostileStream(over: c, .ragged(seed: 9)), d)
            }
        }

        var volume: Int {
            switch self {
            case .tcpToTCP, .tcpToUnix, .push: 3_000_000
            case .memory: 200_000
            case .hostile, .hostileOverTCP: 500_000
            case .oneByte: 10_000
            }
        }
    }

    @Test(
        "both directions at once, byte for byte, and every buffer and descriptor back at the end",
        arguments: Kind.allCases
    )
    func bothWays(kind: Kind) async throws {
        try await withLoop { loop in
            let volume = kind.volume
            let (outcomes, result): ([Talker.Outcome], RelayResult) = try await onLoop(loop) { scenario in
                let (user, first, second, server) = try kind.streams(on: loop)
                let talkers = [
                    scenario.keep(Talker(user, sending: volume, seed: 1, expecting: 2)),
                    scenario.keep(Talker(server, sending: volume + 1, seed: 2, expecting: 1)),
                ]
                var outcomes: [Talker.Outcome]?
                var result: RelayResult?
                func check() {
                    if let outcomes, let result { scenario.complete((outcomes, result)) }
                }
                awaitAll(talkers) {
                    outcomes = $0
                    check()
                }
                let relay = Relay(first, second) {
                    result = $0
                    check()
                }
                relay.start()
                for talker in talkers { talker.start() }
                if kind == .push { #expect((first as? DirectStream)?.usedPush == true) }
                if kind == .push { #expect((first as? DirectStream)?.usedPull == true) }
            }
            #expect(outcomes[0] == .init(sent: volume, received: volume + 1, sawEnd: true))
            #expect(outcomes[1] == .init(sent: volume + 1, received: volume, sawEnd: true))
            #expect(result.failure == nil)
            #expect(result.bytesForward == UInt64(volume))
            #expect(result.bytesBackward == UInt64(volume + 1))
            #expect(try await loop.execute { loop.watchedDescriptors } == 0)
        }
    }

    @Test("what was read of a stream before goes first", arguments: Kind.allCases)
    func earlyBytes(kind: Kind) async throws {
        let early = 100_000
        let rest = min(kind.volume, 200_000)
        try await withLoop { loop in
            let outcomes: [Talker.Outcome] = try await onLoop(loop) { scenario in
                let (user, first, second, server) = try kind.streams(on: loop)
                let talkers = [
                    scenario.keep(Talker(user, sending: rest, after: early, seed: 1, expecting: 2)),
                    scenario.keep(Talker(server, sending: 10, seed: 2, expecting: 1)),
                ]
                awaitAll(talkers) { scenario.complete($0) }
                var pattern = Pattern(seed: 1)
                Relay(first, second).start(early: pattern.next(early))
                for talker in talkers { talker.start() }
            }
            #expect(outcomes[1] == .init(sent: 10, received: early + rest, sawEnd: true))
        }
    }

    @Test(
        "half-close passes through in both orders",
        arguments: [Kind.tcpToTCP, .tcpToUnix, .hostile, .push],
        [true, false]
    )
    func halfClose(kind: Kind, userEndsFirst: Bool) async throws {
        try await withLoop { loop in
            let outcomes: [Talker.Outcome] = try await onLoop(loop) { scenario in
                let (user, first, second, server) = try kind.streams(on: loop)
                let talkers = [
                    scenario.keep(Talker(user, sending: userEndsFirst ? 10 : 300_000, seed: 1, expecting: 2)),
                    scenario.keep(Talker(server, sending: userEndsFirst ? 300_000 : 10, seed: 2, expecting: 1)),
                ]
                talkers[userEndsFirst ? 1 : 0].finishesAfterPeer = true
                awaitAll(talkers) { scenario.complete($0) }
                Relay(first, second).start()
                for talker in talkers { talker.start() }
            }
            #expect(outcomes.allSatisfy { $0.sawEnd && $0.failure == nil && $0.firstWrongByte == nil })
            #expect(outcomes.map(\.received).sorted() == [10, 300_000])
        }
    }

    @Test("a reset on either side resets the other, and the result says so", arguments: Kind.allCases)
    func resets(kind: Kind) async throws {
        for userResets in [true, false] {
            try await withLoop { loop in
                let (seen, result): (Talker.Outcome, RelayResult) = try await onLoop(loop) { scenario in
                    let (user, first, second, server) = try kind.streams(on: loop)
                    // A Unix socket cannot pass a reset on: there the reset comes from the Unix side only.
                    let resetting = userResets && kind != .tcpToUnix ? user : server
                    let other = resetting === user ? server : user
                    let talker = scenario.keep(Talker(other, sending: 1000, seed: 1, expecting: 2))
                    talker.finishesAfterPeer = true
                    var outcome: Talker.Outcome?
                    var result: RelayResult?
                    func check() {
                        if let outcome, let result { scenario.complete((outcome, result)) }
                    }
                    talker.ended = {
                        outcome = $0.outcome
                        check()
                    }
                    let relay = Relay(first, second) {
                        result = $0
                        check()
                    }
                    relay.start()
                    talker.start()
                    // Reset with input unread, which a Unix peer is told about.
                    func resetWhenFull() {
                        guard talker.outcome.sent == 1000, kind != .tcpToUnix || relay.progress.forward == 1000 else {
                            return afterTurns(1, on: loop, resetWhenFull)
                        }
                        afterTurns(kind == .oneByte ? 3000 : 100, on: loop) {
                            resetting.reset(StreamError(.limit, "test"))
                        }
                    }
                    resetWhenFull()
                }
                #expect(seen.failure?.code == .reset)
                #expect(!seen.sawEnd)
                #expect(result.failure?.code == .reset)
            }
        }
    }

    @Test("a reader that does not read costs one buffer, and the writer is stopped")
    func backPressure() async throws {
        try await withLoop { loop in
            let (pushed, inUse, received): (Int, Int, Int) = try await onLoop(loop) { scenario in
                let (user, first) = MemoryStream.pair(on: loop, capacity: 65536)
                let (second, server) = MemoryStream.pair(on: loop, capacity: 65536)
                Relay(first, second).start()
                let observer = scenario.keep(Observer())
                user.observer = observer
                var pushed = user.fill()
                observer.writable = { pushed += user.fill() }
                _ = user.readBytes()
                afterTurns(100, on: loop) {
                    // What waits in the two pipes is the test's own memory: 64 KiB in each, 16 to 17 buffers of 4 to 64
                    // KiB.
                    let inPipes = first.unreadBytes + server.unreadBytes
                    let inRelay = pushed - inPipes
                    #expect(inPipes == 131_072)
                    #expect(inRelay <= BufferSize.large.rawValue)
                    let inUse = loop.buffers.buffersInUse
                    observer.writable = nil
                    let reader = scenario.keep(Observer())
                    server.observer = reader
                    var received = 0
                    func receive() {
                        while true {
                            switch server.readBytes().result {
                            case .bytes(let count): received += count
                            case .wouldBlock: return
                            case .end:
                                server.finish()
                                server.close()
                                return afterTurns(5, on: loop) {
                                    #expect(user.readBytes().result == .end)
                                    user.close()
                                    scenario.complete((pushed, inUse, received))
                                }
                            case .failed: return scenario.fail(server.failure ?? .closed(server))
                            }
                        }
                    }
                    reader.readable = receive
                    user.finish()
                    receive()
                }
            }
            #expect(pushed == received)
            #expect(pushed <= 2 * 65536 + BufferSize.large.rawValue)
            #expect(inUse <= 5)
        }
    }

    @Test("an idle relay holds no buffer")
    func idleHoldsNothing() async throws {
        try await withLoop { loop in
            let inUse: Int = try await onLoop(loop) { scenario in
                let (user, first, second, server) = try Kind.tcpToTCP.streams(on: loop)
                let relay = Relay(first, second)
                relay.start()
                _ = user.write("hello")
                func look() {
                    // How many turns that takes is the kernel's affair.
                    guard relay.progress.forward == 5 else { return afterTurns(1, on: loop, look) }
                    afterTurns(50, on: loop) {
                        let inUse = loop.buffers.buffersInUse
                        relay.cut(StreamError(.limit, "test over"))
                        user.close()
                        server.close()
                        scenario.complete(inUse)
                    }
                }
                look()
            }
            #expect(inUse == 0)
        }
    }

    @Test("cut by silence: not while bytes move, then with a time-out, as a reset to both")
    func idleTimeout() async throws {
        // Where the machine stalls for as long as the limit, the relay is right to end: then once more.
        var run: IdleRun?
        for _ in 0..<20 where run?.stalled != false { run = try await Self.idleRun() }
        #expect(run?.writes == 20)
        #expect(run?.result.bytesForward == 20)
        #expect(run?.result.failure?.code == .timedOut)
        #expect(run?.userFailure == .reset)
        #expect(run?.serverFailure == .reset)
    }

    private struct IdleRun {
        var result: RelayResult
        var writes: Int
        var userFailure: StreamError.Code?
        var serverFailure: StreamError.Code?
        /// The relay had a reason to end before the last write.
        var stalled: Bool
    }

    /// Twenty writes, each well within the limit of the one before; together they last longer than it.
    private static func idleRun() async throws -> IdleRun {
        try await withLoop { loop in
            try await onLoop(loop) { scenario in
                let (user, first) = MemoryStream.pair(on: loop)
                let (second, server) = MemoryStream.pair(on: loop)
                var writes = 0
                var last = loop.now
                var longestGap: UInt64 = 0
                var timer: LoopTimer?
                timer = scenario.keep(
                    LoopTimer(on: loop) {
                        _ = user.write("x")
                        writes += 1
                        longestGap = max(longestGap, loop.now - last)
                        last = loop.now
                        if writes < 20 { timer?.schedule(after: .milliseconds(20)) } else { timer = nil }
                    }
                )
                timer?.schedule(after: .milliseconds(20))
                Relay(first, second, idleTimeout: .milliseconds(200)) { result in
                    timer?.cancel()
                    timer = nil
                    longestGap = max(longestGap, writes < 20 ? loop.now - last : 0)
                    afterTurns(1, on: loop) {
                        let run = IdleRun(
                            result: result,
                            writes: writes,
                            userFailure: user.failure?.code,
                            serverFailure: server.failure?.code,
                            stalled: longestGap >= 150_000_000
                        )
                        user.close()
                        server.close()
                        scenario.complete(run)
                    }
                }
                .start()
            }
        }
    }

    @Test("the completion comes once, never from inside start() or cut(), and then the relay is gone")
    func completion() async throws {
        try await withLoop { loop in
            let calls: Int = try await onLoop(loop) { scenario in
                var calls = 0
                weak var released: Relay?
                var isInside = true
                do {
                    let (first, second) = (ScriptedStream(loop: loop), ScriptedStream(loop: loop))
                    // Both ended before the relay starts.
                    first.reads = [.end]
                    second.reads = [.end]
                    let relay = Relay(first, second) { result in
                        #expect(!isInside)
                        #expect(result.failure == nil)
                        #expect(first.events == ["finish", "close"])
                        #expect(second.events == ["finish", "close"])
                        calls += 1
                    }
                    released = relay
                    relay.start()
                    relay.cut(StreamError(.limit, "too late"))
                    let (third, fourth) = (ScriptedStream(loop: loop), ScriptedStream(loop: loop))
                    let other = Relay(third, fourth) { result in
                        #expect(!isInside)
                        #expect(result.failure?.code == .limit)
                        #expect(third.events == ["reset limit"])
                        calls += 1
                    }
                    other.start()
                    other.cut(StreamError(.limit, "first"))
                    other.cut(StreamError(.denied, "second"))
                    isInside = false
                }
                afterTurns(3, on: loop) {
                    #expect(released == nil)
                    scenario.complete(calls)
                }
            }
            #expect(calls == 2)
        }
    }

    @Test("a relay of endless bytes lets other streams of the loop have their turn")
    func fairness() async throws {
        try await withLoop { loop in
            let readsBefore: Int = try await onLoop(loop) { scenario in
                let (first, second) = (ScriptedStream(loop: loop), ScriptedStream(loop: loop))
                var reads = 0
                first.onRead = {
                    reads += 1
                    first.reads = [.bytes(.max)]
                }
                let (near, far) = try Socket.pair(on: loop)
                let observer = scenario.keep(Observer())
                near.observer = observer
                _ = near.readBytes()
                let relay = Relay(first, second)
                observer.readable = {
                    first.onRead = nil
                    relay.cut(StreamError(.limit, "test over"))
                    near.reset(.closed(near))
                    far.reset(.closed(far))
                    scenario.complete(reads)
                }
                relay.start()
                _ = far.write("x")
            }
            // 1 MiB a turn in reads of 64 and 256 KiB, for the turn that starts it and the one that serves the socket.
            #expect(readsBefore <= 16)
        }
    }

    @Test("a source that was closed by its owner is not a clean end, whatever the other direction did")
    func closedSource() async throws {
        try await withLoop { loop in
            let (result, events): (RelayResult, [String]) = try await onLoop(loop) { scenario in
                let (first, second) = (ScriptedStream(loop: loop), ScriptedStream(loop: loop))
                second.reads = [.end]
                first.reads = [.bytes(10), .wouldBlock, .failed]
                first.readFailure = StreamError(.closed, "closed before it had ended")
                let relay = Relay(first, second) { scenario.complete(($0, second.events)) }
                relay.start()
                relay.streamReadable(first)
            }
            #expect(result.failure?.code == .closed)
            #expect(events == ["reset closed"])
        }
    }

    /// A filter before the sink has to tell the relay the same.
    @Test(
        "a sink that reads no more, before or after its own end, does not spoil what it says",
        arguments: [false, true]
    )
    func sinkReadsNoMore(isFiltered: Bool) async throws {
        for toldByObserver in [true, false] {
            for endsBefore in [true, false] where endsBefore || !toldByObserver {
                try await withLoop { loop in
                    let (result, events): (RelayResult, [String]) = try await onLoop(loop) { scenario in
                        let (first, second) = (ScriptedStream(loop: loop), ScriptedStream(loop: loop))
                        second.reads = [.bytes(20), endsBefore ? .end : .wouldBlock]
                        first.reads = [.bytes(10)]
                        let sink = isFiltered ? FilteredStream(second, Transparent()) : second
                        let relay = Relay(first, sink) { scenario.complete(($0, first.events)) }
                        relay.start()
                        second.fail(StreamError(.closed, "the peer reads no more"))
                        if toldByObserver {
                            second.observer?.streamFailed(second)
                        } else {
                            second.writes = [.failed]
                            first.reads = [.bytes(10)]
                            relay.streamReadable(first)
                        }
                        guard !endsBefore else { return }
                        #expect(first.events.isEmpty)
                        second.reads = [.bytes(20), .end]
                        second.observer?.streamReadable(second)
                    }
                    #expect(result.failure == nil)
                    #expect(result.bytesBackward == (endsBefore ? 20 : 40))
                    #expect(events == ["finish", "close"])
                }
            }
        }
    }

    @Test("the end of a source does not make the loss in its sink look clean", arguments: [false, true])
    func failedSinkAtEnd(isFiltered: Bool) async throws {
        try await withLoop { loop in
            let (result, events): (RelayResult, [String]) = try await onLoop(loop) { scenario in
                let (first, second) = (ScriptedStream(loop: loop), ScriptedStream(loop: loop))
                second.reads = [.end]
                first.reads = [.bytes(10)]
                let sink = isFiltered ? FilteredStream(second, Transparent()) : second
                let relay = Relay(first, sink) { scenario.complete(($0, first.events)) }
                relay.start()
                // The sink has failed, and its notice is on the way; the source ends first.
                second.fail(StreamError(.reset, "the peer is gone"))
                first.reads = [.end]
                relay.streamReadable(first)
            }
            #expect(result.failure?.code == .reset)
            #expect(events == ["finish", "reset reset"])
        }
    }
}

/// Changes nothing.
final class Transparent: StreamFilter {
    func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict {
        .pass(bytes.count)
    }
}

/// A sink that takes what it is given, and where somebody acts while it does.
private final class TakingStream: ByteStream {
    var onWrite: (() -> Void)?
    private(set) var taken: [UInt8] = []

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult { .wouldBlock }

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        onWrite?()
        for vector in vectors { taken += UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len) }
        return .bytes(taken.count)
    }

    override func finish() {}
    override func reset(_ reason: StreamError) {}
    override func close() {}
}

extension RelayTests {
    /// Streams that stack may do so, whatever the contract says.
    @Test("what ends a relay from inside of a write leaves it the buffer, and the pool gets a clean one")
    func endedWithinAWrite() async throws {
        try await withLoop { loop in
            try await loop.execute {
                let (user, first) = MemoryStream.pair(on: loop)
                let sink = TakingStream(loop: loop)
                let relay = Relay(first, sink)
                sink.onWrite = {
                    relay.cut(StreamError(.closed, "cut"))
                    // Whoever takes a buffer now gets another one.
                    let other = loop.buffers.take(.medium)
                    memset(other.base, 0x2A, other.capacity)
                    loop.buffers.give(other)
                }
                #expect(user.write("hello") == .bytes(5))
                relay.start()
                #expect(String(decoding: sink.taken, as: UTF8.self) == "hello")
                for size in BufferSize.allCases {
                    let buffer = loop.buffers.take(size)
                    #expect(buffer.readIndex == 0 && buffer.writeIndex == 0)
                    loop.buffers.give(buffer)
                }
            }
        }
    }
}

import TestPeers
import Testing

@testable import Streams

@Suite("A stream with a filter", .timeLimit(.minutes(10)))
struct FilteredStreamTests {
    /// Changes nothing in the end, and does everything that a filter can on the way.
    private final class Restless: StreamFilter {
        private var random: SplitMix64
        private var control: FilterControl?
        /// Taken, and given with what follows.
        private var kept: [StreamDirection: [UInt8]] = [:]
        private(set) var ends: [StreamError?] = []
        private(set) var finished: [StreamDirection] = []
        private let onEnd: () -> Void

        init(seed: UInt64, onEnd: @escaping () -> Void = {}) {
            random = SplitMix64(state: seed)
            self.onEnd = onEnd
        }

        func begin(_ control: FilterControl) { self.control = control }

        func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict {
            let choice = Int.random(in: 0..<8, using: &random)
            let count = Int.random(in: 1...bytes.count, using: &random)
            switch choice {
            case 0:
                control?.resume()
                return .wait(nil)
            case 1: return .wait(.microseconds(Int.random(in: 0..<300, using: &random)))
            case 2, 3:
                let all = (kept[direction] ?? []) + bytes[..<count]
                let given = Int.random(in: 0...all.count, using: &random)
                kept[direction] = Array(all[given...])
                return .replace(count, with: Array(all[..<given]))
            default:
                guard kept[direction, default: []].isEmpty else {
                    let all = kept[direction, default: []] + bytes
                    kept[direction] = []
                    return .replace(bytes.count, with: all)
                }
                return .pass(choice < 6 ? count : bytes.count)
            }
        }

        func finish(_ direction: StreamDirection) throws -> [UInt8] {
            finished.append(direction)
            return kept[direction] ?? []
        }

        func end(_ failure: StreamError?) {
            ends.append(failure)
            onEnd()
        }
    }

    @Test(
        "whatever a filter does with bytes that it gives on in the end: byte for byte, and every buffer back",
        arguments: RelayTests.Kind.allCases,
        [1, 2]
    )
    func bothWays(kind: RelayTests.Kind, seed: UInt64) async throws {
        let volume = min(kind.volume, 300_000)
        try await withLoop { loop in
            let (outcomes, failure, ends): ([Talker.Outcome], StreamError?, [StreamError?]) =
                try await onLoop(loop) { scenario in
                    let (user, first, second, server) = try kind.streams(on: loop)
                    let talkers = [
                        scenario.keep(Talker(user, sending: volume, seed: 1, expecting: 2)),
                        scenario.keep(Talker(server, sending: volume + 1, seed: 2, expecting: 1)),
                    ]
                    // One direction goes on after the other has ended.
                    talkers[1].finishesAfterPeer = seed == 2
                    var outcomes: [Talker.Outcome]?
                    var result: RelayResult?
                    var filter: Restless?
                    func check() {
                        guard let outcomes, let result, let filter, !filter.ends.isEmpty else { return }
                        #expect(Set(filter.finished) == [.toDestination, .toClient] && filter.finished.count == 2)
                        scenario.complete((outcomes, result.failure, filter.ends))
                    }
                    filter = Restless(seed: seed, onEnd: check)
                    awaitAll(talkers) {
                        outcomes = $0
                        check()
                    }
                    Relay(first, FilteredStream(second, filter!)) {
                        result = $0
                        check()
                    }.start()
                    for talker in talkers { talker.start() }
                }
            #expect(outcomes[0] == .init(sent: volume, received: volume + 1, sawEnd: true))
            #expect(outcomes[1] == .init(sent: volume + 1, received: volume, sawEnd: true))
            #expect(failure == nil && ends == [nil])
            #expect(try await loop.execute { loop.watchedDescriptors } == 0)
        }
    }

    /// Keeps everything to the end of its direction.
    private final class Hoarder: StreamFilter {
        private var kept: [UInt8] = []

        func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict {
            guard direction == .toDestination else { return .pass(bytes.count) }
            kept += bytes
            return .replace(bytes.count, with: [])
        }

        func finish(_ direction: StreamDirection) throws -> [UInt8] { direction == .toDestination ? kept : [] }
    }

    @Test("what a filter gives last arrives, although the relay is over by then")
    func lastWordsArrive() async throws {
        try await withLoop { loop in
            let outcomes: [Talker.Outcome] = try await onLoop(loop) { scenario in
                let (user, first) = MemoryStream.pair(on: loop)
                let (second, server) = MemoryStream.pair(on: loop, capacity: 10)
                let talkers = [
                    scenario.keep(Talker(user, sending: 50_000, seed: 1, expecting: 2)),
                    scenario.keep(Talker(server, sending: 0, seed: 2, expecting: 1)),
                ]
                talkers[1].isReading = false
                awaitAll(talkers) { scenario.complete($0) }
                Relay(first, FilteredStream(second, Hoarder())) { result in
                    #expect(result.failure == nil && result.bytesForward == 50_000)
                    // Nothing has been read so far.
                    #expect(talkers[1].outcome.received == 0)
                    talkers[1].resume()
                }.start()
                for talker in talkers { talker.start() }
            }
            #expect(outcomes[1] == .init(sent: 0, received: 50_000, sawEnd: true))
        }
    }

    /// Keeps the last byte of what has come.
    private final class Reluctant: StreamFilter {
        private var last: [UInt8] = []

        func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict {
            guard direction == .toDestination else { return .pass(bytes.count) }
            let given = last + bytes.dropLast()
            last = bytes.suffix(1)
            return .replace(bytes.count, with: given)
        }

        func finish(_ direction: StreamDirection) throws -> [UInt8] { direction == .toDestination ? last : [] }
    }

    @Test("what a filter gives last comes behind what the destination has had no room for yet")
    func lastWordsWait() async throws {
        try await withLoop { loop in
            let outcomes: [Talker.Outcome] = try await onLoop(loop) { scenario in
                let (user, first) = MemoryStream.pair(on: loop)
                let (second, server) = MemoryStream.pair(on: loop, capacity: 10)
                let talkers = [
                    scenario.keep(Talker(user, sending: 50, seed: 1, expecting: 2)),
                    scenario.keep(Talker(server, sending: 0, seed: 2, expecting: 1)),
                ]
                talkers[1].isReading = false
                awaitAll(talkers) { scenario.complete($0) }
                Relay(first, FilteredStream(second, Reluctant())) { _ in talkers[1].resume() }.start()
                for talker in talkers { talker.start() }
            }
            #expect(outcomes[1] == .init(sent: 0, received: 50, sawEnd: true))
        }
    }

    @Test("a destination that is gone before it has taken the last of it is told as a failure, to the filter")
    func lastWordsLost() async throws {
        final class Last: StreamFilter {
            let ended: (StreamError?) -> Void
            init(_ ended: @escaping (StreamError?) -> Void) { self.ended = ended }
            func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict {
                .pass(bytes.count)
            }
            func finish(_ direction: StreamDirection) throws -> [UInt8] {
                direction == .toDestination ? Array(repeating: 7, count: 1000) : []
            }
            func end(_ failure: StreamError?) { ended(failure) }
        }
        try await withLoop { loop in
            let failure: StreamError? = try await onLoop(loop) { scenario in
                let (user, first) = MemoryStream.pair(on: loop)
                let (second, server) = MemoryStream.pair(on: loop, capacity: 10)
                let filter = scenario.keep(Last { scenario.complete($0) })
                Relay(first, FilteredStream(second, filter)) { result in
                    #expect(result.failure == nil)
                    server.reset(StreamError(.reset, "gone"))
                }.start()
                user.finish()
                server.finish()
                user.close()
            }
            #expect(failure?.code == .reset)
        }
    }

    private struct Forbidden: Error, CustomStringConvertible {
        let description = "the word is forbidden"
    }

    /// Throws at a byte, or at an end.
    final class Strict: StreamFilter {
        enum Moment: CaseIterable { case toDestination, toClient, endToDestination, endToClient }
        let moment: Moment
        private(set) var ends: [StreamError?] = []
        init(_ moment: Moment) { self.moment = moment }

        func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict {
            if moment == .toDestination, direction == .toDestination { throw Forbidden() }
            // `closed` would pass for a clean end.
            if moment == .toClient, direction == .toClient { throw StreamError(.closed, "\(Forbidden())") }
            return .pass(bytes.count)
        }

        func finish(_ direction: StreamDirection) throws -> [UInt8] {
            if moment == .endToDestination, direction == .toDestination { throw Forbidden() }
            if moment == .endToClient, direction == .toClient { throw Forbidden() }
            return []
        }

        func end(_ failure: StreamError?) { ends.append(failure) }
    }

    @Test("a filter that throws resets both sides, with its reason", arguments: Strict.Moment.allCases, [false, true])
    func throwing(moment: Strict.Moment, direct: Bool) async throws {
        try await withLoop { loop in
            let (result, isReset, ends): (RelayResult, [Bool], [StreamError?]) = try await onLoop(loop) { scenario in
                let (user, first) = MemoryStream.pair(on: loop)
                let (second, server) = MemoryStream.pair(on: loop)
                let filter = scenario.keep(Strict(moment))
                let filtered = FilteredStream(second, filter)
                Relay(direct ? DirectStream(over: first) : first, filtered) { result in
                    let isReset = [user, server].map { $0.failure?.code == .reset }
                    var result = result
                    if let reason = filtered.endedByFilter { result.failure = reason }
                    scenario.complete((result, isReset, filter.ends))
                    user.reset(.closed(user))
                    server.reset(.closed(server))
                }.start()
                #expect(user.write("abc") == .bytes(3))
                #expect(server.write("defg") == .bytes(4))
                if moment == .endToDestination { user.finish() }
                if moment == .endToClient { server.finish() }
            }
            #expect(result.failure == StreamError(.denied, "the filter ended the stream: the word is forbidden"))
            #expect(isReset == [true, true])
            #expect(ends == [result.failure])
        }
    }

    /// Lets nothing through until it is told.
    private final class Closed: StreamFilter {
        var control: FilterControl?
        var isOpen = false
        private(set) var shown = 0
        func begin(_ control: FilterControl) { self.control = control }
        func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict {
            shown += 1
            return isOpen ? .pass(bytes.count) : .wait(nil)
        }
    }

    @Test("what waits for a filter stops its sender, and goes on when the filter says so", arguments: [false, true])
    func backPressure(direct: Bool) async throws {
        try await withLoop { loop in
            let (stuck, outcomes): ([Int], [Talker.Outcome]) = try await onLoop(loop) { scenario in
                let (user, first) = MemoryStream.pair(on: loop)
                let (second, server) = MemoryStream.pair(on: loop)
                let talkers = [
                    scenario.keep(Talker(user, sending: 3_000_000, seed: 1, expecting: 2)),
                    scenario.keep(Talker(server, sending: 3_000_000, seed: 2, expecting: 1)),
                ]
                let filter = scenario.keep(Closed())
                var stuck: [Int] = []
                awaitAll(talkers) { scenario.complete((stuck, $0)) }
                Relay(direct ? DirectStream(over: first) : first, FilteredStream(second, filter)).start()
                for talker in talkers { talker.start() }
                afterTurns(200, on: loop) {
                    stuck = talkers.map(\.outcome.sent) + talkers.map(\.outcome.received) + [filter.shown]
                    filter.isOpen = true
                    filter.control?.resume()
                }
            }
            // What the pipe has room for, and one batch.
            #expect(stuck[0] <= 65536 + 262_144 && stuck[1] <= 65536 + 262_144, "\(stuck)")
            #expect(Array(stuck[2...]) == [0, 0, 2])
            #expect(outcomes.allSatisfy { $0.received == 3_000_000 && $0.sawEnd && $0.firstWrongByte == nil })
        }
    }

    @Test("a filter ends its stream from outside of its calls, and nothing that waits holds that up")
    func endFromOutside() async throws {
        try await withLoop { loop in
            let result: RelayResult = try await onLoop(loop) { scenario in
                let (user, first) = MemoryStream.pair(on: loop)
                let (second, server) = MemoryStream.pair(on: loop)
                let filter = scenario.keep(Closed())
                Relay(first, FilteredStream(second, filter)) { result in
                    #expect(user.failure?.code == .reset && server.failure?.code == .reset)
                    scenario.complete(result)
                    // Over by now.
                    filter.control?.end(StreamError(.limit, "again"))
                    filter.control?.resume()
                    user.reset(.closed(user))
                    server.reset(.closed(server))
                }.start()
                #expect(user.write("abc") == .bytes(3))
                #expect(server.write("abc") == .bytes(3))
                filter.control?.end(StreamError(.limit, "the quota is used up"))
            }
            #expect(result.failure == StreamError(.limit, "the filter ended the stream: the quota is used up"))
        }
    }

    @Test("a destination that reads no more by its own choice, while bytes wait for it, does not spoil what it says")
    func waitingBytesAreWantedNoMore() async throws {
        try await withLoop { loop in
            let result: RelayResult = try await onLoop(loop) { scenario in
                let (first, second) = (ScriptedStream(loop: loop), ScriptedStream(loop: loop))
                first.reads = [.bytes(10)]
                second.writes = [.wouldBlock]
                let filtered = FilteredStream(second, Transparent())
                Relay(first, filtered) { scenario.complete($0) }.start()
                second.fail(StreamError(.closed, "the peer reads no more"))
                second.writes = [.failed]
                first.reads = [.bytes(10)]
                filtered.streamWritable(second)
                second.reads = [.bytes(20), .end]
                filtered.streamReadable(second)
                // The client says more, which nobody reads.
                first.observer?.streamReadable(first)
            }
            #expect(result.failure == nil && result.bytesBackward == 20)
        }
    }

    @Test("a reset of either side goes through, and the filter learns of it", arguments: [false, true])
    func resets(byServer: Bool) async throws {
        try await withLoop { loop in
            let failure: StreamError? = try await onLoop(loop) { scenario in
                let (user, first) = MemoryStream.pair(on: loop)
                let (second, server) = MemoryStream.pair(on: loop)
                let filter = Restless(seed: 1)
                scenario.keep(filter)
                Relay(first, FilteredStream(second, filter)) { result in
                    let other = byServer ? user : server
                    #expect(other.failure?.code == .reset && filter.ends.count == 1)
                    #expect(result.failure == filter.ends[0])
                    scenario.complete(result.failure)
                    other.reset(.closed(other))
                }.start()
                (byServer ? server : user).reset(StreamError(.reset, "away"))
            }
            #expect(failure?.code == .reset)
        }
    }
}

import Streams
import TestPeers
import Testing

@testable import MeshPaths

/// What the resumable streams of one connection keep and owe together.
@Suite(.timeLimit(.minutes(5))) struct CarriedStreamsTests {
    private typealias Carried = CarriedStreams<End>

    /// One end of a stream: what it keeps, or what it owes.
    private final class End: CarriedStream {
        let number: Int
        var carriedPart = CarriedPart()
        var keptCount = 0
        var acknowledgedPosition: UInt64 = 0
        var promptStep: Int? = Carried.step
        var wakes = 0
        var acknowledgements = 0
        var onRoom: (() -> Void)?
        var onAcknowledgement: (() -> Void)?

        init(_ number: Int = 0) { self.number = number }

        func hasRoomAgain() {
            wakes += 1
            onRoom?()
        }

        func acknowledgeNow() {
            acknowledgements += 1
            onAcknowledgement?()
        }

        func keep(_ count: Int, in carried: Carried) {
            keptCount += count
            carried.count(self)
        }

        func drop(_ count: Int, in carried: Carried) {
            keptCount -= count
            acknowledgedPosition += UInt64(count)
            carried.moved(self)
            carried.count(self)
        }
    }

    /// On a loop, whose timer it is that looks; where a test asks it to look, that is as if the time were over.
    private func withCarried(_ body: @escaping @Sendable (Carried, EventLoop) throws -> Void) async throws {
        let loop = EventLoop(name: "carried")
        let result: Result<Void, any Error>
        do {
            try await loop.execute { try body(Carried(on: loop), loop) }
            result = .success(())
        } catch {
            result = .failure(error)
        }
        await loop.shutDown()
        try result.get()
    }

    @Test("all keep twice what the peer acknowledges at once, and each a little whatever the others do")
    func limit() async throws {
        try await withCarried { carried, _ in
            let (first, second, third) = (End(), End(), End())
            first.keep(2 << 20, in: carried)
            first.promptStep = nil
            // A long path, or a peer that says nothing.
            #expect(carried.room(for: first) == .max)
            first.promptStep = 1
            #expect(carried.room(for: first) == 0 && carried.room(for: second) == 64 << 10)
            first.drop(1 << 20 | 512 << 10, in: carried)
            #expect(carried.room(for: first) == 512 << 10 && carried.room(for: second) == 512 << 10)
            second.keep(500 << 10, in: carried)
            #expect(carried.kept == 1012 << 10 && carried.room(for: second) == 12 << 10)
            #expect(carried.room(for: third) == 64 << 10)
            third.keep(7 << 10, in: carried)
            // So little does not count.
            #expect(carried.kept == 1012 << 10 && carried.room(for: third) == 57 << 10)
            carried.leave(second)
            #expect(carried.kept == 512 << 10)
        }
    }

    @Test("a peer that acknowledges less often is allowed more") func seldom() async throws {
        try await withCarried { carried, _ in
            let stream = End()
            stream.promptStep = 4 << 20
            stream.keep(2 << 20, in: carried)
            #expect(carried.room(for: stream) == 6 << 20)
        }
    }

    @Test("streams that wait go on in turn, as many as there is room for") func row() async throws {
        try await withCarried { carried, _ in
            let full = End()
            full.keep(1 << 20 | 1, in: carried)
            #expect(carried.room(for: full) == 0)
            let streams = (0..<4).map { End($0) }
            for stream in streams + streams { carried.wait(stream) }
            carried.release()
            #expect(streams.allSatisfy { $0.wakes == 0 })
            full.drop(128 << 10 | 1, in: carried)
            carried.release()
            carried.release()
            #expect(streams.map(\.wakes) == [1, 1, 0, 0])
            // The first uses what it was told of, the second has nothing to send.
            streams[0].keep(64 << 10, in: carried)
            #expect(!carried.came(streams[0]))
            #expect(carried.came(streams[1]))
            carried.release()
            #expect(streams.map(\.wakes) == [1, 1, 1, 0])
            // Nor does what one leaves stay with it.
            carried.wait(streams[2])
            carried.leave(streams[2])
            #expect(!streams[2].carriedPart.isWaiting && !carried.came(streams[2]))
            carried.release()
            #expect(streams.map(\.wakes) == [1, 1, 1, 1])
        }
    }

    @Test("what leaves makes room for those that wait, also where nothing is acknowledged") func leaving() async throws
    {
        let loop = EventLoop(name: "carried")
        let world = try await loop.execute {
            let (carried, full, waiting) = (Carried(on: loop), End(), End())
            full.keep(2 << 20, in: carried)
            _ = carried.room(for: full)
            carried.wait(waiting)
            carried.leave(full)
            #expect(waiting.wakes == 0)
            return LoopBound((carried: carried, waiting: waiting), on: loop)
        }
        try await eventually("the other one goes on") {
            try await loop.execute { world.withValue { $0.waiting.wakes == 1 && $0.carried.kept == 0 } }
        }
        await loop.shutDown()
    }

    @Test("a stream whose reader takes nothing does not count, until it does") func still() async throws {
        try await withCarried { carried, _ in
            let (stalled, moving, waiting) = (End(), End(), End())
            stalled.keep(700 << 10, in: carried)
            moving.keep(400 << 10, in: carried)
            #expect(carried.room(for: waiting) == 64 << 10)
            waiting.keep(64 << 10, in: carried)
            carried.wait(waiting)
            carried.look()
            #expect(waiting.wakes == 0 && carried.kept == 1164 << 10)
            moving.drop(100 << 10, in: carried)
            carried.look()
            // Nothing was acknowledged of what waits, either; it has its turn.
            #expect(carried.kept == 300 << 10 && waiting.wakes == 1)
            stalled.keep(1000, in: carried)
            #expect(carried.kept == 300 << 10)
            stalled.drop(1000, in: carried)
            #expect(carried.kept == 1000 << 10)
        }
    }

    @Test("all acknowledge together, as soon as that is worth a record") func acknowledging() async throws {
        try await withCarried { carried, _ in
            let streams = (0..<3).map { End($0) }
            #expect(!carried.owes(streams[0], 8191) && carried.owed == 0)
            #expect(!carried.owes(streams[0], 100 << 10))
            #expect(!carried.owes(streams[1], 300 << 10))
            // With other frames.
            carried.acknowledged(streams[0])
            #expect(carried.owed == 300 << 10)
            #expect(!carried.owes(streams[0], 10 << 10))
            #expect(!carried.owes(streams[1], 400 << 10))
            #expect(!carried.owes(streams[2], 5 << 10))
            #expect(carried.owes(streams[2], 102 << 10))
            carried.acknowledgeAll()
            #expect(streams.map(\.acknowledgements) == [1, 1, 1] && carried.owed == 0)
            carried.acknowledgeAll()
            #expect(streams.map(\.acknowledgements) == [1, 1, 1])
            #expect(!carried.owes(streams[1], 500 << 10))
            carried.leave(streams[1])
            #expect(carried.owed == 0)
        }
    }

    /// A sender and a receiver, and streams between them: some move, some have readers that take nothing.
    private final class World {
        let sending: Carried
        let receiving: Carried
        let senders: [End]
        let receivers: [End]
        let stalled: Int
        var left: [Int]
        var onTheWay: [Int]
        var owed: [Int]
        /// Told to go on, or not yet asked.
        var runnable: [Int]
        var looks = 0
        var most = 0

        init(_ loop: EventLoop, streams: Int, stalled: Int, _ fuzzer: inout Fuzzer) {
            sending = Carried(on: loop)
            receiving = Carried(on: loop)
            senders = (0..<streams).map { End($0) }
            receivers = (0..<streams).map { End($0) }
            self.stalled = stalled
            left = []
            for _ in 0..<streams { left.append(fuzzer.below(fuzzer.below(3) == 0 ? 20_000 : 6 << 20)) }
            onTheWay = Array(repeating: 0, count: streams)
            owed = onTheWay
            runnable = Array(0..<streams)
            for number in 0..<streams {
                senders[number].onRoom = { [unowned self] in runnable.append(number) }
                receivers[number].onAcknowledgement = { [unowned self] in acknowledge(number) }
            }
        }

        func acknowledge(_ number: Int) {
            let count = owed[number]
            owed[number] = 0
            receiving.acknowledged(receivers[number])
            senders[number].drop(count, in: sending)
        }

        /// As HTTP/2 asks a stream: a frame, or nothing for want of room.
        func send(_ number: Int, _ size: Int) {
            guard left[number] > 0 else {
                if sending.came(senders[number]) { sending.release() }
                return
            }
            let room = sending.room(for: senders[number])
            if room < 16_384 {
                sending.wait(senders[number])
            } else {
                let count = min(room, left[number], size)
                left[number] -= count
                onTheWay[number] += count
                senders[number].keep(count, in: sending)
                runnable.append(number)
            }
            most = max(most, sending.kept)
            if sending.came(senders[number]) { sending.release() }
        }

        func take(_ number: Int, _ limit: Int) {
            let count = min(limit, onTheWay[number])
            guard count > 0, number >= stalled else { return }
            onTheWay[number] -= count
            owed[number] += count
            if receiving.owes(receivers[number], owed[number]) {
                receiving.acknowledgeAll()
                sending.release()
            }
        }

        func run(_ fuzzer: inout Fuzzer) -> Bool {
            for _ in 0..<1_000_000 {
                if left[stalled...].allSatisfy({ $0 == 0 }), onTheWay[stalled...].allSatisfy({ $0 == 0 }) {
                    return true
                }
                if fuzzer.below(2) == 0, !runnable.isEmpty {
                    send(runnable.remove(at: fuzzer.below(runnable.count)), 1 + fuzzer.below(65_536))
                } else if onTheWay[stalled...].contains(where: { $0 > 0 }) {
                    take(fuzzer.below(senders.count), 1 + fuzzer.below(300_000))
                } else if runnable.isEmpty {
                    // Everything stands still: only time helps.
                    looks += 1
                    sending.look()
                }
            }
            return false
        }
    }

    @Test("whatever the order, nobody waits for time unless a reader does, and then not for long") func schedules()
        async throws
    {
        try await withCarried { _, loop in
            var fuzzer = Fuzzer("carried streams")
            var waits = 0
            for number in 0..<200 {
                let streams = 1 + fuzzer.below(20)
                let stalled = number % 2 == 0 ? 0 : fuzzer.below(streams)
                let world = World(loop, streams: streams, stalled: stalled, &fuzzer)
                let isOver = world.run(&fuzzer)
                #expect(isOver, "schedule \(number): stands still")
                guard isOver else { return }
                if stalled == 0 { #expect(world.looks == 0, "schedule \(number)") }
                #expect(
                    world.looks <= 4 * (stalled + 1),
                    "schedule \(number): \(world.looks) looks, \(stalled) stalled"
                )
                #expect(world.most <= (1 << 20) + (streams + 1) * (64 << 10), "schedule \(number): \(world.most)")
                for (number, sender) in world.senders.enumerated() {
                    world.sending.leave(sender)
                    world.receiving.leave(world.receivers[number])
                }
                #expect(world.sending.kept == 0 && world.receiving.owed == 0)
                waits += world.senders.reduce(0) { $0 + $1.wakes }
            }
            // Schedules in which nobody waits would test nothing.
            #expect(waits > 2000)
        }
    }
}

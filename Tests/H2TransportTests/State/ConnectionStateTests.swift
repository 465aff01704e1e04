import CLinux
import Streams
import TestPeers
import Testing

@testable import H2Transport

/// The values that an HTTP/2 connection consists of, by plain calls.
@Suite struct ConnectionStateTests {
    // MARK: Life

    @Suite struct Life {
        private let lost = StreamError(.reset, "lost")

        @Test("a drain of this side is announced once, and ends when the last stream has")
        func drain() {
            var life = ConnectionLife()
            #expect(life.becameIdle() == false)
            #expect([life.announce(), life.announce()] == [true, false])
            #expect(!life.isDraining)
            life.stopTakingStreams()
            #expect(life.isDraining && !life.isClosing)
            let isNews = life.refusedMoreStreams()
            #expect(!isNews)
            #expect(life.becameIdle() == true)
            #expect(life.isClosing)
            #expect(life.reasonWhenFlushed(hasStreams: false, peer: "peer") == nil)
            let (first, second) = (life.end(nil), life.end(lost))
            #expect(first && !second)
            #expect(life.isClosed && life.isDraining && life.failure == nil)
        }

        @Test("the peer's GOAWAY is news once, and this side may still announce its own")
        func goAway() {
            var life = ConnectionLife()
            let (first, second) = (life.refusedMoreStreams(), life.refusedMoreStreams())
            #expect(first && !second)
            #expect(life.state == .draining(isAnnounced: false))
            let isNew = life.announce()
            #expect(isNew)
            #expect(life.state == .draining(isAnnounced: true))
        }

        @Test("what is lost counts while streams are open, or before both sides said goodbye")
        func lossOfTheLayerBelow() {
            var life = ConnectionLife()
            #expect(life.reasonWhenLost(hasStreams: false, lost) == lost)
            _ = life.refusedMoreStreams()
            #expect(life.reasonWhenLost(hasStreams: true, lost) == lost)
            #expect(life.reasonWhenLost(hasStreams: false, lost) == nil)
        }

        @Test("a peer that is cut off gets its reason, whatever comes after it")
        func cutOff() {
            let flood = StreamError(.limit, "too much")
            var life = ConnectionLife()
            let (first, second) = (life.cutOff(flood), life.cutOff(lost))
            #expect(first && !second)
            life.close()
            life.gaveUp()
            #expect(life.isDraining)
            #expect(life.reasonWhenFlushed(hasStreams: false, peer: "peer") == flood)
            #expect(life.reasonWhenLost(hasStreams: false, lost) == flood)
        }

        @Test("a connection that nghttp2 gave up is the peer's fault, unless it had said goodbye and no stream is open")
        func broken() {
            var life = ConnectionLife()
            life.gaveUp()
            #expect(life.isClosing && !life.isDraining)
            #expect(life.reasonWhenFlushed(hasStreams: false, peer: "peer")?.code == .protocolViolation)
            #expect(life.becameIdle() == false)
            life = ConnectionLife()
            _ = life.refusedMoreStreams()
            life.gaveUp()
            #expect(life.reasonWhenFlushed(hasStreams: true, peer: "peer")?.code == .protocolViolation)
            #expect(life.reasonWhenFlushed(hasStreams: false, peer: "peer") == nil)
        }

        @Test("a drain can only be made shorter, and tells everybody who waits, once")
        func deadline() {
            var deadline = DrainDeadline()
            #expect(deadline.shorten(to: 100) == true)
            #expect(deadline.shorten(to: 200) == false)
            #expect(deadline.shorten(to: 50) == true)
            var told: [Int] = []
            deadline.add { told.append(1) }
            deadline.add { told.append(2) }
            for completion in deadline.takeCompletions() { completion() }
            for completion in deadline.takeCompletions() { completion() }
            #expect(told == [1, 2])
        }
    }

    // MARK: Input and events

    @Test("input pauses and goes on, and never after its end")
    func input() {
        var input = InputGate()
        #expect(input.resume() == false)
        let (first, second) = (input.pause(), input.pause())
        #expect(first && !second)
        #expect(!input.isOpen)
        #expect(input.resume() == true)
        #expect(input.isOpen)
        input.end()
        #expect([input.pause(), input.resume(), input.isOpen] == [false, false, false])
        input.endBelow()
        input.end()
        #expect(input.state == .endedBelow)
    }

    @Test("the loop is asked once for each turn")
    func turns() {
        var input = InputGate()
        #expect([input.schedule(), input.schedule()] == [true, false])
        #expect([input.takeTurn(), input.takeTurn()] == [true, false])
        #expect(input.schedule() == true)
    }

    @Test("events are served in order, those that come meanwhile too, and nobody serves them inside of that")
    func events() {
        var events = EventQueue<Int>()
        events.record(1)
        let asks = [
            events.add(2, isInLibrary: true), events.add(3, isInLibrary: false), events.add(4, isInLibrary: false),
        ]
        #expect(asks == [false, true, false])
        #expect([events.takeTurn(), events.takeTurn()] == [true, false])
        let (first, second) = (events.begin(), events.begin())
        #expect(first && !second)
        var served: [Int] = []
        while let event = events.popFirst() {
            served.append(event)
            if event == 2 { #expect(events.add(5, isInLibrary: false) == false) }
        }
        events.finish()
        #expect(served == [1, 2, 3, 4, 5])
        #expect(events.add(6, isInLibrary: false) == true)
        #expect(events.begin() == true)
        #expect(events.popFirst() == 6)
    }

    @Test("pieces are linked by stream, and small ones in a row become one")
    func chunks() {
        var bytes = Array(UInt8(0)..<100)
        bytes.withUnsafeMutableBytes { buffer in
            guard let base = buffer.baseAddress else { return }
            var list = ChunkList()
            var (a, b) = (ChunkRange(), ChunkRange())
            // Frame headers lie between the pieces.
            list.append(base + 10, 5, to: &a)
            list.append(base + 24, 5, to: &a)
            list.append(base + 40, 5, to: &b)
            list.append(base + 60, 5, to: &a)
            #expect(Array(list.first(of: a)) == [10, 11, 12, 13, 14, 24, 25, 26, 27, 28])
            var vectors: ContiguousArray<iovec> = []
            #expect(list.take(&a, into: &vectors) == 15)
            #expect(vectors.map(\.iov_len) == [10, 5])
            #expect(a.isEmpty && !b.isEmpty)
            #expect(list.take(&b, into: &vectors) == 5)
            #expect(list.first(of: b).isEmpty)
        }
    }

    // MARK: Limits

    private let limits = {
        var limits = H2Configuration.Limits()
        limits.earlyResets = .init(burst: 1, perSecond: 0)
        limits.provokedResets = .init(burst: 1, perSecond: 0)
        limits.controlFrames = .init(burst: 1, perSecond: 0)
        limits.windowUpdates = .init(burst: 1, perSecond: 0)
        return limits
    }()

    @Test("resets count while the stream is young or not answered, and not when everything had been sent")
    func earlyResets() {
        var counters = H2ConnectionCounters()
        var flood = FloodGuard(limits, now: 0)
        func reset(_ isAnswered: Bool, _ hadEnded: Bool, at now: UInt64) -> FloodGuard.Flood? {
            flood.clientReset(requestedAt: 0, isAnswered: isAnswered, hadEnded: hadEnded, now: now, &counters)
        }
        #expect(reset(true, true, at: 1) == nil)
        #expect(reset(true, false, at: 1_000_000_000) == nil)
        #expect(counters.earlyResetsReceived == 0)
        #expect(reset(true, false, at: 999_999_999) == nil)
        #expect(reset(false, false, at: 5_000_000_000) == .earlyResets)
        #expect(counters.earlyResetsReceived == 2)
    }

    @Test("resets of nghttp2's own accord are provoked, those of this side are not")
    func provokedResets() {
        var counters = H2ConnectionCounters()
        var flood = FloodGuard(limits, now: 0)
        flood.submittedReset()
        #expect(flood.sentReset(.cancel, now: 0, &counters) == nil)
        #expect(flood.sentReset(.refusedStream, now: 0, &counters) == nil)
        #expect(flood.sentReset(.protocolError, now: 0, &counters) == .provokedResets)
        #expect((counters.resetsSent, counters.streamsRefused, counters.provokedResets) == (3, 1, 1))
    }

    @Test("credit for what was sent is expected: four frames, and one for each KiB")
    func windowUpdates() {
        var counters = H2ConnectionCounters()
        var flood = FloodGuard(limits, now: 0)
        flood.sent(bytes: 2048)
        for _ in 0..<6 { #expect(flood.windowUpdate(now: 0, &counters) == nil) }
        #expect(counters.excessWindowUpdates == 0)
        #expect(flood.windowUpdate(now: 0, &counters) == nil)
        #expect(flood.windowUpdate(now: 0, &counters) == .windowUpdates)
        #expect(flood.controlFrame(now: 0, &counters) == nil)
        #expect(flood.controlFrame(now: 0, &counters) == .controlFrames)
    }

    @Test("the window of the connection is given back at once, until readers leave too much, and then at half of that")
    func connectionWindow() {
        var counters = H2ConnectionCounters()
        var window = ConnectionWindow(size: 1000, limit: 1000)
        window.queueChanged(by: 1000)
        #expect(window.received(100, &counters) == 100)
        window.queueChanged(by: 1)
        #expect(window.received(100, &counters) == 0)
        #expect(window.received(50, &counters) == 0)
        #expect((window.withheld, counters.windowStalls) == (150, 1))
        window.queueChanged(by: -500)
        #expect(window.release() == 0)
        window.queueChanged(by: -1)
        #expect(window.release() == 150)
        #expect(window.release() == 0)
    }

    @Test("it is twice the largest of its streams, and no more than its limit")
    func connectionWindowGrows() {
        var window = ConnectionWindow(size: 1000, limit: 5000)
        #expect(window.grow(forStream: 400, largest: 10_000) == nil)
        #expect(window.grow(forStream: 1500, largest: 10_000) == 3000)
        #expect(window.grow(forStream: 9000, largest: 4000) == 4000)
        #expect(window.grow(forStream: 9000, largest: 10_000) == 5000)
        #expect(window.size == 5000)
    }

    @Test("the smallest round trip stays, the last one is told")
    func roundTrip() {
        var roundTrip = RoundTrip()
        roundTrip.saw(0)
        #expect(roundTrip.smallest == 1)
        roundTrip = RoundTrip()
        roundTrip.saw(500)
        #expect(roundTrip.last == nil)
        #expect(roundTrip.answered(after: 700) == .nanoseconds(700))
        #expect((roundTrip.smallest, roundTrip.last) == (500, .nanoseconds(700)))
        #expect([roundTrip.startMeasuring(), roundTrip.startMeasuring()] == [true, false])
        roundTrip.endMeasuring()
        #expect(roundTrip.startMeasuring() == true)
    }

    @Test("the peer's window stalls from when it was used up until it is opened")
    func peerWindow() {
        var counters = H2ConnectionCounters()
        var window = PeerWindow()
        window.sent(leaving: 1, now: 10, &counters)
        #expect(!window.isStalled(for: .zero, now: 100))
        window.sent(leaving: 0, now: 10, &counters)
        window.sent(leaving: 0, now: 50, &counters)
        #expect(counters.sendWindowStalls == 1)
        #expect(!window.isStalled(for: .nanoseconds(91), now: 100))
        #expect(window.isStalled(for: .nanoseconds(90), now: 100))
        window.opened()
        #expect(!window.isStalled(for: .zero, now: 100))
    }

    // MARK: Memory

    @Test("the account is balanced in steps, and when it is empty")
    func memory() {
        var memory = MemoryAccount()
        #expect(memory.hold(16383) == nil)
        #expect(memory.hold(1) == 16384)
        #expect(memory.hold(10) == nil)
        #expect(memory.hold(-16394) == -16384)
        #expect(memory.reported == 0)
        #expect(memory.hold(10) == nil)
        #expect(memory.hold(-10) == nil)
    }

    @Test("a connection is over its limit, or over its share when the budget of all is used up")
    func memoryLimits() {
        let budget = H2MemoryBudget(limit: 100_000)
        var memory = MemoryAccount()
        if let change = memory.hold(60_000) { budget.changed(by: change, to: memory.held) }
        #expect(!memory.isOver(60_000, budget))
        #expect(memory.isOver(59_999, budget))
        budget.changed(by: 50_000, to: 50_000)
        #expect(memory.isOver(1 << 30, budget))
        #expect([memory.startShedding(), memory.startShedding()] == [true, false])
        memory.endShedding()
        #expect(memory.startShedding() == true)
    }

    @Test("a stream stands still when it has something to move and moves nothing for the whole time")
    func standingStill() {
        var usage = StreamUsage()
        #expect(usage.update(queued: 5, held: 4096).map { [$0.queued, $0.held] } == [5, 4096])
        #expect(usage.update(queued: 5, held: 4096) == nil)
        #expect(usage.stands(true, for: 100, now: 1000) == false)
        #expect(usage.stands(true, for: 100, now: 1099) == false)
        #expect(usage.stands(true, for: 100, now: 1100) == true)
        #expect(usage.stands(false, for: 100, now: 1200) == false)
        #expect(usage.stands(true, for: 100, now: 1300) == false)
        usage.progress += 1
        #expect(usage.stands(true, for: 100, now: 1400) == false)
        #expect([usage.takeSample(), usage.takeSample()] == [false, true])
    }

    @Test("output stalls when nothing has left for the whole time; overload counts from the second look")
    func watch() {
        var limits = H2Configuration.Limits()
        limits.stallTimeout = .seconds(40)
        limits.overloadGrace = .seconds(2)
        var watch = StallWatch(limits)
        let second: UInt64 = 1_000_000_000
        #expect(watch.longInterval == .seconds(10))
        #expect([watch.startWatching(), watch.startWatching()] == [true, false])
        #expect(watch.nextLook(holdsSomething: true) == .seconds(2))
        #expect(watch.nextLook(holdsSomething: false) == .seconds(10))
        #expect(watch.outputStalls(lowerIsFull: true, sent: 7, now: second) == false)
        #expect(watch.outputStalls(lowerIsFull: true, sent: 7, now: 2 * second) == false)
        #expect(watch.outputStalls(lowerIsFull: true, sent: 7, now: 41 * second) == false)
        #expect(watch.outputStalls(lowerIsFull: true, sent: 7, now: 42 * second) == true)
        #expect(watch.outputStalls(lowerIsFull: true, sent: 8, now: 43 * second) == false)
        #expect([true, true, false, true].map { watch.stayedOverloaded($0) } == [false, true, false, false])
    }

    // MARK: Time

    @Test("silence is answered by a PING, and silence after it is the end")
    func keepAlive() {
        var configuration = H2Configuration.KeepAlive()
        configuration.interval = .seconds(10)
        configuration.timeout = .seconds(20)
        var liveness = PeerLiveness(configuration)
        let second: UInt64 = 1_000_000_000
        #expect(liveness.look(lastReceived: 6 * second, now: 10 * second) == .wait(.seconds(6)))
        #expect(liveness.look(lastReceived: 6 * second, now: 16 * second) == .ping(.seconds(20)))
        #expect(liveness.look(lastReceived: 6 * second, now: 30 * second) == .wait(.seconds(6)))
        #expect(liveness.look(lastReceived: 6 * second, now: 36 * second) == .dead)
        #expect(liveness.look(lastReceived: 17 * second, now: 36 * second) == .ping(.seconds(20)))
        #expect(liveness.look(lastReceived: 37 * second, now: 38 * second) == .wait(.seconds(9)))
    }

    @Test("of the requests that still wait, the oldest is the first to be late")
    func deadlines() {
        var deadlines = RequestDeadlines(timeout: .seconds(1))
        var waiting: Set<Int32> = [1, 3, 5]
        for (id, now) in [(1, 0), (3, 100), (5, 200)] as [(Int32, UInt64)] {
            deadlines.append(id, now: now) { waiting.contains($0) }
        }
        waiting.remove(1)
        #expect(deadlines.next(now: 1_000_000_099) { waiting.contains($0) } == .wait(.nanoseconds(1)))
        #expect(deadlines.next(now: 1_000_000_100) { waiting.contains($0) } == .expired(3))
        waiting.remove(3)
        #expect(deadlines.next(now: 1_000_000_100) { waiting.contains($0) } == .wait(.nanoseconds(100)))
        waiting = []
        #expect(deadlines.next(now: 1_000_000_100) { waiting.contains($0) } == nil)
    }

    @Test("a connection is too old once, and expires by the wall clock")
    func age() {
        var counters = H2ConnectionCounters()
        let second: UInt64 = 1_000_000_000
        var age = ConnectionAge(maximum: .seconds(100), fraction: 0.8, now: 0)
        #expect(age.nextLook(now: 0, wallClock: 1000) == .seconds(80))
        #expect(age.look(now: 80 * second - 1, wallClock: 1000, &counters) == .young)
        #expect(age.look(now: 80 * second, wallClock: 1000, &counters) == .tooOld)
        #expect(age.look(now: 81 * second, wallClock: 1000, &counters) == .young)
        #expect(age.nextLook(now: 81 * second, wallClock: 1000) == nil)
        age.expiry = 1090
        #expect(age.nextLook(now: 0, wallClock: 1000) == .seconds(60))
        #expect(age.nextLook(now: 0, wallClock: 1080) == .seconds(10))
        #expect(age.look(now: 0, wallClock: 1090, &counters) == .expired)
        #expect((counters.retiredForAge, counters.retiredExpired) == (1, 1))
        #expect([age.retire(), age.retire()] == [true, false])
        #expect(age.nextLook(now: 0, wallClock: 1000) == nil)
        #expect(age.look(now: 0, wallClock: 2000, &counters) == .young)
    }

    // MARK: Output

    @Test("who was idle goes before who is busy, each in turn")
    func schedule() {
        var schedule = SendSchedule<Int>()
        schedule.appendBusy(1)
        schedule.appendBusy(2)
        schedule.appendIdle(3)
        #expect(schedule.popFirst() == 3)
        schedule.appendIdle(4)
        #expect([schedule.popFirst(), schedule.popFirst()] == [4, 1])
        var left: [Int] = []
        schedule.removeAll { left.append($0) }
        #expect(left == [2])
        #expect(schedule.isEmpty)
    }

    @Test("frames are staged in one buffer, and what does not fit goes into the next one")
    func staging() async throws {
        try await withLoop { loop in
            try await loop.execute {
                let inUse = loop.buffers.buffersInUse
                var output = OutputStaging(pool: loop.buffers)
                #expect([output.markDirty(), output.markDirty()] == [true, false])
                #expect([output.beginFlush(), output.isDirty] == [true, false])
                #expect(output.frameLength(limit: 65536) == 65536)
                let header: [UInt8] = Array(repeating: 7, count: 9)
                // Three large frames and what remains of the buffer.
                for length in [65536, 65536, 65536, 262_144 - 3 * 65545 - 9 - 500] {
                    #expect(output.hasRoom() == true)
                    #expect(output.frameLength(limit: length) == length)
                    output.payloadSpace(length).initializeMemory(as: UInt8.self, repeating: 1)
                    output.commit(header: header, length: length)
                }
                #expect([output.hasRoom(), output.isFull] == [false, true])
                let control: [UInt8] = Array(repeating: 2, count: 600)
                control.withUnsafeBytes { bytes in
                    output.beginStaging()
                    output.append(control: bytes)
                    #expect(output.isFull && output.staged.count == 262_144)
                    output.wrote(262_143)
                    #expect([output.lowerIsFull, output.beginFlush()] == [true, false])
                    output.lowerBecameWritable()
                    output.wrote(1)
                    #expect(!output.lowerIsFull && output.staged.isEmpty)
                    output.releaseEmpty()
                    #expect(loop.buffers.buffersInUse == inUse)
                    output.beginStaging()
                    output.appendControl()
                }
                #expect(!output.isFull)
                #expect(Array(output.staged) == Array(repeating: 2, count: 100))
                output.release()
                #expect(loop.buffers.buffersInUse == inUse)
            }
        }
    }

    // MARK: Streams

    @Test("a reader gets the queue, then the batch; what it leaves is kept, and credit comes in halves of the window")
    func receivingHalf() async throws {
        try await withLoop { loop in
            try await loop.execute {
                var half = ReceivingHalf(window: 100, pool: loop.buffers)
                // What is offered has to stay where it is until the offer ends.
                let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 30, alignment: 1)
                let vectors = UnsafeMutableBufferPointer<iovec>.allocate(capacity: 2)
                defer {
                    vectors.deallocate()
                    bytes.deallocate()
                }
                bytes.copyBytes(from: UInt8(0)..<30)
                vectors.initializeElement(at: 0, to: iovec(iov_base: bytes.baseAddress, iov_len: 10))
                vectors.initializeElement(at: 1, to: iovec(iov_base: bytes.baseAddress.map { $0 + 10 }, iov_len: 20))
                var buffer = [UInt8](repeating: 0, count: 8)
                func read() -> [UInt8] {
                    let count = buffer.withUnsafeMutableBytes { half.read(into: $0) }
                    return Array(buffer[..<count])
                }
                half.keep(UnsafeBufferPointer(vectors), from: 26)
                half.offer(UnsafeBufferPointer(vectors))
                #expect(!half.readerWaits && !half.isEmpty)
                #expect(read() == [26, 27, 28, 29, 0, 1, 2, 3])
                #expect(read() == [4, 5, 6, 7, 8, 9, 10, 11])
                #expect(half.endOffer(keeps: true) == 18)
                #expect(read() == [12, 13, 14, 15, 16, 17, 18, 19])
                #expect(half.credit(49, roundTrip: 0) == 0)
                #expect(half.credit(1, roundTrip: 0) == 50)
                #expect(half.credit(49, roundTrip: 0) == 0)
                #expect(half.drop() == 10)
                #expect(half.isEmpty && read() == [])
                half.readerWaits = true
                #expect([half.wakeReader(), half.wakeReader()] == [true, false])
            }
        }
    }

    @Test("a writer is accepted up to the limit, waits then, and nothing leaves before the answer")
    func sendingHalf() async throws {
        try await withLoop { loop in
            try await loop.execute {
                var half = SendingHalf(isHeld: true, pool: loop.buffers)
                var bytes = [UInt8](repeating: 7, count: 10)
                func accept() -> Int? {
                    bytes.withUnsafeMutableBytes { bytes in
                        let vectors = [
                            iovec(iov_base: bytes.baseAddress, iov_len: 4),
                            iovec(iov_base: bytes.baseAddress, iov_len: 6),
                        ]
                        return vectors.withUnsafeBufferPointer { half.accept($0, limit: 15) }
                    }
                }
                let nothing = half.release()
                #expect(!nothing && !half.isHeld)
                #expect(accept() == 10)
                #expect(!half.writerWaits)
                #expect(accept() == 5)
                #expect(half.writerWaits)
                #expect(accept() == nil)
                #expect([half.wakeWriter(), half.wakeWriter()] == [true, false])
                #expect(half.hasMore && half.isBlocked)
                #expect(bytes.withUnsafeMutableBytes { half.read(into: $0) } == 10)
                half.drop()
                #expect(!half.hasMore && !half.isBlocked)
                _ = half.state.finish()
                #expect(half.hasMore && half.isBlocked)
                half.isDeferred = true
                #expect(!half.isBlocked)
            }
        }
    }
}

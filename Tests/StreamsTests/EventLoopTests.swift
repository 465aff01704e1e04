import CLinux
import Glibc
import Synchronization
import Testing

@testable import Streams

@Suite("EventLoop", .timeLimit(.minutes(10)))
struct EventLoopTests {
    @Test("runs submitted work in order, on its own thread")
    func submission() async throws {
        try await withLoop { loop in
            #expect(!loop.isCurrent)
            let order = Lock<[Int]>([])
            for index in 0..<1000 {
                loop.submit {
                    #expect(loop.isCurrent)
                    order.withLock { $0.append(index) }
                }
            }
            try await loop.execute {}
            #expect(order.withLock { $0 } == Array(0..<1000))
        }
    }

    @Test("later: outside of what runs now, in order, after the sockets were asked again")
    func later() async throws {
        try await withLoop { loop in
            let order = Lock<[String]>([])
            let (near, far) = try await loop.execute {
                let (near, far) = try Socket.pair(on: loop)
                return (LoopBound(near, on: loop), LoopBound(far, on: loop))
            }
            let reader = try await loop.execute {
                let reader = Reader { order.withLock { $0.append("bytes") } }
                near.withValue { $0.observer = reader }
                return LoopBound(reader, on: loop)
            }
            try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
                loop.submit {
                    loop.later { order.withLock { $0.append("first") } }
                    loop.later {
                        order.withLock { $0.append("second") }
                        done.resume()
                    }
                    far.withValue { far in
                        "x".utf8.withContiguousStorageIfAvailable { _ = far.write(UnsafeRawBufferPointer($0)) }
                    }
                    order.withLock { $0.append("now") }
                }
            }
            #expect(order.withLock { $0 } == ["now", "bytes", "first", "second"])
            try await loop.execute {
                near.withValue { $0.close() }
                far.withValue { $0.close() }
                reader.withValue { _ in }
            }
        }
    }

    private final class Reader: StreamObserver {
        private let told: () -> Void
        init(_ told: @escaping () -> Void) { self.told = told }
        func streamReadable(_ stream: ByteStream) { told() }
        func streamWritable(_ stream: ByteStream) {}
        func streamFailed(_ stream: ByteStream) {}
    }

    @Test("work from many threads arrives exactly once")
    func concurrentSubmission() async throws {
        try await withLoop { loop in
            let counts = LoopBound(Counts(size: 8), on: loop)
            await withTaskGroup(of: Void.self) { group in
                for task in 0..<8 {
                    group.addTask {
                        for _ in 0..<2000 { loop.submit { counts.withValue { $0.values[task] += 1 } } }
                    }
                }
            }
            let values = try await loop.execute { counts.withValue { $0.values } }
            #expect(values == Array(repeating: 2000, count: 8))
        }
    }

    @Test("execute returns the result or throws the error")
    func execution() async throws {
        try await withLoop { loop in
            let result = try await loop.execute { 42 }
            #expect(result == 42)
            await #expect(throws: StreamError(.limit, "full")) {
                try await loop.execute { throw StreamError(.limit, "full") }
            }
        }
    }

    @Test("an actor that names the loop as its executor runs on the loop's thread")
    func actorOnLoop() async throws {
        try await withLoop { loop in
            let counter = Counter(loop: loop)
            await withTaskGroup(of: Void.self) { group in
                for _ in 0..<100 { group.addTask { await counter.increment() } }
            }
            #expect(await counter.value == 100)
            #expect(await counter.wasAlwaysOnLoop)
            // From a callback of the loop the actor is reached with no hop.
            let value = try await loop.execute { counter.assumeIsolated { $0.value } }
            #expect(value == 100)
        }
    }

    @Test("turn tasks run in order, after the callback that asked for them")
    func turnTaskOrder() async throws {
        try await withLoop { loop in
            let order: [String] = try await onLoop(loop) { scenario in
                var order: [String] = []
                loop.atEndOfTurn(ClosureTask { _ in order.append("end of turn") })
                loop.nextTurn(ClosureTask { _ in order.append("first") })
                loop.nextTurn(
                    ClosureTask { _ in
                        order.append("second")
                        loop.nextTurn(
                            ClosureTask { _ in
                                order.append("next turn")
                                scenario.complete(order)
                            }
                        )
                    }
                )
                order.append("callback")
            }
            #expect(order == ["callback", "first", "second", "end of turn", "next turn"])
        }
    }

    @Test("a task that reschedules itself for ever lets sockets, timers and submitted work have their turn")
    func fairness() async throws {
        try await withLoop { loop in
            let stop = Atomic<Bool>(false)
            let served: [String] = try await onLoop(loop) { scenario in
                var served: [String] = []
                let spinner = ClosureTask { task in
                    if !stop.load(ordering: .relaxed) { loop.nextTurn(task) }
                }
                loop.nextTurn(spinner)
                func serve(_ what: String) {
                    served.append(what)
                    if served.count == 3 {
                        stop.store(true, ordering: .relaxed)
                        scenario.complete(served.sorted())
                    }
                }
                let (near, far) = try Socket.pair(on: loop)
                let observer = scenario.keep(Observer())
                near.observer = observer
                #expect(near.readBytes().result == .wouldBlock)
                observer.readable = {
                    near.reset(.closed(near))
                    far.reset(.closed(far))
                    serve("socket")
                }
                _ = far.write("x")
                let timer = LoopTimer(on: loop) { serve("timer") }
                timer.schedule(after: .milliseconds(1))
                let bound = LoopBound({ serve("work") }, on: loop)
                loop.submit { bound.withValue { $0() } }
            }
            #expect(served == ["socket", "timer", "work"])
        }
    }

    @Test("flushes at the end of a turn may nest as deep as streams stack, and an endless one does not hang the loop")
    func nestedFlushes() async throws {
        try await withLoop { loop in
            let (depth, turnsOfEndless): (Int, Int) = try await onLoop(loop) { scenario in
                var depth = 0
                let flush = ClosureTask { task in
                    depth += 1
                    if depth < 8 { loop.atEndOfTurn(task) }
                }
                loop.atEndOfTurn(flush)
                var depthSeen = 0
                loop.nextTurn(
                    ClosureTask { _ in
                        // Scheduled before the flushes, run in the next turn: all eight belong to this turn.
                        loop.nextTurn(ClosureTask { _ in depthSeen = depth })
                    }
                )
                var runs = 0
                let endless = ClosureTask { task in
                    runs += 1
                    if runs < 1000 {
                        loop.atEndOfTurn(task)
                    } else {
                        scenario.complete((depthSeen, runs))
                    }
                }
                loop.atEndOfTurn(endless)
            }
            #expect(depth == 8)
            #expect(turnsOfEndless == 1000)
        }
    }

    @Test("signals that interrupt system calls change nothing")
    func interruptedCalls() async throws {
        // Without SA_RESTART, so that every blocking call of the loop is really interrupted. By a signal that no other
        // test changes, and that ends no process.
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in }
        sigaction(SIGURG, &action, nil)
        try await withLoop { loop in
            let thread = try await loop.execute { pthread_self() }
            let isOver = Flag()
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    while !isOver.isSet {
                        pthread_kill(thread, SIGURG)
                        try await Task.sleep(for: .microseconds(50))
                    }
                }
                let outcomes: [Talker.Outcome] = try await onLoop(loop) { scenario in
                    let (first, second) = try tcpPair(on: loop)
                    let talkers = [
                        scenario.keep(Talker(first, sending: 3_000_000, seed: 1, expecting: 2)),
                        scenario.keep(Talker(second, sending: 3_000_000, seed: 2, expecting: 1)),
                    ]
                    awaitAll(talkers) { scenario.complete($0) }
                    for talker in talkers { talker.start() }
                }
                isOver.set()
                for outcome in outcomes {
                    #expect(outcome == .init(sent: 3_000_000, received: 3_000_000, sawEnd: true))
                }
                try await group.waitForAll()
            }
        }
    }

    @Test("shutting down twice, or at the same time, returns each time")
    func repeatedShutDown() async throws {
        let loop = EventLoop(name: "twice")
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<4 { group.addTask { await loop.shutDown() } }
        }
        await loop.shutDown()
    }

    @Test("work accepted before the shutdown runs; execute after it throws instead of waiting for ever")
    func executeAfterShutDown() async throws {
        let loop = EventLoop(name: "closing")
        let ran = Atomic<Bool>(false)
        // Submitted from the last batch the loop takes.
        loop.submit { loop.submit { ran.store(true, ordering: .relaxed) } }
        await loop.shutDown()
        let hasRun = ran.load(ordering: .relaxed)
        #expect(hasRun)
        await #expect {
            try await loop.execute {}
        } throws: {
            ($0 as? StreamError)?.code == .closed
        }
        let address = try SocketAddress(ip: "127.0.0.1", port: 1)
        await #expect {
            try await Dialer.connect(to: .address(address), on: loop) { $0.close() }
        } throws: {
            ($0 as? StreamError)?.code == .closed
        }
    }

    @Test("a loop that was shut down with timers, tasks and sockets pending is freed, and its descriptors closed")
    func freedAfterShutDown() async throws {
        let far: Int32
        let witness = Witness()
        do {
            let loop = EventLoop(name: "released")
            witness.watch(loop)
            far = try await loop.execute {
                var descriptors: [Int32] = [-1, -1]
                // Not for the children that other tests spawn meanwhile: they would keep the near end open.
                socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &descriptors)
                _ = try Socket.adopting(descriptors[0], on: loop)
                let timer = LoopTimer(on: loop) {}
                timer.schedule(after: .seconds(1000))
                return descriptors[1]
            }
            await loop.shutDown()
        }
        // The thread lets go of the loop after it has reported that it stopped.
        for _ in 0..<1000 where !witness.isReleased { try await Task.sleep(for: .milliseconds(5)) }
        #expect(witness.isReleased)
        // The near end is closed: the far one reads the end. Between fork and exec, a child that another test starts
        // has a copy.
        var byte: UInt8 = 0
        setNonBlocking(far)
        var count = read(far, &byte, 1)
        for _ in 0..<1000 where count < 0 {
            try await Task.sleep(for: .milliseconds(5))
            count = read(far, &byte, 1)
        }
        #expect(count == 0)
        close(far)
    }

    @Test("a group hands out its loops round robin")
    func group() async throws {
        let group = EventLoopGroup(count: 3)
        let names = (0..<7).map { _ in group.next().name }
        #expect(names == ["loop-0", "loop-1", "loop-2", "loop-0", "loop-1", "loop-2", "loop-0"])
        await group.shutDown()
    }

    @Test("touching what is confined to a loop from elsewhere traps")
    func confinement() async {
        await #expect(processExitsWith: .failure) {
            let loop = EventLoop(name: "confined")
            LoopBound(1, on: loop).withValue { _ in }
        }
        await #expect(processExitsWith: .failure) {
            let loop = EventLoop(name: "confined")
            loop.nextTurn(ClosureTask { _ in })
        }
    }
}

private final class Flag: Sendable {
    private let value = Atomic<Bool>(false)
    var isSet: Bool { value.load(ordering: .relaxed) }
    func set() { value.store(true, ordering: .relaxed) }
}

private final class Counts {
    var values: [Int]
    init(size: Int) { values = Array(repeating: 0, count: size) }
}

/// Says whether an object is gone, without keeping it.
private final class Witness {
    private weak var object: AnyObject?
    func watch(_ object: AnyObject) { self.object = object }
    var isReleased: Bool { object == nil }
}

private actor Counter {
    let loop: EventLoop
    private(set) var value = 0
    private(set) var wasAlwaysOnLoop = true

    nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    init(loop: EventLoop) { self.loop = loop }

    func increment() {
        value += 1
        wasAlwaysOnLoop = wasAlwaysOnLoop && loop.isCurrent
    }
}

import CLinux
import Glibc
import Platform

/// Work that an event loop runs later in its turn. The loop retains it until then.
///
/// The owner keeps a flag where it must not be scheduled twice; the loop does not look for duplicates.
package protocol TurnTask: AnyObject {
    /// Runs on the loop, never inside another callback.
    func runTurn()
}

/// One thread that waits for readiness with epoll and runs everything that is confined to it: sockets, streams, timers,
/// and the actors that name it as their executor.
///
/// A turn is: fetch events, call their handlers, fire timers, run what was submitted and what asked for its next turn,
/// then run the end-of-turn work, where connections flush what the turn has written: one system call per connection and
/// turn.
public final class EventLoop: SerialExecutor, @unchecked Sendable {
    // @unchecked Sendable, the proof: `inbox` is a lock and `wakeup` an immutable descriptor, which any thread may use.
    // Every other variable is touched only on the loop's own thread: by `run()`, and by methods that check it with
    // `preconditionInLoop()`. `thread` is written before the thread runs anything and read-only afterwards.

    private struct Inbox: Sendable {
        var jobs: [UnownedJob] = []
        var work: [@Sendable () -> Void] = []
        var isSignalled = false
        var isStopping = false
        var timeToDepart = Duration.zero
        /// Set when the loop took its last batch: what is submitted afterwards is dropped.
        var isStopped = false
        /// Set when the thread has let go of everything.
        var isDone = false
        /// Told when the thread is done.
        var stopped: [@Sendable () -> Void] = []

        /// Returns true when the caller must wake the loop: nobody has since it last looked.
        mutating func markSignalled() -> Bool {
            defer { isSignalled = true }
            return !isSignalled
        }
    }

    /// For logs and thread lists; the kernel shows its first 15 bytes.
    public let name: String

    /// Monotonic nanoseconds, read once per turn. Loop only.
    package private(set) var now: UInt64

    /// Buffers shared by everything on this loop. Loop only.
    package let buffers = BufferPool()

    private let inbox = Lock(Inbox())
    private let wakeup: Wakeup
    private var poller: Poller
    private var timers = TimerQueue()
    private var turnTasks: ContiguousArray<any TurnTask> = []
    private var runningTasks: ContiguousArray<any TurnTask> = []
    private var endOfTurnTasks: ContiguousArray<any TurnTask> = []
    private var thread = pthread_t()
    private var load = LoopLoad()

    /// Connections that nobody owns any more, and whose last bytes are still on their way to the peer: stopping waits
    /// for them. Loop only.
    package var departing = 0
    /// On the clock of ``now``.
    private var departureDeadline = UInt64.max

    /// Whether the loop has lately used nearly all of a processor: another loop could help, where there is a processor
    /// for it. Loop only.
    package var isBusy: Bool { load.isHigh }

    /// Starts the loop's thread.
    public convenience init(name: String) {
        do throws(StreamError) {
            try self.init(starting: name)
        } catch {
            preconditionFailure("event loop \(name): \(error)")
        }
    }

    /// The same, for a loop that is started when the process has long been at work.
    ///
    /// - Throws: ``StreamError`` when there is no thread or descriptor left for it.
    package init(starting name: String) throws(StreamError) {
        self.name = name
        now = Self.monotonicTime()
        wakeup = try Wakeup()
        poller = try Poller()
        try poller.add(wakeup.descriptor, handler: wakeup, for: .level)
        let started = Started()
        let context = Unmanaged.passRetained(ThreadContext(loop: self, started: started))
        var thread = pthread_t()
        let result = pthread_create(&thread, nil, EventLoop.threadMain, context.toOpaque())
        guard result == 0 else {
            context.release()
            throw .system(result, "pthread_create")
        }
        pthread_detach(thread)
        started.wait()
    }

    // MARK: From any thread

    /// Whether the caller runs on this loop's thread.
    public var isCurrent: Bool { pthread_equal(pthread_self(), thread) != 0 }

    /// Traps when the caller is not on this loop's thread.
    @inline(__always)
    public func preconditionInLoop() {
        precondition(isCurrent, "must be called on event loop \(name)")
    }

    /// Runs `work` on the loop, soon, in the order of submission. From any thread. Dropped once the loop has shut down.
    public func submit(_ work: @escaping @Sendable () -> Void) {
        _ = submitIfRunning(work)
    }

    /// Returns false when the loop has shut down, so that `work` will not run.
    package func submitIfRunning(_ work: @escaping @Sendable () -> Void) -> Bool {
        let (isAccepted, mustSignal) = inbox.withLock { inbox in
            guard !inbox.isStopped else { return (false, false) }
            inbox.work.append(work)
            return (true, inbox.markSignalled())
        }
        if mustSignal { wakeup.signal() }
        return isAccepted
    }

    /// Runs `work` on the loop and returns its result. From any thread or task.
    ///
    /// - Throws: What `work` throws; ``StreamError/Code/closed`` after ``shutDown(timeToDepart:)``.
    public func execute<Success: Sendable>(
        _ work: @escaping @Sendable () throws -> Success
    ) async throws -> Success {
        try await withCheckedThrowingContinuation { continuation in
            let isAccepted = submitIfRunning { continuation.resume(with: Result { try work() }) }
            if !isAccepted {
                continuation.resume(throwing: StreamError(.closed, "event loop \(name) has shut down"))
            }
        }
    }

    /// Runs what was submitted before, and stops the thread. Idempotent; returns when the thread is done.
    ///
    /// What was closed in order before still gets its last bytes to its peer. Descriptors that are watched besides are
    /// closed without ceremony and their streams told nothing: close what matters first. Actors that name the loop as
    /// their executor must not be used any more: their jobs would never run.
    ///
    /// - Parameter timeToDepart: How long those last bytes may take; the first call decides.
    public func shutDown(timeToDepart: Duration = .seconds(1)) async {
        await withCheckedContinuation { continuation in
            let (isDone, mustSignal) = inbox.withLock { inbox in
                guard !inbox.isDone else { return (true, false) }
                if !inbox.isStopping { inbox.timeToDepart = timeToDepart }
                inbox.isStopping = true
                inbox.stopped.append { continuation.resume() }
                return (false, inbox.markSignalled())
            }
            if isDone { continuation.resume() }
            if mustSignal { wakeup.signal() }
        }
    }

    // MARK: On the loop

    /// Runs `task` once, outside of any callback, before the loop sleeps. What a task schedules meanwhile runs after
    /// the loop has looked at its sockets again: a task that goes on for long stays fair by rescheduling itself.
    package func nextTurn(_ task: any TurnTask) {
        preconditionInLoop()
        turnTasks.append(task)
    }

    /// Runs `work` once, in the loop's next turn: outside of whatever runs now, and after the sockets were asked again.
    /// What a method does that must not call back from inside itself. Not run where the loop shuts down first.
    package func later(_ work: @escaping () -> Void) { LoopTimer(on: self, work).schedule(after: .zero) }

    /// Runs `task` once when everything else of this turn is done: the place to flush.
    package func atEndOfTurn(_ task: any TurnTask) {
        preconditionInLoop()
        endOfTurnTasks.append(task)
    }

    func register(_ descriptor: Int32, handler: any PollHandler, for interest: PollInterest) throws(StreamError) {
        preconditionInLoop()
        try poller.add(descriptor, handler: handler, for: interest)
    }

    /// The handler of a registered descriptor is told when there is room to write, as well.
    func registerWritable(_ descriptor: Int32) {
        preconditionInLoop()
        poller.addWritable(descriptor)
    }

    /// How many sockets, listeners and connection attempts the loop watches, for tests and metrics.
    var watchedDescriptors: Int {
        preconditionInLoop()
        return poller.count - 1  // the wake-up itself
    }

    func replaceHandler(of descriptor: Int32, with handler: any PollHandler) {
        preconditionInLoop()
        poller.replaceHandler(of: descriptor, with: handler)
    }

    func unregister(_ descriptor: Int32, isClosing: Bool = false) {
        preconditionInLoop()
        poller.remove(descriptor, isClosing: isClosing)
    }

    func schedule(_ timer: LoopTimer, at deadline: UInt64) {
        preconditionInLoop()
        timers.insert(timer, deadline: deadline)
    }

    func cancel(_ timer: LoopTimer) {
        preconditionInLoop()
        timers.remove(timer)
    }

    // MARK: SerialExecutor

    /// What Swift's concurrency calls to run a part of a task on the loop; from any thread.
    public func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        let mustSignal = inbox.withLock { inbox in
            inbox.jobs.append(job)
            return inbox.markSignalled()
        }
        if mustSignal { wakeup.signal() }
    }

    public func checkIsolated() { preconditionInLoop() }

    /// Stopping waits no longer for what is on its way.
    package func giveUpDepartures() {
        preconditionInLoop()
        departureDeadline = 0
    }

    // MARK: The turn

    private func run() {
        while !runTurn() {}
        depart()
        // What the last turns submitted runs too, and then nothing more is accepted. Bounded, for work that submits
        // itself.
        var rounds = 0
        while !stop(evenIfBusy: rounds == 100) {
            _ = runInbox()
            runTurnTasks()
            runEndOfTurnTasks()
            rounds += 1
        }
        letGo()
        let stopped = inbox.withLock { inbox in
            inbox.isDone = true
            defer { inbox.stopped = [] }
            return inbox.stopped
        }
        for resume in stopped { resume() }
    }

    /// Returns whether the loop shall stop.
    private func runTurn() -> Bool {
        var isStopping = false
        let count = poller.wait(
            milliseconds: turnTasks.isEmpty ? timers.millisecondsToNext(now: Self.monotonicTime()) : 0
        )
        now = Self.monotonicTime()
        for index in 0..<count {
            if let ready = poller.handler(ofEvent: index) { ready.handler.pollReady(ready.events) }
        }
        while let timer = timers.popExpired(now: now) { timer.fire() }
        if wakeup.wasSignalled { isStopping = runInbox() }
        runTurnTasks()
        runEndOfTurnTasks()
        load.look(start: now)
        return isStopping
    }

    private func depart() {
        guard departing > 0 else { return }
        let time = inbox.withLock { $0.timeToDepart }
        departureDeadline = min(departureDeadline, now &+ time.nanoseconds)
        let alarm = LoopTimer(on: self) {}
        alarm.schedule(after: time)
        while departing > 0, now < departureDeadline { _ = runTurn() }
        alarm.cancel()
    }

    private func stop(evenIfBusy: Bool) -> Bool {
        inbox.withLock { inbox in
            guard evenIfBusy || (inbox.work.isEmpty && inbox.jobs.isEmpty) else { return false }
            inbox.isStopped = true
            return true
        }
    }

    /// Breaks the cycles between the loop and what is confined to it. What is released may call back, so nothing is
    /// being changed while it goes.
    private func letGo() {
        let tasks = turnTasks + endOfTurnTasks
        turnTasks = []
        endOfTurnTasks = []
        let timers = timers.removeAll()
        let handlers = poller.removeAll()
        for handler in handlers { handler.loopStopped() }
        let work = inbox.withLock { inbox in
            defer { inbox.work = [] }
            return inbox.work
        }
        withExtendedLifetime((tasks, timers, handlers, work)) {}
    }

    private func runInbox() -> Bool {
        wakeup.wasSignalled = false
        let (jobs, work, isStopping) = inbox.withLock { inbox in
            inbox.isSignalled = false
            defer {
                inbox.jobs.removeAll()
                inbox.work.removeAll()
            }
            return (inbox.jobs, inbox.work, inbox.isStopping)
        }
        for item in work { item() }
        for job in jobs { job.runSynchronously(on: asUnownedSerialExecutor()) }
        return isStopping
    }

    private func runTurnTasks() {
        guard !turnTasks.isEmpty else { return }
        swap(&turnTasks, &runningTasks)
        for task in runningTasks { task.runTurn() }
        runningTasks.removeAll(keepingCapacity: true)
    }

    /// A flush may schedule the flush of the stream below it (HTTP/2 inside HTTP/2), hence the loop; its bound is the
    /// depth to which streams sensibly stack, and what is left over waits for the next turn.
    private func runEndOfTurnTasks() {
        var rounds = 0
        while !endOfTurnTasks.isEmpty, rounds < 16 {
            if endOfTurnTasks.count == 1 {
                // As mostly, and without what a list costs.
                endOfTurnTasks.removeLast().runTurn()
            } else {
                swap(&endOfTurnTasks, &runningTasks)
                for task in runningTasks { task.runTurn() }
                runningTasks.removeAll(keepingCapacity: true)
            }
            rounds += 1
        }
        if !endOfTurnTasks.isEmpty {
            turnTasks.append(contentsOf: endOfTurnTasks)
            endOfTurnTasks.removeAll(keepingCapacity: true)
        }
    }

    /// Nanoseconds on the clock of ``now``, read now: for what is measured, where a turn may take long. From any
    /// thread.
    package static func monotonicTime() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }

    // MARK: The thread

    private static let threadMain: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = { argument in
        guard let argument else { return nil }
        let context = Unmanaged<ThreadContext>.fromOpaque(argument).takeRetainedValue()
        let loop = context.loop
        loop.thread = pthread_self()
        // The kernel refuses names of more than 15 bytes.
        String(decoding: loop.name.utf8.prefix(15), as: UTF8.self).withCString { clinux_name_thread($0) }
        context.started.signal()
        loop.run()
        return nil
    }

    private final class ThreadContext {
        let loop: EventLoop
        let started: Started

        init(loop: EventLoop, started: Started) {
            self.loop = loop
            self.started = started
        }
    }
}

/// An eventfd that wakes a sleeping loop.
private final class Wakeup: PollHandler {
    let descriptor: Int32
    /// Set by the poller, cleared by the loop. Loop only.
    var wasSignalled = false

    init() throws(StreamError) {
        descriptor = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        guard descriptor >= 0 else { throw .system(errno, "eventfd") }
    }

    deinit { _ = Glibc.close(descriptor) }

    func signal() {
        var one: UInt64 = 1
        _ = Glibc.write(descriptor, &one, 8)
    }

    func loopStopped() {}

    func pollReady(_ events: PollEvents) {
        var count: UInt64 = 0
        _ = Glibc.read(descriptor, &count, 8)
        wasSignalled = true
    }
}

/// Blocks the creator until the thread knows who it is.
private final class Started {
    private let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

    init() { sem_init(semaphore, 0, 0) }

    deinit {
        sem_destroy(semaphore)
        semaphore.deallocate()
    }

    func signal() { sem_post(semaphore) }

    func wait() {
        while sem_wait(semaphore) != 0 {}
    }
}

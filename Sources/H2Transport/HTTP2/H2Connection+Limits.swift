import Streams

// What the peer is allowed: work for nothing, windows, memory, and streams that stand still. The values decide; here is
// what follows for nghttp2, the streams and the loop.
extension H2Connection {
    // MARK: Floods

    /// A client's reset of a stream.
    func countReset(of stream: H2Stream) {
        guard isServer else { return }
        let excess = flood.clientReset(
            requestedAt: stream.requestedAt,
            isAnswered: stream.kind == .exchange ? stream.response != nil : stream.phase != .requested,
            hadEnded: stream.phase == .open && stream.receiving.state.hasEnded,
            now: loop.now,
            &counters
        )
        if let excess { cutOff(excess) }
    }

    func chargeProvokedWork() {
        if let excess = flood.chargeProvokedWork(now: loop.now) { cutOff(excess) }
    }

    func countControlFrame() {
        if let excess = flood.controlFrame(now: loop.now, &counters) { cutOff(excess) }
    }

    func countWindowUpdate() {
        if let excess = flood.windowUpdate(now: loop.now, &counters) { cutOff(excess) }
    }

    /// ENHANCE_YOUR_CALM: GOAWAY is queued and nothing more is read.
    func cutOff(_ flood: FloodGuard.Flood) {
        guard session != nil,
            life.cutOff(StreamError(.limit, "\(peerDescription) was cut off: \(flood.rawValue)"))
        else { return }
        counters.floods += 1
        input.end()
        session?.terminate(.enhanceYourCalm)
    }

    // MARK: Windows

    /// DATA was received: the window of the connection is replenished.
    func creditConnection(_ count: Int) {
        let credit = window.received(count, &counters)
        if credit > 0 { session?.creditConnection(credit) }
    }

    /// The reader of `stream` has taken `count` bytes more.
    func creditStream(_ stream: H2Stream, _ count: Int) {
        guard session != nil else { return }
        let credit = stream.receiving.window.credit(for: count) + fitWindow(of: stream, taken: count)
        if credit > 0 { session?.creditStream(stream.id, credit) }
        releaseWithheldCredit()
        markDirty()
    }

    /// Gives the peer its connection window back once the readers have caught up.
    func releaseWithheldCredit() {
        guard session != nil else { return }
        let credit = window.release()
        guard credit > 0 else { return }
        session?.creditConnection(credit)
        markDirty()
    }

    /// Returns by how much the window became larger.
    private func fitWindow(of stream: H2Stream, taken: Int) -> Int {
        let windows = configuration.windows
        let largest = window.largestStream(windows)
        guard largest > windows.stream,
            let size = stream.receiving.window.took(
                taken,
                at: loop.now,
                roundTrip: roundTrip.smallest,
                in: windows.stream...largest
            )
        else { return 0 }
        if size > stream.receiving.window.size {
            // The acknowledgment of SETTINGS includes the time that a new connection takes to settle: a PING knows
            // better.
            if roundTrip.startMeasuring() { ping { [weak self] _ in self?.roundTrip.endMeasuring() } }
            guard roundTrip.last != nil else { return 0 }
            counters.windowsGrown += 1
        }
        counters.largestWindow = max(counters.largestWindow, size)
        if let connectionSize = window.grow(forStream: size, largest: windows.largestConnection) {
            session?.setConnectionWindow(connectionSize)
        }
        return stream.receiving.window.resize(to: size)
    }

    // MARK: Memory

    /// May be called from inside nghttp2.
    func account(for stream: H2Stream, queued: Int, held: Int) {
        window.queueChanged(by: queued)
        if queued < 0 && window.withheld > 0 && !isInLibrary { releaseWithheldCredit() }
        guard held != 0 else { return }
        if stream.connection == nil && stream.usage.held == 0 { lingering[ObjectIdentifier(stream)] = nil }
        if let change = memory.hold(held) {
            configuration.memory.changed(by: change, to: memory.held)
            if change > 0 { watchClosely() }
        }
        // Not here: a stream's own method may be running.
        if held > 0 && isOverMemory && memory.startShedding() { addEvent(.overMemory) }
    }

    /// HTTP/2 is done with the stream; what it holds is still this connection's.
    func detached(_ stream: H2Stream) {
        guard stream.usage.held > 0 else { return }
        lingering[ObjectIdentifier(stream)] = stream
        watchClosely()
    }

    private var isOverMemory: Bool { memory.isOver(configuration.limits.memory, configuration.memory) }

    /// What stands still takes memory that others will soon need.
    private var isShortOfMemory: Bool {
        memory.held > configuration.limits.memory / 2 || configuration.memory.held > configuration.memory.limit / 2
    }

    /// Resets the streams that hold most until the connection is within its limits: what is held is what somebody does
    /// not take, so these are the slow ones.
    func shed() {
        memory.endShedding()
        while isOverMemory, let stream = holders.max(by: { $0.usage.held < $1.usage.held }) {
            counters.memoryResets += 1
            let held = stream.usage.held
            cut(stream, StreamError(.limit, "\(held) bytes waited for a reader when memory ran short"))
        }
    }

    private var holders: some Sequence<H2Stream> {
        (streams.values + Array(lingering.values)).lazy.filter { $0.usage.held > 0 }
    }

    /// Ends a stream for the good of the others; both sides learn it. Frees what the stream holds.
    private func cut(_ stream: H2Stream, _ error: StreamError) {
        defer { stream.dropQueues() }
        guard stream.connection != nil else { return stream.lost(error) }
        guard !stream.wasReset else { return }
        if stream.phase == .requested && !isServer { return failRequest(stream, ConnectFailure(error)) }
        submitReset(stream, .enhanceYourCalm)
        stream.wasReset = true
        stream.pending?.cancel()
        stream.lost(error)
        stream.failHalves()
    }

    // MARK: Standing still

    func startWatching() {
        let timer = LoopTimer(on: loop) { [weak self] in self?.lookAtStreams() }
        timers.watch = timer
        timer.schedule(after: stalls.longInterval)
    }

    /// Something is held: look at it more often.
    private func watchClosely() {
        if stalls.startWatching() { timers.watch?.schedule(after: stalls.shortInterval) }
    }

    private func lookAtStreams() {
        resetStalledStreams()
        resetSlowReaders()
        if isOverMemory { shed() }
        guard !isClosed || !lingering.isEmpty else { return }
        if !isClosed
            && stalls.outputStalls(lowerIsFull: output.lowerIsFull, sent: counters.bytesSent, now: loop.now)
        {
            let time = configuration.limits.stallTimeout
            counters.stalledConnections += 1
            return end(StreamError(.timedOut, "\(peerDescription) took nothing for \(time)"))
        }
        timers.watch?.schedule(after: stalls.nextLook(holdsSomething: memory.held > 0 || window.withheld > 0))
    }

    /// Streams with bytes for someone who takes none. While the connection itself does not move, none is to blame.
    ///
    /// Whoever has proved who it is may let a reader pause for as long as it likes (a pager, a debugger), as with any
    /// other TCP connection, while there is memory: what it holds is bounded by its window.
    private func resetStalledStreams() {
        let limit = configuration.limits.stallTimeout.nanoseconds
        var stalled: [H2Stream] = []
        func look(_ stream: H2Stream) {
            let hasToMove = stream.hasToMove && !output.lowerIsFull
            if stream.usage.stands(hasToMove, for: limit, now: loop.now) { stalled.append(stream) }
        }
        for stream in streams.values { look(stream) }
        for stream in lingering.values { look(stream) }
        guard peer == nil || isShortOfMemory else { return }
        for stream in stalled {
            counters.stalledStreams += 1
            cut(stream, StreamError(.timedOut, "nothing moved for \(configuration.limits.stallTimeout)"))
        }
    }

    /// Readers that have not kept up withhold the connection's window from everybody. Those that took nothing since the
    /// last look go, the largest first, until the others can go on.
    private func resetSlowReaders() {
        var idle: [H2Stream] = []
        for stream in holders where stream.usage.takeSample() && stream.usage.queued > 0 { idle.append(stream) }
        // Whoever holds nothing is looked at as well: its progress counts from now.
        for stream in streams.values where stream.usage.held == 0 { _ = stream.usage.takeSample() }
        guard stalls.stayedOverloaded(!isClosed && window.withheld > 0) else { return }
        idle.sort { $0.usage.queued > $1.usage.queued }
        for stream in idle where window.withheld > 0 {
            counters.memoryResets += 1
            cut(stream, StreamError(.limit, "\(stream.usage.queued) bytes without a reader kept the others waiting"))
        }
    }

    /// The connection is gone. What its last streams still hold stays in the account until it was read.
    func stopWatching() {
        if lingering.isEmpty { timers.watch?.cancel() }
    }
}

import CNGHTTP2
import Streams

/// What the streams of a connection hold, and since when they hold it for nothing.
struct MemoryAccount {
    /// Memory of the streams' queues, in bytes.
    var held = 0
    /// What of it the budget of all connections knows.
    var reported = 0
    /// Streams that HTTP/2 is done with, and whose last bytes have not been read.
    var lingering: [ObjectIdentifier: H2Stream] = [:]
    var timer: LoopTimer?
    /// The timer runs at the short interval.
    var isWatched = false
    var isShedding = false
    /// Credit was withheld at the last look already.
    var wasOverloaded = false
    /// ``H2ConnectionCounters/bytesSent`` at the last look, and since when nothing has left; 0 while something does.
    var sentSample: UInt64 = 0
    var outputStalledSince: UInt64 = 0

    /// The account is balanced with the budget in steps of this size, so that what all event loops share is rarely touched.
    static let step = 16384
}

// Memory per connection and in total, and streams that stand still. Nothing is looked for while bytes flow: the accounts are
// plain additions where a queue takes or gives back a buffer, and a timer looks at the streams now and then.
extension H2Connection {
    /// Memory that the queues of this connection's streams hold, in bytes.
    public var heldBytes: Int { memory.held }

    /// May be called from inside nghttp2.
    func account(for stream: H2Stream, queued: Int, held: Int) {
        queuedBytes += queued
        if queued < 0 && withheldCredit > 0 && !isInLibrary { releaseWithheldCredit() }
        guard held != 0 else { return }
        memory.held += held
        if stream.connection == nil && stream.usage.held == 0 {
            memory.lingering[ObjectIdentifier(stream)] = nil
        }
        let unreported = memory.held - memory.reported
        if abs(unreported) >= MemoryAccount.step || memory.held == 0 && unreported != 0 { report() }
        if held > 0 && isOverMemory && !memory.isShedding {
            // Not here: a stream's own method may be running.
            memory.isShedding = true
            addEvent(.overMemory)
        }
    }

    private func report() {
        let change = memory.held - memory.reported
        memory.reported = memory.held
        configuration.memory.changed(by: change, to: memory.held)
        if change > 0 { watch() }
    }

    /// HTTP/2 is done with the stream; what it holds is still this connection's.
    func detached(_ stream: H2Stream) {
        guard stream.usage.held > 0 else { return }
        memory.lingering[ObjectIdentifier(stream)] = stream
        watch()
    }

    // MARK: Shedding

    private var isOverMemory: Bool {
        memory.held > configuration.limits.memory
            || memory.held > MemoryAccount.step && configuration.memory.isExceeded
                && memory.held > configuration.memory.fairShare
    }

    /// Resets the streams that hold most until the connection is within its limits: what is held is what somebody does not
    /// take, so these are the slow ones.
    func shed() {
        memory.isShedding = false
        while isOverMemory, let stream = holders.max(by: { $0.usage.held < $1.usage.held }) {
            counters.memoryResets += 1
            let held = stream.usage.held
            cut(stream, StreamError(.limit, "\(held) bytes waited for a reader when memory ran short"))
        }
    }

    private var holders: some Sequence<H2Stream> {
        (Array(streams.values) + Array(memory.lingering.values)).lazy.filter { $0.usage.held > 0 }
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
        stream.state.fail()
    }

    // MARK: Standing still

    func startWatching() {
        let timer = LoopTimer(on: loop) { [weak self] in self?.lookAtStreams() }
        memory.timer = timer
        timer.schedule(after: configuration.limits.stallTimeout / 4)
    }

    /// Something is held: look at it more often.
    private func watch() {
        guard !memory.isWatched else { return }
        memory.isWatched = true
        memory.timer?.schedule(after: watchInterval)
    }

    private var watchInterval: Duration {
        min(configuration.limits.stallTimeout / 4, configuration.limits.overloadGrace)
    }

    private func lookAtStreams() {
        resetStalledStreams()
        resetSlowReaders()
        if isOverMemory { shed() }
        guard !isClosed || !memory.lingering.isEmpty else { return }
        if !isClosed && outputIsStalled() {
            let time = configuration.limits.stallTimeout
            counters.stalledConnections += 1
            return end(StreamError(.timedOut, "\(peerDescription) took nothing for \(time)"))
        }
        memory.isWatched = memory.held > 0 || withheldCredit > 0
        memory.timer?.schedule(
            after: memory.isWatched ? watchInterval : configuration.limits.stallTimeout / 4
        )
    }

    private func outputIsStalled() -> Bool {
        defer { memory.sentSample = counters.bytesSent }
        guard lowerIsFull, memory.sentSample == counters.bytesSent else {
            memory.outputStalledSince = 0
            return false
        }
        if memory.outputStalledSince == 0 { memory.outputStalledSince = loop.now }
        return loop.now &- memory.outputStalledSince >= configuration.limits.stallTimeout.nanoseconds
    }

    /// Streams with bytes for someone who takes none. While the connection itself does not move, none is to blame.
    private func resetStalledStreams() {
        var stalled: [H2Stream] = []
        let limit = configuration.limits.stallTimeout.nanoseconds
        func look(_ stream: H2Stream) {
            guard stream.hasToMove, !lowerIsFull, stream.usage.sample == stream.usage.progress else {
                stream.usage.stalledSince = 0
                return
            }
            if stream.usage.stalledSince == 0 {
                stream.usage.stalledSince = loop.now
            } else if loop.now &- stream.usage.stalledSince >= limit {
                stalled.append(stream)
            }
        }
        for stream in streams.values { look(stream) }
        for stream in memory.lingering.values { look(stream) }
        for stream in stalled {
            counters.stalledStreams += 1
            cut(stream, StreamError(.timedOut, "nothing moved for \(configuration.limits.stallTimeout)"))
        }
    }

    /// Readers that have not kept up withhold the connection's window from everybody. Those that took nothing since the last
    /// look go, the largest first, until the others can go on.
    private func resetSlowReaders() {
        let isOverloaded = !isClosed && withheldCredit > 0
        var idle: [H2Stream] = []
        for stream in holders where stream.takeSample() && stream.usage.queued > 0 { idle.append(stream) }
        // Whoever holds nothing is looked at as well: its progress counts from now.
        for stream in streams.values where stream.usage.held == 0 { _ = stream.takeSample() }
        defer { memory.wasOverloaded = isOverloaded }
        guard isOverloaded, memory.wasOverloaded else { return }
        idle.sort { $0.usage.queued > $1.usage.queued }
        for stream in idle where withheldCredit > 0 {
            counters.memoryResets += 1
            cut(stream, StreamError(.limit, "\(stream.usage.queued) bytes without a reader kept the others waiting"))
        }
    }

    /// The connection is gone. What its last streams still hold stays in the account until it was read.
    func stopWatching() {
        if memory.lingering.isEmpty { memory.timer?.cancel() }
    }
}

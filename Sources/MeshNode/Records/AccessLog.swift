import CLinux
import Glibc
import Logging
import Platform
import Streams

/// The access log of a node: takes lines from the loops, and has them written on a thread of its own. What the file
/// cannot take, since it is full, slow or a pipe that nobody reads, is counted and dropped; no stream ever waits for
/// it. Safe from any thread. What is there when the last reference goes is written still.
final class AccessLog: Sendable {
    /// What has become of all lines.
    struct Counts: Hashable, Sendable {
        var written: UInt64 = 0
        var dropped: UInt64 = 0
    }

    /// Bytes that wait to be written.
    static let limit = 4 << 20

    let settings: NodeConfiguration.AccessLogSettings
    private let writer: AccessLogWriter

    /// - Throws: ``Streams/StreamError`` when the file cannot be opened.
    init(
        _ settings: NodeConfiguration.AccessLogSettings,
        limit: Int = AccessLog.limit,
        logger: Logger
    ) throws(StreamError) {
        self.settings = settings
        writer = try AccessLogWriter(settings, limit: limit, logger: logger)
    }

    deinit { writer.beginClosing() }

    /// Whole lines.
    func append(_ bytes: [UInt8], lines: Int) { writer.append(bytes, lines: lines) }

    /// Opens the file again: it was moved away, and another one is wanted in its place.
    func reopen() { writer.reopen() }

    var counts: Counts { writer.counts }

    /// Writes what is there, and takes nothing more. Returns when that is done, or after `patience`: a pipe that nobody
    /// reads must not hold up the end of a node.
    func close(patience: Duration = .seconds(1)) async { await writer.close(patience: patience) }
}

/// What the log's thread and its callers share; the thread keeps it until it ends.
private final class AccessLogWriter: Sendable {
    private struct Chunk {
        let bytes: [UInt8]
        let lines: Int
    }

    private struct State {
        var chunks: [Chunk] = []
        /// Of the chunks, and of those that are being written.
        var bytes = 0
        /// Not said in the file yet.
        var dropped = 0
        /// The node's log has what the end of this one cost.
        var isLossTold = false
        /// That wait to be written.
        var lines = 0
        var droppedInAll: UInt64 = 0
        var writtenInAll: UInt64 = 0
        var mustReopen = false
        var isClosing = false
        var isClosed = false
        var waiting: [CheckedContinuation<Void, Never>] = []
    }

    private let settings: NodeConfiguration.AccessLogSettings
    private let limit: Int
    private let logger: Logger
    private let state = Lock(State())
    /// An eventfd: what the thread waits for.
    private let wakeup: Int32

    /// - Throws: ``Streams/StreamError`` when the file cannot be opened.
    init(
        _ settings: NodeConfiguration.AccessLogSettings,
        limit: Int,
        logger: Logger
    ) throws(StreamError) {
        self.settings = settings
        self.limit = limit
        self.logger = logger
        wakeup = eventfd(0, Int32(EFD_CLOEXEC))
        guard wakeup >= 0 else { throw .system(errno, "eventfd") }
        let descriptor = try AccessLogFile.open(settings.path)
        do throws(SystemError) {
            try startOwnThread { [self] in run(AccessLogFile(settings, descriptor)) }
        } catch {
            _ = AccessLogFile(settings, descriptor)
            throw .system(error.number, "starting the thread of the access log")
        }
    }

    deinit { _ = Glibc.close(wakeup) }

    func append(_ bytes: [UInt8], lines: Int) {
        let (isTaken, isFirstLost) = state.withLock { state in
            guard !state.isClosed, state.bytes + bytes.count <= limit else {
                defer { state.dropped += lines }
                state.droppedInAll += UInt64(lines)
                return (false, state.dropped == 0 && !state.isClosed)
            }
            state.chunks.append(Chunk(bytes: bytes, lines: lines))
            state.bytes += bytes.count
            state.lines += lines
            return (true, false)
        }
        if isTaken { return wake() }
        if isFirstLost {
            logger.warning("the access log loses lines: \(settings) does not take them as fast as they come")
        }
    }

    func reopen() {
        state.withLock { $0.mustReopen = true }
        wake()
    }

    var counts: AccessLog.Counts {
        state.withLock { AccessLog.Counts(written: $0.writtenInAll, dropped: $0.droppedInAll) }
    }

    func close(patience: Duration) async {
        let timeout = Task { [self] in
            guard (try? await Task.sleep(for: patience)) != nil else { return }
            let waiting = state.withLock { $0.isClosed ? 0 : $0.lines + $0.dropped }
            if waiting > 0 { tellLoss(of: waiting) }
            tellWaiting()
        }
        await withCheckedContinuation { continuation in
            let isClosed = state.withLock { state in
                state.isClosing = true
                if !state.isClosed { state.waiting.append(continuation) }
                return state.isClosed
            }
            if isClosed { continuation.resume() } else { wake() }
        }
        timeout.cancel()
    }

    func beginClosing() {
        state.withLock { $0.isClosing = true }
        wake()
    }

    private func tellWaiting() {
        let waiting = state.withLock { state in
            defer { state.waiting = [] }
            return state.waiting
        }
        for continuation in waiting { continuation.resume() }
    }

    private func wake() {
        var one: UInt64 = 1
        _ = Glibc.write(wakeup, &one, 8)
    }

    // MARK: The thread

    private func run(_ file: AccessLogFile) {
        // A pipe whose reader goes ends no program that a node is a part of.
        var signals = sigset_t()
        sigemptyset(&signals)
        sigaddset(&signals, SIGPIPE)
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        var queue: [Chunk] = []
        var trouble = Trouble()
        while true {
            let (mustReopen, isClosing) = state.withLock { state in
                defer { state.mustReopen = false }
                queue += state.chunks
                state.chunks = []
                return (state.mustReopen, state.isClosing)
            }
            if mustReopen {
                do throws(StreamError) {
                    try file.reopen()
                } catch {
                    logger.error("the access log goes on where it was: \(error)")
                }
            }
            let hadWork = !queue.isEmpty
            let isHeld = write(&queue, to: file, keepsRest: !isClosing, &trouble)
            if !hadWork, isClosing { break }
            guard isHeld || !hadWork && !mustReopen else { continue }
            // Nobody says when there is room again.
            wait(milliseconds: isHeld ? 500 : -1)
        }
        let lost = state.withLock { state in
            state.isClosed = true
            return state.dropped
        }
        if lost > 0 { tellLoss(of: lost) }
        tellWaiting()
    }

    /// Nobody else will say so: the file has no room for it either.
    private func tellLoss(of lines: Int) {
        let isTold = state.withLock { state in
            defer { state.isLossTold = true }
            return state.isLossTold
        }
        // A write that outlasts the patience of whoever closes may fail in the end.
        guard !isTold else { return }
        logger.error(
            "the access log ends with \(lines) \(lines == 1 ? "line" : "lines") missing: \(settings) had no room for them until the node ended"
        )
    }

    /// Until there is something to do.
    private func wait(milliseconds: Int32) {
        var events = pollfd(fd: wakeup, events: Int16(POLLIN), revents: 0)
        guard poll(&events, 1, milliseconds) > 0 else { return }
        var count: UInt64 = 0
        _ = Glibc.read(wakeup, &count, 8)
    }

    /// Writes the queue. What a file, or anything else that is full, has no room for stays in it; what another place
    /// does not take is lost: nobody would take it later.
    ///
    /// - Returns: Whether something waits for room.
    private func write(
        _ queue: inout [Chunk],
        to file: AccessLogFile,
        keepsRest: Bool,
        _ trouble: inout Trouble
    ) -> Bool {
        var done = 0
        defer { queue.removeFirst(done) }
        while done < queue.count {
            let outcome = write(queue[done], to: file)
            guard let failure = outcome.failure else {
                trouble.end(logger)
                done += 1
                continue
            }
            let isHeld = keepsRest && file.mayHaveRoomLater
            trouble.begin(isHeld ? "the access log waits for room" : "the access log loses lines", failure, logger)
            if isHeld {
                queue[done] = outcome.rest
                return true
            }
            state.withLock { state in
                state.bytes -= outcome.rest.bytes.count
                state.lines -= outcome.rest.lines
                state.dropped += outcome.rest.lines
                state.droppedInAll += UInt64(outcome.rest.lines)
            }
            done += 1
        }
        return false
    }

    /// Returns why it was not written whole, and what is left of it.
    private func write(_ chunk: Chunk, to file: AccessLogFile) -> (failure: StreamError?, rest: Chunk) {
        let dropped = state.withLock { $0.dropped }
        let failure: StreamError?
        var written = AccessLogFile.Written()
        do throws(StreamError) {
            if dropped > 0 {
                try file.write(Self.notice(of: dropped))
                state.withLock { $0.dropped -= dropped }
            }
            try file.write(chunk.bytes, &written)
            failure = nil
        } catch {
            failure = error
        }
        // Whole lines are all there is, also at the end.
        if failure == nil { written = AccessLogFile.Written(lines: chunk.lines, bytes: chunk.bytes.count) }
        let (lines, bytes) = (written.lines, written.bytes)
        state.withLock { state in
            state.bytes -= bytes
            state.lines -= lines
            state.writtenInAll += UInt64(lines)
        }
        guard bytes > 0 else { return (failure, chunk) }
        return (failure, Chunk(bytes: Array(chunk.bytes.dropFirst(bytes)), lines: chunk.lines - lines))
    }

    /// What the node's log says of the file; one that is full now and then must not fill another one.
    private struct Trouble {
        private var isThere = false
        private var isTold = false
        private var lastTold: ContinuousClock.Instant?

        mutating func begin(_ what: String, _ failure: StreamError, _ logger: Logger) {
            guard !isThere else { return }
            isThere = true
            guard lastTold.map({ $0.duration(to: .now) > .seconds(10) }) ?? true else { return }
            (isTold, lastTold) = (true, .now)
            logger.warning("\(what): \(failure)")
        }

        mutating func end(_ logger: Logger) {
            if isTold { logger.notice("the access log is written again") }
            (isThere, isTold) = (false, false)
        }
    }

    private static func notice(of dropped: Int) -> [UInt8] {
        var json = JSONWriter()
        json.object { json in
            json.key("time")
            json.string(describe(time: WallClock.system.seconds))
            json.key("dropped")
            json.number(dropped)
        }
        json.endLine()
        return json.take()
    }
}

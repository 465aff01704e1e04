package import CLinux

/// A stream to a destination with a ``StreamFilter`` in front of it: what is written here is shown to the filter on its
/// way to the destination, and what is read here on its way to the client. Stands between a relay and the stream, which
/// a relay without a filter joins directly. Confined to its loop.
///
/// ```
///   write ─→ filter ─→ outgoing ─→ inner          inner ─→ arrived ─→ filter ─→ incoming ─→ read
///                      (what inner                         (what the            (more than
///                      did not take)                       filter left)         the reader has room for)
/// ```
///
/// Holds at most what one call has brought, and what the filter has made of it.
package final class FilteredStream: ByteStream, StreamObserver, TurnTask {
    private let inner: ByteStream
    /// nil once the stream is over.
    private var filter: (any StreamFilter)?
    private var ends = StreamEnds()
    private var retained = Retained<FilteredStream>()

    /// Has passed the filter; the inner stream had no room for it.
    private var outgoing: ByteQueue
    /// The filter does not take what is offered to be written.
    private var writingWaits = false
    private var writeTimer: LoopTimer?

    /// Was read, and has not passed the filter.
    private var arrived: ByteQueue
    /// Has passed the filter; the reader had no room for it.
    private var incoming: ByteQueue
    private var readingWaits = false
    private var readTimer: LoopTimer?
    /// The inner stream has ended, and everything was read of it.
    private var innerEnded = false
    /// The filter knows.
    private var readingIsFinished = false

    /// Nothing more can be read. After a failure that concerns only what is written it still can.
    private var isCut = false
    /// The inner stream is over; what it had said before waits here still.
    private var innerIsGone = false
    /// The filter's own doing; set once.
    package private(set) var endedByFilter: StreamError?
    private var isScheduled = false
    private var lingering: LoopTimer?

    /// After as much a reader lets the other streams of its loop have a turn, where the filter lets nothing through.
    private static let bytesPerRead = 1 << 20
    /// How long the destination may take for what was accepted before the stream was closed.
    private static var closeTimeout: Duration { .seconds(30) }

    /// - Parameters:
    ///   - inner: The stream to the destination; this one becomes its observer, and owns it.
    ///   - filter: Its own.
    package init(_ inner: ByteStream, _ filter: any StreamFilter) {
        self.inner = inner
        self.filter = filter
        outgoing = ByteQueue(pool: inner.loop.buffers)
        arrived = ByteQueue(pool: inner.loop.buffers)
        incoming = ByteQueue(pool: inner.loop.buffers)
        super.init(loop: inner.loop)
        inner.observer = self
        filter.begin(FilterControl(self))
    }

    package override var peerDescription: String { inner.peerDescription }

    // MARK: To the destination

    package override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard failure == nil, ends.isWritable else { return refuseWrite(inner.failure) }
        var (offered, taken) = (0, 0)
        for vector in vectors { offered += vector.iov_len }
        guard outgoing.isEmpty, !writingWaits else { return offered == 0 ? .bytes(0) : ends.blockWriter() }
        for vector in vectors {
            var rest = UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len)
            while !rest.isEmpty {
                guard let count = pass(rest) else { return .failed }
                taken += count
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
                // What has passed must go first.
                if count == 0 || !outgoing.isEmpty { return ends.accept(taken, of: offered) }
            }
        }
        return .bytes(taken)
    }

    /// Returns how many bytes the filter has taken, 0 where they have to wait; nil: the stream has failed.
    private func pass(_ bytes: UnsafeRawBufferPointer) -> Int? {
        guard let verdict = ask({ try $0.filter(bytes, .toDestination) }) else { return nil }
        switch verdict {
        case .pass(let count):
            Self.check(count, of: bytes)
            return send(UnsafeRawBufferPointer(rebasing: bytes[..<count])) ? count : nil
        case .replace(let count, let others):
            Self.check(count, of: bytes)
            return others.withUnsafeBytes { send($0) } ? count : nil
        case .wait(let time):
            writingWaits = true
            if let time { schedule(&writeTimer, after: time) { $0.writingWaits = false } }
            return 0
        }
    }

    private static func check(_ count: Int, of bytes: UnsafeRawBufferPointer) {
        precondition(count > 0 && count <= bytes.count, "the filter says \(count) of \(bytes.count) bytes")
    }

    /// What the filter says; nil: it has ended the stream.
    private func ask<Answer>(_ question: (any StreamFilter) throws -> Answer) -> Answer? {
        guard let filter else { return nil }
        do {
            return try question(filter)
        } catch {
            stop(error as? StreamError ?? StreamError(.denied, "\(error)"))
            return nil
        }
    }

    /// Returns false when the inner stream has failed.
    private func send(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var rest = bytes
        // Behind what waits already: the last of a filter comes although there was no room for what was before it.
        while outgoing.isEmpty, !rest.isEmpty {
            switch inner.write(rest) {
            case .bytes(let count): rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            case .wouldBlock:
                outgoing.append(rest)
                return true
            case .failed:
                failAsInner()
                return false
            }
        }
        if !rest.isEmpty { outgoing.append(rest) }
        return true
    }

    /// What waits for room goes on. Returns false when the inner stream has failed.
    private func flush() -> Bool {
        while !outgoing.isEmpty {
            switch outgoing.withVectors({ inner.write($0) }) {
            case .bytes(let count): outgoing.consume(count)
            case .wouldBlock: return true
            case .failed:
                failAsInner()
                return false
            }
        }
        if ends.writing == .finishing {
            ends.sentEnd()
            inner.finish()
        }
        return true
    }

    package override func finish() {
        guard failure == nil, ends.finish() else { return }
        guard let last = ask({ try $0.finish(.toDestination) }), last.withUnsafeBytes({ send($0) }) else {
            // Whoever finishes may not look whether there is a failure.
            return wake()
        }
        if outgoing.isEmpty { _ = flush() }
        // What it had accepted may be lost already, and its notice on the way.
        if let error = inner.failure, error.code != .closed { failAsInner() }
    }

    // MARK: To the client

    package override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard !isCut, !ends.isReleased else { return refuseRead(inner.failure) }
        var budget = Self.bytesPerRead
        while true {
            if !incoming.isEmpty { return .bytes(incoming.read(into: buffer)) }
            if readingIsFinished {
                if innerIsGone {
                    isCut = true
                    wake()
                }
                return ends.deliverEnd()
            }
            if readingWaits { return ends.blockReader() }
            guard budget > 0 else {
                wake()
                return ends.blockReader()
            }
            if !arrived.isEmpty {
                let front = arrived.front
                guard let verdict = ask({ try $0.filter(front, .toClient) }) else { return .failed }
                if let count = take(verdict, of: front, into: buffer, isQueued: true) { return .bytes(count) }
                budget -= front.count
                continue
            }
            if innerEnded {
                guard let last = ask({ try $0.finish(.toClient) }) else { return .failed }
                readingIsFinished = true
                last.withUnsafeBytes { incoming.append($0) }
                continue
            }
            switch inner.read(into: buffer) {
            case .bytes(let count):
                budget -= count
                let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<count])
                guard let verdict = ask({ try $0.filter(bytes, .toClient) }) else { return .failed }
                if let count = take(verdict, of: bytes, into: buffer, isQueued: false) { return .bytes(count) }
            case .wouldBlock: return ends.blockReader()
            case .end:
                innerEnded = true
                ends.receiveEnd()
            case .failed:
                isCut = true
                failAsInner()
                return .failed
            }
        }
    }

    /// Returns how many bytes the reader gets; nil: none yet.
    ///
    /// - Parameters:
    ///   - bytes: What the verdict is about: the front of ``arrived``, or what lies in `buffer`.
    ///   - buffer: The reader's.
    private func take(
        _ verdict: FilterVerdict,
        of bytes: UnsafeRawBufferPointer,
        into buffer: UnsafeMutableRawBufferPointer,
        isQueued: Bool
    ) -> Int? {
        let (used, others): (Int, [UInt8]?) =
            switch verdict {
            case .pass(let count): (count, nil)
            case .replace(let count, let others): (count, others)
            case .wait: (0, nil)
            }
        if case .wait(let time) = verdict {
            readingWaits = true
            if let time { schedule(&readTimer, after: time) { $0.readingWaits = false } }
        } else {
            Self.check(used, of: bytes)
        }
        // First, since what comes in its place goes to where it lies.
        if !isQueued, used < bytes.count { arrived.append(UnsafeRawBufferPointer(rebasing: bytes[used...])) }
        defer { if isQueued, used > 0 { arrived.consume(used) } }
        if let others { return others.withUnsafeBytes { give($0, into: buffer) } }
        if !isQueued { return used > 0 ? used : nil }
        return give(UnsafeRawBufferPointer(rebasing: bytes[..<used]), into: buffer)
    }

    private func give(_ bytes: UnsafeRawBufferPointer, into buffer: UnsafeMutableRawBufferPointer) -> Int? {
        guard !bytes.isEmpty else { return nil }
        let count = min(bytes.count, buffer.count)
        buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
        if count < bytes.count { incoming.append(UnsafeRawBufferPointer(rebasing: bytes[count...])) }
        return count
    }

    // MARK: The end

    package override func reset(_ reason: StreamError) {
        guard ends.release() else { return }
        inner.reset(reason)
        cleanUp(reason)
    }

    package override func close() {
        guard !ends.isReleased else { return }
        guard failure == nil, ends.writing == .finishing, !outgoing.isEmpty else {
            ends.release()
            let isOver = ends.reading == .delivered && ends.writing == .finished
            if let failure, failure.code != .closed { inner.reset(failure) } else { inner.close() }
            return cleanUp(isOver ? nil : failure ?? .closed(self))
        }
        // Accepted, and so to be delivered. Nobody holds this stream any more.
        ends.release()
        retained.hold(self)
        schedule(&lingering, after: Self.closeTimeout) {
            $0.endLingering(StreamError(.timedOut, "\($0.peerDescription) did not take the rest of the stream"))
        }
    }

    /// Everything was delivered, or cannot be.
    private func endLingering(_ failure: StreamError?) {
        if let failure { inner.reset(failure) } else { inner.close() }
        cleanUp(failure)
        retained.release()
    }

    private func cleanUp(_ reason: StreamError?) {
        isCut = true
        for timer in [writeTimer, readTimer, lingering] { timer?.cancel() }
        (writeTimer, readTimer, lingering) = (nil, nil, nil)
        outgoing.removeAll()
        arrived.removeAll()
        incoming.removeAll()
        let filter = filter
        self.filter = nil
        filter?.end(endedByFilter ?? reason)
    }

    private func failAsInner() {
        let error = inner.failure ?? .closed(inner)
        // The destination reads no more, by its own choice: what it has said can still be read.
        if error.code != .closed { isCut = true }
        fail(error)
    }

    private func stop(_ reason: StreamError) {
        guard endedByFilter == nil else { return }
        // `closed` would say that nothing was lost.
        let error = StreamError(
            reason.code == .closed ? .denied : reason.code,
            "the filter ended the stream: \(reason.message)"
        )
        endedByFilter = error
        isCut = true
        fail(error)
    }

    // MARK: Notices

    package func streamReadable(_ stream: ByteStream) {
        if !readingWaits, ends.wakeReader() { observer?.streamReadable(self) }
    }

    package func streamWritable(_ stream: ByteStream) {
        let works = flush()
        if retained.isHeld {
            if !works || outgoing.isEmpty { endLingering(works ? nil : inner.failure) }
            return
        }
        if isCut { return observer?.streamFailed(self) ?? () }
        // Nobody reads what waited, by his own choice: the next write learns that.
        if !works { outgoing.removeAll() }
        if outgoing.isEmpty, !writingWaits, ends.wakeWriter() { observer?.streamWritable(self) }
    }

    package func streamFailed(_ stream: ByteStream) {
        if retained.isHeld { return endLingering(inner.failure ?? .closed(inner)) }
        guard !ends.isReleased else { return }
        failAsInner()
        // What has arrived whole, and waits here, is not lost with what can no longer be written.
        if !isCut, innerEnded, ends.reading != .delivered {
            innerIsGone = true
            if ends.wakeWriter() { observer?.streamWritable(self) }
            return
        }
        isCut = true
        observer?.streamFailed(self)
    }

    /// What waits for the filter is shown to it again.
    func resumeFilter() {
        guard filter != nil else { return }
        (writingWaits, readingWaits) = (false, false)
        writeTimer?.cancel()
        readTimer?.cancel()
        wake()
    }

    func endByFilter(_ reason: StreamError) {
        guard filter != nil, failure == nil else { return }
        stop(reason)
        wake()
    }

    private func wake() {
        guard !isScheduled else { return }
        isScheduled = true
        loop.nextTurn(self)
    }

    package func runTurn() {
        isScheduled = false
        if retained.isHeld {
            if let endedByFilter { endLingering(endedByFilter) }
            return
        }
        guard !ends.isReleased else { return }
        if isCut { return observer?.streamFailed(self) ?? () }
        if !writingWaits, outgoing.isEmpty, ends.wakeWriter() { observer?.streamWritable(self) }
        if !isCut, !readingWaits, ends.wakeReader() { observer?.streamReadable(self) }
    }

    private func schedule(
        _ timer: inout LoopTimer?,
        after time: Duration,
        _ body: @escaping (FilteredStream) -> Void
    ) {
        let made = LoopTimer(on: loop) { [weak self] in
            guard let self else { return }
            body(self)
            if !ends.isReleased { runTurn() }
        }
        timer?.cancel()
        timer = made
        made.schedule(after: time)
    }
}

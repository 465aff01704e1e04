import Streams

/// What passes between the event loop of a stream and the tasks that read and write it. Safe to use from any thread.
///
/// ```
///   loop: deliver ──→ chunks ──→ receive :task       full: the loop stops reading, and HTTP/2's window closes
///   task: send ─────→ slices ──→ take    :loop       full: the task waits
/// ```
///
/// A chunk is an array: filled once by the loop, then handed over by reference. Neither side ever waits for the lock
/// longer than the other needs to append to a list.
final class StreamMailbox: Sendable {
    /// Bytes received that nobody has asked for yet; above it the loop reads no more.
    static let inboundLimit = 256 << 10
    /// Bytes that a task may have written ahead of the loop, beyond the array it passes.
    static let outboundLimit = 128 << 10

    private typealias Reader = CheckedContinuation<Result<[UInt8]?, StreamError>, Never>
    private typealias Writer = CheckedContinuation<Result<Void, StreamError>, Never>

    private struct State {
        // Towards the task.
        var chunks: ContiguousArray<[UInt8]> = []
        var firstChunk = 0
        var inboundBytes = 0
        /// The peer's direction is over, after `chunks`.
        var inboundEnd: Result<Void, StreamError>?
        var reader: (id: UInt64, continuation: Reader)?
        /// The loop waits for room.
        var loopWaits = false

        // Towards the loop.
        var slices: ContiguousArray<ArraySlice<UInt8>> = []
        /// Also counts what the loop has taken and the stream has not.
        var outboundBytes = 0
        var isFinished = false
        var outboundFailure: StreamError?
        var writers: [(id: UInt64, limit: Int, continuation: Writer)] = []
        /// The loop knows that there is something to take.
        var loopWasTold = false

        var nextID: UInt64 = 0

        mutating func takeID() -> UInt64 {
            nextID += 1
            return nextID
        }

        mutating func takeChunk() -> [UInt8]? {
            guard firstChunk < chunks.count else { return nil }
            let chunk = chunks[firstChunk]
            chunks[firstChunk] = []
            firstChunk += 1
            if firstChunk == chunks.count {
                chunks.removeAll(keepingCapacity: true)
                firstChunk = 0
            }
            inboundBytes -= chunk.count
            return chunk
        }

        /// The writers that need not wait any more.
        mutating func takeWriters() -> [(id: UInt64, limit: Int, continuation: Writer)] {
            guard !writers.isEmpty else { return [] }
            let ready = writers.filter { outboundFailure != nil || outboundBytes <= $0.limit }
            if !ready.isEmpty { writers.removeAll { outboundFailure != nil || outboundBytes <= $0.limit } }
            return ready
        }
    }

    private let state = Lock(State())

    // MARK: Called by the loop

    /// Hands over what was received. Returns whether the loop may go on reading; if not, ``receive()`` says when.
    func deliver(_ chunk: [UInt8]) -> Bool {
        let (reader, hasRoom) = state.withLock { state in
            if let reader = state.reader {
                state.reader = nil
                return (reader.continuation as Reader?, true)
            }
            state.chunks.append(chunk)
            state.inboundBytes += chunk.count
            state.loopWaits = state.inboundBytes >= Self.inboundLimit
            return (nil, !state.loopWaits)
        }
        reader?.resume(returning: .success(chunk))
        return hasRoom
    }

    /// The peer has finished, or (with an error) bytes are missing. What was delivered before can still be read.
    func endInbound(_ end: Result<Void, StreamError>) {
        let reader = state.withLock { state in
            guard state.inboundEnd == nil else { return nil as Reader? }
            state.inboundEnd = end
            defer { state.reader = nil }
            return state.reader?.continuation
        }
        reader?.resume(returning: end.map { nil })
    }

    /// What a task has written: `slices` is replaced by it. Returns whether the task has finished behind it, once.
    func take(into slices: inout ContiguousArray<ArraySlice<UInt8>>) -> Bool {
        slices.removeAll(keepingCapacity: true)
        return state.withLock { state in
            swap(&state.slices, &slices)
            // With nothing to take, the next to write has to tell the loop.
            if slices.isEmpty { state.loopWasTold = false }
            return state.isFinished && slices.isEmpty
        }
    }

    /// The stream has accepted so many of the bytes that were taken.
    func accepted(_ count: Int) {
        let writers = state.withLock { state in
            state.outboundBytes -= count
            return state.takeWriters()
        }
        for writer in writers { writer.continuation.resume(returning: .success(())) }
    }

    /// The stream takes no more bytes. The other direction goes on.
    func failOutbound(_ error: StreamError) {
        let writers = state.withLock { state in
            if state.outboundFailure == nil { state.outboundFailure = error }
            state.slices.removeAll()
            return state.takeWriters()
        }
        for writer in writers { writer.continuation.resume(returning: .failure(error)) }
    }

    /// Both directions are over. From any thread.
    func fail(_ error: StreamError) {
        endInbound(.failure(error))
        failOutbound(error)
    }

    // MARK: Called by tasks

    /// What came next, nil at the end. `wakeLoop` is called when the loop waits for room and there is some again.
    func receive(
        isolation: isolated (any Actor)?,
        wakeLoop: () -> Void
    ) async -> Result<[UInt8]?, StreamError> {
        let (id, found, mustWake) = state.withLock { state in
            precondition(state.reader == nil, "two tasks read one stream at the same time")
            let found: Result<[UInt8]?, StreamError>? =
                if let chunk = state.takeChunk() { .success(chunk) } else { state.inboundEnd.map { $0.map { nil } } }
            let mustWake = state.loopWaits && state.inboundBytes <= Self.inboundLimit / 2
            if mustWake { state.loopWaits = false }
            return (state.takeID(), found, mustWake)
        }
        if mustWake { wakeLoop() }
        if let found { return found }
        return await withTaskCancellationHandler(
            operation: {
                await withCheckedContinuation(isolation: isolation) { continuation in wait(continuation, id) }
            },
            onCancel: { cancelReceive(id) },
            isolation: isolation
        )
    }

    private func wait(_ continuation: Reader, _ id: UInt64) {
        let found: Result<[UInt8]?, StreamError>? = state.withLock { state in
            if let chunk = state.takeChunk() { return .success(chunk) }
            if let end = state.inboundEnd { return end.map { nil } }
            // Either cancellation is seen here, or its handler finds the reader.
            if Task.isCancelled { return .failure(Self.cancelled) }
            state.reader = (id, continuation)
            return nil
        }
        if let found { continuation.resume(returning: found) }
    }

    private func cancelReceive(_ id: UInt64) {
        let reader = state.withLock { state in
            guard let reader = state.reader, reader.id == id else { return nil as Reader? }
            state.reader = nil
            return reader.continuation
        }
        reader?.resume(returning: .failure(Self.cancelled))
    }

    /// Puts bytes behind those that were written before. Throws when the direction is over.
    ///
    /// - Returns: Whether the caller must tell the loop, and whether it should ``waitForRoom(_:)`` before it goes on.
    func send(_ bytes: ArraySlice<UInt8>) throws(StreamError) -> (mustTell: Bool, mustWait: Bool) {
        let result: Result<(Bool, Bool), StreamError> = state.withLock { state in
            if let failure = state.outboundFailure { return .failure(failure) }
            if state.isFinished { return .failure(StreamError(.closed, "write after finish()")) }
            if bytes.isEmpty { return .success((false, false)) }
            state.slices.append(bytes)
            state.outboundBytes += bytes.count
            defer { state.loopWasTold = true }
            return .success((!state.loopWasTold, state.outboundBytes > Self.outboundLimit))
        }
        return try result.get()
    }

    /// Ends the direction behind what was written. Returns whether the caller must tell the loop. Idempotent.
    func finish() -> Bool {
        state.withLock { state in
            guard !state.isFinished, state.outboundFailure == nil else { return false }
            state.isFinished = true
            defer { state.loopWasTold = true }
            return !state.loopWasTold
        }
    }

    /// Waits until at most `limit` bytes are left that the stream has not accepted.
    func waitForRoom(_ limit: Int) async throws(StreamError) {
        let id = state.withLock { $0.takeID() }
        let result = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let found: Result<Void, StreamError>? = state.withLock { state in
                    if let failure = state.outboundFailure { return .failure(failure) }
                    if state.outboundBytes <= limit { return .success(()) }
                    if Task.isCancelled { return .failure(Self.cancelled) }
                    state.writers.append((id, limit, continuation))
                    return nil
                }
                if let found { continuation.resume(returning: found) }
            }
        } onCancel: {
            let writer = state.withLock { state in
                state.writers.firstIndex { $0.id == id }.map { state.writers.remove(at: $0) }
            }
            writer?.continuation.resume(returning: .failure(Self.cancelled))
        }
        try result.get()
    }

    /// For tests.
    var hasWaitingReader: Bool { state.withLock { $0.reader != nil } }
    /// For tests.
    var hasWaitingWriter: Bool { state.withLock { !$0.writers.isEmpty } }

    static let cancelled = StreamError(.cancelled, "the task that used the stream was cancelled")
}

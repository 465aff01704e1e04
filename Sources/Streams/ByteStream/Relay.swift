/// How a relay ended.
public struct RelayResult: Sendable {
    /// Bytes that went from the first stream to the second.
    public var bytesForward: UInt64
    /// Bytes that went from the second stream to the first.
    public var bytesBackward: UInt64
    /// Why the relay was cut; nil when both directions ended cleanly.
    public var failure: StreamError?
    /// Whose doing the end was: who ended its direction first, or failed.
    package var endedBy = RelayParty.owner
}

/// Who can end a relay.
package enum RelayParty: UInt8, Hashable, Sendable {
    case first
    case second
    /// Whoever made the relay, by ``Relay/cut(_:)`` or its idle timeout.
    case owner
}

/// Joins two byte streams of one event loop, with back-pressure and half-close: each direction ends on its own, and an
/// abort of either stream aborts the other.
///
/// ```
///            pump →
///   first  ──────────  second          started ─┬─ both pumps ended ──────→ both closed
///            ← pump                             └─ one failed ─────────────→ both reset
/// ```
///
/// A started relay keeps itself and both streams alive until it is done, and owns both streams: who wants them closed
/// calls ``cut(_:)``, since a stream does not tell its observer of its owner's own close.
public final class Relay: StreamObserver, PumpOwner, TurnTask {
    private let first: ByteStream
    private let second: ByteStream
    private var forward: RelayPump?
    private var backward: RelayPump?
    private var completion: ((RelayResult) -> Void)?
    /// Set once both streams were closed or reset.
    private var result: RelayResult?
    private var retained = Retained<Relay>()
    /// Set by the first end or failure.
    private var endedBy: RelayParty?
    private var idleTimer: LoopTimer?
    private let idleTimeout: Duration?
    /// Told why, on the loop, before the streams are reset: whoever reads one of them may be gone right after.
    package var onFailure: ((StreamError) -> Void)?
    /// What had moved when the idle timer fired last.
    private var movedBefore: UInt64 = 0

    /// - Parameters:
    ///   - first: A stream; the relay becomes its observer.
    ///   - second: Another stream on the same loop.
    ///   - idleTimeout: Cut the relay when nothing moved for this long, and at the latest after twice as long; nil, the
    ///     default, waits for ever.
    ///   - completion: Called once on the loop, after both streams were closed or reset, never from inside one of the
    ///     relay's methods.
    public init(
        _ first: ByteStream,
        _ second: ByteStream,
        idleTimeout: Duration? = nil,
        completion: @escaping (RelayResult) -> Void = { _ in }
    ) {
        precondition(first.loop === second.loop, "a relay joins streams of one event loop")
        self.first = first
        self.second = second
        self.idleTimeout = idleTimeout
        self.completion = completion
    }

    /// Starts moving bytes. Call once, on the loop.
    public func start() { start(early: []) }

    /// - Parameter early: What has been read from the first stream already: the second gets it first. At most 256 KiB.
    package func start(early: [UInt8]) {
        precondition(forward == nil, "a relay starts once")
        retained.hold(self)
        first.relay = self
        second.relay = self
        let forward = RelayPump(from: first, to: second, for: self)
        let backward = RelayPump(from: second, to: first, for: self)
        self.forward = forward
        self.backward = backward
        startIdleTimer()
        forward.start(early: early)
        if result == nil { backward.start() }
    }

    /// Aborts both streams.
    public func cut(_ reason: StreamError) {
        endedBy = .owner
        end(failure: reason)
    }

    /// Bytes moved so far in each direction.
    public var progress: (forward: UInt64, backward: UInt64) {
        (forward?.bytesMoved ?? 0, backward?.bytesMoved ?? 0)
    }

    // MARK: StreamObserver

    public func streamReadable(_ stream: ByteStream) {
        (stream === first ? forward : backward)?.sourceReadable()
    }

    public func streamWritable(_ stream: ByteStream) {
        (stream === first ? backward : forward)?.sinkWritable()
    }

    public func streamFailed(_ stream: ByteStream) {
        let error = stream.failure ?? .closed(stream)
        let fromStream = stream === first ? forward : backward
        let isClean = error.code == .closed && fromStream?.isDone == true
        blame(stream, isFailure: !isClean)
        end(failure: isClean ? nil : error)
    }

    // MARK: Pumps

    func pumpEnded(_ pump: RelayPump) {
        blame(pump.source, isFailure: false)
        if forward?.isDone == true && backward?.isDone == true { end(failure: nil) }
    }

    func pumpFailed(_ pump: RelayPump, _ error: StreamError) {
        // The sink's peer reads no more, by its own choice: what this side would still send has no reader, as after a
        // TCP close. That is the end of this direction; the other is not spoilt by it. A source that was closed before
        // its end is another matter: its bytes are lost.
        if error.code == .closed && pump.source.failure == nil { return pumpEnded(pump) }
        let sink = pump.source === first ? second : first
        blame(pump.source.failure == nil ? sink : pump.source, isFailure: true)
        end(failure: error)
    }

    /// The first end counts; a failure counts more.
    private func blame(_ stream: ByteStream, isFailure: Bool) {
        if isFailure || endedBy == nil { endedBy = stream === first ? .first : .second }
    }

    private func end(failure: StreamError?) {
        guard result == nil else { return }
        let (bytesForward, bytesBackward) = progress
        result = RelayResult(
            bytesForward: bytesForward,
            bytesBackward: bytesBackward,
            failure: failure,
            endedBy: endedBy ?? .owner
        )
        idleTimer?.cancel()
        forward?.stop()
        backward?.stop()
        if let failure {
            onFailure?(failure)
            first.reset(failure)
            second.reset(failure)
        } else {
            first.close()
            second.close()
        }
        first.loop.nextTurn(self)
    }

    package func runTurn() {
        guard let completion, let result else { return }
        self.completion = nil
        onFailure = nil
        completion(result)
        if first.relay === self { first.relay = nil }
        if second.relay === self { second.relay = nil }
        retained.release()
    }

    private func startIdleTimer() {
        guard let idleTimeout else { return }
        let timer = LoopTimer(on: first.loop) { [unowned self] in
            let moved = progress.forward &+ progress.backward
            if moved != movedBefore {
                movedBefore = moved
                idleTimer?.schedule(after: idleTimeout)
            } else {
                cut(StreamError(.timedOut, "nothing moved for \(idleTimeout)"))
            }
        }
        idleTimer = timer
        timer.schedule(after: idleTimeout)
    }
}

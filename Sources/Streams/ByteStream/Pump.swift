import CLinux

/// Told how a ``RelayPump`` ended: one of the two, once.
protocol PumpOwner: AnyObject {
    func pumpEnded(_ pump: RelayPump)
    func pumpFailed(_ pump: RelayPump, _ error: StreamError)
}

/// Told by the direct paths of streams (``ByteStream/push(to:for:)``, ``ByteStream/pull(from:for:)``) what they move.
public class Pump {
    final var isDone = false

    /// Bytes the sink has accepted.
    public final private(set) var bytesMoved: UInt64 = 0

    init() {}

    /// The sink accepted `count` more bytes.
    public final func moved(_ count: Int) {
        guard !isDone else { return }
        bytesMoved &+= UInt64(count)
    }

    /// The source ended, all its bytes were accepted, and the sink was told to finish.
    public func sourceEnded() { fatalError("\(type(of: self)) does not override sourceEnded()") }

    /// This direction cannot go on.
    public func failed(_ error: StreamError) { fatalError("\(type(of: self)) does not override failed(_:)") }
}

/// One direction of a relay: moves bytes from a source to a sink until the source ends or either fails.
///
/// Where the source or the sink has a direct path (``ByteStream/push(to:for:)``, ``ByteStream/pull(from:for:)``), that
/// path moves the bytes. Otherwise the pump copies through a pooled buffer, which it keeps only while the sink refuses
/// bytes.
final class RelayPump: Pump, TurnTask {
    private enum Path {
        case copy
        /// The source writes into the sink.
        case push
        /// The sink reads from the source.
        case pull
    }

    // The relay has both streams, keeps itself until it is over, and has stopped its pumps by then; a pump that is done
    // looks at none of the three. So nothing is counted here: streams keep their pumps, and counting is much of what a
    // short stream costs.
    unowned(unsafe) let source: ByteStream
    unowned(unsafe) let sink: ByteStream
    private unowned(unsafe) let owner: any PumpOwner
    private var path = Path.copy
    /// Bytes read from the source that the sink has not taken.
    private var pending: Buffer?
    private var size = BufferSize.medium
    /// ``pending`` was read before the pump began: until the sink has it, no direct path may overtake it.
    private var hasEarlyBytes = false
    private var isScheduled = false

    /// After this many bytes a pump lets the other streams of its loop have a turn.
    private static let bytesPerTurn = 1 << 20

    init(from source: ByteStream, to sink: ByteStream, for owner: any PumpOwner) {
        self.source = source
        self.sink = sink
        self.owner = owner
    }

    /// - Parameter early: Bytes of the source that somebody has read before; they go first.
    func start(early: [UInt8] = []) {
        if early.isEmpty { return choosePath() }
        let size = BufferSize.allCases.first { $0.rawValue >= early.count } ?? .large
        let buffer = source.loop.buffers.take(size)
        early.withUnsafeBytes { buffer.writable.copyMemory(from: $0) }
        buffer.writeIndex = early.count
        pending = buffer
        hasEarlyBytes = true
        move()
    }

    private func choosePath() {
        if source.push(to: sink, for: self) {
            path = .push
        } else if sink.pull(from: source, for: self) {
            path = .pull
        } else {
            move()
        }
    }

    func sourceReadable() {
        guard !isDone else { return }
        switch path {
        case .copy: move()
        case .pull: sink.sourceBecameReadable()
        case .push: break
        }
    }

    func sinkWritable() {
        guard !isDone else { return }
        switch path {
        case .copy: move()
        case .push: source.sinkBecameWritable()
        case .pull: break
        }
    }

    package func runTurn() {
        isScheduled = false
        if !isDone { move() }
    }

    // MARK: Called by the direct paths

    override func sourceEnded() {
        guard !isDone else { return }
        stop()
        owner.pumpEnded(self)
    }

    override func failed(_ error: StreamError) {
        guard !isDone else { return }
        stop()
        owner.pumpFailed(self, error)
    }

    func stop() {
        isDone = true
        if let buffer = pending {
            pending = nil
            source.loop.buffers.give(buffer)
        }
    }

    // MARK: Copying

    /// Writes what waits. Returns whether all of it has gone, and nothing has ended.
    private func write(_ buffer: Buffer) -> Bool {
        // Taken out: where the pump is stopped from inside of the write, the sink still reads from the buffer, and
        // what comes back of it is no business of whoever has the buffer next.
        pending = nil
        let result = sink.write(buffer.readable)
        if case .bytes(let count) = result {
            buffer.readIndex += count
            if !isDone { moved(count) }
        }
        guard !isDone, result != .failed, buffer.readableBytes > 0 else {
            source.loop.buffers.give(buffer)
            if !isDone, result == .failed { failed(sink.failure ?? .closed(sink)) }
            return !isDone
        }
        pending = buffer
        return false
    }

    private func move() {
        guard !isScheduled else { return }
        var budget = Self.bytesPerTurn
        while !isDone {
            if let buffer = pending {
                guard write(buffer) else { return }
                if hasEarlyBytes {
                    hasEarlyBytes = false
                    return choosePath()
                }
            }
            guard budget > 0 else {
                isScheduled = true
                return source.loop.nextTurn(self)
            }
            let buffer = source.loop.buffers.take(size)
            switch source.read(into: buffer.writable) {
            case .bytes(let count):
                buffer.writeIndex = count
                pending = buffer
                budget -= count
                // Full reads are a sign of bulk: larger batches. A small one goes back to small.
                size = count == buffer.capacity ? .large : (count < 16384 ? .medium : size)
            case .wouldBlock:
                return source.loop.buffers.give(buffer)
            case .end:
                source.loop.buffers.give(buffer)
                sink.finish()
                // What the sink had accepted may be lost already, and its notice on the way. (One that reads no more
                // lost nothing that it wanted.)
                if let failure = sink.failure, failure.code != .closed { return failed(failure) }
                return sourceEnded()
            case .failed:
                source.loop.buffers.give(buffer)
                return failed(source.failure ?? .closed(source))
            }
        }
    }
}

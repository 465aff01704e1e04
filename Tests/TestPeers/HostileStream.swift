public import Glibc
public import Streams

/// A ``ByteStream`` that does everything the contract allows and nothing more: reads and writes cut to random lengths,
/// refusals (`wouldBlock`) followed by a late notice, and a connection that dies at a chosen byte. It wraps another
/// stream and passes its bytes, half-closes and resets through unchanged, so code over it must still get every byte in
/// order.
///
/// ```swift
/// // An engine over a socket that delivers one byte at a time:
/// let transport = HostileStream(over: socket, .oneByte(seed: 1))
/// // Two ends with no socket at all:
/// let (client, server) = HostileStream.pair(on: loop, .ragged(seed: 7))
/// // A connection that ends with a FIN in the middle of a record:
/// var behavior = HostileStream.Behavior.ragged(seed: 3)
/// behavior.readCut = .init(at: 1000, .end)
/// ```
///
/// The same seed gives the same lengths and refusals for the same sequence of calls: name it in the failure message
/// (``seed``). It owns the inner stream: closing it closes that. Whoever uses it must keep it alive, as with any stream.
///
/// What it finds: code that takes a short read for "drained" (no notice follows one), that forgets what a short write did not
/// take, that writes again with other bytes after a refusal, that acts twice on a spurious notice, or that takes a cut for
/// an end. It has no direct path (``ByteStream/push(to:for:)``), so a relay copies.
public final class HostileStream: ByteStream, StreamObserver, TurnTask {
    /// How the stream misbehaves.
    public struct Behavior: Sendable {
        /// Where and how the connection dies.
        public struct Cut: Sendable {
            public enum Kind: Sendable {
                /// As by a TCP RST: both directions fail with ``StreamError/Code/reset``, here and at the peer.
                case reset
                /// As by a FIN of a dying process: this side reads the end, and its writes fail; the peer too reads the
                /// end.
                case end
            }

            public var position: Int
            public var kind: Kind

            /// - Parameter position: How many bytes pass before the cut.
            public init(at position: Int, _ kind: Kind) {
                self.position = position
                self.kind = kind
            }
        }

        /// Chooses the random lengths and refusals.
        public var seed: UInt64
        /// A read returns between one and this many bytes, each length as likely.
        public var longestRead = Int.max
        /// A write takes between one and this many bytes.
        public var longestWrite = Int.max
        /// How often a read or a write is refused though it could go on; `0..<1`.
        public var refusals = 0.0
        /// How many turns of the loop later the notice after such a refusal or a short write comes: between one and
        /// this.
        public var longestDelay = 1
        /// How often a notice comes that nobody asked for, after a read or write that succeeded; `0..<1`.
        public var spuriousNotices = 0.0
        /// Dies once this many bytes have been read.
        public var readCut: Cut?
        /// Dies once this many bytes have been written.
        public var writeCut: Cut?

        /// Changes nothing.
        public init(seed: UInt64) { self.seed = seed }

        /// Every call moves one byte; one in four is refused first.
        public static func oneByte(seed: UInt64) -> Behavior {
            var behavior = Behavior(seed: seed)
            behavior.longestRead = 1
            behavior.longestWrite = 1
            behavior.refusals = 0.25
            behavior.spuriousNotices = 0.05
            return behavior
        }

        /// Lengths up to `longest`, refusals and late or spurious notices: for larger transfers.
        public static func ragged(seed: UInt64, longest: Int = 5000) -> Behavior {
            var behavior = Behavior(seed: seed)
            behavior.longestRead = longest
            behavior.longestWrite = longest
            behavior.refusals = 0.3
            behavior.longestDelay = 3
            behavior.spuriousNotices = 0.1
            return behavior
        }
    }

    /// The stream underneath.
    public let inner: ByteStream
    public let behavior: Behavior
    public var seed: UInt64 { behavior.seed }
    public private(set) var bytesRead = 0
    public private(set) var bytesWritten = 0
    /// How many calls were refused or cut short by this stream itself.
    public private(set) var interferences = 0

    private var random: SplitMix64
    private var readNotice = Notice()
    private var writeNotice = Notice()
    private var isScheduled = false
    private var wasCutCleanly = false
    private var isClosed = false

    /// A notice that this stream owes its observer on its own account.
    private struct Notice {
        /// Turns until it is given; 0 when none is owed.
        var turns = 0
        /// Calls are refused until it is given.
        var isRefusing = false

        mutating func isDue() -> Bool {
            guard turns > 0 else { return false }
            turns -= 1
            guard turns == 0 else { return false }
            isRefusing = false
            return true
        }
    }

    /// Wraps `inner` and becomes its observer. Loop only.
    public init(over inner: ByteStream, _ behavior: Behavior) {
        self.inner = inner
        self.behavior = behavior
        random = SplitMix64(state: behavior.seed)
        super.init(loop: inner.loop)
        inner.observer = self
    }

    /// Two connected streams over a ``MemoryStream`` pair, the second with another seed. Loop only.
    public static func pair(
        on loop: EventLoop,
        _ behavior: Behavior,
        capacity: Int = 65536
    ) -> (HostileStream, HostileStream) {
        let (first, second) = MemoryStream.pair(on: loop, capacity: capacity)
        var other = behavior
        other.seed = behavior.seed &+ 1
        return (HostileStream(over: first, behavior), HostileStream(over: second, other))
    }

    public override var peerDescription: String { "\(inner.peerDescription) (hostile, seed \(seed))" }

    // MARK: ByteStream

    public override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        precondition(!buffer.isEmpty, "read(into:) must be given room")
        guard !wasCutCleanly else { return .end }
        guard isUsable() else { return .failed }
        guard !readNotice.isRefusing else { return .wouldBlock }
        var limit = random.length(upTo: min(behavior.longestRead, buffer.count))
        if let cut = behavior.readCut {
            guard bytesRead < cut.position else { return die(cut.kind) == .end ? .end : .failed }
            limit = min(limit, cut.position - bytesRead)
        }
        guard !random.chance(behavior.refusals) else {
            interferences += 1
            owe(&readNotice, refusing: true)
            return .wouldBlock
        }
        let result = inner.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<limit]))
        switch result {
        case .bytes(let count):
            bytesRead += count
            if count < buffer.count { interferences += 1 }
            if random.chance(behavior.spuriousNotices) { owe(&readNotice, refusing: false) }
        case .failed: failAsInner()
        case .wouldBlock, .end: break
        }
        return result
    }

    public override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard !wasCutCleanly else {
            fail(StreamError(.reset, "writing to \(peerDescription): the connection was cut"))
            return .failed
        }
        guard isUsable() else { return .failed }
        var offered = 0
        for vector in vectors { offered += vector.iov_len }
        guard offered > 0 else { return .bytes(0) }
        guard !writeNotice.isRefusing else { return .wouldBlock }
        var limit = random.length(upTo: min(behavior.longestWrite, offered))
        if let cut = behavior.writeCut {
            guard bytesWritten < cut.position else {
                _ = die(cut.kind)
                fail(StreamError(.reset, "writing to \(peerDescription): the connection was cut"))
                return .failed
            }
            limit = min(limit, cut.position - bytesWritten)
        }
        guard !random.chance(behavior.refusals) else {
            interferences += 1
            owe(&writeNotice, refusing: true)
            return .wouldBlock
        }
        let result = writeInner(vectors, limit: limit)
        switch result {
        case .bytes(let count):
            bytesWritten += count
            if count < offered { interferences += 1 }
            // Where the inner stream took all it was offered it owes no notice: this stream does.
            if count == limit && limit < offered {
                owe(&writeNotice, refusing: true)
            } else if random.chance(behavior.spuriousNotices) {
                owe(&writeNotice, refusing: false)
            }
        case .failed: failAsInner()
        case .wouldBlock: break
        }
        return result
    }

    public override func finish() {
        guard !isClosed, !wasCutCleanly, failure == nil else { return }
        inner.finish()
    }

    public override func reset(_ reason: StreamError) {
        guard !isClosed else { return }
        isClosed = true
        fail(reason)
        inner.reset(reason)
    }

    public override func close() {
        guard !isClosed else { return }
        isClosed = true
        inner.close()
        fail(.closed(self))
    }

    // MARK: StreamObserver, of the inner stream

    public func streamReadable(_ stream: ByteStream) {
        guard !isClosed, !readNotice.isRefusing else { return }
        observer?.streamReadable(self)
    }

    public func streamWritable(_ stream: ByteStream) {
        guard !isClosed, !writeNotice.isRefusing else { return }
        observer?.streamWritable(self)
    }

    public func streamFailed(_ stream: ByteStream) {
        guard !isClosed, failure == nil else { return }
        failAsInner()
        observer?.streamFailed(self)
    }

    // MARK: TurnTask

    public func runTurn() {
        isScheduled = false
        guard !isClosed, failure == nil else { return }
        if readNotice.isDue() { observer?.streamReadable(self) }
        guard !isClosed, failure == nil else { return }
        if writeNotice.isDue() { observer?.streamWritable(self) }
        if readNotice.turns > 0 || writeNotice.turns > 0 { schedule() }
    }

    // MARK: -

    private func isUsable() -> Bool {
        if isClosed { fail(.closed(self)) }
        return failure == nil
    }

    private func failAsInner() {
        fail(inner.failure ?? .closed(self))
    }

    private func die(_ kind: Behavior.Cut.Kind) -> Behavior.Cut.Kind {
        let reason = StreamError(.reset, "\(peerDescription): cut after \(bytesRead) bytes in, \(bytesWritten) out")
        switch kind {
        case .reset:
            fail(reason)
            inner.reset(reason)
        case .end:
            wasCutCleanly = true
            inner.finish()
            inner.close()
            // Who waits for the inner stream would wait for ever.
            owe(&readNotice, refusing: false)
            owe(&writeNotice, refusing: false)
        }
        return kind
    }

    private func writeInner(_ vectors: UnsafeBufferPointer<iovec>, limit: Int) -> WriteResult {
        withUnsafeTemporaryAllocation(of: iovec.self, capacity: vectors.count) { shortened in
            var rest = limit
            var used = 0
            for vector in vectors where rest > 0 && vector.iov_len > 0 {
                let length = min(rest, vector.iov_len)
                shortened[used] = iovec(iov_base: vector.iov_base, iov_len: length)
                rest -= length
                used += 1
            }
            return inner.write(UnsafeBufferPointer(rebasing: shortened[..<used]))
        }
    }

    private func owe(_ notice: inout Notice, refusing: Bool) {
        notice.turns = random.length(upTo: behavior.longestDelay)
        notice.isRefusing = refusing
        schedule()
    }

    private func schedule() {
        guard !isScheduled else { return }
        isScheduled = true
        loop.nextTurn(self)
    }
}

/// A small generator whose sequence is fixed by its seed (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014).
public struct SplitMix64: RandomNumberGenerator, Sendable {
    public var state: UInt64

    public init(state: UInt64) { self.state = state }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    mutating func length(upTo longest: Int) -> Int { Int.random(in: 1...max(1, longest), using: &self) }

    mutating func chance(_ probability: Double) -> Bool {
        probability > 0 && Double.random(in: 0..<1, using: &self) < probability
    }
}

public import CLinux

/// The outcome of ``ByteStream/read(into:)``.
public enum ReadResult: Equatable, Sendable {
    /// This many bytes (at least one) were copied into the buffer.
    case bytes(Int)
    /// Nothing now. ``StreamObserver/streamReadable(_:)`` follows when that changes.
    case wouldBlock
    /// The peer finished its direction cleanly and every byte it sent has been read. Never reported when bytes were
    /// lost.
    case end
    /// The stream failed; ``ByteStream/failure`` says why.
    case failed
}

/// The outcome of ``ByteStream/write(_:)-(UnsafeBufferPointer<iovec>)``.
public enum WriteResult: Equatable, Sendable {
    /// This many bytes (at least one) were accepted, in order, from the start of the vectors. When fewer than offered
    /// were accepted, ``StreamObserver/streamWritable(_:)`` follows when there is room again.
    case bytes(Int)
    /// No room now. ``StreamObserver/streamWritable(_:)`` follows when there is.
    case wouldBlock
    /// The stream failed; ``ByteStream/failure`` says why.
    case failed
}

/// Learns when a ``ByteStream`` is worth another call.
///
/// Edge-triggered: a call comes once after a read or a write found nothing to do, not again until the next such call.
/// A stream never calls its observer from inside one of its own methods, always from the event loop.
public protocol StreamObserver: AnyObject {
    /// Bytes, the end or a failure can be read.
    func streamReadable(_ stream: ByteStream)
    /// A write that was refused or cut short can go on.
    func streamWritable(_ stream: ByteStream)
    /// The stream failed while nobody was calling it (reset by the peer, its transport died). At most once; both
    /// directions are over and ``ByteStream/failure`` is set.
    func streamFailed(_ stream: ByteStream)
}

/// A bidirectional, ordered stream of bytes that never blocks: a socket, a TLS connection, an HTTP/2 CONNECT stream, an
/// SSH channel. Byte streams stack: an engine (TLS, HTTP/2, SSH) runs over any of them and yields more of them.
///
/// Half-close, back-pressure and reset are those of TCP (RFC 9293): each direction ends on its own, a writer is told to
/// wait, and an abort is visible to the peer as an abort.
///
/// A class rather than a protocol, so that a relay calls through one table, with no existential per chunk. Confined to
/// its event loop: it is not `Sendable`, and every method must be called on ``loop``.
open class ByteStream {
    /// The event loop this stream lives on.
    public let loop: EventLoop

    /// Told about readiness. Not retained: whoever owns the stream owns the observer too.
    public final var observer: (any StreamObserver)? {
        get {
            if let relay { return relay }
            return otherObserver
        }
        set {
            relay = nil
            otherObserver = newValue
        }
    }

    /// The relay that the stream belongs to. Retained until the relay lets go, since it keeps itself alive for so long
    /// anyway: a weak reference costs an allocation for each relay, and a slower retain each time.
    final var relay: Relay?
    private weak var otherObserver: (any StreamObserver)?

    /// Why the stream failed. Set once, before any call returns `.failed`.
    public final private(set) var failure: StreamError?

    /// For subclasses. Call it on `loop`.
    public init(loop: EventLoop) {
        self.loop = loop
    }

    /// Who is at the other end, for logs and errors: an address, an authority, an identity.
    open var peerDescription: String { "peer" }

    /// Copies what has arrived into `buffer`, as much as fits. `buffer` must not be empty.
    open func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        fatalError("\(type(of: self)) does not override read(into:)")
    }

    /// Accepts bytes from `vectors`, in order; may accept fewer than offered. `.bytes(0)` only where nothing was
    /// offered. The bytes are copied or sent before return.
    ///
    /// Fails with ``StreamError/Code/closed`` where the peer reads no more by its own choice, without harm to what it
    /// sends (RST_STREAM with NO_ERROR, RFC 9113 §8.1): a relay then lets the other direction go on to its end.
    open func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        fatalError("\(type(of: self)) does not override write(_:)")
    }

    /// Half-close: the peer reads the end after all accepted bytes. Reading goes on. Idempotent.
    open func finish() {
        fatalError("\(type(of: self)) does not override finish()")
    }

    /// Abort both directions so that the peer sees an abort (TCP RST, RST_STREAM), drop what is buffered, and release
    /// resources. Nothing may be called afterwards; the observer is not told. Idempotent.
    open func reset(_ reason: StreamError) {
        fatalError("\(type(of: self)) does not override reset(_:)")
    }

    /// Release resources after both directions ended; before that it is ``reset(_:)`` with ``StreamError/Code/closed``.
    /// Accepted bytes are still delivered when ``finish()`` was called. Idempotent.
    open func close() {
        fatalError("\(type(of: self)) does not override close()")
    }

    // MARK: Direct paths, for relays
    //
    // A pump that is told of an end or a failure may close or reset both streams before the call returns.

    /// From now on the stream reads from `source` itself whenever it has room, so that the bytes are received where
    /// they are sent from. Returns false where the stream has no such path (the default); the caller then copies.
    ///
    /// The stream calls ``Pump/moved(_:)`` for what it took, and ``Pump/sourceEnded()`` or ``Pump/failed(_:)`` once. It
    /// calls its own ``finish()`` at the end of the source. The pump passes readiness on through
    /// ``sourceBecameReadable()``.
    open func pull(from source: ByteStream, for pump: Pump) -> Bool { false }

    /// The source given to ``pull(from:for:)`` may have bytes.
    open func sourceBecameReadable() {}

    /// From now on the stream writes what arrives straight into `sink`, keeping what `sink` does not take. Returns
    /// false where the stream has no such path (the default); the caller then copies.
    ///
    /// The stream calls ``Pump/moved(_:)`` for what `sink` took, and ``Pump/sourceEnded()`` (after `sink.finish()`) or
    /// ``Pump/failed(_:)`` once. The pump passes readiness on through ``sinkBecameWritable()``.
    open func push(to sink: ByteStream, for pump: Pump) -> Bool { false }

    /// The sink given to ``push(to:for:)`` has room again.
    open func sinkBecameWritable() {}

    // MARK: For subclasses

    /// Records the first failure; later ones are ignored.
    public final func fail(_ error: StreamError) {
        if failure == nil { failure = error }
    }

    /// The answer to a read of a stream that is over: the first failure stays, `error` stands where there was none.
    package final func refuseRead(_ error: @autoclosure () -> StreamError? = nil) -> ReadResult {
        if failure == nil { fail(error() ?? .closed(self)) }
        return .failed
    }

    /// The answer to a write to a stream that is over, as ``refuseRead(_:)``.
    package final func refuseWrite(_ error: @autoclosure () -> StreamError? = nil) -> WriteResult {
        if failure == nil { fail(error() ?? .closed(self)) }
        return .failed
    }
}

extension StreamError {
    package static func closed(_ stream: ByteStream) -> StreamError {
        StreamError(.closed, "the stream to \(stream.peerDescription) is closed")
    }
}

extension ByteStream {
    /// Writes one contiguous piece. See ``write(_:)-(UnsafeBufferPointer<iovec>)``.
    @inlinable
    public final func write(_ bytes: UnsafeRawBufferPointer) -> WriteResult {
        guard let base = bytes.baseAddress, !bytes.isEmpty else { return .bytes(0) }
        let vector = iovec(iov_base: UnsafeMutableRawPointer(mutating: base), iov_len: bytes.count)
        return withUnsafePointer(to: vector) { write(UnsafeBufferPointer(start: $0, count: 1)) }
    }
}

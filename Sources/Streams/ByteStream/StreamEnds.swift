/// How far the two directions of a byte stream have come, and who waits: what each ``ByteStream`` has to remember
/// beside its engine, as a value.
///
/// ```
///   reading   open ── receiveEnd() ──→ ended ── deliverEnd() ──→ delivered
///   writing   open ── finish() ──→ finishing ── sentEnd() ──→ finished
///   owner     holds the stream ── release() ──→ released: nobody is told anything more
/// ```
///
/// A direction that failed is the whole stream's affair (``ByteStream/failure``).
///
/// A reader waits once a read found nothing, a writer once a write was refused or cut short. Each wait is answered by
/// one notice: ``wakeReader()`` and ``wakeWriter()`` say whether the observer is to be told, and take the wait back.
package struct StreamEnds: Hashable, Sendable {
    package enum Reading: Hashable, Sendable {
        case open
        /// The peer has finished. Bytes may still lie before its end.
        case ended
        /// The reader knows: every later read finds the end.
        case delivered
    }

    package enum Writing: Hashable, Sendable {
        case open
        /// The owner has finished. Accepted bytes go first, then the peer is told.
        case finishing
        /// The peer was told, as far as this side can know.
        case finished
    }

    package private(set) var reading = Reading.open
    package private(set) var writing = Writing.open
    /// Nothing more happens: the owner has let go, by ``ByteStream/close()`` or ``ByteStream/reset(_:)``, or the stream
    /// has given up what carries it.
    package private(set) var isReleased = false
    package private(set) var readerWaits: Bool
    package private(set) var writerWaits = false

    /// - Parameter readerWaits: By default true: the first bytes of a new stream are told to an observer that has not
    ///   read yet. False for a stream that is read at once.
    package init(readerWaits: Bool = true) {
        self.readerWaits = readerWaits
    }

    // MARK: Waiting

    /// A read found nothing.
    package mutating func blockReader() -> ReadResult {
        readerWaits = true
        return .wouldBlock
    }

    /// There may be something to read. Returns whether the observer is to be told.
    package mutating func wakeReader() -> Bool {
        guard readerWaits, !isReleased else { return false }
        readerWaits = false
        return true
    }

    /// A write was refused.
    package mutating func blockWriter() -> WriteResult {
        writerWaits = true
        return .wouldBlock
    }

    /// A write took `accepted` of `offered` bytes: one that was cut short waits for room.
    package mutating func accept(_ accepted: Int, of offered: Int) -> WriteResult {
        if accepted < offered { writerWaits = true }
        return accepted > 0 || offered == 0 ? .bytes(accepted) : .wouldBlock
    }

    /// There may be room to write. Returns whether the observer is to be told.
    package mutating func wakeWriter() -> Bool {
        guard writerWaits, !isReleased else { return false }
        writerWaits = false
        return true
    }

    // MARK: Ending

    /// The peer has finished.
    package mutating func receiveEnd() {
        if reading == .open { reading = .ended }
    }

    /// Everything before the peer's end has been read.
    package mutating func deliverEnd() -> ReadResult {
        reading = .delivered
        return .end
    }

    /// The owner finishes. Returns false where he has before, or has let go.
    package mutating func finish() -> Bool {
        guard writing == .open, !isReleased else { return false }
        writing = .finishing
        return true
    }

    /// The peer was told of the owner's end.
    package mutating func sentEnd() {
        if writing == .finishing { writing = .finished }
    }

    /// The owner lets go. Returns false where he has before.
    @discardableResult
    package mutating func release() -> Bool {
        guard !isReleased else { return false }
        isReleased = true
        return true
    }

    /// Whether bytes are taken from the owner, as far as the two ends are concerned.
    package var isWritable: Bool { writing == .open && !isReleased }

    /// Both directions ended cleanly, each as far as this side can tell: a transport that dies now loses nothing.
    package var areOver: Bool { reading != .open && writing == .finished }
}

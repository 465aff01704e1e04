package import CLinux
package import MeshIdentity
import Platform
package import Streams

/// Mutual TLS 1.3 over any byte stream: a socket, a CONNECT stream through a gateway, an SSH channel.
///
///     idle ─ startHandshake ─▶ handshaking ─▶ open ─ close ─▶ closing ─▶ closed
///                                   └───────────┴─ failed
///
/// A half-close is a close_notify followed by the end of the lower stream, both ways (RFC 8446 §6.1). The end of the
/// lower stream without it is ``Streams/StreamError/Code/truncated``, never an end. ``reset(_:)`` resets the lower
/// stream.
///
/// ``write(_:)`` turns everything it is offered into full records and sends them with one write of the lower stream:
/// hand it as much as there is, up to 256 KiB. ``read(into:)`` fills its buffer from as many records as fit. Between
/// calls an idle stream holds no buffer.
///
/// After the handshake the caller reads at once, without waiting for a notice: bytes may have come with its last
/// flight. A client learns only by that first read that the server refuses its certificate (RFC 8446 §4.4.2.4 comes
/// after the client's last flight): it fails with ``Streams/StreamError/Code/authentication`` and the server's reason.
package final class TLSStream: ByteStream {
    enum Phase {
        case idle
        case handshaking
        case open
        /// A fatal alert is on its way, or what was accepted before ``close()``.
        case departing
        case over
    }

    /// The stream below. Owned by this one: nobody else calls it.
    package let lower: ByteStream

    /// Who is there; set once the handshake is done.
    package internal(set) var peer: TLSPeer?
    private let ownNotAfter: Int64?
    let isServer: Bool

    /// The stream below ends when both directions have, and not with this side's: for hops on the way that cut what is
    /// half closed. The peer is told by the close_notify all the same.
    ///
    /// A server also waits for the client's end of the stream below: a hop may take a response that is over before its
    /// request for an error, and drop what it has not passed on yet.
    package var endsLowerWithBoth = false
    /// The stream below has nothing more to say, or was waited for long enough.
    var lowerHasEnded = false
    /// The name that a client has asked for (SNI); nil: none.
    package var askedName: String? { engine.askedName }

    let engine: TLSEngine
    let options: TLSContext.Options
    var phase = Phase.idle

    var completion: ((Result<TLSPeer, StreamError>) -> Void)?
    var handshakeResult: Result<TLSPeer, StreamError>?
    /// Limits the handshake, and the departure. In between it waits for a second without records, to take back the
    /// buffers that OpenSSL has for them.
    var timer: LoopTimer?
    /// There was a record since the timer was set.
    var hasUsedBuffers = false

    /// What the lower stream said last; its observer call says when to try again.
    var canReadLower = true
    var canWriteLower = true

    /// The caller reads at once after the handshake. The peer is told of the end when close_notify and the end of the
    /// lower stream have left.
    var ends = StreamEnds(readerWaits: false)
    /// The read waits for room in the output, not for input.
    var readNeedsOutput = false

    var isScheduled = false
    var deferred: Notices = []

    /// Itself, during the handshake and while departing: nobody else may be holding the stream then.
    var retained: TLSStream?
    /// While departing: bytes are read and dropped until the peer ends too, so that they do not turn into a TCP RST
    /// that overtakes our alert.
    var discardsInput = false
    /// How much of that there was.
    var discarded = 0

    struct Notices: OptionSet {
        let rawValue: UInt8
        static let handshake = Notices(rawValue: 1)
        static let readable = Notices(rawValue: 2)
        static let writable = Notices(rawValue: 4)
        static let failed = Notices(rawValue: 8)
    }

    /// - Parameters:
    ///   - lower: An open stream on which nothing has been read or written. The TLS stream takes it over.
    ///   - context: Our credential, whom we trust, and the role.
    ///   - expectation: Whom to accept as peer.
    ///   - serverName: SNI (RFC 6066 §3), sent by a client; nil sends none, as HBONE has it.
    ///   - offersProtocols: Whether a client offers what its context has for ALPN.
    package convenience init(
        over lower: ByteStream,
        context: TLSContext,
        expecting expectation: PeerExpectation,
        serverName: String? = nil,
        offersProtocols: Bool = true
    ) {
        self.init(
            over: lower,
            context: context,
            expecting: expectation,
            serverName: serverName,
            offersProtocols: offersProtocols,
            recordsPerKey: TLSEngine.recordsPerKey
        )
    }

    /// For a client of a server that is no member of a mesh: who vouches for it, `context` says; its certificate must
    /// be for `name`, a DNS name or an IP address. A name is sent as SNI; addresses are none (RFC 6066 §3).
    package convenience init(over lower: ByteStream, context: TLSContext, verifying name: String) {
        precondition(context.server != nil, "the context does not say who vouches for servers")
        self.init(
            over: lower,
            context: context,
            expecting: .anyTrusted,
            server: context.server?.named(name),
            serverName: IPAddress(name) == nil ? name : nil,
            recordsPerKey: TLSEngine.recordsPerKey
        )
    }

    init(
        over lower: ByteStream,
        context: TLSContext,
        expecting expectation: PeerExpectation,
        server: ServerVerifier? = nil,
        serverName: String?,
        offersProtocols: Bool = true,
        recordsPerKey: Int
    ) {
        self.lower = lower
        options = context.options
        isServer = context.role == .server
        ownNotAfter = context.notAfter
        engine = TLSEngine(
            context: context,
            expecting: expectation,
            server: server,
            serverName: context.role == .client ? serverName : nil,
            offersProtocols: offersProtocols,
            peerDescription: lower.peerDescription,
            pool: lower.loop.buffers,
            recordsPerKey: recordsPerKey
        )
        super.init(loop: lower.loop)
    }

    /// When the first of the two certificates expires, in seconds since 1970; nil before the handshake is done.
    package var certificatesExpireAt: Int64? { peer.map { min($0.notAfter, ownNotAfter ?? .max) } }

    package override var peerDescription: String {
        guard let identity = peer?.identity else { return lower.peerDescription }
        return "\(identity) at \(lower.peerDescription)"
    }

    /// Starts the handshake. `completion` is called exactly once, from the event loop: when peer and protocol are
    /// verified, or with why not (wrong peer, refused, timed out). Until then reads and writes are answered
    /// `wouldBlock`.
    package func startHandshake(completion: @escaping (Result<TLSPeer, StreamError>) -> Void) {
        precondition(phase == .idle, "the handshake has been started already")
        phase = .handshaking
        self.completion = completion
        retained = self
        lower.observer = self
        startTimer(options.handshakeTimeout)
        continueHandshake()
    }

    // MARK: Reading

    package override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard phase == .open else { return readBeforeOrAfter() }
        var filled = 0
        while filled < buffer.count && ends.reading == .open {
            if engine.needsInput {
                switch fill() {
                case .bytes: break
                case .wouldBlock: return blocked(after: filled)
                case .end:
                    return failed(
                        after: filled,
                        StreamError(
                            .truncated,
                            "\(peerDescription) ended the connection without a TLS close_notify: bytes may be missing"
                        )
                    )
                case .failed: return failed(after: filled, lowerFailure())
                }
            }
            useBuffers()
            switch engine.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[filled...])) {
            case .bytes(let count): filled += count
            case .needsInput: break
            case .needsOutput:
                readNeedsOutput = true
                return blocked(after: filled)
            case .end: peerFinished()
            case .failed(let error):
                refuse(error)
                return filled > 0 ? .bytes(filled) : .failed
            }
        }
        // Reading can produce an answer to a KeyUpdate.
        if !engine.output.isEmpty && !flush() { return failed(after: filled, lowerFailure()) }
        return filled > 0 ? .bytes(filled) : ends.deliverEnd()
    }

    private func readBeforeOrAfter() -> ReadResult {
        switch phase {
        case .idle, .handshaking: return ends.blockReader()
        case .open, .departing, .over: return refuseRead()
        }
    }

    private func blocked(after filled: Int) -> ReadResult {
        if !engine.output.isEmpty && !flush() { return failed(after: filled, lowerFailure()) }
        return filled > 0 ? .bytes(filled) : ends.blockReader()
    }

    /// What was read before the failure is delivered first; the next call reports the failure.
    private func failed(after filled: Int, _ error: StreamError) -> ReadResult {
        die(error)
        return filled > 0 ? .bytes(filled) : .failed
    }

    /// Takes ciphertext from the lower stream. Only where the engine needs it.
    func fill() -> ReadResult {
        guard canReadLower else { return .wouldBlock }
        let result = engine.receive { room in
            switch lower.read(into: room) {
            case .bytes(let count): (count, ReadResult.bytes(count))
            case let other: (0, other)
            }
        }
        if result == .wouldBlock { canReadLower = false }
        return result
    }

    // MARK: Writing

    package override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        switch phase {
        case .open: break
        case .idle, .handshaking: return ends.blockWriter()
        case .departing, .over: return refuseWrite()
        }
        guard ends.writing == .open else {
            die(StreamError(.closed, "write after the end of the stream to \(peerDescription)"))
            return .failed
        }
        var offered = 0
        for vector in vectors { offered += vector.iov_len }
        guard offered > 0 else { return .bytes(0) }
        var accepted = 0
        var position = VectorPosition()
        while accepted < offered {
            guard engine.output.isEmpty else { break }
            let length = min(offered - accepted, TLSEngine.batchSize)
            useBuffers()
            do {
                try engine.write(vectors, from: &position, length: length)
            } catch {
                refuse(error)
                return .failed
            }
            accepted += length
            guard flush() else {
                die(lowerFailure())
                return .failed
            }
        }
        return ends.accept(accepted, of: offered)
    }

    /// Gives the lower stream the ciphertext there is, as far as it takes it. False: it failed.
    func flush() -> Bool {
        guard canWriteLower, !engine.output.isEmpty else { return true }
        let pending = engine.output.count
        switch engine.output.withVectors({ lower.write($0) }) {
        case .bytes(let count):
            engine.sent(count)
            if count < pending { canWriteLower = false }
        case .wouldBlock: canWriteLower = false
        case .failed: return false
        }
        return true
    }

    // MARK: Ending

    package override func finish() {
        if ends.finish() && phase == .open { sendCloseNotify() }
    }

    package override func reset(_ reason: StreamError) {
        guard phase != .over, phase != .departing else { return }
        observer = nil
        fail(reason)
        answerHandshake(.failure(reason))
        lower.reset(reason)
        release()
    }

    package override func close() {
        observer = nil
        switch phase {
        case .departing, .over: break
        case .open where ends.writing != .open:
            // A hop that is told to stop drops what it has not passed on yet.
            if endsLowerWithBoth { discardsInput = true }
            depart(within: options.closeTimeout)
        case .idle, .handshaking, .open: reset(.closed(self))
        }
    }
}

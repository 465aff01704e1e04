public import MeshIdentity
public import Platform
public import Streams

/// A request for a tunnel that waits for its answer. Confined to the connection's loop; answer it exactly once, now or
/// later.
///
/// Bytes that the client sends early are held, at most one window of them, and dropped on refusal. Forward nothing and
/// dial nothing before policy has passed.
public final class PendingConnect {
    /// What the client sent. Nothing in it is proved but that this client wrote it.
    public let request: ConnectRequest
    /// Where the tunnel is to end. Checked for syntax only.
    public let destination: Authority
    /// The client, as its certificate says; nil where the layer below has no certificate.
    public let peer: SPIFFEID?
    /// Which certificate that was; nil where there is none.
    package let peerCertificate: CertificateName?
    /// Where the client is, where that is known.
    public let remoteAddress: SocketAddress?
    /// Called once when the client gives up before the answer, so that a dial can be abandoned. Answering is then
    /// pointless and harmless.
    public var cancelled: (() -> Void)?
    private var stream: H2Stream?
    /// The connection whose limit of pending requests this one counts against; nil once it does not any more.
    private var counted: H2Connection?
    /// Others for the same destination come first; nobody knows of this one yet.
    var waits = false

    /// - Parameter request: That of `stream`.
    init(_ request: ConnectRequest, stream: H2Stream, destination: Authority, peer: SPIFFEID?) {
        self.stream = stream
        self.request = request
        self.destination = destination
        self.peer = peer
        peerCertificate = stream.connection?.peerCertificate
        remoteAddress = stream.connection?.remoteAddress
        counted = stream.connection
    }

    // Whoever dials holds this object until the dial is over, also when the client has given up: that is what is
    // limited. The last to let go of it may be on another thread.
    deinit {
        guard let counted else { return }
        guard !counted.loop.isCurrent else { return uncount() }
        let (connection, destination) = (LoopBound(counted, on: counted.loop), destination)
        counted.loop.submit { connection.withValue { $0.requestEnded(destination) } }
    }

    private func uncount() {
        guard let counted else { return }
        self.counted = nil
        if waits { counted.requests.withdraw(self, to: destination) } else { counted.requestEnded(destination) }
    }

    /// The connection that the request came by; nil once that is over.
    package var transport: H2Connection? { stream?.connection }

    /// The trace of the stream, where it came with none: see ``H2Stream/ownTrace``.
    package var ownTrace: TraceParent? { stream?.ownTrace }

    /// Whether an answer is still awaited.
    public var isPending: Bool { stream != nil }

    /// Answers 200 and opens the tunnel. The answer is flushed before any byte of the tunnel.
    ///
    /// - Returns: The tunnel, which the caller owns; nil when the client has given up meanwhile.
    public func accept(headers: HeaderFields = [:]) -> H2Stream? {
        uncount()
        guard let stream = take() else { return nil }
        stream.connection?.accept(stream, ConnectResponse(status: 200, headers: headers))
        return stream
    }

    /// Answers anything but 2xx. The client's upload is stopped (RFC 9113 §8.1).
    public func reject(_ rejection: ConnectRejection) {
        uncount()
        guard let stream = take() else { return }
        stream.connection?.reject(stream, rejection)
    }

    /// Answers by REFUSED_STREAM: nobody has looked at the request, and the client may ask again, on another connection
    /// (RFC 9113 §8.7).
    package func refuseUnseen() {
        uncount()
        guard let stream = take() else { return }
        stream.connection?.refuseUnseen(stream)
    }

    /// The client gave up, or the connection is gone.
    func cancel() {
        guard take() != nil else { return }
        if waits { uncount() }
        let cancelled = cancelled
        self.cancelled = nil
        cancelled?()
    }

    private func take() -> H2Stream? {
        guard let stream else { return nil }
        self.stream = nil
        stream.pending = nil
        return stream
    }
}

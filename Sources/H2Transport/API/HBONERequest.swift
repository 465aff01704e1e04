public import MeshIdentity
public import Platform
public import Streams

/// What a peer asks a listener for: who, whereto, and what it says about itself.
public struct HBONERequest: Sendable {
    /// The peer, proven by certificate and signature. The only part to base trust on.
    public let peer: SPIFFEID
    /// Which of the peer's certificates its connection has shown; nil where the connection has none.
    package let peerCertificate: CertificateName?
    /// Where the stream is to end. Checked for syntax and normalised, nothing more: whether the peer may go there is
    /// for the admission hook to say.
    public let destination: Authority
    /// Where the peer's connection comes from, where that is known.
    public let remoteAddress: SocketAddress?
    /// The request as it came, with its header fields (``ConnectRequest/baggage``, ``ConnectRequest/forwarded``,
    /// ``ConnectRequest/traceparent``): text that the peer, or anybody before it, wrote.
    public let request: ConnectRequest

    /// What the caller says about itself, or somebody on the way for it. Never a reason to trust it.
    public var baggage: Baggage { Baggage(parsing: request.baggage) }
    /// The trace that the caller is in; nil where it says none, or none that can be read.
    public var trace: TraceParent? { TraceParent(parsing: request.traceparent) }
}

/// What an admission hook answers.
public enum HBONEAdmission: Hashable, Sendable {
    /// 200, with these header fields; the stream is handed to the handler.
    case admit(headers: HeaderFields = [:])
    /// Any other status. See ``ConnectRejection/denied(_:)``.
    case refuse(ConnectRejection)

    /// 200, and nothing else.
    public static var admit: HBONEAdmission { .admit(headers: [:]) }
    /// 403. `details` is told to the peer.
    public static func deny(_ details: String? = nil) -> HBONEAdmission { .refuse(.denied(details)) }
}

/// Decides about a request before it is answered. Runs in a task of its own; cancelled when the listener is. The client
/// waits for `H2Configuration.requestTimeout` of its own side.
public typealias HBONEAdmissionHook = @Sendable (HBONERequest) async -> HBONEAdmission

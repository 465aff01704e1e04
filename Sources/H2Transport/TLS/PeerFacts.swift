public import MeshIdentity
public import Streams

/// What the layers below a connection know of its peer.
public struct PeerFacts: Hashable, Sendable {
    /// Who it is, as its certificate says; nil where no layer has a certificate, or it names no member of a mesh.
    public var identity: SPIFFEID?
    /// Which certificate it has shown.
    public var certificate: CertificateName?
    /// When the first of the two certificates expires, its and ours, in seconds since 1970.
    public var certificatesExpireAt: Int64?
    /// Where it is, where that is known.
    public var address: SocketAddress?

    public init() {}

    /// What a stream whose handshake is done can tell.
    public init(of stream: ByteStream) {
        let tls = stream as? TLSStream
        identity = tls?.peer?.identity
        certificate = tls?.peer?.certificate
        certificatesExpireAt = tls?.certificatesExpireAt
        address = ((tls?.lower ?? stream) as? Socket)?.peerAddress
    }
}

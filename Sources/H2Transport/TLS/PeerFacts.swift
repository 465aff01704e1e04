package import MeshIdentity
package import Streams

/// A stream that is one of many of a connection, as of HTTP/2.
protocol StreamOfConnection: AnyObject {
    /// Where that one's peer is, where that is known.
    var connectionAddress: SocketAddress? { get }
}

/// What the layers below a connection know of its peer.
package struct PeerFacts: Hashable, Sendable {
    /// Who it is, as its certificate says; nil where no layer has a certificate, or it names no member of a mesh.
    package var identity: SPIFFEID?
    /// Which certificate it has shown.
    package var certificate: CertificateName?
    /// When the first of the two certificates expires, its and ours, in seconds since 1970.
    package var certificatesExpireAt: Int64?
    /// When its own certificate expires.
    package var peerExpiresAt: Int64?
    /// Where it is, where that is known.
    package var address: SocketAddress?

    package init() {}

    /// What a stream whose handshake is done can tell.
    package init(of stream: ByteStream) {
        let tls = stream as? TLSStream
        identity = tls?.peer?.identity
        certificate = tls?.peer?.certificate
        certificatesExpireAt = tls?.certificatesExpireAt
        peerExpiresAt = tls?.peer?.notAfter
        let lowest = tls?.lower ?? stream
        address = (lowest as? Socket)?.peerAddress ?? (lowest as? any StreamOfConnection)?.connectionAddress
    }
}

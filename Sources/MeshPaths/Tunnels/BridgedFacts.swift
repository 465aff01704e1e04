package import H2Transport
package import MeshIdentity
package import Streams

/// What a stream of HTTP/2 knows that belongs to a connection of another event loop.
package struct BridgedFacts: Sendable {
    /// Who is at the other end of the connection.
    package let peer: SPIFFEID?
    /// What it has answered.
    package let response: ConnectResponse?

    /// Which of the connections that peers hold it goes over.
    let connection: UInt64
    /// The certificate that the connection's peer has shown.
    let certificate: CertificateName?
    /// What that has said of which process it is; 0: nothing.
    let process: UInt32

    /// As ``H2Transport/H2Stream/ownTrace``.
    package let trace: TraceParent?

    /// nil: the stream is of this loop.
    package init?(of stream: ByteStream) {
        guard let facts = (stream as? LoopBridge)?.facts as? BridgedFacts else { return nil }
        self = facts
    }

    init(of stream: H2Stream, on connection: UInt64) {
        (peer, response, trace) = (stream.peer, stream.response, stream.ownTrace)
        (self.connection, certificate) = (connection, stream.transport?.peerCertificate)
        process = stream.transport?.peerProcess ?? 0
    }
}

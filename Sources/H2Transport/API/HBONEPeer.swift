public import MeshIdentity
public import Platform
public import Streams

/// The HBONE server through which a stream goes, and whom it has to be.
public struct HBONEPeer: Hashable, Sendable {
    /// The port that HBONE servers listen on unless they are told otherwise.
    public static let defaultPort: UInt16 = 15008

    /// Where it listens. A name is resolved for each stream, its addresses are tried in the resolver's order.
    public var address: Authority
    /// Whose certificate it must show; nil means anybody of our own trust domain and namespace.
    public var expectation: PeerExpectation?

    /// - Parameters:
    ///   - address: Where the server listens.
    ///   - expectation: Whose certificate it must show; nil means anybody of our own trust domain and namespace.
    public init(_ address: Authority, expecting expectation: PeerExpectation? = nil) {
        self.address = address
        self.expectation = expectation
    }

    /// The server on the destination's own host, port 15008: how ambient mesh reaches a workload.
    public static func onHost(of destination: Authority) throws(StreamError) -> HBONEPeer {
        HBONEPeer(try StreamError.reading(Authority(host: destination.host, port: defaultPort)))
    }
}

public import MeshIdentity
import Streams

// What a peer once proved may be taken back: then nothing of its connection is worth keeping.
extension H2Connection {
    /// Cuts the connection with all its streams when `trust` has the certificate as revoked that its peer showed.
    ///
    /// - Returns: whether it has.
    @discardableResult
    public func end(ifRevokedIn trust: TrustBundleSet) -> Bool {
        guard let peer, let peerCertificate, trust.isRevoked(peerCertificate, of: peer) else { return false }
        abort(
            StreamError(.authentication, "the certificate of \(peer) (serial \(peerCertificate.serial)) was revoked")
        )
        return true
    }
}

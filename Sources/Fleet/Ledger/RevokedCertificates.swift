package import MeshIdentity
import Platform
import Streams

/// Whom a ledger has as revoked, for those who ask every second: it is read again when it has changed.
package final class RevokedCertificates: Sendable {
    private let ledger: Ledger
    private let seen = Lock<(stamp: FileStamp, names: Set<CertificateName>)?>(nil)

    package init(in ledger: Ledger) { self.ledger = ledger }

    package func names() throws(LedgerError) -> Set<CertificateName> {
        let stamp = FileStamp(of: [ledger.path])
        if let seen = seen.withLock({ $0 }), seen.stamp == stamp { return seen.names }
        let names = try ledger.revokedCertificates()
        seen.withLock { $0 = (stamp, names) }
        return names
    }
}

import Glibc
import MeshIdentity
import Platform

/// The file with what the CA no longer stands by: made of the ledger, signed by the CA, kept beside its certificate.
package struct RevocationPublisher: Sendable {
    private let authority: LiveCA
    private let ledger: Ledger

    package init(authority: LiveCA, ledger: Ledger) {
        self.authority = authority
        self.ledger = ledger
    }

    private var directory: String { authority.directory }
    /// The file.
    package var path: String { "\(directory)/ca-crl.pem" }

    /// Peers of ours go on with a list that is older; others, such as Envoy, refuse everybody then. Every renewal brings a new one.
    private static let validity: Int64 = 30 * 24 * 60 * 60

    /// Writes a new list of everything that is revoked and has not ended.
    ///
    /// - Returns: The lists in PEM form.
    package func publish() throws(LedgerError) -> [UInt8] {
        do throws(IdentityError) {
            // Two operators at once: the list with the higher number is the later one, and has what both revoked.
            let lock = try fileWork(FileLock(directory: directory, patience: .seconds(10)))
            defer { withExtendedLifetime(lock) {} }
            return try write()
        } catch {
            throw LedgerError(.file, error.message)
        }
    }

    private func write() throws(IdentityError) -> [UInt8] {
        var made: [RevocationList] = []
        let authorities = try authority.authorities()
        for authority in authorities { made.append(try list(of: authority)) }
        var lists = made.flatMap(\.pem)
        // Whatever else is there stays: lists of roots whose keys are not here.
        if let present = try authorities.first?.revocationLists() {
            for other in try RevocationList.all(pem: present) where !made.contains(where: { $0.issuer == other.issuer })
            {
                lists += other.pem
            }
        }
        try fileWork(AtomicFile.write(lists, to: path))
        return lists
    }

    private func list(of authority: EmbeddedCA) throws(IdentityError) -> RevocationList {
        let now = WallClock.system.seconds
        let issuer = authority.certificate.subjectKeyIdentifier ?? ""
        let revoked: [LedgerCertificate]
        let number: Int64
        do throws(LedgerError) {
            // An hour for clocks that are behind.
            revoked = try ledger.revoked(by: issuer, endingAfter: now - 3600)
            number = try ledger.nextListNumber(of: issuer)
        } catch {
            throw IdentityError(.file, error.message)
        }
        let longest = revoked.map(\.notAfter).max() ?? now
        return try authority.revocationList(
            of: revoked.map { RevokedCertificate(serial: $0.serial, revokedAt: $0.changedAt ?? now) },
            number: number,
            nextUpdate: max(now + Self.validity, longest + 24 * 60 * 60)
        )
    }
}

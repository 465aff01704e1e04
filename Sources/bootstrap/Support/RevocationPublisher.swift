import Glibc
import MeshIdentity

/// The file with what the CA no longer stands by: made of the ledger, signed by the CA, kept beside its certificate.
struct RevocationPublisher {
    let authority: EmbeddedCA
    let directory: String
    let ledger: Ledger

    /// Peers of ours go on with a list that is older; others, such as Envoy, refuse everybody then. Every renewal brings a new one.
    private static let validity: Int64 = 30 * 24 * 60 * 60

    /// Writes a new list of everything that is revoked and has not ended.
    ///
    /// - Returns: The lists in PEM form.
    func publish() throws(LedgerError) -> [UInt8] {
        do throws(IdentityError) {
            // Two operators at once: the list with the higher number is the later one, and has what both revoked.
            let lock = try FileLock(directory: directory, patience: .seconds(10))
            defer { withExtendedLifetime(lock) {} }
            return try write()
        } catch {
            throw LedgerError(.file, error.message)
        }
    }

    private func write() throws(IdentityError) -> [UInt8] {
        let now = currentTime()
        let issuer = authority.certificate.subjectKeyIdentifier ?? ""
        let list: RevocationList
        do throws(LedgerError) {
            // An hour for clocks that are behind.
            let revoked = try ledger.revoked(by: issuer, endingAfter: now - 3600)
            let longest = revoked.map(\.notAfter).max() ?? now
            let number = try ledger.nextListNumber(of: issuer)
            do throws(IdentityError) {
                list = try authority.revocationList(
                    of: revoked.map { RevokedCertificate(serial: $0.serial, revokedAt: $0.changedAt ?? now) },
                    number: number,
                    nextUpdate: max(now + Self.validity, longest + 24 * 60 * 60)
                )
            } catch {
                throw LedgerError(.file, error.message)
            }
        } catch {
            throw IdentityError(.file, error.message)
        }
        var lists = list.pem
        // Those of other roots, while a root is replaced.
        if let present = try authority.revocationLists() {
            for other in try RevocationList.all(pem: present) where other.issuer != list.issuer { lists += other.pem }
        }
        try AtomicFile.write(lists, to: "\(directory)/ca-crl.pem")
        return lists
    }
}

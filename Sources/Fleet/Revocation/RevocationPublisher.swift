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

    /// The lists that were written last, in PEM form; nil without any.
    package var present: [UInt8]? { (try? authority.present().revocationLists()) ?? nil }

    /// Peers of ours go on with a list that is older; others, such as Envoy, refuse everybody then. Every renewal
    /// brings a new one.
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

    /// Takes over into the ledger what lists that this CA has signed say, and the ledger does not know: an earlier copy
    /// of it was put back, or it was lost.
    ///
    /// - Parameters:
    ///   - lists: In PEM form. What no root of the CA has signed counts for nothing.
    ///   - place: Where they were found, for people.
    /// - Returns: How many certificates the ledger had not as revoked.
    @discardableResult
    package func takeOver(_ lists: [UInt8], from place: String) throws(LedgerError) -> Int {
        do throws(IdentityError) {
            let roots = try authority.roots()
            var count = 0
            for list in try RevocationList.all(pem: lists) {
                guard let root = roots.first(where: { list.isSigned(by: $0) }) else { continue }
                do throws(LedgerError) {
                    count += try ledger.takeOver(
                        list,
                        of: root.subjectKeyIdentifier ?? "",
                        endingBefore: root.notAfter,
                        from: place
                    )
                } catch {
                    throw IdentityError(.file, error.message)
                }
            }
            return count
        } catch {
            throw LedgerError(.file, "\(place): \(error.message)")
        }
    }

    /// The same for the file beside the CA's certificate.
    package func takeOverPresent() throws(LedgerError) {
        let present: [UInt8]?
        do throws(IdentityError) {
            present = try authority.present().revocationLists()
        } catch {
            throw LedgerError(.file, error.message)
        }
        guard let present else { return }
        do throws(LedgerError) {
            try takeOver(present, from: path)
        } catch {
            guard (try? RevocationList.all(pem: present)) == nil else { throw error }
            throw LedgerError(
                .file,
                "\(error.message). Put a copy of it back; without one move it away: the next list has what the ledger knows, and what the "
                    + "devices' lists say that are visited"
            )
        }
    }

    /// Until the task is cancelled: the same whenever the file or the ledger has changed.
    package func keepTakenOver(warn: @Sendable (String) -> Void) async {
        var seen: FileStamp?
        var said: String?
        repeat {
            let stamp = FileStamp(of: [path, ledger.path])
            guard stamp != seen else { continue }
            do throws(LedgerError) {
                try takeOverPresent()
                // The one from before, and only now: what was written meanwhile is news, and so is everything after a
                // failure. What it has written itself costs another look.
                (seen, said) = (stamp, nil)
            } catch {
                if error.message != said { warn(error.message) }
                said = error.message
            }
        } while (try? await Task.sleep(for: .seconds(2))) != nil
    }

    /// What a visit does with the lists that a device has: the CA has signed them, whoever has forgotten it.
    package func learn(_ lists: [UInt8], from device: String, warn: @Sendable (String) -> Void) {
        do throws(LedgerError) {
            guard (try? RevocationList.all(pem: lists)) != nil else { return }
            let count = try takeOver(lists, from: "the device \(device)")
            guard count > 0 else { return }
            _ = try publish()
            warn(
                "\(device) has a revocation list with \(count) certificates that the ledger did not know to be revoked: they are on the CA's "
                    + "list again, and `bootstrap revoke`, without a name, brings it to everybody"
            )
        } catch {
            warn("what the revocation list of \(device) says is not taken over: \(error.message)")
        }
    }

    private func write() throws(IdentityError) -> [UInt8] {
        do throws(LedgerError) {
            try takeOverPresent()
        } catch {
            throw IdentityError(.file, error.message)
        }
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
        guard lists.count <= RevocationList.maximumLength else {
            throw IdentityError(
                .refused,
                "the revocation list would have \(lists.count) bytes, and nobody reads more than \(RevocationList.maximumLength): \(path) "
                    + "stays as it is. It gets shorter when certificates end; `bootstrap ca rotate` begins another list"
            )
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
            // By the time: after a ledger was lost, devices have a list with a number that it does not know.
            number = try ledger.nextListNumber(of: issuer, atLeast: now)
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

package import MeshIdentity
import Platform
package import SSHSignal
import Streams

/// A certificate that was issued.
package struct LedgerCertificate: Hashable, Sendable {
    package enum State: String, Hashable, Sendable {
        /// Given out, and to be accepted until it ends.
        case issued
        /// Its device has a newer one. It is accepted, too, until it ends.
        case superseded
        /// To be refused.
        case revoked
    }

    /// The issuing key's identifier (the certificate's authority key identifier) in hexadecimal: serial numbers are
    /// unique for each issuer only. Empty when the certificate does not say.
    package var issuer: String
    /// Lower-case hexadecimal.
    package var serial: String
    /// The SPIFFE ID it carries.
    package var identity: String
    /// The name of the device it was made for; nil for one made by hand.
    package var device: String?
    /// Seconds since 1970.
    package var notBefore: Int64
    /// Seconds since 1970.
    package var notAfter: Int64
    /// Seconds since 1970.
    package var issuedAt: Int64
    /// By which command.
    package var command: String
    package var state: State
    /// When it became superseded or revoked, in seconds since 1970.
    package var changedAt: Int64?
    /// Why it was revoked.
    package var reason: String?

    /// Which one it is, whatever has become of it.
    package var name: CertificateName { CertificateName(issuer: issuer, serial: serial) }

    package init(
        _ certificate: Certificate,
        identity: SPIFFEID,
        device: String?,
        command: String,
        issuedAt: Int64
    ) {
        issuer = certificate.authorityKeyIdentifier ?? ""
        serial = certificate.serialNumber
        self.identity = identity.description
        self.device = device
        notBefore = certificate.notBefore
        notAfter = certificate.notAfter
        self.issuedAt = issuedAt
        self.command = command
        state = .issued
    }

    fileprivate init(_ row: borrowing SQLiteRow) {
        issuer = row.text(0)
        serial = row.text(1)
        identity = row.text(2)
        device = row.textIfAny(3)
        notBefore = row.integer(4)
        notAfter = row.integer(5)
        issuedAt = row.integer(6)
        command = row.text(7)
        // The table's CHECK allows these three only.
        state = State(rawValue: row.text(8)) ?? .revoked
        changedAt = row.integerIfAny(9)
        reason = row.textIfAny(10)
    }
}

extension Ledger {
    private static let certificateColumns =
        "issuer, serial, identity, device, not_before, not_after, issued_at, command, state, changed_at, reason"

    /// Writes down a certificate before anybody gets it: there is none that the ledger does not know.
    ///
    /// - Parameter certificate: What was signed, and is to be handed out.
    /// - Parameter claim: What the conversation that asked for it stands on; nil for one made by hand. In the same
    ///   transaction it is compared with what the ledger has by now, and nothing is written where it does not hold any
    ///   more.
    /// - Returns: The claim, moved on by this certificate.
    @discardableResult
    package func record(
        _ certificate: LedgerCertificate,
        on claim: DeviceClaim? = nil
    ) throws(LedgerError) -> DeviceClaim? {
        try write { (database) throws(LedgerError) in
            var moved = claim
            if let claim {
                try check(claim, in: database)
                try checkLimit(of: claim, in: database)
                moved?.issued(certificate.serial, on: try self.claim(claim.name, in: database))
                let hostKey = claim.hostKeyToKeep
                try setLastIssued(certificate.serial, of: claim.name, to: hostKey, in: database)
            }
            // A program that signs may have written it down in this very ledger: `ca sign` as the issuer of `enroll`.
            let changed = try database.execute(
                """
                INSERT INTO certificates (\(Self.certificateColumns)) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (issuer, serial) DO UPDATE SET device = excluded.device, command = excluded.command
                WHERE identity = excluded.identity AND not_after = excluded.not_after AND state = 'issued'
                """,
                [
                    .text(certificate.issuer), .text(certificate.serial), .text(certificate.identity),
                    SQLiteValue(certificate.device), .integer(certificate.notBefore), .integer(certificate.notAfter),
                    .integer(certificate.issuedAt), .text(certificate.command), .text(certificate.state.rawValue),
                    SQLiteValue(certificate.changedAt), SQLiteValue(certificate.reason),
                ]
            )
            guard changed == 1 else {
                throw LedgerError(
                    .conflict,
                    "the issuer gave the serial number \(certificate.serial) to \(certificate.identity), which another certificate "
                        + "has already: it cannot be revoked by its number; fix the issuer"
                )
            }
            try note(
                "issued until \(describe(time: certificate.notAfter))",
                by: certificate.command,
                device: certificate.device,
                identity: certificate.identity,
                serial: certificate.serial,
                in: database
            )
            return moved
        }
    }

    /// Those of a device, or all; the latest first.
    package func certificates(of device: String? = nil) throws(LedgerError) -> [LedgerCertificate] {
        try read { (database) throws(LedgerError) in
            try certificates(where: "?1 IS NULL OR device = ?1", [SQLiteValue(device)], in: database)
        }
    }

    func certificates(
        where condition: String,
        _ values: [SQLiteValue],
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> [LedgerCertificate] {
        try database.rows(
            "SELECT \(Self.certificateColumns) FROM certificates WHERE \(condition) ORDER BY issued_at DESC, rowid DESC",
            values
        ) { LedgerCertificate($0) }
    }

    /// Revokes those that `condition` means, are not revoked and have not ended. Returns them.
    @discardableResult
    func revoke(
        where condition: String,
        _ values: [SQLiteValue],
        reason: String,
        by command: String,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> [LedgerCertificate] {
        let now = clock.seconds
        let found = try certificates(
            where: "\(condition) AND state <> 'revoked' AND not_after > ?",
            values + [.integer(now)],
            in: database
        )
        for certificate in found {
            try database.execute(
                "UPDATE certificates SET state = 'revoked', changed_at = ?, reason = ? WHERE issuer = ? AND serial = ?",
                [.integer(now), .text(reason), .text(certificate.issuer), .text(certificate.serial)]
            )
            try note(
                "revoked: \(reason)",
                by: command,
                device: certificate.device,
                identity: certificate.identity,
                serial: certificate.serial,
                in: database
            )
        }
        return found
    }

    func revoke(
        certificatesOf device: String,
        except serial: String,
        reason: String,
        by command: String,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) {
        try revoke(
            where: "device = ? AND serial <> ?",
            [.text(device), .text(serial)],
            reason: reason,
            by: command,
            in: database
        )
    }

    func supersede(
        certificatesOf device: String,
        except serial: String,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) {
        try database.execute(
            "UPDATE certificates SET state = 'superseded', changed_at = ? WHERE device = ? AND serial <> ? AND state = 'issued'",
            [.integer(clock.seconds), .text(device), .text(serial)]
        )
    }
}

/// An issuer whose certificates are written down before they are handed out.
package struct RecordingIssuer: CertificateIssuer {
    private let issuer: any CertificateIssuer
    private let ledger: Ledger
    private let command: String
    private let held: Lock<DeviceClaim?>

    /// What the next certificate stands on, and what becomes of the device; nil where it is for none.
    package var claim: DeviceClaim? { held.withLock { $0 } }

    /// The certificate is for this machine, and for no other that the ledger knows by then.
    package func meets(_ machine: MetMachine) { held.withLock { $0?.machine = machine } }

    /// - Parameters:
    ///   - issuer: Whoever signs.
    ///   - ledger: Where it is written down.
    ///   - command: The command that asks: `enroll`, `ca issue`.
    ///   - claim: What was known of the device when the conversation began, where it is for one. Each certificate moves
    ///     it on: a conversation that was cut goes on from its own last certificate.
    package init(_ issuer: any CertificateIssuer, ledger: Ledger, command: String, claim: DeviceClaim? = nil) {
        self.issuer = issuer
        self.ledger = ledger
        self.command = command
        held = Lock(claim)
    }

    /// Why the conversation must not go on: the device was revoked, removed, or given a certificate by another one
    /// meanwhile. nil where it may, and where the ledger cannot be read just now: nothing is handed out without it.
    package func objection() -> SignalError? {
        while let claim {
            guard let objection = try? ledger.objection(to: claim) else { return nil }
            // What this conversation itself has recorded between the two looks is no objection: then both are taken
            // again.
            guard self.claim == claim else { continue }
            return SignalError(objection.code == .revoked ? .revoked : .refused, "\(claim.name): \(objection.message)")
        }
        return nil
    }

    /// What became of a certificate that was sent, where it was not acknowledged.
    package enum Unacknowledged: Hashable, Sendable {
        /// The device has not stored it, and says why.
        case refused(String)
        /// It has stored it, and something else went wrong.
        case stored
    }

    /// Writes down what became of the last certificate of this conversation.
    ///
    /// - Returns: Why it could not be written.
    package func delivery(_ outcome: Unacknowledged) -> LedgerError? {
        guard let claim, let serial = claim.given else { return nil }
        do throws(LedgerError) {
            switch outcome {
            case .refused(let reason):
                try ledger.deliveryWasRefused(serial, of: claim, reason, by: command)
            case .stored:
                try ledger.deliveryWasStored(serial, of: claim, by: command)
            }
            return nil
        } catch {
            return error
        }
    }

    /// Fails, and hands nothing out, when the ledger cannot be written, or what the conversation stands on does not
    /// hold any more.
    package func issue(
        _ request: CertificateRequest,
        id: SPIFFEID,
        options: IssuanceOptions
    ) async throws(IdentityError) -> IssuedCertificate {
        let issued = try await issuer.issue(request, id: id, options: options)
        guard let leaf = issued.leaf else {
            throw IdentityError(.invalidCertificate, "the issuer answered without a certificate")
        }
        // As it is now: with its own certificate in it, the transaction would compare less.
        let claim = claim
        held.withLock { $0?.issues(leaf.serialNumber) }
        do throws(LedgerError) {
            let moved = try ledger.record(
                LedgerCertificate(
                    leaf,
                    identity: id,
                    device: claim?.name,
                    command: command,
                    issuedAt: ledger.clock.seconds
                ),
                on: claim
            )
            held.withLock { $0 = moved }
        } catch {
            held.withLock { $0?.issuedNothing() }
            throw IdentityError([.revoked, .conflict, .limit].contains(error.code) ? .refused : .file, error.message)
        }
        return issued
    }
}

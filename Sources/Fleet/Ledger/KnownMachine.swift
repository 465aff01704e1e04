/// An SSH host key, by which a machine is known again.
package struct MachineKey: Hashable, Sendable, Codable {
    /// `ssh-ed25519`.
    package var algorithm: String
    /// `SHA256:…`.
    package var fingerprint: String

    package init(algorithm: String, fingerprint: String) {
        self.algorithm = algorithm
        self.fingerprint = fingerprint
    }
}

/// Whom the ledger knows by a host key, or by an identity: a machine that has another name already, or one that can
/// pass for it.
package struct KnownMachine: Hashable, Sendable {
    package enum Standing: Hashable, Sendable {
        case enrolled
        /// It was given a certificate, and is not recorded yet: its enrolment is under way, or was cut.
        case enrolling
        /// It was revoked, and unenrolled since: its revocation is all that is kept of it.
        case removed(number: Int64)
    }

    package var name: String
    /// Its SPIFFE ID.
    package var identity: String
    /// As it was given to `enroll`; nil: not recorded yet.
    package var destination: String?
    /// The one that it has shown.
    package var hostKey: MachineKey
    package var standing: Standing
    /// Seconds since 1970; nil: it is not revoked.
    package var revokedAt: Int64?
    package var revocationReason: String?

    package init(
        name: String,
        identity: String,
        destination: String?,
        hostKey: MachineKey,
        standing: Standing = .enrolled,
        revokedAt: Int64? = nil,
        revocationReason: String? = nil
    ) {
        self.name = name
        self.identity = identity
        self.destination = destination
        self.hostKey = hostKey
        self.standing = standing
        self.revokedAt = revokedAt
        self.revocationReason = revocationReason
    }

    package var isRemoved: Bool { if case .removed = standing { true } else { false } }
}

/// A machine that is to get a certificate, and what the ledger knew of it when that was decided.
package struct MetMachine: Hashable, Sendable {
    /// Proven by the login.
    package var hostKey: MachineKey
    /// Those that it says it has beside that one.
    package var otherKeys: [MachineKey] = []
    /// The SPIFFE ID that it has already, and the serial number of the certificate that says so.
    package var identity: String?
    package var serial: String?
    /// Who was known by these then, under other names.
    package var known: Set<KnownMachine> = []
    /// The user has accepted that it has other names, whichever they are.
    package var mayHaveOtherNames = false

    package init(hostKey: MachineKey) { self.hostKey = hostKey }

    var fingerprints: [String] { ([hostKey] + otherKeys).map(\.fingerprint) }
}

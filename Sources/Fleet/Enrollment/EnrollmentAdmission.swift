import SSHSignal

/// Whether a machine may have the name it is to be enrolled under: decided once its host key has been proven, before
/// anything is uploaded and before a certificate is signed.
///
/// The login has shown that the machine has the host key, and that known_hosts trusts it. That says nothing about the
/// name: behind an address may be another machine today, whose key was accepted for another reason. So a name stays
/// with the host key it was given to.
package struct EnrollmentAdmission: Sendable {
    /// What the user said: `--accept-new-host-key`.
    package var acceptsNewHostKey: Bool
    /// What the user said: `--reinstate`.
    package var reinstates: Bool
    /// What the user said: `--accept-known-machine`.
    package var acceptsKnownMachine: Bool

    package init(acceptsNewHostKey: Bool = false, reinstates: Bool = false, acceptsKnownMachine: Bool = false) {
        self.acceptsNewHostKey = acceptsNewHostKey
        self.reinstates = reinstates
        self.acceptsKnownMachine = acceptsKnownMachine
    }

    /// What is to become of the certificates that the name has.
    package enum Verdict: Hashable, Sendable {
        case admitted
        /// They are to be revoked, for this reason, once the new one is in place.
        case replaces(String)
        case refused(HostError)
    }

    /// - Parameters:
    ///   - known: What is recorded under the name; nil when there is nothing.
    ///   - destination: As the user wrote it.
    ///   - hostKey: What the machine has proven to have.
    package func decide(
        _ known: Device?,
        destination: String,
        hostKey: Device.HostKeyRecord
    ) -> Verdict {
        guard let known else { return .admitted }
        if let revokedAt = known.revokedAt, !reinstates {
            let reason = known.revocationReason.map { " (\($0))" } ?? ""
            return .refused(
                HostError(
                    .denied,
                    "\(known.name): it was revoked at \(Timestamp.text(revokedAt))\(reason) and gets no certificate. "
                        + "If it is to be trusted again: enroll it with --reinstate"
                )
            )
        }
        guard known.hostKey != hostKey else { return .admitted }
        let change =
            "host key \(known.hostKey.algorithm) \(known.hostKey.fingerprint) replaced by \(hostKey.algorithm) \(hostKey.fingerprint)"
        guard !acceptsNewHostKey else { return .replaces(change) }
        let shown = "\(hostKey.algorithm) \(hostKey.fingerprint)"
        let recorded =
            "\(known.hostKey.algorithm) \(known.hostKey.fingerprint), enrolled at \(Timestamp.text(known.enrolledAt))"
        if known.destination == destination {
            return .refused(
                HostError(
                    .hostKeyRefused,
                    "\(known.name): HOST KEY CHANGED since it was enrolled: \(destination) shows \(shown), the ledger has "
                        + "\(recorded). Nothing was uploaded. If the machine was installed anew, enroll it with "
                        + "--accept-new-host-key, which revokes its old certificate; if not, somebody else answers there"
                )
            )
        }
        return .refused(
            HostError(
                .hostKeyRefused,
                "\(known.name): this name belongs to \(known.destination) (host key \(recorded)), and \(destination) shows "
                    + "another, \(shown). Nothing was uploaded. Give the machine another --name; if it takes the place of the "
                    + "old one, enroll it with --accept-new-host-key, which revokes the old certificate"
            )
        )
    }
}

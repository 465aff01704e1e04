import Platform

/// What the ledger said of a name when a conversation with its device began: the ground that a certificate for it
/// stands on.
///
/// A conversation waits, for a person, a device or a network, and meanwhile others revoke, remove, renew or enrol the
/// same device. So nothing is written on the ground of what was read before: the transaction that records a certificate
/// compares the ledger with the claim, and so does the one that records what came of it. The first of two conversations
/// moves the ledger on; the second is told.
package struct DeviceClaim: Hashable, Sendable {
    package let name: String
    /// nil: there was no device of this name.
    let device: LedgerDevice?
    /// The serial number of the certificate that was issued last under the name, whether or not it has arrived.
    private(set) var lastIssued: String?
    /// The serial number of one that this conversation is recording just now: the ledger has it, or does not have it
    /// yet.
    private(set) var issuing: String?
    /// The user said that a device which is revoked is to be trusted again: as it was revoked then, not later.
    package var reinstates = false
    /// How many certificates of the device may be valid at a time: see ``CertificateLimit``.
    package var limit = CertificateLimit.byItself

    init(name: String, device: LedgerDevice?, lastIssued: String?) {
        self.name = name
        self.device = device
        self.lastIssued = lastIssued
    }

    /// A certificate is about to be recorded on this ground.
    mutating func issues(_ serial: String) { issuing = serial }

    /// It was recorded.
    mutating func issued(_ serial: String) { (lastIssued, issuing) = (serial, nil) }

    /// It was not.
    mutating func issuedNothing() { issuing = nil }

    /// Why it does not hold any more, without the device's name; nil where it does.
    ///
    /// - Parameters:
    ///   - present: The device as the ledger has it now.
    ///   - last: The serial number that was issued last by now.
    func objection(device present: LedgerDevice?, lastIssued last: String?) -> LedgerError? {
        // Whoever looks while this conversation records its own certificate must not take it for another's.
        let last = last != nil && last == issuing ? lastIssued : last
        guard let present else {
            guard device != nil else { return superseded(by: last) }
            return LedgerError(.conflict, "it was unenrolled meanwhile, and gets no certificate")
        }
        if let revokedAt = present.revokedAt, !reinstates || revokedAt != device?.revokedAt {
            let reason = present.revocationReason.map { " (\($0))" } ?? ""
            return LedgerError(
                .revoked,
                "it was revoked at \(describe(time: revokedAt))\(reason) and gets no certificate; "
                    + "`bootstrap enroll --reinstate` trusts it again"
            )
        }
        guard let device else {
            return LedgerError(
                .conflict,
                "another enrolment has taken this name meanwhile, for \(present.destination); give the machine another --name, "
                    + "or look at `bootstrap status \(name)` and enroll it again"
            )
        }
        guard present.hostKeyAlgorithm == device.hostKeyAlgorithm, present.hostKey == device.hostKey else {
            return LedgerError(
                .conflict,
                "another enrolment has replaced its host key meanwhile (now \(present.hostKeyAlgorithm) \(present.hostKey))"
            )
        }
        return superseded(by: last != lastIssued ? last : present.serial == device.serial ? lastIssued : present.serial)
    }

    private func superseded(by serial: String?) -> LedgerError? {
        guard serial != lastIssued else { return nil }
        return LedgerError(
            .conflict,
            "another enrolment or renewal of it was under way, and has got a certificate"
                + "\(serial.map { " (serial \($0))" } ?? ""); nothing was given out here: `bootstrap status \(name)` shows it, then try again"
        )
    }
}

/// How many certificates of a device may be valid at the same time: each of them goes on the revocation list when the
/// device is revoked.
///
/// One that is renewed in its time has two or three. More come from renewals that were never acknowledged.
package enum CertificateLimit {
    /// Where the device, or a timer, asks.
    package static let byItself = 16
    /// Where somebody has asked for it by hand.
    package static let byHand = 64
}

/// The certificates of a device: where one that is shown stands among them.
///
/// A device that renews shows the certificate it has. That is the one that it has acknowledged last, or, where
/// acknowledgements were lost, any that was issued since: it arrived after all. Once the device has acknowledged one,
/// all others are superseded: whoever shows such a one is not the device any more, or not the only one who has its key.
package struct CertificateLine: Hashable, Sendable {
    /// The serial number of the one that was acknowledged last; nil: not known (enrolled before there was a ledger).
    var acknowledged: String?

    package enum Place: Hashable, Sendable {
        /// The one that was acknowledged last. A later one may have been issued and may not have arrived.
        case current
        /// Issued since the current one, and not acknowledged: it has arrived.
        case arrived
        /// Its device has acknowledged a later one.
        case forked
        /// The ledger does not know it.
        case unknown
    }

    /// - Parameters:
    ///   - serial: The one that is shown.
    ///   - state: What the ledger has, as one of this device's; nil: nothing.
    func place(of serial: String, recorded state: LedgerCertificate.State?) -> Place {
        if serial == acknowledged { return .current }
        // Not the order in which they were issued: the last may have been lost on its way, and the one before it have
        // arrived.
        if let state { return state == .issued ? .arrived : .forked }
        // Of a device whose number nobody knows, any that a root of ours vouches for may be it.
        return acknowledged == nil ? .current : .unknown
    }
}

/// When a device may renew by itself: not before a quarter of its certificate's time has passed since that was issued.
///
/// Devices ask after half to two thirds of it, by a clock that may be wrong by a quarter. Each renewal leaves a
/// certificate that is valid still, and goes on the revocation list with the device.
package enum EarliestRenewal {
    /// - Parameters:
    ///   - issuedAt: Seconds since 1970.
    ///   - notAfter: Seconds since 1970.
    /// - Returns: Seconds since 1970.
    package static func time(issuedAt: Int64, notAfter: Int64) -> Int64 {
        let (lifetime, overflow) = notAfter.subtractingReportingOverflow(issuedAt)
        return overflow || lifetime <= 0 ? issuedAt : issuedAt + lifetime / 4
    }
}

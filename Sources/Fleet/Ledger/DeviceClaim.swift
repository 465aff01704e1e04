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
    private(set) var device: LedgerDevice?
    /// The serial number of the certificate that was issued last under the name, whether or not it has arrived.
    private(set) var lastIssued: String?
    /// Those that were issued and not acknowledged: the device may have any of them, and may say so at any time.
    private(set) var outstanding: Set<String>
    /// The serial number of one that this conversation is recording just now: the ledger has it, or does not have it
    /// yet.
    private(set) var issuing: String?
    /// The serial number of the last that this conversation has recorded.
    private(set) var given: String?
    /// The machine that it is for; nil: whichever has the recorded device's credential.
    package var machine: MetMachine?
    /// The user said that a device which is revoked is to be trusted again: as it was revoked then, not later.
    package var reinstates = false
    /// How many certificates of the device may be valid at a time: see ``CertificateLimit``.
    package var limit = CertificateLimit.byItself

    init(name: String, device: LedgerDevice?, lastIssued: String?, outstanding: Set<String> = []) {
        self.name = name
        self.device = device
        self.lastIssued = lastIssued
        self.outstanding = outstanding
    }

    /// A certificate is about to be recorded on this ground.
    mutating func issues(_ serial: String) { issuing = serial }

    /// It was recorded, on the ground that `now` was found to be in the same transaction.
    mutating func issued(_ serial: String, on now: DeviceClaim? = nil) {
        if let now { (device, outstanding) = (now.device, now.outstanding) }
        (lastIssued, issuing, given) = (serial, nil, serial)
    }

    /// It was not.
    mutating func issuedNothing() { issuing = nil }

    /// The host key to be kept with a certificate that is recorded on this ground; nil where the device's record has
    /// it.
    var hostKeyToKeep: MachineKey? {
        guard let machine, device.map({ MachineKey(of: $0) }) != machine.hostKey else { return nil }
        return machine.hostKey
    }

    /// Why it does not hold any more, without the device's name; nil where it does.
    ///
    /// - Parameters:
    ///   - present: The device as the ledger has it now.
    ///   - last: The serial number that was issued last by now.
    ///   - others: Who is known now by the keys of ``machine``, under other names.
    func objection(
        device present: LedgerDevice?,
        lastIssued last: String?,
        others: Set<KnownMachine> = []
    ) -> LedgerError? {
        if let objection = objection(to: others) { return objection }
        // Whoever looks while this conversation records its own certificate must not take it for another's.
        let last = last != nil && last == issuing ? lastIssued : last
        guard let present else {
            guard device != nil || (lastIssued != nil && last == nil) else {
                return last == lastIssued ? nil : superseded(by: last)
            }
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
        guard MachineKey(of: present) == MachineKey(of: device) else {
            return LedgerError(
                .conflict,
                "another enrolment has replaced its host key meanwhile (now \(present.hostKeyAlgorithm) \(present.hostKey))"
            )
        }
        guard last == lastIssued else { return superseded(by: last) }
        // One that was issued before may have arrived late. Any other was given out beside this conversation.
        let isItsOwn = present.serial == given || present.serial.map { outstanding.contains($0) } ?? false
        return present.serial == device.serial || isItsOwn ? nil : superseded(by: present.serial)
    }

    /// The same for the machine: whom it is known as, and was not when it was admitted.
    private func objection(to others: Set<KnownMachine>) -> LedgerError? {
        guard let machine else { return nil }
        let news = others.subtracting(machine.known).sorted { $0.name < $1.name }
        if let revoked = news.first(where: { $0.revokedAt != nil }) {
            let reason = revoked.revocationReason.map { " (\($0))" } ?? ""
            return LedgerError(
                .revoked,
                "it is the machine of \(revoked.name), which was revoked at \(describe(time: revoked.revokedAt ?? 0))\(reason) "
                    + "meanwhile, and gets no certificate under another name either"
            )
        }
        // Who had the machine first keeps it, and is not cut for the sake of one that the user has accepted beside it.
        guard given == nil, !machine.mayHaveOtherNames, device.map({ MachineKey(of: $0) }) != machine.hostKey else {
            return nil
        }
        let names = Set(machine.known.map(\.name))
        guard let other = news.first(where: { !names.contains($0.name) }) else { return nil }
        return LedgerError(
            .conflict,
            "the machine (host key \(machine.hostKey.algorithm) \(machine.hostKey.fingerprint)) is enrolled as \(other.name) by "
                + "another enrolment just now; nothing was given out here. If it is the same machine, it has a name; "
                + "--accept-known-machine gives it this one as well"
        )
    }

    private func superseded(by serial: String?) -> LedgerError {
        let fate =
            given.map { "the one that was given out here (serial \($0)) is not recorded as the device's" }
            ?? "nothing was given out here"
        return LedgerError(
            .conflict,
            "another enrolment or renewal of it was under way, and has got a certificate"
                + "\(serial.map { " (serial \($0))" } ?? ""); \(fate): `bootstrap status \(name)` shows it, then try again"
        )
    }
}

extension MachineKey {
    /// The one that a device has shown.
    init(of device: LedgerDevice) {
        self.init(algorithm: device.hostKeyAlgorithm, fingerprint: device.hostKey)
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

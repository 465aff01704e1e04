package import MeshIdentity
import Platform
import SSHSignal
package import Streams

/// Renews certificates of devices over SSH.
package struct DeviceRenewal: Sendable {
    package var issuer: any CertificateIssuer
    package var terms: IssuanceTerms
    package var logins: LoginOptions
    package var records: DeviceDirectory
    /// Opens the CA for SSH: only where a device has certificates of it.
    package var sshAuthority: @Sendable () throws -> SSHCertificateAuthority
    /// Renews host certificates that are not due yet as well.
    package var renewsHostCertificates = false
    /// Takes over what devices know to be revoked; nil where somebody else's CA signs.
    package var publisher: RevocationPublisher?
    /// Somebody has asked for just these devices: they are renewed whether or not it is due. Else one that others have
    /// renewed meanwhile is left alone.
    package var isByHand = false
    /// Told the name of a device whose earlier certificates were revoked on the way.
    package var revokedEarlier: @Sendable (String) -> Void = { _ in }
    /// What the user should know. Called from any task.
    package var warn: @Sendable (String) -> Void
    /// What was said last of ledger and list.
    private let said = Lock<String?>(nil)

    package init(
        issuer: any CertificateIssuer,
        terms: IssuanceTerms,
        logins: LoginOptions,
        records: DeviceDirectory,
        sshAuthority: @escaping @Sendable () throws -> SSHCertificateAuthority,
        warn: @escaping @Sendable (String) -> Void
    ) {
        self.issuer = issuer
        self.terms = terms
        self.logins = logins
        self.records = records
        self.sshAuthority = sshAuthority
        self.warn = warn
    }

    /// - Returns: what came of it, for people.
    package func renew(_ device: Device, on loop: EventLoop) async throws(HostError) -> String {
        reconcile()
        // Not what was known when the command began: another operator may have renewed or revoked it meanwhile.
        let (device, claim) = try claim(device)
        if let revokedAt = device.revokedAt {
            throw HostError(
                .denied,
                "\(device.name): it was revoked at \(Timestamp.text(revokedAt)) and gets no certificate; "
                    + "`bootstrap enroll --reinstate` trusts it again"
            )
        }
        guard isByHand || device.renewalWait(at: WallClock.system.seconds) == 0 else {
            return "renewed meanwhile by somebody else, until \(describe(time: device.notAfter))"
        }
        let issuer = RecordingIssuer(issuer, ledger: records.ledger, command: "renew", claim: claim)
        let terms = terms.renewing(device)
        var (renewed, afterFailure) = (device, String?.none)
        if (device.keyOrigin ?? .device) == .device {
            var visit = DeviceVisit(device, warn: warn)
            if let publisher {
                visit.learn = { [warn] lists in publisher.learn(lists, from: device.name, warn: warn) }
            }
            renewed = try await visit.renew(
                try device.login(logins, warn: warn),
                issuer: issuer,
                terms: terms,
                on: loop
            )
        } else {
            let enrollment = AgentlessEnrollment(
                renewing: device,
                issuer: issuer,
                terms: terms
            ) { [warn] in
                if case .warning(let text) = $0 { warn(text) }
            }
            let outcome = try await enrollment.renew(device, try device.login(logins, warn: warn), on: loop)
            (renewed, afterFailure) = (outcome.record, outcome.afterFailure)
        }
        do throws(DeviceDirectoryError) {
            let until = describe(time: renewed.notAfter)
            let settled = Lock(false)
            let reason = { (isAlarmed: Bool) -> String? in
                // The machine has the recorded host key, and somebody stands there: it is the device. An alarm that a
                // time-table settled would be seen by nobody.
                guard isAlarmed, isByHand else { return nil }
                settled.withLock { $0 = true }
                return "a certificate that it had replaced was used elsewhere"
            }
            let told = renewed.allowed
            var isOurs = false
            renewed = try records.update(
                device.name,
                on: issuer.claim,
                by: "renew",
                "renewed until \(until)",
                revokingEarlier: reason
            ) { [renewed] in
                // What somebody else has allowed or denied meanwhile is newer than what the device has said.
                isOurs = $0.allowed == device.allowed
                $0.takeCertificate(of: renewed)
                if isOurs { $0.allowed = told }
            }
            if isOurs, let remark = device.remark(allowing: told) {
                warn("\(device.name): \(remark.difference); that is recorded now. \(remark.remedy)")
            }
            if settled.withLock({ $0 }) {
                warn("\(device.name): earlier certificates are revoked: one that it had replaced was used elsewhere")
                revokedEarlier(device.name)
            }
        } catch {
            // It was revoked, or enrolled anew, while it stored its certificate: that holds.
            if let objection = issuer.objection() { throw HostError(objection, name: device.name) }
            throw HostError(.failed, "\(device.name) is renewed, but not recorded: \(error.message)")
        }
        if let afterFailure {
            throw HostError(.failed, "\(device.name) is renewed, but \(afterFailure)")
        }
        let text = "renewed  until \(describe(time: renewed.notAfter)), serial \(renewed.serial ?? "?")"
        guard let server = device.sshServer, !server.hostCertificates.isEmpty,
            renewsHostCertificates || server.isDue(at: WallClock.system.seconds)
        else { return text }
        let changed = try await renewHostCertificates(renewed, on: loop)
        return "\(text); \(changed.sshServer?.summary ?? "")"
    }

    /// Has the CA's list and the ledger agree. What keeps them apart keeps nobody from a certificate: its agent has a
    /// list, and keeps that.
    package func reconcile() {
        var problem: String?
        do throws(LedgerError) {
            try publisher?.reconcile { problem = $0 }
        } catch {
            problem = error.message
        }
        // Not for each device once more.
        let isNew = said.withLock { said in
            defer { said = problem }
            return problem != said
        }
        if isNew, let problem { warn(problem) }
    }

    /// In a login of its own: the one for the mesh certificate is over.
    private func renewHostCertificates(
        _ device: Device,
        on loop: EventLoop
    ) async throws(HostError) -> Device {
        let authority: SSHCertificateAuthority
        do {
            authority = try sshAuthority()
        } catch {
            throw HostError(
                .failed,
                "\(device.name) is renewed, but for its SSH host certificate: the CA cannot be opened"
            )
        }
        do throws(HostError) {
            try records.requireWritable("its sshd was not changed")
            let run = SSHServerRun(authority: authority, certifiesHost: false, trustsUsers: false)
            let changed = try await run(
                device,
                try device.login(logins, warn: warn),
                on: loop,
                report: { [warn] in if case .warning(let text) = $0 { warn(text) } },
                say: { _ in }
            )
            try records.save(changed, ssh: changed.sshServer, by: "renew")
            return changed
        } catch {
            throw HostError(
                error.reason,
                "\(device.name) is renewed, but for its SSH host certificate: \(error.message)"
            )
        }
    }

    /// The device as it is now, and what its renewal stands on.
    private func claim(_ device: Device) throws(HostError) -> (Device, DeviceClaim) {
        do throws(DeviceDirectoryError) {
            var (found, claim) = try records.claim(device.name)
            guard let found else {
                throw DeviceDirectoryError(message: "\(device.name): it is not enrolled any more")
            }
            if isByHand { claim.limit = CertificateLimit.byHand }
            return (found, claim)
        } catch {
            throw HostError(.failed, error.message)
        }
    }
}

extension Device {
    /// When its certificate is to be renewed. The same for every process that asks: the random part is made of its
    /// serial number.
    package var renewal: RenewalSchedule {
        let lifetime = lifetime ?? IssuanceOptions.defaultLifetime.components.seconds
        // Random already, and another one for each certificate.
        let share = serial.flatMap { UInt16($0.suffix(4), radix: 16) }.map { Double($0) / 65536 } ?? 0.5
        // The lifetime is what was asked for. An issuer that gives less must not have it due at once: it did not begin
        // before it was issued.
        let begin = min(max(notAfter.subtractingSaturating(lifetime), renewedAt ?? enrolledAt), notAfter)
        return RenewalSchedule(notBefore: begin.subtractingSaturating(120), notAfter: notAfter, random: share)
    }
}

extension Device {
    /// What a renewal has changed, and nothing else.
    mutating func takeCertificate(of renewed: Device) {
        serial = renewed.serial
        certificateRevokedAt = nil
        notAfter = renewed.notAfter
        renewedAt = renewed.renewedAt
        lifetime = renewed.lifetime
        roots = renewed.roots
        hbone = renewed.hbone
    }

    /// Whether `renew` looks after it by itself.
    package var isRenewable: Bool { revokedAt == nil }

    /// Seconds until something of it is due: its certificate, or those of its SSH host keys. A certificate that is
    /// revoked is due: everybody refuses it.
    ///
    /// - Parameter now: Seconds since 1970.
    package func renewalWait(at now: Int64) -> Int64 {
        certificateRevokedAt != nil ? 0 : sshServer?.isDue(at: now) == true ? 0 : renewal.wait(at: now)
    }
}

extension DeviceDirectory {
    /// The devices of which something is due.
    ///
    /// - Parameter now: Seconds since 1970.
    package func due(at now: Int64) throws(DeviceDirectoryError) -> [Device] {
        try all().filter { $0.isRenewable && $0.renewalWait(at: now) == 0 }
    }
}

import MeshIdentity
import Platform
import SSHSignal

/// What `status` says of a device.
package struct DeviceStatus: Encodable {
    package enum State: String, Encodable {
        case valid
        /// Past two thirds of its time: whoever renews it has not done so.
        case expiring
        case expired
        case revoked
        /// Only its certificate is: it is trusted, everybody refuses it until it has another, and may have that.
        case certificateRevoked = "certificate revoked"
    }

    package var state: State
    /// Seconds until its certificate ends; negative: since it ended.
    package var secondsLeft: Int64
    package var device: Device
    /// What needs somebody at once: its key is in other hands, too.
    package var alarms: [LedgerAlarm]

    package init(_ record: Device, alarms: [LedgerAlarm] = [], at now: Int64) {
        device = record
        self.alarms = alarms
        secondsLeft = record.notAfter.subtractingSaturating(now)
        let lifetime = record.lifetime ?? IssuanceOptions.defaultLifetime.components.seconds
        state =
            if record.revokedAt != nil {
                .revoked
            } else if record.certificateRevokedAt != nil {
                .certificateRevoked
            } else if secondsLeft <= 0 {
                .expired
            } else if secondsLeft < lifetime / 3 {
                .expiring
            } else {
                .valid
            }
    }

    /// Aligned columns, with a heading, which are always the same and fit in 80 characters: what has no place is left
    /// to ``details(at:)``.
    package static func table(_ devices: [DeviceStatus], at now: Int64) -> [String] {
        var rows = [["NAME", "STATE", "CERTIFICATE", "RENEWED", "DESTINATION"]]
        for status in devices {
            let device = status.device
            rows.append([
                device.name, status.word, status.timeLeft,
                device.renewedAt.map { "\(describe(seconds: now - $0)) ago" } ?? "-", device.destination,
            ])
        }
        return TextTable.lines(rows, flexible: [4, 0]) + devices.flatMap(\.alarms).map { "ALARM: \($0.text)" }
    }

    /// That its certificate is revoked, or that nobody renews it and it ends before long, or has ended; nil where it is
    /// renewed in time.
    package var warning: String? {
        if state == .certificateRevoked, let refusal = device.certificateRefusal {
            return "\(refusal.text): \(refusal.fix)"
        }
        guard state == .expiring || state == .expired else { return nil }
        let end =
            secondsLeft > 0
            ? "ends in \(describe(seconds: secondsLeft))" : "ended \(describe(seconds: -secondsLeft)) ago"
        return "the certificate of \(device.name) \(end): bootstrap renew \(device.name)"
    }

    private var word: String {
        if !alarms.isEmpty { return "ALARM" }
        if state == .certificateRevoked { return "CERT-REVOKED" }
        return state == .valid ? "valid" : state.rawValue.uppercased()
    }

    private var timeLeft: String {
        secondsLeft > 0 ? "\(describe(seconds: secondsLeft)) left" : "ended \(describe(seconds: -secondsLeft)) ago"
    }

    /// Everything that is known, one thing a line.
    package func details(at now: Int64) -> [String] {
        var lines = ["\(device.name)  \(device.identity)"]
        func line(_ name: String, _ text: String) {
            lines.append("  \(name)\(String(repeating: " ", count: max(0, 14 - name.count)))\(text)")
        }
        line("state", state.rawValue)
        for alarm in alarms { line("ALARM", alarm.text) }
        if let revokedAt = device.revokedAt {
            line("revoked", describe(time: revokedAt) + (device.revocationReason.map { ": \($0)" } ?? ""))
        }
        if state == .certificateRevoked, let time = device.certificateRevokedAt {
            line("revoked", "\(describe(time: time)): its certificate, not the device: bootstrap renew \(device.name)")
        }
        line("certificate", "until \(describe(time: device.notAfter)), \(timeLeft)")
        if let serial = device.serial { line("serial", serial) }
        line("enrolled", describe(time: device.enrolledAt))
        if let renewedAt = device.renewedAt { line("renewed", describe(time: renewedAt)) }
        line("destination", device.destination + (device.otherPort.map { ", SSH port \($0)" } ?? ""))
        line("host key", "\(device.hostKey.algorithm) \(device.hostKey.fingerprint)")
        line("key made", (device.keyOrigin ?? .device).rawValue)
        if let attestation = device.attestation {
            let which =
                attestation.serial == device.serial ? "the present certificate" : "a certificate that was renewed since"
            line(
                "attested",
                attestation.refusal.map { "THE EVIDENCE IS DAMAGED: \($0)" }
                    ?? "its host key \(attestation.fingerprint ?? "?") has signed the request for \(which), \(describe(time: attestation.verifiedAt))"
            )
        }
        for certificate in device.sshServer?.hostCertificates ?? [] {
            let left = certificate.notAfter.subtractingSaturating(now)
            line(
                "ssh host",
                "\(certificate.algorithm) \(certificate.fingerprint) certified \(left > 0 ? "until" : "ENDED") "
                    + "\(describe(time: certificate.notAfter)), for \(certificate.principals.joined(separator: ", ")), serial \(certificate.serial)"
            )
        }
        if let authority = device.sshServer?.userAuthority {
            line("ssh users", "those with a certificate of \(authority)")
        }
        for label in (device.labels ?? [:]).sorted(by: { $0.key < $1.key }) { line(label.key, label.value) }
        if let renewFrom = device.renewFrom { line("renews", "by itself, from \(renewFrom)") }
        if let allowed = device.allowed {
            line(
                "allows",
                allowed.isEmpty ? "nothing (bootstrap allow \(device.name) PORT)" : allowed.joined(separator: ", ")
            )
        }
        line("hbone", device.hbone.isEmpty ? "-" : device.hbone.map(\.description).joined(separator: ", "))
        if let gateways = device.gateways, !gateways.isEmpty {
            line("gateways", gateways.map { $0.replacing("=", with: ", ") }.joined(separator: "; "))
        }
        line("agent", "\(device.agent.path), sha256 \(device.agent.sha256.prefix(12))")
        line("state kept in", device.agent.state)
        return lines
    }
}

extension Device {
    /// The SSH port that it was enrolled with, where the destination does not say it; nil: the usual one.
    fileprivate var otherPort: UInt16? {
        guard let port = ssh.port, port != 22, (try? Destination(parsing: destination))?.port == nil else { return nil }
        return port
    }
}

extension Device.HostKeyRecord {
    /// Enough to tell two apart by eye; `status DEST` has all of it.
    fileprivate var short: String { String(fingerprint.prefix(15)) }
}

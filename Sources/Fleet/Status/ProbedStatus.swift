import MeshIdentity
import Platform
import SSHSignal

/// The same for programs: what `status` says of a device, and `probe`.
package struct ProbedStatus: Encodable {
    package struct Probe: Encodable {
        package struct Answer: Encodable {
            package var ok: Bool
            package var milliseconds: Int?
            package var path: String?
            package var serial: String?
            /// Why not; or why not by a better path.
            package var reason: String?
        }

        package struct ShownCertificate: Encodable {
            package var serial: String
            package var notAfter: Int64
            package var secondsLeft: Int64
            /// As the ledger has it.
            package var isRecorded: Bool
        }

        package var ssh: Answer?
        /// Without `ok`, it cannot be told from here.
        package var mesh: Answer?
        package var certificate: ShownCertificate?
        package var agent: String?
        /// What others may reach, as its configuration has it; absent where that cannot be told.
        package var allowed: [String]?
        /// Those that the device is reached through; absent for none.
        package var gateways: [DeviceGateway]?
        package var clockSkewMilliseconds: Int64?
        package var attention: [String]
    }

    package var state: DeviceStatus.State
    package var secondsLeft: Int64
    package var device: Device
    package var alarms: [LedgerAlarm]
    /// Absent for a device that was not visited, since it is revoked.
    package var probe: Probe?

    package init(_ findings: DeviceFindings, at now: Int64) {
        let status = DeviceStatus(findings.device, at: now)
        (state, secondsLeft, device) = (status.state, status.secondsLeft, status.device)
        alarms = findings.alarms
        guard let login = findings.ssh else { return }
        var probe = Probe(attention: findings.attention(at: now).map(\.text))
        switch login {
        case .answers(let milliseconds): probe.ssh = .init(ok: true, milliseconds: milliseconds)
        case .fails(let error): probe.ssh = .init(ok: false, reason: error.message)
        }
        switch findings.mesh {
        case .answers(let path, let serial, let remark):
            probe.mesh = .init(ok: true, path: path, serial: serial, reason: remark)
        case .fails(let reason, _): probe.mesh = .init(ok: false, reason: reason)
        case .unknown, nil: break
        }
        if let certificate = findings.reading?.certificate {
            probe.certificate = .init(
                serial: certificate.serialNumber,
                notAfter: certificate.notAfter,
                secondsLeft: certificate.notAfter.subtractingSaturating(now),
                isRecorded: certificate.serialNumber == findings.device.serial
            )
        }
        probe.agent = findings.reading?.release
        probe.allowed = findings.reading?.allowed
        if let gateways = findings.reading?.gateways, !gateways.isEmpty { probe.gateways = gateways }
        probe.clockSkewMilliseconds = findings.reading?.skew.milliseconds
        self.probe = probe
    }
}

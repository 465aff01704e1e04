import MeshIdentity
import SSHSignal

/// The same for programs: what `status` says of a device, and `probe`.
struct ProbedStatus: Encodable {
    struct Probe: Encodable {
        struct Answer: Encodable {
            var ok: Bool
            var milliseconds: Int?
            var path: String?
            var serial: String?
            /// Why not; or why not by a better path.
            var reason: String?
        }

        struct ShownCertificate: Encodable {
            var serial: String
            var notAfter: Int64
            var secondsLeft: Int64
            /// As the ledger has it.
            var isRecorded: Bool
        }

        var ssh: Answer?
        /// Without `ok`, it cannot be told from here.
        var mesh: Answer?
        var certificate: ShownCertificate?
        var agent: String?
        var clockSkewMilliseconds: Int64?
        var attention: [String]
    }

    var state: DeviceStatus.State
    var secondsLeft: Int64
    var device: DeviceRecord
    /// Absent for a device that was not visited, since it is revoked.
    var probe: Probe?

    init(_ findings: DeviceFindings, at now: Int64) {
        let status = DeviceStatus(findings.device, at: now)
        (state, secondsLeft, device) = (status.state, status.secondsLeft, status.device)
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
                secondsLeft: certificate.notAfter - now,
                isRecorded: certificate.serialNumber == findings.device.serial
            )
        }
        probe.agent = findings.reading?.release
        probe.clockSkewMilliseconds = findings.reading?.skew.milliseconds
        self.probe = probe
    }
}

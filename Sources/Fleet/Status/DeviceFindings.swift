import MeshIdentity
import Platform
import SSHSignal

/// What a visit has found out about a device, and what of it needs somebody.
package struct DeviceFindings: Sendable {
    package enum Login: Sendable {
        case answers(milliseconds: Int)
        case fails(HostError)
    }

    package enum Mesh: Sendable {
        /// Its node answers, and shows the certificate of this serial number.
        case answers(path: String, serial: String?, remark: String?)
        /// A refusal: somebody is there, and does not prove to be the device, or does not take us.
        case fails(String, isRefusal: Bool)
        /// It cannot be told from here.
        case unknown(String)
    }

    package var device: Device
    /// nil: it was not visited.
    package var ssh: Login?
    package var mesh: Mesh?
    package var reading: DeviceReading?
    /// What the ledger has of its certificates in other hands.
    package var alarms: [LedgerAlarm] = []

    package init(device: Device) { self.device = device }

    /// What needs somebody, each with what to do; and what kind of failure it is.
    package func attention(at now: Int64) -> [(text: String, reason: HostError.Reason)] {
        var found: [(text: String, reason: HostError.Reason)] = []
        if case .fails(let error) = ssh { found.append((error.message + remedy(of: error), error.reason)) }
        for alarm in alarms { found.append(("ALARM: \(alarm.text)", .failed)) }
        func add(_ text: String) { found.append(("\(device.name): \(text)", .failed)) }
        let renew = "bootstrap renew \(device.name)"
        let enroll = "bootstrap enroll \(device.destination) --name \(device.name)"
        if let refusal = device.certificateRefusal { found.append(("\(refusal.text): \(refusal.fix)", .failed)) }
        if let reading {
            if let problem = reading.problem {
                add("\(problem): \(enroll)")
            } else if let fault = reading.fault {
                add("its node cannot be started again: \(fault): \(enroll)")
            }
            if let remark = device.remark(allowing: reading.allowed) { add("\(remark.difference): \(remark.remedy)") }
            if let certificate = reading.certificate { check(certificate, now, renew, add) }
            if abs(reading.skew.milliseconds) > ClockSkew.consequenceThreshold {
                add("\(reading.skew): set it, or have it set by time synchronisation")
            }
            if let recorded = device.agent.release, let release = reading.release, release != recorded {
                add("it runs the agent \(release), the ledger has \(recorded): \(enroll)")
            }
            if reading.runsNode == false {
                add("its node does not run (its log is \(device.agent.state)/node.log): \(enroll)")
            }
            for gateway in reading.gateways where reading.runsNode == true {
                if let problem = gateway.problem(for: device.identity) { add("\(problem.text): \(problem.fix)") }
            }
        }
        switch mesh {
        case .fails(let reason, let isRefusal) where isRefusal || reading?.runsNode != false:
            add("its node does not answer over the mesh: \(reason)")
        case .answers(_, let serial?, _):
            if let stored = reading?.certificate?.serialNumber, stored != serial {
                add(
                    "its node shows the certificate \(serial.prefix(12))…, and its credential is \(stored.prefix(12))…: \(renew)"
                )
            }
        default: break
        }
        return found
    }

    private func check(_ certificate: Certificate, _ now: Int64, _ renew: String, _ add: (String) -> Void) {
        let left = certificate.notAfter.subtractingSaturating(now)
        let lifetime = device.lifetime ?? IssuanceOptions.defaultLifetime.components.seconds
        if left <= 0 {
            add("its certificate ended \(describe(seconds: -left)) ago: \(renew)")
        } else if left < lifetime / 3 {
            add("its certificate ends in \(describe(seconds: left)), and nobody has renewed it: \(renew)")
        }
        if (try? certificate.spiffeID()) != device.identity {
            add("its certificate is not that of \(device.identity): \(renew)")
        } else if let serial = device.serial, serial != certificate.serialNumber {
            add(
                "it has the certificate \(certificate.serialNumber.prefix(12))…, the ledger \(serial.prefix(12))…: \(renew)"
            )
        }
    }

    /// What its own words do not say already.
    private func remedy(of error: HostError) -> String {
        guard error.reason == .unreachable else { return "" }
        return "; is sshd running there (systemctl status ssh)? `bootstrap doctor \(device.name)` looks at each step"
    }

    // MARK: For people

    /// Aligned columns, with a heading, and below what needs somebody.
    package static func table(_ all: [DeviceFindings], at now: Int64) -> [String] {
        var rows = [["NAME", "STATE", "SSH", "MESH", "CERTIFICATE", "DESTINATION"]]
        for findings in all {
            rows.append([
                findings.device.name, findings.state(at: now), findings.login, findings.path,
                findings.timeLeft(at: now), findings.device.destination,
            ])
        }
        return TextTable.lines(rows, flexible: [5, 0])
            + all.flatMap { findings in
                (findings.reading?.gateways ?? []).map { "gateway: \(findings.device.name) through \($0.description)" }
            }
            + all.flatMap { $0.attention(at: now).map { "attention: \($0.text)" } }
    }

    private func state(at now: Int64) -> String {
        if ssh == nil { return "REVOKED" }
        return attention(at: now).isEmpty ? "ok" : "ATTENTION"
    }

    private var login: String {
        switch ssh {
        case .answers(let milliseconds): "\(milliseconds) ms"
        case .fails: "NO"
        case nil: "-"
        }
    }

    private var path: String {
        switch mesh {
        case .answers(let path, _, _): path
        case .fails: "NO"
        case .unknown, nil: "-"
        }
    }

    private func timeLeft(at now: Int64) -> String {
        guard let certificate = reading?.certificate else { return "-" }
        let left = certificate.notAfter.subtractingSaturating(now)
        return left > 0 ? "\(describe(seconds: left)) left" : "ended \(describe(seconds: -left)) ago"
    }
}

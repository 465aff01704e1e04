import ArgumentParser
import Fleet
import MeshIdentity
import MeshPolicy
import Platform
import SSHSignal
import Streams

struct AllowCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "allow",
        abstract: "Let others of a device's namespace reach more of it.",
        discussion: """
            Adds ports of the device, or other hosts that are reached through it, to what its node lets through. All else stays \
            as it is. `bootstrap status DEST` shows what is allowed.

              bootstrap allow camera.lan 22 8080
              bootstrap allow gateway.lan 10.0.0.9:554

            --listen lets them have the device's node listen on a port, by `connect -R` without SSH; on its loopback addresses only.

              bootstrap allow camera.lan --listen 9000
            """
    )

    @OptionGroup var change: AccessChange

    func run() async throws { try await change.run(allows: true) }
}

struct DenyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "deny",
        abstract: "Take back what `allow` and `enroll --allow-port` let others reach.",
        discussion: """
            Streams that are open to it are cut when the node has taken its new configuration up. All else stays as it is.

              bootstrap deny camera.lan 22
            """
    )

    @OptionGroup var change: AccessChange

    func run() async throws { try await change.run(allows: false) }
}

/// What `allow` and `deny` have in common: a device that is enrolled lets others reach more or less.
struct AccessChange: ParsableArguments {
    @Argument(help: ArgumentHelp("A device's name, destination or SPIFFE ID.", valueName: "DEST"), completion: .devices)
    var destination: String

    @Argument(help: ArgumentHelp("A port of the device, or HOST:PORT behind it.", valueName: "PORT"))
    var places: [String] = []

    @Option(
        help: ArgumentHelp(
            "A port that `connect -R` may have the device's node listen on. May be repeated.",
            valueName: "PORT"
        )
    )
    var listen: [UInt16] = []

    @Option(
        help: ArgumentHelp(
            "Where the device's agent is too old to be told, or its certificate has ended, so that it is enrolled once more: the program "
                + "that is its agent from then on. (default: the static build beside this one, or this one)",
            valueName: "PATH"
        )
    )
    var agentBinary: String?

    @OptionGroup var clock: ClockOptions
    @OptionGroup var issuers: IssuerOptions
    @OptionGroup var access: CAAccess
    @OptionGroup var ssh: SSHOptionGroup

    func validate() throws {
        guard !places.isEmpty || !listen.isEmpty else { throw ValidationError("name at least one port") }
        if listen.contains(0) || places.contains(where: { UInt16($0) == 0 }) {
            throw ValidationError("'0' is no port: write 1 to 65535")
        }
        for place in places where UInt16(place) == nil {
            do { _ = try Authority(parsing: place) } catch {
                throw ValidationError("'\(place)' is no port and no HOST:PORT")
            }
        }
    }

    func run(allows: Bool) async throws {
        let records = DeviceDirectory(Home.devices)
        guard let device = try FleetSelection.devices([destination], all: false, in: records).first else { return }
        guard (device.keyOrigin ?? .device) == .device else {
            throw fail("\(device.name) has no agent: what it lets through is up to the software there", .usage)
        }
        let hosts = places.filter { UInt16($0) == nil }.map { (try? Authority(parsing: $0))?.description ?? $0 }
        let words =
            places.compactMap { UInt16($0) }.map(String.init) + hosts + listen.map { "\(PeerListening.host):\($0)" }
        let access = DeviceAccess(
            allow: allows ? words : [],
            deny: allows ? [] : words,
            logins: try ssh.logins(),
            records: records,
            warn: { printWarning($0) }
        )
        // Where the device cannot say it.
        let recorded = try records.record(named: device.name)?.allowed
        let loop = EventLoop(name: access.command)
        let changed: DeviceAccess.Outcome?
        do throws(HostError) {
            changed = try await access(device, on: loop)
        } catch {
            throw fail(error)
        }
        await loop.shutDown()
        if changed == nil { try await enroll(device, access, records) }
        if let allowed = try (changed?.device ?? records.record(named: device.name))?.allowed {
            if let before = changed == nil ? recorded : changed?.before {
                let idle = words.filter { before.contains($0) == allows }
                let what =
                    allows
                    ? "allowed \(idle.joined(separator: ", ")) already"
                    : "did not allow \(idle.joined(separator: ", "))"
                let isBehind = recorded.map { Set($0) != Set(before) } ?? false
                let nothing = isBehind ? "that is recorded now" : "nothing was changed"
                let rest = idle.count == words.count ? nothing : "the rest was changed"
                if !idle.isEmpty { printDone("\(device.name)  \(what): \(rest)") }
            }
            printDone("\(device.name)  allows \(allowed.isEmpty ? "nothing" : allowed.joined(separator: ", "))")
        }
    }

    /// Where that cannot be done alone: an enrolment in which everything else stays.
    private func enroll(_ device: Device, _ access: DeviceAccess, _ records: DeviceDirectory) async throws {
        let target: EnrollmentTarget
        let agent: AgentBinary
        do {
            target = try EnrollmentTarget(device)
            agent = try AgentBinary.find(agentBinary, executable: Executable.path, cache: Home.cache)
        } catch let error as AgentBinaryError {
            throw fail(error.message, .usage)
        } catch {
            throw fail("\(error)")
        }
        var order = EnrollmentOrder(
            namespace: nil,
            node: .init(
                allowPorts: access.allow.compactMap { UInt16($0) },
                allowHosts: access.allow.filter { UInt16($0) == nil },
                keeps: ["bind", "port", "renewFrom", "allow", "advertise"]
            ),
            agent: agent,
            service: nil
        )
        order.deny = access.deny
        (order.command, order.event) = (access.command, access.event)
        let (issuer, trustDomain) = try issuers.load(self.access)
        let report = Report()
        var run = EnrollmentRun(
            order,
            server: nil,
            issuer: issuer,
            trustDomain: trustDomain,
            terms: IssuanceTerms(acceptsSkew: clock.skewOk).renewing(device),
            logins: try ssh.logins(),
            records: records,
            report: report
        )
        run.publisher = try RevocationPublisher.reconciled(issuer, with: records.ledger)
        let failures: [EnrollmentFailure]
        do throws(HostError) {
            failures = try await run([target], parallel: 1).failures
        } catch {
            throw fail(error)
        }
        if let reason = HostError.Reason.common(of: failures.map(\.error.reason)) { throw reason.exitCode }
    }

    /// Nobody has asked for an enrolment: its steps are details.
    private struct Report: EnrollmentReport {
        func line(_ text: String) { printDetail(text) }
        func warning(_ text: String) { printWarning(text) }
        func progress(_ progress: EnrollmentProgress, of device: String) {
            switch progress {
            case .step(let step, let text, _): printDetail("\(device)  \(step)  \(text)")
            case .warning(let text): printWarning(text)
            case .uploading: break
            }
        }
        func succeeded(_ record: Device) {}
        func failed(_ error: HostError, _ target: EnrollmentTarget) { printError("error: \(error.message)") }
    }
}

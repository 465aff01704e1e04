import ArgumentParser
import Fleet
import MeshIdentity
import Platform
import SSHSignal

struct AllowCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "allow",
        abstract: "Let others of a device's namespace reach more of it.",
        discussion: """
            Adds ports of the device, or other hosts that are reached through it, to what its node lets through. Its agent and its \
            certificate are brought up to date on the way; the rest stays as it is. `bootstrap status DEST` shows what is allowed.

              bootstrap allow camera.lan 22 8080
              bootstrap allow gateway.lan 10.0.0.9:554
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
            Streams that are open to it are cut when the node has taken its new configuration up. The device's agent and its \
            certificate are brought up to date on the way; the rest stays as it is.

              bootstrap deny camera.lan 22
            """
    )

    @OptionGroup var change: AccessChange

    func run() async throws { try await change.run(allows: false) }
}

/// What `allow` and `deny` have in common: an enrolment of a device that is enrolled, in which everything else stays.
struct AccessChange: ParsableArguments {
    @Argument(help: ArgumentHelp("A device's name, destination or SPIFFE ID.", valueName: "DEST"))
    var destination: String

    @Argument(help: ArgumentHelp("A port of the device, or HOST:PORT behind it.", valueName: "PORT"))
    var places: [String]

    @Option(
        help: ArgumentHelp(
            "The program that is the device's agent from then on. (default: the static build beside this one, or this one)",
            valueName: "PATH"
        )
    )
    var agentBinary: String?

    @OptionGroup var clock: ClockOptions
    @OptionGroup var issuers: IssuerOptions
    @OptionGroup var access: CAAccess
    @OptionGroup var ssh: SSHOptionGroup

    func validate() throws {
        guard !places.isEmpty else { throw ValidationError("name at least one port") }
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
        let hosts = places.filter { UInt16($0) == nil }.map { (try? Authority(parsing: $0))?.description ?? $0 }
        let ports = places.compactMap { UInt16($0) }
        var order = EnrollmentOrder(
            namespace: nil,
            node: .init(
                allowPorts: allows ? ports : [],
                allowHosts: allows ? hosts : nil,
                keeps: ["bind", "port", "renewFrom", "allow"]
            ),
            agent: agent,
            service: nil
        )
        if !allows { order.deny = ports.map(String.init) + hosts }
        let (issuer, trustDomain) = try issuers.load(access)
        let report = EnrollmentOutput(format: .text, names: [device.name])
        var run = EnrollmentRun(
            order,
            server: nil,
            issuer: issuer,
            trustDomain: trustDomain,
            terms: IssuanceTerms(acceptsSkew: clock.skewOk).renewing(device),
            logins: report.asking(for: try ssh.logins()),
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
        if let allowed = try? records.record(named: device.name)?.allowed {
            printLine("\(device.name)  allows \(allowed.isEmpty ? "nothing" : allowed.joined(separator: ", "))")
        }
    }
}

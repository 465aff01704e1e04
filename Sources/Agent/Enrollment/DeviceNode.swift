import Glibc
import MeshIdentity
import Platform
import SSHSignal

/// The node of this machine together with what keeps it alive, and how one release follows the other:
///
///     current -> new release ─→ service has it start beside the old node ─ ready ─→ the old one ends with its last stream
///                                                                       └ not ──→ current -> old release, which runs on
struct DeviceNode {
    let state: String
    let executable: String

    private var node: NodeProcess { NodeProcess(state: state, executable: executable) }
    private var releases: AgentReleases? { AgentReleases(state: state, executable: executable) }
    private var description: ServiceDescription {
        ServiceDescription(program: releases?.program ?? executable, state: state)
    }
    /// Which kind of service there is; absent for none.
    private var recordFile: String { "\(state)/service" }

    struct Report {
        var listener: String
        /// `started`, `restarted` or `running`.
        var outcome: String
        var service: SignalMessage.Service?
        var warnings: [String] = []
    }

    /// Has the node run with this release, its configuration and its credential.
    ///
    /// - Parameters:
    ///   - configurationChanged: a node that runs is to be replaced.
    ///   - service: a ``ServiceKind``, `auto`, or nil for what there is.
    /// - Throws: when it does not come up. Then the release before it is in use, if there was one.
    func bringUp(configurationChanged: Bool, service: String?) throws(NodeProcess.Failure) -> Report {
        let before = releases?.current
        do throws(NodeProcess.Failure) {
            try use(releases?.own)
            let report = try run(configurationChanged: configurationChanged, service: service)
            if let releases, let before, before != releases.own {
                _ = releases.removeOthers(keeping: [releases.own, before])
            }
            return report
        } catch {
            guard let releases, let before, before != releases.own else { throw error }
            throw NodeProcess.Failure(
                message:
                    "the new agent \(releases.own) did not come up: \(error.message). \(goBack(to: before, releases))"
            )
        }
    }

    private func use(_ release: String?) throws(NodeProcess.Failure) {
        guard let release else { return }
        do throws(IdentityError) {
            try releases?.use(release)
        } catch {
            throw NodeProcess.Failure(message: error.message)
        }
    }

    /// - Returns: what became of it, for people.
    private func goBack(to release: String, _ releases: AgentReleases) -> String {
        do throws(NodeProcess.Failure) {
            try use(release)
            if node.runningProcess != nil { return "The previous one, \(release), runs on" }
            if Supervisor.running(state: state) != nil {
                return "The previous one, \(release), is in use again; its service starts it"
            }
            _ = try NodeProcess(state: state, executable: releases.program(of: release)).start()
            return "The previous one, \(release), was started again"
        } catch {
            return "The previous one, \(release), is in use again, but could not be started: \(error.message)"
        }
    }

    // MARK: Service

    private func run(configurationChanged: Bool, service: String?) throws(NodeProcess.Failure) -> Report {
        guard let service else {
            let present = recordedKind.flatMap(self.service)
            return try run(configurationChanged, present)
        }
        if service == ServiceKind.automatic { return try runAutomatically(configurationChanged) }
        guard let kind = ServiceKind(rawValue: service) else {
            throw NodeProcess.Failure(
                message: "this agent knows no service '\(Printable.clean(service, limit: 40))'; upload a newer one"
            )
        }
        guard let chosen = self.service(kind) else {
            try removeService()
            var report = try run(configurationChanged, nil)
            report.service = .init(kind: kind.rawValue, place: nil, change: "none")
            return report
        }
        let setUp: (changed: Bool, warnings: [String])
        do throws(DeviceProgram.Failure) {
            setUp = try install(chosen)
        } catch {
            throw NodeProcess.Failure(message: "the service (\(kind.rawValue)) cannot be set up: \(error.message)")
        }
        return try run(configurationChanged, chosen, setUp)
    }

    private func run(
        _ configurationChanged: Bool,
        _ service: any DeviceService,
        _ setUp: (changed: Bool, warnings: [String])
    ) throws(NodeProcess.Failure) -> Report {
        var report = try run(configurationChanged, service)
        report.service = .init(
            kind: service.kind.rawValue,
            place: service.place,
            change: setUp.changed ? "installed" : "unchanged"
        )
        report.warnings += setUp.warnings
        return report
    }

    /// The first kind that can be had; what is there already comes first.
    private func runAutomatically(_ configurationChanged: Bool) throws(NodeProcess.Failure) -> Report {
        var reasons: [String] = []
        let recorded = recordedKind
        for kind in [recorded].compactMap(\.self) + ServiceKind.preferred.filter({ $0 != recorded }) {
            guard let candidate = self.service(kind) else { continue }
            let setUp: (changed: Bool, warnings: [String])
            do throws(DeviceProgram.Failure) {
                setUp = try install(candidate)
            } catch {
                reasons.append("\(kind.rawValue): \(error.message)")
                continue
            }
            return try run(configurationChanged, candidate, setUp)
        }
        try removeService()
        var report = try run(configurationChanged, nil)
        report.service = .init(kind: ServiceKind.none.rawValue, place: nil, change: "none")
        report.warnings.append(
            "nothing starts the node again after a crash or a reboot of the device: \(reasons.joined(separator: "; "))"
        )
        return report
    }

    private func service(_ kind: ServiceKind) -> (any DeviceService)? {
        switch kind {
        case .systemd: SystemdService(description: description, isUser: false)
        case .systemdUser: SystemdService(description: description, isUser: true)
        case .openrc: InitScriptService(description: description, isProcd: false)
        case .procd: InitScriptService(description: description, isProcd: true)
        case .cron: CronService(description: description)
        case .none: nil
        }
    }

    private var recordedKind: ServiceKind? {
        guard let bytes = try? LocalFile.read(recordFile, limit: 4096) else { return nil }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").first.flatMap {
            ServiceKind(rawValue: String($0))
        }
    }

    private func removeService() throws(NodeProcess.Failure) {
        guard let kind = recordedKind, let service = self.service(kind) else { return }
        do throws(DeviceProgram.Failure) {
            try service.remove()
        } catch {
            throw NodeProcess.Failure(message: "the service (\(kind.rawValue)) cannot be removed: \(error.message)")
        }
        unlink(recordFile)
    }

    private func install(
        _ service: any DeviceService
    ) throws(DeviceProgram.Failure) -> (changed: Bool, warnings: [String]) {
        guard description.isPlain else {
            throw DeviceProgram.Failure(message: "the path \(state) has characters that a service cannot have")
        }
        if let obstacle = service.obstacle { throw DeviceProgram.Failure(message: obstacle) }
        do throws(NodeProcess.Failure) {
            if let recordedKind, recordedKind != service.kind { try removeService() }
        } catch {
            throw DeviceProgram.Failure(message: error.message)
        }
        let setUp = try service.install()
        let record = "\(service.kind.rawValue)\n\(description.name)\n"
        do {
            try AtomicFile.write(Array(record.utf8), to: recordFile, mode: 0o600)
        } catch {
            throw DeviceProgram.Failure(message: error.message)
        }
        return setUp
    }

    // MARK: Node

    /// A healthy node is left alone: it takes up the new credential by itself.
    private func run(
        _ configurationChanged: Bool,
        _ service: (any DeviceService)?
    ) throws(NodeProcess.Failure) -> Report {
        let process = node.runningProcess
        let supervisor = service == nil ? nil : Supervisor.running(state: state)
        if let process, !configurationChanged, node.isCurrent(process), service == nil || supervisor != nil,
            let listener = node.listener, NodeProcess.accepts(listener)
        {
            node.reload(process)
            return Report(listener: listener, outcome: "running")
        }
        let outcome = process == nil ? "started" : "restarted"
        if let supervisor { return Report(listener: try replace(by: supervisor), outcome: outcome) }
        // One that cannot hand its sockets over would be in the way.
        if let process, !node.handsOver(process) { try node.stop(process) }
        guard let service else { return Report(listener: try node.start().listener, outcome: outcome) }
        return Report(listener: try start(service, after: process), outcome: outcome)
    }

    /// More than a supervisor and a node may take together.
    private static let patience = NodeProcess.startLimit + .seconds(5)

    private func replace(by supervisor: pid_t) throws(NodeProcess.Failure) -> String {
        let request = ReplacementRequest(program: executable)
        do throws(IdentityError) {
            try request.write(state: state)
        } catch {
            throw NodeProcess.Failure(message: error.message)
        }
        kill(supervisor, SIGUSR2)
        let deadline = ContinuousClock.now + Self.patience
        while ContinuousClock.now < deadline, Supervisor.running(state: state) == supervisor {
            if let listener = try request.outcome(state: state) { return listener }
            usleep(10_000)
        }
        throw NodeProcess.Failure(message: "the supervisor (process \(supervisor)) did not start it")
    }

    private func start(_ service: any DeviceService, after old: pid_t?) throws(NodeProcess.Failure) -> String {
        Supervisor.forgetFailure(state: state)
        do throws(DeviceProgram.Failure) {
            try service.start()
        } catch {
            throw NodeProcess.Failure(message: error.message)
        }
        let deadline = ContinuousClock.now + Self.patience
        while ContinuousClock.now < deadline {
            if let process = node.runningProcess, process != old, let listener = node.listener { return listener }
            if let failure = Supervisor.failure(state: state) { throw NodeProcess.Failure(message: failure) }
            usleep(10_000)
        }
        throw NodeProcess.Failure(message: "the service (\(service.kind.rawValue)) was started, but there is no node")
    }
}

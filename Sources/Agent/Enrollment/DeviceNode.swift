import Glibc
import MeshIdentity
import Platform
import SSHSignal

/// The node of this machine together with what keeps it alive, and how one release follows the other:
///
///     current -> new release ─→ service has it start beside the old node ─ ready ─→ the old one ends with its last stream
///                                                                       └ not ──→ current -> old release, which runs on
///
/// What is to be done is decided by ``ServiceChoice`` and ``NodePlan``; here it is done.
struct DeviceNode {
    let state: String
    let executable: String

    private var node: NodeProcess { NodeProcess(state: state, executable: executable) }
    private var releases: AgentReleases? { AgentReleases(state: state, executable: executable) }
    private var description: ServiceDescription {
        ServiceDescription(program: releases?.program ?? executable, state: state)
    }
    private var installed: InstalledService { InstalledService(description: description) }

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
    ///   - keepsService: `auto` leaves it without one where none was chosen.
    /// - Throws: when it does not come up. Then the release before it is in use, if there was one.
    func bringUp(
        configurationChanged: Bool,
        service: String?,
        keepsService: Bool = false
    ) throws(NodeProcess.Failure) -> Report {
        let before = releases?.current
        do throws(NodeProcess.Failure) {
            try use(releases?.own)
            let report = try run(
                configurationChanged,
                ServiceChoice(service, recorded: installed.recordedKind, isKept: keepsService),
                service
            )
            if let releases, let before, before != releases.own {
                _ = releases.removeOthers(keeping: [releases.own, before])
            }
            return report
        } catch {
            guard let releases, let before, before != releases.own else {
                let goesOn = node.runningProcess == nil ? "" : ". The node that ran before goes on as it was"
                throw NodeProcess.Failure(message: error.message + goesOn)
            }
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

    private func run(
        _ configurationChanged: Bool,
        _ choice: ServiceChoice,
        _ order: String?
    ) throws(NodeProcess.Failure) -> Report {
        switch choice {
        case .present(let kind):
            return try run(configurationChanged, kind?.service(description))
        case .one(let kind):
            let setUp: InstalledService.SetUp
            do throws(DeviceProgram.Failure) {
                setUp = try installed.install(kind)
            } catch {
                throw NodeProcess.Failure(message: "the service (\(kind.rawValue)) cannot be set up: \(error.message)")
            }
            return try run(configurationChanged, setUp)
        case .firstOf(let kinds):
            return try run(configurationChanged, firstOf: kinds)
        case .noService:
            return try runWithoutService(configurationChanged, isChosen: true)
        case .unknown:
            let word = Printable.clean(order ?? "", limit: 40)
            throw NodeProcess.Failure(message: "this agent knows no service '\(word)'; upload a newer one")
        }
    }

    private func run(_ configurationChanged: Bool, firstOf kinds: [ServiceKind]) throws(NodeProcess.Failure) -> Report {
        var reasons: [String] = []
        for kind in kinds {
            let setUp: InstalledService.SetUp
            do throws(DeviceProgram.Failure) {
                setUp = try installed.install(kind)
            } catch {
                // What a machine does not have needs no word.
                if !error.isAbsence { reasons.append("\(kind.rawValue): \(error.message)") }
                continue
            }
            return try run(configurationChanged, setUp)
        }
        var report = try runWithoutService(configurationChanged)
        let why = reasons.isEmpty ? "" : " (\(reasons.joined(separator: "; ")))"
        report.warnings.append(
            "nothing starts the node again after a crash or a reboot of the device\(why): install cron there, or log in as root"
        )
        return report
    }

    private func run(
        _ configurationChanged: Bool,
        _ setUp: InstalledService.SetUp
    ) throws(NodeProcess.Failure) -> Report {
        var report = try run(configurationChanged, setUp.service)
        report.service = .init(
            kind: setUp.service.kind.rawValue,
            place: setUp.service.place,
            change: setUp.isChanged ? "installed" : "unchanged"
        )
        report.warnings += setUp.warnings
        return report
    }

    private func runWithoutService(
        _ configurationChanged: Bool,
        isChosen: Bool = false
    ) throws(NodeProcess.Failure) -> Report {
        do throws(DeviceProgram.Failure) {
            if isChosen { try installed.decline() } else { try installed.remove() }
        } catch {
            throw NodeProcess.Failure(message: error.message)
        }
        var report = try run(configurationChanged, nil)
        report.service = .init(kind: ServiceKind.none.rawValue, place: nil, change: "none")
        return report
    }

    // MARK: Node

    private func run(
        _ configurationChanged: Bool,
        _ service: (any DeviceService)?
    ) throws(NodeProcess.Failure) -> Report {
        let facts = facts(configurationChanged, hasService: service != nil)
        let outcome = facts.process == nil ? "started" : "restarted"
        switch NodePlan(facts) {
        case .leave(let listener):
            if let process = facts.process { node.reload(process) }
            return Report(listener: listener, outcome: "running")
        case .replace(let supervisor):
            return Report(listener: try replace(by: supervisor), outcome: outcome)
        case .start(let stopping):
            if let stopping { try node.stop(stopping) }
            guard let service else { return Report(listener: try node.start().listener, outcome: outcome) }
            return Report(listener: try start(service, after: facts.process), outcome: outcome)
        }
    }

    private func facts(_ isConfigurationChanged: Bool, hasService: Bool) -> NodePlan.Facts {
        var facts = NodePlan.Facts(
            isConfigurationChanged: isConfigurationChanged,
            process: node.runningProcess,
            hasService: hasService,
            supervisor: hasService ? Supervisor.running(state: state) : nil
        )
        guard let process = facts.process else { return facts }
        facts.isCurrent = node.isCurrent(process)
        facts.handsOver = node.handsOver(process)
        // Only one that may be left alone is asked: it would log a connection that says nothing.
        if !isConfigurationChanged, facts.isCurrent, let listener = node.listener, NodeProcess.accepts(listener) {
            facts.listener = listener
        }
        return facts
    }

    /// More than a supervisor and a node may take together.
    private static let patience = NodeStart.limit + .seconds(5)

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

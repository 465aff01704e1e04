import ArgumentParser
import Fleet
import Glibc
import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import SSHSignal
import Streams

/// What the command line asks for.
struct Forwards: Sendable {
    /// As they were given, -L and -D before -R: what this side listens for is known at once.
    var words: [(letter: String, text: String)] = []
    /// The same, understood.
    var list: [Forward] = []
    var standard: Authority?

    var remotes: Int { list.count { $0.isRemote } }
    var areEmpty: Bool { list.isEmpty && standard == nil }
}

/// How other processes share the paths of this one.
struct Sharing: Sendable {
    let socket: ListeningSocket
    /// Whom the paths lead to, in the words of ``ControlMessage``.
    let peer: String
    let preference: PathPreference
    /// After so long without use the process ends; nil: when somebody says so.
    let idleLimit: Duration?
}

/// A device, its forwards, and the paths between them, until somebody stops the command.
struct Connection: Sendable {
    let access: PeerAccess
    let session: OperatorSession?
    let device: Device?
    /// Of the device's; nil where there is none.
    let certificate: CertificateWatch?
    /// Of the device, for path `ssh`; nil where there is none.
    let policy: EnrolledPolicy?
    /// For a machine that is no device by its name.
    let watch: HostWatch?
    let forwards: Forwards
    let name: String
    let fallback: FallbackReason
    private let end = CommandEnd()
    let outage: Outage
    /// nil: nobody shares them.
    let sharing: Sharing?
    let multipath: Bool
    let standby: Bool
    /// What the far side does not want to listen for ends the command.
    let exitsOnForwardFailure: Bool
    private let readiness: Readiness

    /// What lives on the loop.
    private struct Parts: Sendable {
        let loop: EventLoop
        let paths: LoopBound<PeerPaths>
        let forwards: LoopBound<ForwardTable>
        let reconnection: LoopBound<Reconnection>
        var server: LoopBound<ControlServer>?
        /// nil: the kernel tells nothing.
        var network: LoopBound<NetworkWatch>?
    }

    init(
        access: PeerAccess,
        session: OperatorSession?,
        device: Device?,
        certificate: CertificateWatch?,
        watch: HostWatch?,
        forwards: Forwards,
        name: String,
        fallback: FallbackReason,
        outage: Outage,
        sharing: Sharing?,
        multipath: Bool,
        standby: Bool,
        exitsOnForwardFailure: Bool
    ) {
        self.access = access
        self.session = session
        self.device = device
        self.certificate = certificate
        policy = device.flatMap(EnrolledPolicy.init)
        self.watch = watch
        self.forwards = forwards
        self.name = name
        self.fallback = fallback
        self.outage = outage
        self.sharing = sharing
        self.multipath = multipath
        self.standby = standby
        self.exitsOnForwardFailure = exitsOnForwardFailure
        readiness = Readiness(remotes: forwards.remotes)
    }

    /// Standard output belongs to the stream of `-W`, and who uses that wants to hear of failures only. In the
    /// background there is standard error only.
    private func report(_ line: String) {
        guard forwards.standard == nil else { return printDetail(line) }
        guard !Background.isDetached else { return printNotice(line) }
        // Standard output is that of the process that waits, which tells of the path itself.
        guard !Background.isMaster else { return printDetail(line) }
        if Verbosity.current >= .normal { printLine(line) }
    }

    func run() async throws {
        if multipath, let reason = MultipathTCP.unavailability { printNotice("--multipath: \(reason)") }
        // Before anything listens: one that comes early ends the command as any other.
        let signals = await StopSignals.ofThisProcess.value
        let loop = EventLoop(name: "connect")
        let events = AsyncStream<PathChange>.makeStream()
        let requests = AsyncStream<Void>.makeStream()
        let remote = AsyncStream<(Forward, ForwardTable.Change)>.makeStream()
        let parts: Parts
        do {
            parts = try await loop.execute { try make(on: loop, events.continuation, requests.continuation) }
            fallback.look(at: parts.paths)
            try await listen(parts)
        } catch {
            // With it goes the control socket.
            await loop.shutDown()
            throw error is ExitCode ? error : fail("\(error)")
        }
        loop.submit {
            parts.paths.withValue { $0.start() }
            parts.forwards.withValue { askToListen($0, remote.continuation) }
        }
        let outcome = await Result.of {
            try await work(parts, events.stream, signals, requests.stream, remote.stream)
        }
        end.finish()
        ServiceNotification.ofThisProcess.stopping()
        _ = try? await loop.execute {
            // First what others may want to have next: they are told by the end of the control socket.
            parts.reconnection.withValue { $0.stop() }
            parts.forwards.withValue { $0.closeAll() }
            // Whatever ends the command: streams that are open are cut, and nobody takes their ends for clean.
            parts.paths.withValue { $0.shutDown() }
            parts.network?.withValue { $0.close() }
            parts.server?.withValue { $0.close() }
        }
        // The far side is told of that in the turn after.
        _ = try? await loop.execute {}
        await loop.shutDown()
        do {
            try outcome.get()
        } catch let error as HostError {
            // Here, since several of them may have found out.
            throw fail(error)
        }
    }

    /// On the loop.
    private func make(
        on loop: EventLoop,
        _ events: AsyncStream<PathChange>.Continuation,
        _ requests: AsyncStream<Void>.Continuation
    ) throws -> Parts {
        // Whoever runs the command waits for streams: a login that asked for a passphrase must not have to ask again.
        var settings = ConnectionSettings.defaults
        settings.idleTimeout = nil
        settings.multipath = multipath
        settings.standby = standby
        let follower = Follower()
        let paths = PeerPaths(
            to: access,
            context: session?.context,
            settings: settings,
            on: loop,
            logger: Logger(label: "connect"),
            permits: { [policy] in policy?.refusal(of: $0, over: $1) },
            onChange: { [outage] in
                outage.follow($0)
                follower.reconnection?.follow($0)
                events.yield($0)
            }
        )
        paths.remedy = { [device] in device?.remedy(forDenied: $0) }
        paths.onNegotiated = { printDetail("\($0)") }
        paths.onProven = { [device] address in
            // Not on the loop: it waits for others who write there.
            if let device { Task.detached { Self.remember(address, of: device) } }
        }
        paths.onProvenGateway = { [device] gateway in
            if let device { Task.detached { Self.remember(gateway, of: device) } }
        }
        paths.onForwardFailure = { [outage] in outage.failed($0) }
        // One stream is one attempt.
        paths.staysConnected = forwards.standard == nil
        let reconnection = Reconnection(paths, on: loop) { [fallback] in !fallback.hasAsked }
        if forwards.standard == nil { follower.reconnection = reconnection }
        let table = ForwardTable(paths, on: loop, name: name)
        var parts = Parts(
            loop: loop,
            paths: LoopBound(paths, on: loop),
            forwards: LoopBound(table, on: loop),
            reconnection: LoopBound(reconnection, on: loop)
        )
        do {
            let watch = try NetworkWatch(on: loop) { [weak paths] in paths?.networkChanged($0) }
            parts.network = LoopBound(watch, on: loop)
        } catch {
            let logger = Logger(label: "connect")
            logger.info("changes of addresses are not noticed at once", metadata: ["reason": "\(error)"])
        }
        if let sharing {
            let shared = ControlServer.Shared(
                loop: loop,
                paths: paths,
                forwards: table,
                peer: sharing.peer,
                preference: sharing.preference,
                idleLimit: sharing.idleLimit,
                end: { requests.yield() }
            )
            let server = try ControlServer(
                adopting: sharing.socket,
                on: loop,
                logger: Logger(label: "control"),
                shared
            )
            parts.server = LoopBound(server, on: loop)
        }
        return parts
    }

    /// The next connection knows where the device has proven who it is, beside what enrolment has said. What is on
    /// record is dialled from everywhere, and published in a directory: a name that the device may lead elsewhere
    /// later, or an address that is another machine's in the next network, is not.
    private static func remember(_ address: Authority, of device: Device) {
        guard let place = address.address, !device.hbone.contains(address) else { return }
        let isKnown = device.hbone.contains { $0.address == place }
        guard isKnown || !place.isLoopback && AddressGuard.internalBlock(of: place) == nil else { return }
        do throws(DeviceDirectoryError) {
            try DeviceDirectory(Home.devices).update(
                device.name,
                of: device.hostKey,
                by: "connect",
                "reached at \(address), by its own word"
            ) { record in
                guard record.identity == device.identity, record.hbone.count < 16, !record.hbone.contains(address)
                else { return }
                record.hbone.append(address)
            }
            printDetail("\(device.name) is recorded at \(address)")
        } catch {
            printDetail("\(device.name) is reached at \(address), which is not recorded: \(error.message)")
        }
    }

    /// The next connection tries it from the beginning.
    private static func remember(_ gateway: PeerOffer.Gateway, of device: Device) {
        let text = gateway.description
        guard device.gateways?.contains(text) != true else { return }
        do throws(DeviceDirectoryError) {
            try DeviceDirectory(Home.devices).update(
                device.name,
                of: device.hostKey,
                by: "connect",
                "reached through gateway \(gateway.address), by its own word"
            ) { record in
                var gateways = record.gateways ?? []
                // The last word about one address holds.
                gateways.removeAll { PeerOffer.Gateway(recorded: $0)?.address == gateway.address }
                guard record.identity == device.identity, gateways.count < 8 else { return }
                record.gateways = gateways + [text]
            }
            printDetail("\(device.name) is recorded to be reached through \(gateway.address)")
        } catch {
            printDetail("gateway \(gateway.address) of \(device.name) is not recorded: \(error.message)")
        }
    }

    /// What is told of the paths before it can be made.
    private final class Follower {
        weak var reconnection: Reconnection?
    }

    /// Ends with the first of these.
    private func work(
        _ parts: Parts,
        _ events: AsyncStream<PathChange>,
        _ signals: StopSignals,
        _ requests: AsyncStream<Void>,
        _ remote: AsyncStream<(Forward, ForwardTable.Change)>
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await signals.wait() }
            if sharing != nil {
                group.addTask {
                    for await _ in requests { return }
                }
            }
            group.addTask { try await follow(events, parts, own: session?.id) }
            if forwards.remotes > 0 { group.addTask { try await followRemote(remote) } }
            if let destination = forwards.standard {
                group.addTask { try await carryStandardStream(to: destination, parts.paths, on: parts.loop) }
            }
            if let session { group.addTask { try await keepCurrent(session, parts.paths) } }
            if let watch { group.addTask { try await keepWatch(watch) } }
            if let certificate {
                group.addTask {
                    var certificate = certificate
                    try await certificate.follow { printWarning($0) }
                }
            }
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    /// On this side.
    private func listen(_ parts: Parts) async throws {
        for forward in forwards.list where !forward.isRemote {
            let line = try await parts.loop.execute { () throws -> String? in
                try parts.forwards.withValue { table in
                    var line: String?
                    try table.open(forward) { if case .listening(let text, _) = $0 { line = text } }
                    return line
                }
            }
            if let line { report(line) }
        }
    }

    /// The far side. On the loop.
    private func askToListen(
        _ table: ForwardTable,
        _ changes: AsyncStream<(Forward, ForwardTable.Change)>.Continuation
    ) {
        for forward in forwards.list where forward.isRemote {
            // This side has nothing to fail with.
            _ = try? table.open(forward) { changes.yield((forward, $0)) }
        }
    }

    /// Says what becomes of the far side's ports; ends when it does not want to listen, and there is nothing else to
    /// do.
    private func followRemote(_ changes: AsyncStream<(Forward, ForwardTable.Change)>) async throws {
        var others = forwards.list.count
        var answered: Set<Forward> = []
        for await (forward, change) in changes {
            switch change {
            case .listening(let line, let note):
                report(line)
                if let note { printNotice(note) }
            case .refused(let error):
                others -= 1
                guard !exitsOnForwardFailure, others > 0 || forwards.standard != nil || sharing != nil else {
                    throw end.fail("\(forward): \(error.message)", .denied)
                }
                // As ssh: the others are of use without it.
                printWarning("\(forward): \(error.message)")
            case .lost(let error):
                printWarning("\(forward): \(error.message); trying again")
                continue
            }
            if answered.insert(forward).inserted { readiness.answered() }
        }
    }

    /// Ends with the stream.
    private func carryStandardStream(
        to destination: Authority,
        _ paths: LoopBound<PeerPaths>,
        on loop: EventLoop
    ) async throws {
        let ends = AsyncStream<StreamError?>.makeStream()
        let written = try await loop.execute { [self] in
            let standard = try StandardStream(on: loop)
            // Printed before standard output ends: who reads it (ssh, of its ProxyCommand) may end this process then.
            let fail = { @Sendable (error: StreamError) in
                _ = paths.withValue { failure("\(destination): \(error.message)", $0.exitCode(for: error)) }
            }
            paths.withValue { paths in
                paths.openStream(to: destination) { result in
                    switch result {
                    case .success(let opened):
                        paths.join(standard.stream, opened, onFailure: fail) { ends.continuation.yield($0.failure) }
                    case .failure(let error):
                        fail(error)
                        standard.stream.reset(error)
                        ends.continuation.yield(error)
                    }
                }
            }
            return standard.written
        }
        for await failure in ends.stream {
            // The last bytes are on their way to standard output.
            for await number in written where number != 0 {
                throw end.fail("standard output: \(String(cString: strerror(number)))", .failed)
            }
            guard let failure else { return }
            throw self.failure("\(destination): \(failure.message)", .failed)
        }
    }

    /// Prints each change of path; ends when there is no hope.
    private func follow(_ events: AsyncStream<PathChange>, _ parts: Parts, own: SPIFFEID?) async throws {
        var hasBeenUp = false
        // Of a host that is not enrolled, that is said at the start.
        var saysNoPolicy = session != nil && policy == nil
        for await event in events {
            switch event {
            case .using(let path, _, _, let peer):
                let line = "\(event)\(outage.takeNote())"
                report(line)
                tell(line, parts)
                if saysNoPolicy, path.transport == .ssh {
                    saysNoPolicy = false
                    printWarning(
                        "No policy of \(access.name) is known here: on path ssh, whatever the login reaches is reached. "
                            + "`bootstrap enroll` with --allow-port records one, where there is an agent."
                    )
                }
                if !hasBeenUp || peer != nil, let own {
                    let other = peer?.description ?? "by SSH host key only"
                    if !hasBeenUp || path.transport == .h2 { report("identities: local \(own), peer \(other)") }
                }
                if !hasBeenUp, let server = parts.server {
                    // Who has started this process for its paths comes by the socket, in its own time.
                    let firstUse: Duration = Background.isMaster ? .seconds(30) : .zero
                    parts.loop.submit { server.withValue { $0.waitForUse(firstUse: firstUse) } }
                }
                if path.transport == .h2, Verbosity.current > .normal {
                    let addresses = try await parts.loop.execute {
                        parts.paths.withValue { $0.report.flatMap(\.addresses).map(\.line) }
                    }
                    for line in addresses { printDetail(line) }
                }
                hasBeenUp = true
                readiness.using(line)
            case .relaying: report("\(event)")
            case .unreachable(let error) where hasBeenUp:
                // Here the outage tells of itself.
                tell(error.message, parts)
                ServiceNotification.ofThisProcess.status(error.message)
            case .refused(let error) where hasBeenUp && watch?.refusal == nil: printWarning(error.message)
            case .unreachable(let error), .refused(let error):
                let code = try await parts.loop.execute { parts.paths.withValue { $0.exitCode(for: error) } }
                throw failure(error.message, code)
            }
        }
    }

    /// Those who share the paths.
    private func tell(_ line: String, _ parts: Parts) {
        guard let server = parts.server else { return }
        parts.loop.submit { server.withValue { $0.say(line) } }
    }

    /// A machine that must not be reached any more is the cause of whatever else failed.
    private func failure(_ message: String, _ code: ExitCode) -> ExitCode {
        if let refusal = watch?.refusal { return end.fail(refusal.message, refusal.reason.exitCode) }
        return end.fail(message, code)
    }

    private func keepWatch(_ watch: HostWatch) async throws {
        do {
            try await watch.follow { printWarning($0) }
        } catch let error as HostError {
            throw end.fail(error.message, error.reason.exitCode)
        }
    }

    /// A connection that stays up for days outlives its certificate, and what is revoked meanwhile.
    private func keepCurrent(_ session: OperatorSession, _ paths: LoopBound<PeerPaths>) async throws {
        do {
            try await session.follow(
                warn: { printWarning($0) },
                use: { context in paths.loop.submit { paths.withValue { $0.use(context) } } }
            )
        } catch let error as HostError {
            throw end.fail(error.message, error.reason.exitCode)
        }
    }
}

extension Result where Failure == any Error {
    fileprivate static func of(_ body: () async throws -> Success) async -> Self {
        do { return .success(try await body()) } catch { return .failure(error) }
    }
}

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
import UnixSignals

/// What the command line asks for.
struct Forwards: Sendable {
    var local: [PortForward] = []
    var remote: [RemoteForward] = []
    var dynamic: [DynamicForward] = []
    var standard: Authority?
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

    init(
        access: PeerAccess,
        session: OperatorSession?,
        device: Device?,
        certificate: CertificateWatch?,
        watch: HostWatch?,
        forwards: Forwards,
        name: String,
        fallback: FallbackReason,
        outage: Outage
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
    }

    /// Standard output belongs to the stream of `-W`, and who uses that wants to hear of failures only.
    private func report(_ line: String) {
        guard forwards.standard == nil else { return printDetail(line) }
        if Verbosity.current >= .normal { printLine(line) }
    }

    func run() async throws {
        // Before anything listens: one that comes early ends the command as any other.
        let stopSignals = trappable([.sigint, .sigterm, .sighup, .sigusr1, .sigusr2])
        let signals = await UnixSignalsSequence(trapping: stopSignals)
        let loop = EventLoop(name: "connect")
        let events = AsyncStream<PathChange>.makeStream()
        let paths: LoopBound<PeerPaths>
        do {
            paths = try await loop.execute { [access, session, device, policy, outage] in
                // Whoever runs the command waits for streams: a login that asked for a passphrase must not have to ask
                // again.
                var settings = ConnectionSettings.defaults
                settings.idleTimeout = nil
                let paths = PeerPaths(
                    to: access,
                    context: session?.context,
                    settings: settings,
                    on: loop,
                    logger: Logger(label: "connect"),
                    permits: { policy?.refusal(of: $0, over: $1) }
                ) {
                    outage.follow($0)
                    events.continuation.yield($0)
                }
                paths.remedy = { device?.remedy(forDenied: $0) }
                paths.onForwardFailure = { outage.failed($0) }
                return LoopBound(paths, on: loop)
            }
            fallback.look(at: paths)
            try await listen(paths, on: loop)
        } catch let error as ExitCode {
            throw error
        } catch {
            throw fail("\(error)")
        }
        loop.submit { paths.withValue { $0.start() } }
        let outcome = await Result.of { try await work(paths, events.stream, signals, on: loop) }
        end.finish()
        // Whatever ends the command: streams that are open are cut, and nobody takes their ends for clean.
        _ = try? await loop.execute { paths.withValue { $0.shutDown() } }
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

    /// Ends with the first of these.
    private func work(
        _ paths: LoopBound<PeerPaths>,
        _ events: AsyncStream<PathChange>,
        _ signals: UnixSignalsSequence,
        on loop: EventLoop
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                for await _ in signals { return }
            }
            group.addTask { try await follow(events, paths, own: session?.id) }
            if !forwards.remote.isEmpty { group.addTask { try await listenRemotely(paths, on: loop) } }
            if let destination = forwards.standard {
                group.addTask { try await carryStandardStream(to: destination, paths, on: loop) }
            }
            if let session { group.addTask { try await keepCurrent(session, paths) } }
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

    private func listen(_ paths: LoopBound<PeerPaths>, on loop: EventLoop) async throws {
        // A Unix socket is for this user alone (StreamLocalBindMask of ssh_config(5)).
        let mask = umask(0o177)
        defer { _ = umask(mask) }
        for forward in forwards.local {
            let address = try await loop.execute {
                let listener = try Listener(bind: forward.bind, on: loop, options: .programs) { socket in
                    paths.withValue { $0.carry(socket, to: forward.destination) }
                }
                return listener.localAddress
            }
            report("listening \(address) → \(forward.destination) on \(name)")
        }
        for forward in forwards.dynamic {
            let address = try await loop.execute {
                let listener = try Listener(bind: forward.bind, on: loop, options: .programs) { socket in
                    paths.withValue { $0.serveSOCKS(socket) }
                }
                return listener.localAddress
            }
            report("listening \(address) → SOCKS on \(name)")
        }
    }

    /// Keeps the far side's ports open; ends when it does not want to listen, and there is nothing else to do.
    private func listenRemotely(_ paths: LoopBound<PeerPaths>, on loop: EventLoop) async throws {
        let changes = AsyncStream<(RemoteForward, RemoteForwarding.Change)>.makeStream()
        loop.submit {
            paths.withValue { paths in
                for forward in forwards.remote {
                    paths.forward(forward) { changes.continuation.yield((forward, $0)) }
                }
            }
        }
        var others = forwards.local.count + forwards.dynamic.count + forwards.remote.count
        for await (forward, change) in changes.stream {
            switch change {
            case .listening(let port):
                let host = forward.bindHost.isEmpty ? "*" : forward.bindHost
                report("listening \(host):\(port) on \(name) → \(forward.destination)")
                if host != "localhost" && host != "127.0.0.1" && host != "::1" {
                    printNotice(
                        "Other machines reach that port only where GatewayPorts in the sshd_config of \(name) allows it."
                    )
                }
            case .refused(let error):
                others -= 1
                guard others > 0 || forwards.standard != nil else {
                    throw end.fail("-R \(forward): \(error.message)", .denied)
                }
                // As ssh: the others are of use without it.
                printWarning("-R \(forward): \(error.message)")
            case .lost(let error): printWarning("-R \(forward): \(error.message); trying again")
            }
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
                        let relay = Relay(standard.stream, opened.stream) { ends.continuation.yield($0.failure) }
                        relay.onFailure = fail
                        relay.start()
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
    private func follow(_ events: AsyncStream<PathChange>, _ paths: LoopBound<PeerPaths>, own: SPIFFEID?) async throws {
        var hasBeenUp = false
        // Of a host that is not enrolled, that is said at the start.
        var saysNoPolicy = session != nil && policy == nil
        for await event in events {
            switch event {
            case .using(let path, _, _, let peer):
                report("\(event)\(outage.takeNote())")
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
                hasBeenUp = true
            case .relaying: report("\(event)")
            // The outage tells of itself.
            case .unreachable where hasBeenUp: continue
            case .refused(let error) where hasBeenUp && watch?.refusal == nil: printWarning(error.message)
            case .unreachable(let error), .refused(let error):
                let code = try await paths.loop.execute { paths.withValue { $0.exitCode(for: error) } }
                throw failure(error.message, code)
            }
        }
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

extension PeerPaths {
    /// The same for the same cause, whichever part of the command it ends. A failed login says more than what it means
    /// for the paths.
    fileprivate func exitCode(for error: StreamError) -> ExitCode {
        switch (error.code, loginError?.code) {
        case (.authentication, .hostKeyRefused?), (.unreachable, .hostKeyRefused?): .hostKeyRefused
        case (.authentication, _), (.unreachable, .authenticationRefused?): .authenticationRefused
        case (.unreachable, _): .unreachable
        case (.denied, _): .denied
        default: .failed
        }
    }
}

extension Result where Failure == any Error {
    fileprivate static func of(_ body: () async throws -> Success) async -> Self {
        do { return .success(try await body()) } catch { return .failure(error) }
    }
}

import ArgumentParser
import Fleet
import Glibc
import H2Transport
import Logging
import MeshIdentity
package import MeshPaths
import MeshPolicy
import Platform
import SSHSignal
import Streams
import UnixSignals

struct ConnectCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "connect",
        abstract: "Reach services of a device: like ssh -L, -R, -D and -W, over the fastest path that works.",
        discussion: """
            DEST is the name of an enrolled device, or whatever `ssh` would take. Streams to an enrolled device go over \
            mutual TLS and HTTP/2 (path h2), the same inside of SSH (h2-over-ssh), or plain SSH (ssh): the best one that \
            works, changed when it dies and changed back when it returns. Each change is one line on stdout. A peer that \
            does not prove its identity is refused on every path.

              bootstrap connect device1 -L 5432:localhost:5432
              psql -h 127.0.0.1 -p 5432

            -R and Unix sockets of the far side need SSH, which is connected for them beside the path in use. -D resolves names \
            on the far side. -W makes one connection of standard input and output, for ssh's ProxyCommand and the like; each \
            direction ends on its own.

            The device decides by its own policy which ports may be reached: `bootstrap enroll --allow-port` names them. On path \
            ssh, where its node takes no part, this command decides by the same. -R and Unix sockets of the far side are, like \
            exec, what the login may do.
            """
    )

    @Argument(help: ArgumentHelp("A device's name, or [user@]host[:port].", valueName: "DEST"), completion: .devices)
    var destination: String

    @Option(
        name: [.customShort("L")],
        help: ArgumentHelp(
            "Listen here and connect there: [bind_address:]port:host:hostport, as ssh has it; a path in place of either end is "
                + "a Unix socket. May be repeated.",
            valueName: "FORWARD"
        )
    )
    var forwards: [String] = []

    @Option(
        name: [.customShort("R")],
        help: ArgumentHelp(
            "Listen there and connect here: [bind_address:]port:host:hostport. Port 0: the far side chooses, and it is printed.",
            valueName: "FORWARD"
        )
    )
    var remoteForwards: [String] = []

    @Option(
        name: [.customShort("D")],
        help: ArgumentHelp("Listen here as a SOCKS server (5, 4 and 4a): [bind_address:]port.", valueName: "ADDRESS")
    )
    var dynamicForwards: [String] = []

    @Option(
        name: [.customShort("W")],
        help: ArgumentHelp("Connect standard input and output to host:port there.", valueName: "HOST:PORT")
    )
    var standardForward: String?

    @Flag(name: [.customShort("N")], help: "As ssh has it: run no command. That is so anyway.")
    var noCommand = false

    @Option(help: ArgumentHelp("auto, h2, h2-over-ssh or ssh.", valueName: "PATH"))
    var path: PathPreference = .automatic

    @OptionGroup var ssh: SSHOptionGroup
    @OptionGroup var authority: CAAccess

    func validate() throws {
        guard noCommand || standardForward != nil || !(forwards + remoteForwards + dynamicForwards).isEmpty else {
            throw ValidationError(
                "give at least one of -L [bind_address:]port:host:hostport, -R (the same, listening there), "
                    + "-D [bind_address:]port and -W host:port"
            )
        }
    }

    func run() async throws {
        startLogging(.warning)
        raiseDescriptorLimit()
        let forwards = try parseForwards()
        let device = try findDevice()
        if let device, let warning = DeviceStatus(device, at: WallClock.system.seconds).warning {
            printWarning(warning)
        }
        let session = try device.map { try makeSession($0) }
        // Whoever is no device by this name may be one by another.
        let watch = device == nil ? HostWatch(trust) : nil
        let fallback = FallbackReason()
        let outage = Outage()
        let access = try makeAccess(device, watch, fallback, outage)
        let connection = Connection(
            access: access,
            session: session,
            device: device,
            watch: watch,
            forwards: forwards,
            name: destination,
            fallback: fallback,
            outage: outage
        )
        try await connection.run()
    }

    private func parseForwards() throws -> Forwards {
        var parsed = Forwards()
        do throws(StreamError) {
            for text in forwards { parsed.local.append(try PortForward(parsing: text)) }
            for text in remoteForwards { parsed.remote.append(try RemoteForward(parsing: text)) }
            for text in dynamicForwards { parsed.dynamic.append(try DynamicForward(parsing: text)) }
        } catch {
            throw fail(error.message, .usage)
        }
        do throws(StreamError) {
            parsed.standard = try standardForward.map { text throws(StreamError) in
                try StreamError.reading(Authority(parsing: text))
            }
        } catch {
            throw fail("-W: \(error.message)", .usage)
        }
        return parsed
    }

    private func findDevice() throws -> Device? {
        do throws(DeviceDirectoryError) {
            if let device = try DeviceDirectory(Home.devices).device(for: destination) { return device }
        } catch {
            throw fail(error.message)
        }
        guard path == .automatic || path == .ssh else {
            throw fail(
                "'\(destination)' is not an enrolled device, and --path \(path.rawValue) needs one: "
                    + "run `bootstrap enroll \(destination)` first"
            )
        }
        return nil
    }

    private var trust: OperatorTrust {
        OperatorTrust(records: DeviceDirectory(Home.devices), authority: authority.location.path)
    }

    private func makeSession(_ device: Device) throws -> OperatorSession {
        // Before anything is asked for.
        let refusal: HostError?
        do throws(DeviceDirectoryError) {
            refusal = try trust.refusal(of: device)
        } catch {
            throw fail(error.message)
        }
        if let refusal { throw fail(refusal) }
        let authority = try authority.loadLive()
        let identity: OperatorIdentity
        do throws(SPIFFEIDError) {
            identity = try OperatorIdentity(for: device, by: authority, records: DeviceDirectory(Home.devices))
        } catch {
            throw fail("the record of \(device.name) has no usable identity: \(error)")
        }
        do {
            return try OperatorSession(of: identity)
        } catch let error as HostError {
            throw fail(error)
        } catch let error as IdentityError {
            throw fail(error)
        } catch {
            throw fail("\(error)")
        }
    }

    private func makeAccess(
        _ device: Device?,
        _ watch: HostWatch?,
        _ fallback: FallbackReason,
        _ outage: Outage
    ) throws -> PeerAccess {
        let logins = fallback.told(before: try ssh.logins())
        do {
            var login = try logins.login(
                to: try Destination(parsing: device?.destination ?? destination),
                recorded: device?.ssh.arguments,
                warn: { outage.warn($0) }
            )
            if let watch { login.objection = { watch.objection(to: $0) } }
            guard let device else {
                let text =
                    "'\(destination)' is not enrolled: plain SSH only, and no policy but the SSH server's. "
                    + "`bootstrap enroll` adds the native path."
                if standardForward == nil { printNotice(text) } else { printDetail(text) }
                return PeerAccess(
                    name: destination,
                    transports: [.ssh],
                    hbone: [],
                    expectation: .identities([]),
                    login: login
                )
            }
            return PeerAccess(
                name: device.name,
                transports: path.transports,
                hbone: device.hbone,
                expectation: .identities([device.identity]),
                login: login,
                relayCommand: device.hbone.first.map {
                    PeerAccess.relayCommand(program: device.agent.path, port: $0.port)
                }
            )
        } catch {
            throw fail("\(error)", .usage)
        }
    }
}

extension PathPreference: ExpressibleByArgument {}

/// What the command line asks for.
private struct Forwards: Sendable {
    var local: [PortForward] = []
    var remote: [RemoteForward] = []
    var dynamic: [DynamicForward] = []
    var standard: Authority?
}

/// A device, its forwards, and the paths between them, until somebody stops the command.
private struct Connection: Sendable {
    let access: PeerAccess
    let session: OperatorSession?
    let device: Device?
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
        watch: HostWatch?,
        forwards: Forwards,
        name: String,
        fallback: FallbackReason,
        outage: Outage
    ) {
        self.access = access
        self.session = session
        self.device = device
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
        loop.submit { paths.withValue { $0.shutDown() } }
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
                let listener = try Listener(bind: forward.bind, on: loop) { socket in
                    paths.withValue { $0.carry(socket, to: forward.destination) }
                }
                return listener.localAddress
            }
            report("listening \(address) → \(forward.destination) on \(name)")
        }
        for forward in forwards.dynamic {
            let address = try await loop.execute {
                let listener = try Listener(bind: forward.bind, on: loop) { socket in
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

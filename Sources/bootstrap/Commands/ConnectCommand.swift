public import ArgumentParser
import Glibc
import H2Transport
import Logging
import MeshIdentity
public import MeshNode
import SSHSignal
import Streams
import UnixSignals

struct ConnectCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "connect",
        abstract: "Reach services of a device: like ssh -L, over the fastest path that works.",
        discussion: """
            DEST is the name of an enrolled device, or whatever `ssh` would take. Streams to an enrolled device go over \
            mutual TLS and HTTP/2 (path h2), the same inside of SSH (h2-over-ssh), or plain SSH (ssh): the best one that \
            works, changed when it dies and changed back when it returns. Each change is one line on stdout. A peer that \
            does not prove its identity is refused on every path.

              bootstrap connect device1 -L 5432:localhost:5432
              psql -h 127.0.0.1 -p 5432

            The device decides by its own policy which ports may be reached: `bootstrap enroll --allow-port` names them.
            """
    )

    @Argument(help: ArgumentHelp("A device's name, or [user@]host[:port].", valueName: "DEST"))
    var destination: String

    @Option(
        name: [.customShort("L")],
        help: ArgumentHelp(
            "Listen here and connect there: [bind_address:]port:host:hostport, as ssh has it. May be repeated.",
            valueName: "FORWARD"
        )
    )
    var forwards: [String] = []

    @Option(help: ArgumentHelp("auto, h2, h2-over-ssh or ssh.", valueName: "PATH"))
    var path: NodeConfiguration.PathPreference = .automatic

    @OptionGroup var ssh: SSHOptionGroup
    @OptionGroup var authority: CAAccess

    func validate() throws {
        guard !forwards.isEmpty else { throw ValidationError("give at least one -L [bind_address:]port:host:hostport") }
    }

    func run() async throws {
        startLogging(.warning)
        let forwards: [PortForward]
        do throws(StreamError) {
            var parsed: [PortForward] = []
            for text in self.forwards { parsed.append(try PortForward(parsing: text)) }
            forwards = parsed
        } catch {
            throw fail(error.message, .usage)
        }
        let device = try findDevice()
        let identity = try device.map { try OperatorIdentity(for: $0, authority: authority) }
        let access = try makeAccess(device)
        let connection = Connection(access: access, identity: identity, forwards: forwards, name: destination)
        try await connection.run()
    }

    private func findDevice() throws -> DeviceRecord? {
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

    private func makeAccess(_ device: DeviceRecord?) throws -> PeerAccess {
        do {
            let arguments = ssh.isEmpty ? device?.ssh.arguments ?? ssh.arguments : ssh.arguments
            let login = try SSHLogin(
                to: try Destination(parsing: device?.destination ?? destination),
                arguments: arguments,
                prompts: .terminal()
            )
            guard let device else {
                printError("'\(destination)' is not enrolled: plain SSH only. `bootstrap enroll` adds the native path.")
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
                hbone: try device.hbone.map { try Authority(parsing: $0) },
                expectation: .identities([try SPIFFEID(device.identity)]),
                login: login
            )
        } catch {
            throw fail("\(error)", .usage)
        }
    }
}

extension NodeConfiguration.PathPreference: ExpressibleByArgument {
    /// In order of preference.
    fileprivate var transports: [Transport] {
        switch self {
        case .automatic: Transport.allCases
        case .h2: [.h2]
        case .h2OverSSH: [.h2OverSSH]
        case .ssh: [.ssh]
        }
    }
}

/// A device, its forwards, and the paths between them, until somebody stops the command.
private struct Connection: Sendable {
    let access: PeerAccess
    let identity: OperatorIdentity?
    let forwards: [PortForward]
    let name: String

    func run() async throws {
        let loop = EventLoop(name: "connect")
        let events = AsyncStream<PathChange>.makeStream()
        let credential = try identity?.issue()
        let context = try credential.map { try OperatorIdentity.context($0) }
        let paths: LoopBound<PeerPaths>
        do {
            paths = try await loop.execute { [access] in
                // Whoever runs the command waits for streams: a login that asked for a passphrase must not have to ask again.
                var settings = ConnectionSettings.defaults
                settings.idleTimeout = nil
                let paths = PeerPaths(
                    to: access,
                    context: context,
                    settings: settings,
                    on: loop,
                    logger: Logger(label: "connect")
                ) {
                    events.continuation.yield($0)
                }
                return LoopBound(paths, on: loop)
            }
            try await listen(paths, on: loop)
        } catch {
            throw fail("\(error)")
        }
        loop.submit { paths.withValue { $0.start() } }
        let signals = await UnixSignalsSequence(trapping: .sigint, .sigterm)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                for await _ in signals { return }
            }
            group.addTask { try await follow(events.stream, paths, own: credential?.id) }
            if let identity, let credential {
                group.addTask { try await renew(credential, identity, paths) }
            }
            defer { group.cancelAll() }
            try await group.next()
        }
        loop.submit { paths.withValue { $0.shutDown() } }
        await loop.shutDown()
    }

    private func listen(_ paths: LoopBound<PeerPaths>, on loop: EventLoop) async throws {
        for forward in forwards {
            let address = try await loop.execute {
                let listener = try Listener(bind: forward.bind, on: loop) { socket in
                    paths.withValue { $0.carry(socket, to: forward.destination) }
                }
                return listener.localAddress
            }
            printLine("listening \(address) → \(forward.destination) on \(name)")
        }
    }

    /// Prints each change of path; ends when there is no hope.
    private func follow(_ events: AsyncStream<PathChange>, _ paths: LoopBound<PeerPaths>, own: SPIFFEID?) async throws {
        var hasBeenUp = false
        for await event in events {
            switch event {
            case .using(let transport, _, _, let peer):
                printLine("\(event)")
                if !hasBeenUp || peer != nil, let own {
                    let other = peer?.description ?? "by SSH host key only"
                    if !hasBeenUp || transport == .h2 { printLine("identities: local \(own), peer \(other)") }
                }
                hasBeenUp = true
            case .unreachable(let error):
                let login = try await loginError(paths)
                if hasBeenUp {
                    printError(error.message)
                } else if login?.code == .authenticationRefused {
                    throw fail(error.message, .authenticationRefused)
                } else {
                    throw fail(error.message, .unreachable)
                }
            case .refused(let error):
                guard !hasBeenUp else {
                    printError("refused: \(error.message)")
                    continue
                }
                let login = try await loginError(paths)
                throw fail(error.message, login?.code == .hostKeyRefused ? .hostKeyRefused : .authenticationRefused)
            }
        }
    }

    private func loginError(_ paths: LoopBound<PeerPaths>) async throws -> SSHError? {
        try await paths.loop.execute { paths.withValue(\.loginError) }
    }

    /// A connection that stays up for days outlives its certificate: new connections show a fresh one.
    private func renew(_ first: Credential, _ identity: OperatorIdentity, _ paths: LoopBound<PeerPaths>) async throws {
        var current = first
        while true {
            let now = Int64(time(nil))
            let schedule = RenewalSchedule(notBefore: current.notBefore, notAfter: current.notAfter)
            try await Task.sleep(for: .seconds(max(1, schedule.wait(at: now))))
            current = try identity.issue()
            let context = try OperatorIdentity.context(current)
            paths.loop.submit { paths.withValue { $0.use(context) } }
        }
    }
}

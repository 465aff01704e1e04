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

            -R has the device's node listen where that allows it (`bootstrap allow --listen`), and else its sshd. That one, and Unix \
            sockets of the far side, need SSH, which is connected for them beside the path in use. -D resolves names on the far side. \
            -W makes one connection of standard input and output, for ssh's ProxyCommand and the like; each direction ends on its own.

            The device decides by its own policy which ports may be reached: `bootstrap enroll --allow-port` names them. On path \
            ssh, where its node takes no part, this command decides by the same. -R over SSH and Unix sockets of the far side are, \
            like exec, what the login may do.

            -f goes to the background once a path works and everything listens; the exit code says whether it does. With -S \
            the first process shares its paths, and others with the same path use them, without a login of their own:

              bootstrap connect device1 -f -S ~/.ssh/device1.sock
              bootstrap connect device1 -S ~/.ssh/device1.sock -L 8080:localhost:80
              bootstrap connect device1 -S ~/.ssh/device1.sock -O exit
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

    @Flag(
        name: [.customShort("f")],
        help: "Go to the background once a path works and all forwards listen. What a login asks is asked before."
    )
    var background = false

    @Option(name: [.customShort("E")], help: ArgumentHelp("Append what goes to stderr to FILE.", valueName: "FILE"))
    var logFile: String?

    @Option(
        name: [.customShort("S")],
        help: ArgumentHelp(
            "Share the paths of the process that listens on this Unix socket, or listen there; none: share nothing. Tokens as in "
                + "ssh's ControlPath (%C, %h, %p, %r, …).",
            valueName: "PATH"
        )
    )
    var controlPath: String?

    @Flag(name: [.customShort("M")], help: "Be the process that listens on that socket, and use no other's paths.")
    var isMaster = false

    @Option(
        name: [.customShort("O")],
        help: ArgumentHelp(
            "Have the process that listens on that socket do this: check (say what it has), exit, forward or cancel (the -L, -R and "
                + "-D that are given).",
            valueName: "COMMAND"
        )
    )
    var request: ControlRequest.Action?

    @Option(help: ArgumentHelp("auto, h2, h2-via-gateway, h2-over-ssh or ssh.", valueName: "PATH"))
    var path: PathPreference = .automatic

    @Option(
        help: ArgumentHelp(
            "Also through the gateway there, with mutual TLS to the device inside: after its addresses, and before SSH. With '=' and a "
                + "SPIFFE ID where the gateway is not of the device's namespace. May be repeated.",
            valueName: "HOST:PORT"
        )
    )
    var gateway: [String] = []

    @Flag(help: "Multipath TCP to the device's node, where both kernels do that.")
    var multipath = false

    @Flag(help: "Keep the way over SSH ready while h2 is used: streams go on sooner, for a session more there.")
    var standby = false

    @OptionGroup var ssh: SSHOptionGroup
    @OptionGroup var authority: CAAccess

    func validate() throws {
        let hasForwards = !(forwards + remoteForwards + dynamicForwards).isEmpty
        if let request {
            guard standardForward == nil, !background else {
                throw ValidationError(
                    "-O \(request.rawValue) has another process do something: neither -W nor -f go with it"
                )
            }
            let takesForwards = request == .forward || request == .cancel
            guard takesForwards == hasForwards else {
                throw ValidationError(
                    takesForwards
                        ? "-O \(request.rawValue) needs at least one of -L, -R and -D"
                        : "-O \(request.rawValue) takes no forwards"
                )
            }
            return
        }
        guard !background || standardForward == nil else {
            throw ValidationError("-f has no standard input and output for -W")
        }
    }

    /// Not in `validate()`, which is asked before options that do not exist are told: a misspelt one is not found out
    /// by fixing something else.
    private func checkPurpose() throws {
        let hasForwards = !(forwards + remoteForwards + dynamicForwards).isEmpty
        guard request == nil, !noCommand, !background, !isMaster, controlPath == nil, standardForward == nil,
            !hasForwards
        else { return }
        throw fail(
            "give at least one of -L [bind_address:]port:host:hostport, -R (the same, listening there), "
                + "-D [bind_address:]port and -W host:port; 'bootstrap connect --help' shows them all",
            .usage
        )
    }

    func run() async throws {
        try checkPurpose()
        if let logFile { try Self.log(to: logFile) }
        startLogging(.warning)
        raiseDescriptorLimit()
        // What keeps the paths for ControlPersist has nothing else to do: that is left to the process that has started
        // it.
        let forwards = try Background.isMaster ? Forwards() : parseForwards()
        let device = try target.findDevice()
        let logins = try ssh.logins()
        let configuration = try logins.configuration(of: device, destination, controlPath: controlPath)
        let place = ControlPlace(configuration, isMaster: isMaster, isTyped: controlPath != nil)
        // Whom the paths lead to, for those who share them.
        let peer = device?.name ?? ControlPlace.peer(configuration)
        if let request {
            guard let place else { throw fail("-O \(request.rawValue) needs -S PATH, or a ControlPath", .usage) }
            return try await ControlRequest(action: request, path: place.path, peer: peer, forwards: forwards).run()
        }
        guard !isMaster || place != nil else { throw fail("-M needs -S PATH, or a ControlPath", .usage) }
        if let device { try target.check(device) }
        let persists = place?.listens == true && configuration.controlPersist.isOn
        var hasStartedMaster = false
        while true {
            if let place, place.joins || hasStartedMaster {
                let joined = JoinedConnection(
                    place: place,
                    peer: peer,
                    preference: path,
                    forwards: forwards,
                    exitsOnForwardFailure: configuration.exitOnForwardFailure,
                    leavesForwards: background || Background.isMaster || (persists && forwards.areEmpty),
                    name: destination
                )
                switch try await joined.run() {
                case .ended: return
                case .noMaster where hasStartedMaster:
                    throw fail("the process that was started for ControlPersist has ended: -E FILE keeps what it says")
                case .noMaster: break
                case .masterGone:
                    hasStartedMaster = false
                    printNotice("the process whose paths were shared has ended: connecting anew")
                    continue
                }
            }
            if persists, !background, !Background.isThisProcess {
                try Background.start(asMaster: true)
                hasStartedMaster = true
                continue
            }
            if background, !Background.isThisProcess { return try Background.start() }
            guard let connection = try connection(to: device, forwards, configuration, place, peer, logins) else {
                continue
            }
            return try await connection.run()
        }
    }

    /// Standard error is that file from here on.
    private static func log(to file: String) throws {
        let descriptor = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw fail("-E \(file): \(String(cString: strerror(errno)))", .usage) }
        dup2(descriptor, STDERR_FILENO)
        close(descriptor)
    }

    /// - Returns: nil where another process has begun to share its paths just now.
    private func connection(
        to device: Device?,
        _ forwards: Forwards,
        _ configuration: SSHClientConfiguration,
        _ place: ControlPlace?,
        _ peer: String,
        _ logins: LoginOptions
    ) throws -> Connection? {
        var certificate = device.map { CertificateWatch($0.name, in: DeviceDirectory(Home.devices)) }
        if let device, let warning = certificate?.warning(device, at: WallClock.system.seconds) {
            printWarning(warning)
        }
        let session = try device.map { try target.makeSession($0) }
        // Whoever is no device by this name may be one by another.
        let watch = device == nil ? HostWatch(target.trust) : nil
        let fallback = FallbackReason()
        let outage = Outage()
        let access = try makeAccess(device, watch, fallback, outage, logins)
        var sharing: Sharing?
        // What carries one stream ends with it, and nobody else's may end then.
        let isShared = Background.isMaster || standardForward == nil || !forwards.list.isEmpty || noCommand
        if let place, place.listens, isShared {
            do throws(StreamError) {
                // In the foreground it is somebody's, who ends it.
                let limit = Background.isThisProcess ? configuration.controlPersist.limit : nil
                sharing = Sharing(socket: try place.listen(), peer: peer, preference: path, idleLimit: limit)
            } catch  where error.code == .addressInUse && place.joins {
                return nil
            } catch {
                throw fail(error.message, error.code == .denied ? .denied : .failed)
            }
        }
        return Connection(
            access: access,
            session: session,
            device: device,
            certificate: certificate,
            watch: watch,
            forwards: forwards,
            name: destination,
            fallback: fallback,
            outage: outage,
            sharing: sharing,
            multipath: multipath,
            standby: standby,
            exitsOnForwardFailure: configuration.exitOnForwardFailure
        )
    }

    private func parseForwards() throws -> Forwards {
        var parsed = Forwards()
        do throws(StreamError) {
            for (letter, texts) in [("L", forwards), ("D", dynamicForwards), ("R", remoteForwards)] {
                for text in texts {
                    guard ControlMessage.carries(text) else {
                        throw StreamError(.badRequest, "-\(letter): a line break or a tab is in no forward")
                    }
                    parsed.list.append(try Forward(letter, text))
                    parsed.words.append((letter, text))
                }
            }
        } catch {
            throw fail(error.message, .usage)
        }
        do throws(StreamError) {
            parsed.standard = try standardForward.map { text throws(StreamError) in
                try StreamError.reading(PathTarget.standardTarget(text))
            }
        } catch {
            throw fail("-W: \(error.message)", .usage)
        }
        return parsed
    }

    private var target: PathTarget {
        PathTarget(destination: destination, path: path, authority: authority, gateways: gateway)
    }

    private func makeAccess(
        _ device: Device?,
        _ watch: HostWatch?,
        _ fallback: FallbackReason,
        _ outage: Outage,
        _ logins: LoginOptions
    ) throws -> PeerAccess {
        var access = try target.makeAccess(device, watch, fallback.told(before: logins)) { outage.warn($0) }
        if let device {
            guard !device.agent.path.isEmpty else { return access }
            // The agent in use, which may be newer than the one that is recorded.
            let current = AtomicFile.split(device.agent.state).directory + "/current/bootstrap"
            access.signalCommand = PeerAccess.signalCommand(
                programs: [current, device.agent.path],
                state: device.agent.state
            )
        } else {
            let text =
                "'\(destination)' is not enrolled: plain SSH only, and no policy but the SSH server's. "
                + "`bootstrap enroll` adds the native path."
            if standardForward == nil { printNotice(text) } else { printDetail(text) }
        }
        return access
    }
}

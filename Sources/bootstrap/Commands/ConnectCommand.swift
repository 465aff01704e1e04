import ArgumentParser
import Fleet
import Logging
import MeshIdentity
package import MeshPaths
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
        var certificate = device.map { CertificateWatch($0.name, in: DeviceDirectory(Home.devices)) }
        if let device, let warning = certificate?.warning(device, at: WallClock.system.seconds) {
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
            certificate: certificate,
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
        let records = DeviceDirectory(Home.devices)
        do throws(HostError) {
            let needsDevice = path != .automatic && path != .ssh
            return needsDevice ? try records.enrolled(destination) : try records.enrolledIfAny(destination)
        } catch {
            throw fail(
                HostError(
                    error.reason,
                    path == .automatic ? error.message : "--path \(path.rawValue): \(error.message)"
                )
            )
        }
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

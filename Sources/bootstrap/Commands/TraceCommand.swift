import ArgumentParser
import Fleet
import H2Transport
import Logging
import MeshIdentity
import MeshNode
import MeshPaths
import MeshPolicy
import Platform
import SSHSignal
import Streams

struct TraceCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trace",
        abstract: "Go each path to a device step by step, and say how long each step takes and which one fails.",
        discussion: """
            DEST is as `connect` takes it: the name of an enrolled device, or whatever `ssh` would take. Each address of its node \
            (path h2), h2-over-ssh and ssh are gone one after the other: DNS, TCP, SSH key exchange, host key, login, TLS, HTTP/2 \
            SETTINGS, CONNECT and the first byte. A step that fails says why and what to do about it; those behind it are not \
            reached. Nothing is sent to the service, and nothing is changed anywhere; a host key that the user accepts is recorded, \
            as by ssh.

              bootstrap trace camera.lan
              bootstrap trace camera.lan --path h2 -W localhost:554 --json

            With --config, DEST is what a user of that node would ask for, and the paths are those of its endpoint, gateways among them:

              bootstrap trace --config node.yaml db.prod:5432

            Exit code: that of `connect` over the same paths. 0 where a stream would have been opened.
            """
    )

    @Argument(
        help: ArgumentHelp("A device's name, or [user@]host[:port]; with --config HOST:PORT.", valueName: "DEST"),
        completion: .devices
    )
    var destination: String

    @Option(help: ArgumentHelp("auto (each one), h2, h2-via-gateway, h2-over-ssh or ssh.", valueName: "PATH"))
    var path: PathPreference = .automatic

    @Option(
        help: ArgumentHelp(
            "Also through the gateway there; with '=' and a SPIFFE ID where it is not of the device's namespace. May be repeated.",
            valueName: "HOST:PORT"
        )
    )
    var gateway: [String] = []

    @Option(
        name: [.customShort("W")],
        help: ArgumentHelp(
            "Where the stream of each path is to end. (default: the first place that the device allows)",
            valueName: "HOST:PORT"
        )
    )
    var target: String?

    @Option(help: ArgumentHelp("Go the paths of this node's endpoint for DEST.", valueName: "FILE"))
    var config: String?

    @Option(
        help: ArgumentHelp(
            "For each step, those of an SSH login aside: theirs is -o ConnectTimeout.",
            valueName: "TIME"
        )
    )
    var timeout = DurationArgument(.seconds(10))

    @Option(help: ArgumentHelp("text, or json: one object.", valueName: "FORMAT"))
    var output = ResultFormat.text

    @Flag(help: "The same as --output json.")
    var json = false

    @OptionGroup var ssh: SSHOptionGroup
    @OptionGroup var authority: CAAccess

    func validate() throws {
        guard
            config == nil
                || (path == .automatic && gateway.isEmpty && target == nil && ssh.isEmpty && authority.isEmpty)
        else {
            throw ValidationError(
                "--config says itself which paths there are, and how: it goes without --path, --gateway, -W and those of SSH"
            )
        }
    }

    func run() async throws {
        startLogging(.error)
        let loop = EventLoop(name: "trace")
        let result: Result<HostError.Reason?, any Error>
        do { result = .success(try await trace(on: loop)) } catch { result = .failure(error) }
        await loop.shutDown()
        if let reason = try result.get() { throw reason.exitCode }
    }

    private func trace(on loop: EventLoop) async throws -> HostError.Reason? {
        if let config { return try await trace(by: config, on: loop) }
        let whom = PathTarget(destination: destination, path: path, authority: authority, gateways: gateway)
        let device = try whom.findDevice()
        if let device { try whom.check(device) }
        let target = try self.target.map { try parse($0, "-W") } ?? device?.firstAllowed
        let session = try device.map { try whom.makeSession($0) }
        // Whoever is no device by this name may be one by another.
        let watch = device == nil ? HostWatch(whom.trust) : nil
        let access = try whom.makeAccess(device, watch, try ssh.logins()) { printNotice($0) }
        let policy = device.flatMap(EnrolledPolicy.init)
        let tracer = PathTracer(
            access,
            context: session?.context,
            target: target,
            timeout: timeout.duration,
            on: loop,
            logger: Logger(label: "trace"),
            permits: { policy?.refusal(of: $0, over: $1) }
        )
        let reason = await run(tracer, device, target)
        // A machine that must not be reached is the cause of whatever else failed.
        return watch?.refusal?.reason ?? reason
    }

    /// As a user of that node.
    private func trace(by file: String, on loop: EventLoop) async throws -> HostError.Reason? {
        let peer: ConfiguredPeer
        do {
            let configuration = try NodeConfiguration.load(file)
            try configuration.validate(checkingFiles: false)
            peer = try await ConfiguredPeer(to: try parse(destination, "DEST"), by: configuration, file: file) {
                printWarning($0)
            }
        } catch let error as ExitCode {
            throw error
        } catch let error as IdentityError {
            throw fail(error)
        } catch let error as ConfigurationError {
            throw fail(error.description, .usage)
        } catch {
            throw fail("--config \(file): \(error)", .usage)
        }
        let tracer = PathTracer(
            peer.access,
            context: peer.context,
            target: peer.authority,
            settings: peer.settings,
            timeout: timeout.duration,
            on: loop,
            logger: Logger(label: "trace"),
            permits: { peer.refusal(over: $1) }
        )
        return await run(tracer, nil, peer.authority)
    }

    private func run(_ tracer: PathTracer, _ device: Device?, _ target: Authority?) async -> HostError.Reason? {
        var report = TraceReport(destination, device: device, target: target, isJSON: json || output == .json)
        await tracer.run(began: { report.began($0) }, ended: { report.ended($0) })
        return report.end()
    }

    private func parse(_ text: String, _ option: String) throws -> Authority {
        do throws(AddressError) {
            return try PathTarget.standardTarget(text)
        } catch {
            throw fail("\(option): \(error.message)", .usage)
        }
    }
}

extension Device {
    /// What a stream to it can lead to; nil where nothing is allowed, or known of it.
    fileprivate var firstAllowed: Authority? {
        guard let place = reachable?.first else { return nil }
        return try? Authority(parsing: UInt16(place) == nil ? place : "localhost:\(place)")
    }
}

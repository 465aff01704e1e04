public import ArgumentParser
import Glibc
import H2Transport
public import Logging
import MeshIdentity
import MeshNode
import MeshPaths
import Platform
import SSHSignal
import Streams

struct NodeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "node",
        abstract: "Run the daemon: HBONE server, local listeners and the paths to other nodes.",
        discussion: """
            The configuration is described in docs/configuration.md; --check validates it and exits. For each listener one \
            line `ready NAME ADDRESS` goes to stdout once it accepts connections; logs go to stderr.

            A renewed credential or a changed file is taken over by itself, and at once with SIGHUP. SIGTERM and SIGINT let \
            open streams end, for as long as --drain says; a second one ends them at once.

            Started again with the same --runtime directory, the new process takes the listening sockets over from the \
            running one, which ends with its last stream: no connection attempt is refused in between.

            Minimal configuration of a server that lets peers of the namespace prod reach port 5432 of its machine:

                identity: /etc/bootstrap/identity
                listeners:
                - {name: hbone, bind: "0.0.0.0:15008", protocol: hbone}
                policy:
                - name: db
                  action: ALLOW
                  rules:
                  - from: [{namespaces: [prod]}]
                    to: [{hosts: ["127.0.0.1"], ports: [5432]}]
            """
    )

    @Option(name: .long, help: ArgumentHelp("The configuration file.", valueName: "FILE"))
    var config: String?

    @Flag(
        help: "Ask for a password, or read it from stdin, print its hash for a listener's file of users, and exit."
    )
    var hashPassword = false

    @Flag(help: "Check the configuration and exit: 0 when it is valid, 2 when not.")
    var check = false

    @Flag(
        help: "Print what is in effect, with every default, as JSON that is a configuration itself, and exit."
    )
    var printConfig = false

    @Option(help: ArgumentHelp("Event loops, one thread each; the default is one per processor.", valueName: "N"))
    var loops: Int?

    @Option(help: ArgumentHelp("How long open streams may take to end when the node is stopped.", valueName: "TIME"))
    var drain = DurationArgument(.seconds(5))

    @Option(
        help: ArgumentHelp(
            "Directory for the socket over which the next process takes over; $RUNTIME_DIRECTORY by default, else none.",
            valueName: "DIR"
        )
    )
    var runtime: String?

    @Option(help: ArgumentHelp("trace, debug, info, notice, warning, error or critical.", valueName: "LEVEL"))
    var logLevel: Logger.Level = .notice

    @OptionGroup var messages: MessageOptions

    func validate() throws {
        guard config != nil || hashPassword else {
            throw ValidationError("Missing expected argument '--config <FILE>'")
        }
        guard loops ?? 1 >= 1 else { throw ValidationError("--loops must be at least 1") }
    }

    func run() async throws {
        if hashPassword { return print(try Self.hash(try Self.password())) }
        guard let config else { return }
        let configuration: NodeConfiguration
        do {
            configuration = try NodeConfiguration.load(config)
            try configuration.validate()
        } catch {
            throw fail("\(error)", .usage)
        }
        if printConfig {
            let bundle = configuration.directory.flatMap { _ in
                try? configuration.ownBundle()
            }
            let directory = bundle.flatMap { bundle in
                configuration.knownDirectory(beside: config, bundle: bundle) { printWarning($0) }
            }
            if let text = configuration.inEffect(beside: directory) { printLine(String(text.dropLast())) }
            return
        }
        if check {
            do throws(ConfigurationError) { try configuration.checkDirectory() } catch {
                throw fail("\(error)", .usage)
            }
            for warning in configuration.warnings { printWarning("\(warning)") }
            printDone("\(config) is valid")
            return
        }
        startLogging(logLevel, to: LogFile.ofThisProcess())
        // Whoever waited for `ready` may have gone.
        signal(SIGPIPE, SIG_IGN)
        raiseDescriptorLimit()
        let logger = Logger(label: "node")
        logger.notice(
            "starting",
            metadata: ["release": "\(AgentRelease.version)", "libcrypto": "\(AESGCM.ofThisProcess.description)"]
        )
        let service = NodeService(
            node: Node(
                configuration,
                configurationFile: config,
                loops: loops ?? EventLoopGroup.availableProcessors,
                logger: logger
            ),
            runtimeDirectory: runtimeDirectory,
            drain: drain.duration,
            drainAfterTakeover: configuration.connections.drainTimeout,
            logger: logger
        )
        do {
            try await service.run()
        } catch let code as ExitCode {
            throw code
        } catch {
            throw fail("\(error)")
        }
    }

    private static func hash(_ password: [UInt8]) throws -> PasswordHash {
        // RFC 1929 has one byte for the length.
        guard (1...255).contains(password.count) else { throw fail("a password must have 1 to 255 bytes", .usage) }
        return try PasswordHash(of: password)
    }

    private static func password() throws -> [UInt8] {
        guard isatty(STDIN_FILENO) == 1 else { return Array((readLine() ?? "").utf8) }
        let answers = ["Password: ", "The same again: "].map { TerminalPrompt.passphrase($0)?.withBytes { Array($0) } }
        guard let first = answers[0], first == answers[1] else { throw fail("the passwords are not the same", .usage) }
        return first
    }

    /// The directory where a running node hands over: named here, or made by systemd (RuntimeDirectory=).
    private var runtimeDirectory: String? {
        runtime ?? getenv("RUNTIME_DIRECTORY").map { String(cString: $0) }?.split(separator: ":").first.map(String.init)
    }
}

extension Logger.Level: @retroactive ExpressibleByArgument {}

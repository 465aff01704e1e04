public import ArgumentParser
import Glibc
public import Logging
import MeshIdentity
import MeshNode
import ServiceLifecycle
import Streams
import UnixSignals

struct NodeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "node",
        abstract: "Run the daemon: HBONE server, local listeners and the paths to other nodes.",
        discussion: """
            The configuration is described in docs/configuration.md; --check validates it and exits. For each listener one \
            line `ready NAME ADDRESS` goes to stdout once it accepts connections; logs go to stderr.

            A renewed credential or a changed file is taken over by itself, and at once with SIGHUP. SIGTERM and SIGINT let \
            open streams end, for as long as --drain says.

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
    var config: String

    @Flag(help: "Check the configuration and exit: 0 when it is valid, 2 when not.")
    var check = false

    @Option(help: ArgumentHelp("Event loops, one thread each; the default is one per processor.", valueName: "N"))
    var loops: Int?

    @Option(help: ArgumentHelp("How long open streams may take to end when the node is stopped.", valueName: "TIME"))
    var drain = DurationArgument(.seconds(5))

    @Option(help: ArgumentHelp("trace, debug, info, notice, warning, error or critical.", valueName: "LEVEL"))
    var logLevel: Logger.Level = .notice

    func validate() throws {
        guard loops ?? 1 >= 1 else { throw ValidationError("--loops must be at least 1") }
    }

    func run() async throws {
        let configuration: NodeConfiguration
        do {
            configuration = try NodeConfiguration.load(config)
            try configuration.validate()
        } catch {
            throw fail("\(error)", .usage)
        }
        if check {
            print("\(config) is valid")
            return
        }
        startLogging(logLevel)
        let logger = Logger(label: "node")
        let service = NodeService(
            node: Node(
                configuration,
                configurationFile: config,
                loops: loops ?? max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))),
                logger: logger
            ),
            drain: drain.duration,
            logger: logger
        )
        let group = ServiceGroup(
            configuration: .init(
                services: [.init(service: service, successTerminationBehavior: .gracefullyShutdownGroup)],
                gracefulShutdownSignals: [.sigterm, .sigint],
                logger: logger
            )
        )
        do {
            try await group.run()
        } catch {
            throw fail("\(error)")
        }
    }
}

extension Logger.Level: @retroactive ExpressibleByArgument {}

/// Runs a node until it is told to stop.
private struct NodeService: Service {
    let node: Node
    let drain: Duration
    let logger: Logger

    func run() async throws {
        // Before anybody can know that the node runs: an untrapped SIGHUP would end it.
        let hangups = await UnixSignalsSequence(trapping: .sighup)
        for listener in try await node.start() { printLine("ready \(listener.name) \(listener.address)") }
        await withTaskGroup(of: Void.self) { group in
            group.addTask {
                for await _ in hangups.cancelOnGracefulShutdown() {
                    do { try await node.reload() } catch { logger.error("not reloaded: \(error)") }
                }
            }
            group.addTask {
                // Two seconds bound how long an expired certificate is still shown after its renewal.
                while !Task.isCancelled, !Task.isShuttingDownGracefully {
                    try? await Task.sleep(for: .seconds(2))
                    await node.reloadIfChanged()
                }
            }
            try? await gracefulShutdown()
            group.cancelAll()
        }
        logger.notice("draining", metadata: ["for at most": "\(drain)"])
        await node.drain(deadline: drain)
    }
}

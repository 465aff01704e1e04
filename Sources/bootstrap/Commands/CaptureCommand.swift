import ArgumentParser
import MeshNode
import Platform

struct CaptureCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "capture",
        abstract: "Set the packet filter's rules that lead connections to a node's listeners.",
        discussion: """
            The rules are those that the `capture:` keys of the node's listeners ask for; docs/configuration.md has them. They \
            stand in one nftables table of their own, `inet bootstrap`, and touch no other. Needs root or CAP_NET_ADMIN, and the \
            programs nft and, for `mode: tproxy`, ip.
            """,
        subcommands: [CaptureInstall.self, CaptureVerify.self, CaptureRemove.self]
    )
}

/// Which network the rules are for.
struct CaptureNetwork: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The network namespace, a file like /run/netns/NAME or /proc/PID/ns/net. (default: this one)",
            valueName: "PATH"
        )
    )
    var netns: String?

    /// Synchronous, as all of these commands: it is this thread that changes its namespace.
    func enter() throws {
        guard let netns else { return }
        try requireFile(netns, "--netns")
        do throws(CaptureError) { try CaptureInstaller.enter(namespace: netns) } catch { throw fail("\(error)") }
    }

    func installer(_ config: String) throws -> CaptureInstaller {
        let configuration: NodeConfiguration
        do throws(ConfigurationError) {
            configuration = try NodeConfiguration.load(config)
            // The credential is the node's affair.
            try configuration.validate(checkingFiles: false)
        } catch {
            throw fail("\(error)", .usage)
        }
        let installer = CaptureInstaller(configuration, on: .read(for: configuration))
        guard !installer.rules.listeners.isEmpty else {
            throw fail("\(config): no listener has 'capture': add it to a listener with protocol transparent", .usage)
        }
        return installer
    }
}

struct CaptureInstall: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "install",
        abstract: "Set the rules, in the place of those that an earlier call has set.",
        discussion:
            "All of them are set in one step, or none is. Where nothing listens yet, `onFailure` says what happens."
    )

    @Option(help: ArgumentHelp("The node's configuration file.", valueName: "FILE"))
    var config: String
    @OptionGroup var network: CaptureNetwork
    @OptionGroup var messages: MessageOptions
    @Flag(help: "Print the rules, as nft takes them, and set nothing.")
    var dryRun = false

    func run() throws {
        try network.enter()
        let installer = try network.installer(config)
        if dryRun {
            _ = writeStandardOutput(Array(installer.rules.text.utf8))
            return
        }
        do throws(CaptureError) { try installer.install() } catch { throw fail("\(error)") }
        for listener in installer.rules.listeners { printDone("capture \(listener.name) \(listener.bind)") }
    }
}

struct CaptureVerify: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Compare the rules with what they should be, and try a connection.",
        discussion: """
            Ends with 0 when everything is as the configuration asks for and a connection was taken by the listener, else with 1. \
            The connection goes to an address that stands in documents only; the node refuses it, and its log says so.
            """
    )

    @Option(help: ArgumentHelp("The node's configuration file.", valueName: "FILE"))
    var config: String
    @OptionGroup var network: CaptureNetwork
    @OptionGroup var messages: MessageOptions

    func run() throws {
        try network.enter()
        let installer = try network.installer(config)
        var isWorking: Bool
        do throws(CaptureError) {
            let differences = try installer.differences()
            for difference in differences { printLine("\(difference)") }
            if differences.isEmpty { printDone("rules are as \(config) asks for") }
            isWorking = differences.isEmpty
            let isThere = try CaptureInstaller.isInstalled
            for listener in installer.rules.listeners where isThere {
                isWorking = try tryOut(listener, installer) && isWorking
            }
        } catch {
            throw fail("\(error)")
        }
        guard isWorking else { throw fail("capture does not work as it should; see above") }
    }

    private func tryOut(
        _ listener: NodeConfiguration.Listener,
        _ installer: CaptureInstaller
    ) throws(CaptureError) -> Bool {
        let before = try installer.captured()[listener.name] ?? 0
        printDone("capture \(listener.name): \(before) so far")
        guard let trials = CaptureTrial.trials(for: listener) else {
            printDone(
                "capture \(listener.name): not tried, since no connection of this program is captured by it; try it from where one is"
            )
            return true
        }
        var isWorking = true
        for trial in trials {
            let count = try installer.captured()[listener.name] ?? 0
            let outcome = trial.run()
            let isCaptured = try installer.captured()[listener.name] ?? 0 > count
            let what = "a connection to \(trial.address) port \(trial.port)"
            switch outcome {
            case .taken where isCaptured: printDone("capture \(listener.name): \(what) was captured, and taken")
            case .refused where isCaptured:
                printLine(
                    "capture \(listener.name): \(what) was captured, but nobody listens on \(listener.bind): start the node"
                )
                isWorking = false
            case .failed(let reason) where !isCaptured:
                // Without a route the kernel asks no rule.
                printLine("capture \(listener.name): \(what) could not be tried: \(reason)")
                if trial.address.isIPv4 { isWorking = false }
            case .taken, .refused, .silence, .failed:
                printLine("capture \(listener.name): \(what) was not captured")
                isWorking = false
            }
        }
        return isWorking
    }
}

struct CaptureRemove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Take the rules away; nothing of them is left.",
        discussion:
            "Connections that were captured go on, those with `mode: tproxy` only as long as the rules were needed for them."
    )

    @Option(help: ArgumentHelp("The node's configuration file; it is not read.", valueName: "FILE"))
    var config: String?
    @OptionGroup var network: CaptureNetwork
    @OptionGroup var messages: MessageOptions

    func run() throws {
        try network.enter()
        let wasThere: Bool
        do throws(CaptureError) {
            wasThere = try CaptureInstaller.isInstalled
            try CaptureInstaller.remove()
        } catch {
            throw fail("\(error)")
        }
        printNotice(wasThere ? "the rules are gone" : "there were no rules")
    }
}

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
        for listener in installer.unattended {
            let isOpen = listener.capture?.onFailure == .open
            printNotice(
                "nobody listens on \(listener.bind) yet: what \(listener.name) captures "
                    + (isOpen ? "goes on as without rules" : "is refused") + " until the node runs"
            )
        }
    }
}

struct CaptureVerify: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Compare the rules with what they should be, and try them.",
        discussion: """
            Ends with 0 when everything is as the configuration asks for and the listener took what was tried, else with 1. A \
            connection goes to an address that stands in documents only; the node refuses it, and its log says so. A dns listener is \
            asked for the name of an address of the mesh. What cannot be tried from here is said, with the reason. Where many \
            rules differ, -v lists them.
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
            tell(differences)
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

    /// A few differences are each worth a line; many come of another configuration.
    private func tell(_ differences: [String]) {
        if differences.isEmpty { return printDone("rules are as \(config) asks for") }
        let isShort = differences.count <= 5 || Verbosity.current >= .verbose
        for difference in differences where isShort { printLine(difference) }
        guard differences.count > 5 else { return }
        let missing = differences.filter { $0.hasPrefix("missing: ") }.count
        let foreign = differences.filter { $0.hasPrefix("not ours: ") }.count
        printLine(
            "the rules are those of another configuration than \(config): \(missing) are missing, \(foreign) are not of it"
                + "\(isShort ? "" : " (-v lists them)"). `bootstrap capture install --config \(config)` sets them"
        )
    }

    private func tryOut(
        _ listener: NodeConfiguration.Listener,
        _ installer: CaptureInstaller
    ) throws(CaptureError) -> Bool {
        let before = try installer.captured()[listener.name] ?? 0
        printDone("capture \(listener.name): \(before) so far")
        let trials: [CaptureTrial]
        do throws(CaptureTrial.Untried) {
            trials = try installer.trials(for: listener)
        } catch {
            printLine(
                "capture \(listener.name): not tried, since \(error.reason); try it from where something is captured"
            )
            return true
        }
        var isWorking = true
        for trial in trials {
            let count = try installer.captured()[listener.name] ?? 0
            let outcome = trial.run()
            let isCaptured = try installer.captured()[listener.name] ?? 0 > count
            let what = trial.description
            switch outcome {
            case .taken where isCaptured: printDone("capture \(listener.name): \(what) was captured, and taken")
            case .silence where isCaptured:
                printLine("capture \(listener.name): \(what) was captured, but \(listener.bind) does not answer")
                isWorking = false
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

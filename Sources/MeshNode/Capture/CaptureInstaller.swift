import CLinux
import Glibc
import Platform

/// What is wrong with the rules, or keeps them from being set.
package struct CaptureError: Error, Hashable, Sendable, CustomStringConvertible {
    package var description: String
}

/// Sets rules, looks at them and takes them away, with the programs `nft` and `ip`. All of it happens in the network
/// namespace of the calling thread, and blocks.
package struct CaptureInstaller {
    package let rules: CaptureRules
    private let surroundings: CaptureSurroundings

    package init(_ configuration: NodeConfiguration, on surroundings: CaptureSurroundings) {
        self.surroundings = surroundings
        rules = CaptureRules(configuration, on: surroundings)
    }

    /// From here on this thread, and the programs that it starts, are in another network namespace.
    package static func enter(namespace path: String) throws(CaptureError) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else {
            throw CaptureError(
                description: "\(path): \(String(cString: strerror(errno))). A network namespace is a file like "
                    + "/run/netns/NAME or /proc/PID/ns/net"
            )
        }
        defer { close(descriptor) }
        guard clinux_enter_network(descriptor) == 0 else {
            let reason = String(cString: strerror(errno))
            throw CaptureError(
                description: errno == EPERM
                    ? "entering the network namespace \(path) needs root or CAP_SYS_ADMIN" : "\(path): \(reason)"
            )
        }
    }

    /// Replaces whatever an earlier call has set.
    package func install() throws(CaptureError) {
        try checkCgroups()
        // Without marks the route leads nothing anywhere: it is first, and the table, which is all or nothing, last.
        if rules.isRouted { try setRoutes() }
        try Self.nft(["-f", "-"], input: rules.text)
        if !rules.isRouted { try Self.removeRoutes() }
    }

    /// nft knows a cgroup by its number, and says little where there is none.
    private func checkCgroups() throws(CaptureError) {
        let captures = rules.listeners.compactMap(\.capture)
        let named = captures.flatMap { capture in
            let own: [String] = if case .cgroup(let path) = capture.node { [path] } else { [] }
            return own + capture.cgroups + capture.excludeCgroups
        }
        for path in named where access(surroundings.directory(ofCgroup: path), F_OK) != 0 {
            throw CaptureError(
                description: "there is no cgroup \(path) (\(surroundings.directory(ofCgroup: path))), and rules about "
                    + "one that is not there cannot be set: start what runs in it first"
            )
        }
    }

    /// What can be tried of a listener from here.
    package func trials(
        for listener: NodeConfiguration.Listener
    ) throws(CaptureTrial.Untried) -> [CaptureTrial] {
        try CaptureTrial.trials(for: listener, nameServers: surroundings.nameServers)
    }

    /// The listeners that nobody listens for.
    package var unattended: [NodeConfiguration.Listener] {
        let ports = Set(SSHPorts().sockets.values)
        return rules.listeners.filter { !ports.contains($0.bind.port) }
    }

    /// Leaves nothing. Nothing to remove is no error.
    package static func remove() throws(CaptureError) {
        try nft(["-f", "-"], input: CaptureRules.removal)
        try removeRoutes()
    }

    /// Whether there are rules of ours.
    ///
    /// - Throws: where this process may not know.
    package static var isInstalled: Bool {
        get throws(CaptureError) { try table() != nil }
    }

    /// Our table as nft writes it; nil where there is none.
    private static func table() throws(CaptureError) -> String? {
        do throws(CaptureError) {
            return try nft(["-s", "list", "table", "inet", CaptureRules.table])
        } catch {
            guard error.description.contains("No such file or directory") else { throw error }
            return nil
        }
    }

    // MARK: Routes

    private var families: [String] { surroundings.hasIPv6 ? ["-4", "-6"] : ["-4"] }

    /// The whole of what our policy rule selects by, as `ip` takes it.
    private static let selector = [
        "fwmark", "\(CaptureRules.hex(CaptureRules.outboundMark))/\(CaptureRules.hex(CaptureRules.markBits))",
        "lookup", "\(CaptureRules.routingTable)", "priority", "\(CaptureRules.routingTable)",
    ]

    private func setRoutes() throws(CaptureError) {
        for family in ["-4", "-6"] {
            do throws(CaptureError) {
                if try Self.ruleCount(family) == 0 { try Self.ip([family, "rule", "add"] + Self.selector) }
                let table = "\(CaptureRules.routingTable)"
                try Self.ip([family, "route", "replace", "local", "default", "dev", "lo", "table", table])
            } catch {
                // IPv6 may come up later. What is marked until there is a route is dropped, never sent.
                guard !families.contains(family) else { throw error }
            }
        }
    }

    /// Others may have rules of the same priority: ours is known by all that it says.
    private static func ruleCount(_ family: String) throws(CaptureError) -> Int {
        try ip([family, "rule", "list"]).split(separator: "\n").filter(isOurs).count
    }

    /// `15001:	from all fwmark 0xc000000/0xf000000 lookup 15001`; the table may have a name on this machine.
    static func isOurs(_ rule: Substring) -> Bool {
        let words = rule.split { $0 == " " || $0 == "\t" }.map(String.init)
        let (mark, bits) = (String(CaptureRules.outboundMark, radix: 16), String(CaptureRules.markBits, radix: 16))
        let table = "\(CaptureRules.routingTable)"
        let beginning = ["\(table):", "from", "all", "fwmark", "0x\(mark)/0x\(bits)", "lookup"]
        guard words.count == 7, Array(words[..<6]) == beginning else { return false }
        return words[6] == table || UInt32(words[6]) == nil
    }

    private static func removeRoutes() throws(CaptureError) {
        // Without the program there was none to set them.
        guard find("ip") != nil else { return }
        for family in ["-4", "-6"] {
            let table = "\(CaptureRules.routingTable)"
            guard let count = try? ruleCount(family) else { continue }
            for _ in 0..<count { try ip([family, "rule", "del"] + selector) }
            let route = ["local", "default", "dev", "lo"]
            guard let routes = try? ip([family, "route", "list", "table", table]),
                routes.split(separator: "\n").contains(where: { $0.hasPrefix(route.joined(separator: " ")) })
            else { continue }
            try ip([family, "route", "del"] + route + ["table", table])
        }
    }

    // MARK: Comparing

    /// Says what is not as it should be; empty when all is.
    package func differences() throws(CaptureError) -> [String] {
        var differences: [String] = []
        let program = try Self.program("nft")
        guard let actual = try Self.table() else {
            return ["there is no table inet \(CaptureRules.table): `bootstrap capture install` makes it"]
        }
        try checkCgroups()
        // The same program writes both listings, each kernel and each release in its own notation.
        if let unshare = Self.find("unshare") {
            let script = "\"$0\" -f - && exec \"$0\" -s list table inet \(CaptureRules.table)"
            let expected = try Self.run(unshare, ["--net", "/bin/sh", "-c", script, program], input: rules.text)
            let (there, wanted) = (Self.rules(of: actual), Self.rules(of: expected))
            let missing = wanted.filter { !there.contains($0) }
            let foreign = there.filter { !wanted.contains($0) }
            differences += missing.map { "missing: \($0)" } + foreign.map { "not ours: \($0)" }
            if missing.isEmpty, foreign.isEmpty, there != wanted {
                differences.append("the rules are in another order")
            }
        }
        if rules.isRouted {
            for family in families {
                if try Self.ruleCount(family) == 0 {
                    differences.append(
                        "missing: ip \(family) rule for captured packets (priority \(CaptureRules.routingTable))"
                    )
                }
                let routes = try? Self.ip([family, "route", "list", "table", "\(CaptureRules.routingTable)"])
                if routes?.contains("local default") != true {
                    differences.append(
                        "missing: ip \(family) route local default in table \(CaptureRules.routingTable)"
                    )
                }
            }
        }
        return differences
    }

    /// The lines of a listing with the chain or set that they stand in, without what the node's heartbeat has put into
    /// sets.
    private static func rules(of listing: String) -> [String] {
        var lines: [String] = []
        var place = ""
        var isInElements = false
        for line in listing.split(separator: "\n") {
            let text = line.drop { $0 == "\t" || $0 == " " }
            if text.hasSuffix(" {") { place = String(text.dropLast(2)) }
            if text.hasPrefix("elements = {") { isInElements = true }
            if !isInElements, text != "}" { lines.append("\(place): \(text)") }
            if text.hasSuffix("}") { isInElements = false }
        }
        return lines
    }

    /// How many packets, or first packets of connections, were led to each listener.
    package func captured() throws(CaptureError) -> [String: UInt64] {
        var counts: [String: UInt64] = [:]
        for line in try Self.nft(["list", "table", "inet", CaptureRules.table]).split(separator: "\n") {
            for listener in rules.listeners where line.hasSuffix("comment \"capture \(listener.name)\"") {
                let words = line.split(separator: " ")
                guard let place = words.firstIndex(of: "packets"), place + 1 < words.count else { continue }
                counts[listener.name, default: 0] += UInt64(words[place + 1]) ?? 0
            }
        }
        return counts
    }

    // MARK: Programs

    private static func find(_ name: String) -> String? {
        Program.find(name, in: Program.searchPath + ["/usr/sbin", "/sbin", "/usr/bin", "/bin"])
    }

    private static func program(_ name: String) throws(CaptureError) -> String {
        if let path = find(name) { return path }
        throw CaptureError(
            description: "there is no program '\(name)', which sets the rules: install the package "
                + "\(name == "ip" ? "iproute2" : "nftables"). \(withoutRules)"
        )
    }

    private static let withoutRules = "Listeners with protocol tcp or socks5 need no rules, and no privilege"

    @discardableResult
    private static func nft(_ arguments: [String], input: String = "") throws(CaptureError) -> String {
        try run(try program("nft"), arguments, input: input)
    }

    @discardableResult
    private static func ip(_ arguments: [String]) throws(CaptureError) -> String {
        try run(try program("ip"), arguments)
    }

    private static func run(_ path: String, _ arguments: [String], input: String = "") throws(CaptureError) -> String {
        var environment = Program.currentEnvironment
        environment["LC_ALL"] = "C"
        let run = ProgramRun(
            Program(path, [path] + arguments, environment: environment, group: .own),
            timeout: .seconds(30),
            errors: .tail(4 << 10)
        )
        let name = path.split(separator: "/").last.map(String.init) ?? path
        let outcome: ProgramRun.Outcome
        do throws(SystemError) {
            outcome = try run.run(input: Array(input.utf8))
        } catch {
            throw CaptureError(description: "\(path) cannot be started: \(error)")
        }
        guard let status = outcome.status else {
            throw CaptureError(description: "\(name) has not ended within 30 seconds, and was ended")
        }
        let said = String(decoding: outcome.errors, as: UTF8.self)
        guard status.isSuccess else {
            if said.contains("Operation not permitted") || said.contains("Permission denied") {
                throw CaptureError(
                    description: "rules need root, or CAP_NET_ADMIN in this network namespace (in a container: "
                        + "--cap-add NET_ADMIN). \(withoutRules)"
                )
            }
            let reason = Printable.escape(said.split(separator: "\n").prefix(6).joined(separator: "; "))
            throw CaptureError(description: "\(name) \(arguments.joined(separator: " ")): \(status): \(reason)")
        }
        return String(decoding: outcome.output, as: UTF8.self)
    }
}

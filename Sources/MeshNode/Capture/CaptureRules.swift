import SSHSignal

/// The packet filter's rules that lead connections to the listeners with `capture:`. Pure: what it is made of says
/// everything.
///
/// ```
/// listeners ─→ one table, inet bootstrap ─→ nft -f - (one transaction)
///           └→ a route for marked packets, which only TPROXY of this machine's programs and of others needs
/// ```
///
/// No chain but the table's own is touched. Our chains say `return`, lead to the listener, or drop what would pass
/// in the clear; none of it hides a packet that goes on from the chains of others, so that the machine's own filter
/// holds. Each rule counts.
package struct CaptureRules: Hashable, Sendable {
    /// The table, of the family `inet`: one set of rules for IPv4 and IPv6.
    package static let table = "bootstrap"
    /// What the node sets on its own sockets (SO_MARK) where rules know it by its mark.
    package static let ownMark: UInt32 = 0x0b00_0000
    /// The number of the routing table for captured packets, and the priority of the rule that leads there.
    package static let routingTable = 15001

    /// The bits of packet marks and connection marks that are ours; others' stay as they are.
    static let markBits: UInt32 = 0x0f00_0000
    /// On packets, and connections, that are led to a TPROXY listener for what goes out.
    static let outboundMark: UInt32 = 0x0c00_0000
    /// On connections that are led to one for what comes in.
    static let inboundMark: UInt32 = 0x0d00_0000
    /// The conntrack zone of the node's own questions to name servers.
    static let nameZone = 1508
    /// How long a listener counts as alive after its node was heard.
    static let aliveSeconds = 3

    /// What is captured, and how each listener's share is known in the counters.
    package let listeners: [NodeConfiguration.Listener]
    /// For `nft -f -`; replaces what an earlier one has left, all or nothing.
    package let text: String
    /// Whether packets are marked, which needs ``routes``.
    package let isRouted: Bool

    /// - Parameters:
    ///   - configuration: Validated.
    ///   - surroundings: What is known of the machine.
    package init(_ configuration: NodeConfiguration, on surroundings: CaptureSurroundings) {
        listeners = configuration.listeners.filter { $0.capture != nil }
        var chains: [String] = []
        var owns: [NodeConfiguration.Capture.Own] = []
        for own in listeners.compactMap({ $0.capture?.node }) where !owns.contains(own) { owns.append(own) }
        let knownOwn = owns.map { Self.match($0, surroundings) }
        let sshPorts = surroundings.sshPorts + configuration.endpoints.compactMap { $0.ssh?.destination.port }
        for listener in listeners {
            guard let capture = listener.capture else { continue }
            var rules = ListenerRules(listener, capture, own: knownOwn, surroundings)
            rules.sshPorts = sshPorts
            rules.ownPorts = configuration.listeners.map(\.bind.port).filter { $0 > 0 }
            if listener.protocol == .transparent {
                rules.nameListeners = listeners.filter { $0.protocol == .dns }
            }
            chains += rules.chains
        }
        if listeners.contains(where: { $0.protocol == .dns }) { chains.append(Self.zone(knownOwn)) }
        isRouted = listeners.contains { listener in
            listener.protocol == .transparent && listener.transparency.mode == .tproxy
                && listener.transparency.direction == .outbound
        }
        if isRouted { chains.append(Self.stray) }
        let table = "table inet \(Self.table)"
        // The first line is for the second, which refuses what is not there.
        text =
            "\(table)\ndelete \(table)\n" + (chains.isEmpty ? "" : "\(table) {\n\(chains.joined(separator: "\n"))}\n")
    }

    /// For `nft -f -`; leaves nothing of it, whether there was something or not.
    package static let removal = "table inet \(table)\ndelete table inet \(table)\n"

    /// The question of a program and the node's own one about it may have the same ports and the same server; in one
    /// zone, one of the two would be taken for the other's answer, and lost.
    private static func zone(_ own: [String]) -> String {
        chain(
            "dns-zone",
            "type filter hook output priority raw",
            own.flatMap { own in
                ["udp", "tcp"].map { "\(own) \($0) dport 53 counter ct original zone set \(nameZone)" }
            }
        )
    }

    /// A marked packet goes to the loopback, or nowhere: without the route, or its rule, it would leave as it is, in
    /// the clear. Whatever flushes routes has no part in that.
    private static let stray = chain(
        "stray",
        "type filter hook postrouting priority mangle",
        [
            "meta l4proto != tcp counter return", "oifname \"lo\" counter return",
            "meta mark & \(hex(markBits)) != \(hex(outboundMark)) counter return",
            "counter drop comment \"no route to the listener\"",
        ]
    )

    static func chain(_ name: String, _ head: String, _ rules: [String]) -> String {
        "\tchain \(name) {\n\t\t\(head); policy accept;\n" + rules.map { "\t\t\($0)\n" }.joined() + "\t}\n"
    }

    /// What a packet of the node itself looks like.
    private static func match(_ own: NodeConfiguration.Capture.Own, _ surroundings: CaptureSurroundings) -> String {
        switch own {
        case .mark: "meta mark & \(hex(markBits)) == \(hex(ownMark))"
        case .user(let user): "meta skuid \(user)"
        case .cgroup(let path): surroundings.match(cgroup: path)
        }
    }

    static func hex(_ mark: UInt32) -> String {
        let digits = String(mark, radix: 16)
        return "0x" + String(repeating: "0", count: 8 - digits.count) + digits
    }
}

import Platform

/// The chains of one listener.
struct ListenerRules {
    private let listener: NodeConfiguration.Listener
    private let capture: NodeConfiguration.Capture
    private let own: [String]
    private let surroundings: CaptureSurroundings
    /// Never captured: the way in for whoever has to repair it.
    var sshPorts: [UInt16] = []
    /// Where the node listens; what comes in for itself is not captured.
    var ownPorts: [UInt16] = []
    /// The captured `dns` listeners: questions are theirs, over TCP as well.
    var nameListeners: [NodeConfiguration.Listener] = []

    init(
        _ listener: NodeConfiguration.Listener,
        _ capture: NodeConfiguration.Capture,
        own: [String],
        _ surroundings: CaptureSurroundings
    ) {
        self.listener = listener
        self.capture = capture
        self.own = own
        self.surroundings = surroundings
    }

    private var port: UInt16 { listener.bind.port }
    private var isOpen: Bool { capture.onFailure == .open }
    /// Interfaces as a set.
    private var fromOthers: String { "iifname != \(set(capture.interfaces.map { "\"\($0)\"" })) counter return" }
    private var remark: String { "comment \"capture \(listener.name)\"" }

    var chains: [String] {
        var chains: [String]
        switch (listener.protocol, listener.transparency.direction, listener.transparency.mode) {
        case (.dns, _, _): chains = names
        case (_, .inbound, _): return [inbound]
        case (_, _, .redirect): chains = redirection + quic
        case (_, _, .tproxy): chains = proxying + quic
        }
        if isOpen { chains = heartbeat + chains }
        return chains
    }

    // MARK: What is captured

    /// `return` for whatever is not. What follows it is done with the rest.
    ///
    /// - Parameter isLocal: Sent by a program of this machine, not by another machine.
    private func scope(isLocal: Bool) -> [String] {
        var rules: [String] = []
        // What is for this machine itself stays; and it is no stream that goes to many.
        rules.append("fib daddr type { local, broadcast, multicast } counter return")
        // The neighbourhood's own affairs, and the cloud's (169.254.169.254): no peer could reach the same.
        rules += Self.linkLocal
        if isLocal { rules += own.map { "\($0) counter return comment \"the node's own\"" } }
        rules.append("th dport \(ports(sshPorts.map { $0...$0 })) counter return comment \"SSH\"")
        rules += excluded("daddr")
        if isLocal {
            if !capture.excludeUsers.isEmpty { rules.append("meta skuid \(set(capture.excludeUsers)) counter return") }
            if !capture.excludeGroups.isEmpty {
                rules.append("meta skgid \(set(capture.excludeGroups)) counter return")
            }
            rules += capture.excludeCgroups.map { "\(surroundings.match(cgroup: $0)) counter return" }
        }
        rules += included("daddr")
        if isOpen { rules.append("meta nfproto != @alive/\(listener.name) counter return comment \"nobody listens\"") }
        return rules
    }

    private static let linkLocal = [
        "ip daddr 169.254.0.0/16 counter return comment \"link-local\"",
        "ip6 daddr fe80::/10 counter return comment \"link-local\"",
    ]

    /// The scope of TCP connections: without the questions that a `dns` listener takes. A transparent chain may come
    /// first, and a question is for the name server.
    private func streamScope(isLocal: Bool) -> [String] {
        let takers = nameListeners.filter { listener in
            guard let capture = listener.capture else { return false }
            return isLocal ? capture.local : !capture.interfaces.isEmpty
        }
        return takers.map { "th dport 53 counter jump \(Self.taken(by: $0.name, isLocal: isLocal))" }
            + scope(isLocal: isLocal)
    }

    private static func taken(by name: String, isLocal: Bool) -> String {
        "\(isLocal ? "taken" : "taken-forwarded")/\(name)"
    }

    private func excluded(_ address: String) -> [String] {
        var rules: [String] = []
        if !capture.excludePorts.isEmpty { rules.append("th dport \(ports(capture.excludePorts)) counter return") }
        for (family, blocks) in families(capture.excludeCIDRs) where !blocks.isEmpty {
            rules.append("\(family) \(address) \(set(blocks)) counter return")
        }
        return rules
    }

    private func included(_ address: String) -> [String] {
        var rules: [String] = []
        if !capture.ports.isEmpty { rules.append("th dport != \(ports(capture.ports)) counter return") }
        guard !capture.cidrs.isEmpty else { return rules }
        for (family, blocks) in families(capture.cidrs) {
            rules.append(
                blocks.isEmpty
                    ? "meta nfproto \(family == "ip" ? "ipv4" : "ipv6") counter return"
                    : "\(family) \(address) != \(set(blocks)) counter return"
            )
        }
        return rules
    }

    /// What is done with the rest of a scope: each rule once for every cgroup that is captured, or once. Who is
    /// captured is asked here, by rules that must match: a socket of the kernel (NFS, WireGuard) has no user, so that
    /// no rule about users matches it, neither one that acts nor one that returns.
    private func act(_ rules: [String], isLocal: Bool) -> [String] {
        guard isLocal else { return rules }
        var who = ""
        if !capture.users.isEmpty { who += "meta skuid \(set(capture.users)) " }
        if !capture.groups.isEmpty { who += "meta skgid \(set(capture.groups)) " }
        let rules = rules.map { who + $0 }
        guard !capture.cgroups.isEmpty else { return rules }
        return capture.cgroups.flatMap { cgroup in rules.map { "\(surroundings.match(cgroup: cgroup)) \($0)" } }
    }

    private func redirected(_ kind: String) -> String { "meta l4proto \(kind) counter redirect to :\(port) \(remark)" }

    // MARK: Redirection

    private var redirection: [String] {
        var chains: [String] = []
        let others = "meta l4proto != tcp counter return"
        // Before the chains of others that translate destinations: what they have translated is not translated again.
        if capture.local {
            chains.append(
                chain(
                    "output",
                    "type nat hook output priority -110",
                    [others, Self.opening] + streamScope(isLocal: true) + act([redirected("tcp")], isLocal: true)
                )
            )
            chains.append(
                chain(
                    "untracked",
                    "type filter hook output priority mangle",
                    [others, Self.tracked, Self.opening] + streamScope(isLocal: true)
                        + act([Self.untracked], isLocal: true)
                )
            )
        }
        if !capture.interfaces.isEmpty {
            chains.append(
                chain(
                    "prerouting",
                    "type nat hook prerouting priority -110",
                    [others, Self.opening, fromOthers] + streamScope(isLocal: false) + [redirected("tcp")]
                )
            )
            chains.append(
                chain(
                    "untracked-forwarded",
                    "type filter hook forward priority mangle",
                    [others, Self.tracked, Self.opening, fromOthers] + streamScope(isLocal: false) + [Self.untracked]
                )
            )
        }
        return chains
    }

    /// Questions to the name servers that this machine uses, and all of other machines. They come before the chains
    /// that redirect other connections.
    private var names: [String] {
        var chains: [String] = []
        let redirect = ["udp", "tcp"].map(redirected)
        if capture.local {
            chains.append(
                chain(
                    "output",
                    "type nat hook output priority -111",
                    localQuestions + act(redirect, isLocal: true)
                )
            )
            chains.append(taking(localQuestions + act(["counter accept"], isLocal: true), isLocal: true))
        }
        if !capture.interfaces.isEmpty {
            chains.append(
                chain(
                    "prerouting",
                    "type nat hook prerouting priority -111",
                    forwardedQuestions + redirect
                )
            )
            chains.append(taking(forwardedQuestions + ["counter accept"], isLocal: false))
            chains.append(direct)
        }
        return chains
    }

    private static let question = ["meta l4proto != { tcp, udp } counter return", "th dport != 53 counter return"]

    /// `return` for what is no question of a program of this machine.
    private var localQuestions: [String] {
        var rules = Self.question + own.map { "\($0) counter return comment \"the node's own\"" }
        // What a local name server asks on is not among them, or it would be asked for what it asks for.
        for (family, servers) in families(
            surroundings.nameServers.compactMap { CIDR($0, prefixLength: $0.isIPv4 ? 32 : 128) }
        ) {
            rules.append(
                servers.isEmpty
                    ? "meta nfproto \(family == "ip" ? "ipv4" : "ipv6") counter return"
                    : "\(family) daddr != \(set(servers)) counter return"
            )
        }
        return rules + questionScope(isLocal: true).filter { !$0.contains("\"the node's own\"") }
    }

    private var forwardedQuestions: [String] { Self.question + [fromOthers] + questionScope(isLocal: false) }

    /// A name server may be this machine itself, and link-local, as that of a cloud.
    private func questionScope(isLocal: Bool) -> [String] {
        scope(isLocal: isLocal).filter { !$0.hasPrefix("fib ") && !Self.linkLocal.contains($0) }
    }

    /// Called by chains of transparent listeners, which end with what is taken here.
    private func taking(_ rules: [String], isLocal: Bool) -> String {
        let name = Self.taken(by: listener.name, isLocal: isLocal)
        return "\tchain \(name) {\n" + rules.map { "\t\t\($0)\n" }.joined() + "\t}\n"
    }

    /// Bound to every address, the name server would answer whoever reaches this machine, and flood others for whoever
    /// writes their address as his own. What another rule of this machine has led here was meant to come.
    private var direct: String {
        let interfaces = set((["lo"] + capture.interfaces).map { "\"\($0)\"" })
        return chain(
            "direct",
            "type filter hook input priority -10",
            [
                "meta l4proto != { tcp, udp } counter return", "th dport != \(port) counter return",
                "iifname \(interfaces) counter return", "ct status dnat counter return",
                "counter drop comment \"not captured\"",
            ]
        )
    }

    // MARK: TPROXY

    /// After the chains of others: once a packet has its socket, some kernels no longer see that it came over the
    /// loopback, and a reverse path filter (firewalld's is at 10) would drop it.
    private static let comingIn = "type filter hook prerouting priority 20"

    /// A connection is marked with its first packet; the others follow the mark. One that was there before the rules is
    /// left alone.
    private func following(_ mark: UInt32, _ rule: String) -> [String] {
        [
            "ct direction reply counter return",
            "ct mark & \(CaptureRules.hex(CaptureRules.markBits)) == \(CaptureRules.hex(mark)) \(rule)",
            // Neither what is untracked nor what is related is known already: it is somebody's first packet.
            "ct state established counter return", Self.opening,
        ]
    }

    /// Without a connection there is no mark for the packets that follow, nor anything that could be redirected: they
    /// would go on in the clear.
    private static let tracked = "ct state != { invalid, untracked } counter return"
    private static let untracked = "ct state { invalid, untracked } counter drop comment \"untracked\""

    /// Before the rules nobody may have followed connections: one that is under way looks new then.
    private static let opening = "tcp flags & (fin | syn | rst | ack) != syn counter return"

    private func marking(_ what: String, _ mark: UInt32) -> String {
        "\(what) mark set \(what) mark & \(CaptureRules.hex(~CaptureRules.markBits)) | \(CaptureRules.hex(mark))"
    }

    private var proxying: [String] {
        var chains: [String] = []
        let others = "meta l4proto != tcp counter return"
        let mark = marking("meta", CaptureRules.outboundMark)
        let remember = marking("ct", CaptureRules.outboundMark)
        if capture.local {
            // The mark makes the packet take the way to this machine itself, where it comes in anew.
            chains.append(
                chain(
                    "output",
                    "type route hook output priority mangle",
                    [others] + following(CaptureRules.outboundMark, "counter \(mark) accept")
                        + streamScope(isLocal: true)
                        + act([Self.untracked, "counter \(remember) \(mark) accept \(remark)"], isLocal: true)
                )
            )
            let marked =
                "meta mark & \(CaptureRules.hex(CaptureRules.markBits)) != \(CaptureRules.hex(CaptureRules.outboundMark))"
            chains.append(
                chain(
                    "tproxy",
                    Self.comingIn,
                    [others, "iifname != \"lo\" counter return", "\(marked) counter return"] + handingOver()
                        + [Self.refusal]
                )
            )
        }
        if !capture.interfaces.isEmpty {
            let hand = handingOver(mark)
            let captured = "captured/\(listener.name)"
            // Out of the scope, so that the first packet and the others are handed over by the same rules.
            chains.append(
                "\tchain \(captured) {\n"
                    + (hand + [isOpen ? "counter return" : Self.refusal]).map { "\t\t\($0)\n" }.joined() + "\t}\n"
            )
            chains.append(
                chain(
                    "forwarded",
                    Self.comingIn,
                    [others, fromOthers] + following(CaptureRules.outboundMark, "counter goto \(captured)")
                        + streamScope(isLocal: false)
                        + [Self.untracked, "counter \(remember) goto \(captured) \(remark)"]
                )
            )
        }
        return chains
    }

    /// To the listener, where there is one; the next rule has what it does not take. Without that one the packet would
    /// go on as if there were no rules, in the clear.
    private func handingOver(_ mark: String? = nil) -> [String] {
        let twin = listener.twin
        return [("ipv4", "ip"), ("ipv6", "ip6")].map { protocolName, family in
            let bound = [listener.bind, twin?.bind].compactMap { $0 }.first { $0.address.isIPv4 == (family == "ip") }
            let address = bound.map {
                $0.address.isUnspecified ? "" : $0.address.isIPv4 ? "\($0.address)" : "[\($0.address)]"
            }
            let change = mark.map { "\($0) " } ?? ""
            return "meta nfproto \(protocolName) meta l4proto tcp tproxy \(family) to \(address ?? ""):\(port) counter "
                + "\(change)accept"
        }
    }

    private static let refusal = "meta l4proto tcp counter reject with tcp reset comment \"nobody listens\""

    /// What comes in for services of this machine. The filter's hook for input comes later, and sees the packet as it
    /// came.
    private var inbound: String {
        let captured = "captured/\(listener.name)"
        let hand = handingOver() + [isOpen ? "counter return" : Self.refusal]
        // The table's names have the listener's last: it may begin with a digit, and has no slash.
        var rules = [
            "meta l4proto != tcp counter return", "iifname \"lo\" counter return",
            "fib daddr type != local counter return",
        ]
        if !capture.interfaces.isEmpty { rules.append(fromOthers) }
        rules += following(CaptureRules.inboundMark, "counter goto \(captured)")
        rules.append("th dport \(ports(sshPorts.map { $0...$0 })) counter return comment \"SSH\"")
        rules.append("th dport \(ports(ownPorts.map { $0...$0 })) counter return comment \"the node's own\"")
        rules += excluded("saddr") + included("saddr")
        // Two rules: what is untracked has no mark that the first could change, and ends there.
        rules += ["counter \(marking("ct", CaptureRules.inboundMark))", "counter goto \(captured) \(remark)"]
        return "\tchain \(captured) {\n" + hand.map { "\t\t\($0)\n" }.joined() + "\t}\n"
            + chain("inbound", Self.comingIn, rules)
    }

    // MARK: Beside it

    /// QUIC is TLS that no TCP listener sees: refused, so that a browser takes TCP.
    private var quic: [String] {
        let isAsked = capture.ports.isEmpty || capture.ports.contains { $0.contains(443) }
        guard isAsked, !capture.excludePorts.contains(where: { $0.contains(443) }) else { return [] }
        let others = "meta l4proto != udp counter return"
        let port = "udp dport != 443 counter return"
        var chains: [String] = []
        if capture.local {
            chains.append(
                chain(
                    "quic",
                    "type filter hook output priority -10",
                    [others, port] + scope(isLocal: true) + act(["counter reject"], isLocal: true)
                )
            )
        }
        if !capture.interfaces.isEmpty {
            chains.append(
                chain(
                    "quic-forwarded",
                    "type filter hook forward priority -10",
                    [others, port, fromOthers] + scope(isLocal: false) + ["counter reject"]
                )
            )
        }
        return chains
    }

    /// The node sends an empty datagram to its listener every second, over the loopback. It goes nowhere; but the set
    /// remembers for a while that it was sent, and rules ask the set. No process has to notice that the node is gone.
    private var heartbeat: [String] {
        let name = "alive/\(listener.name)"
        let set =
            "\tset \(name) {\n\t\ttype nf_proto\n\t\tsize 16\n\t\tflags dynamic,timeout\n\t\ttimeout \(CaptureRules.aliveSeconds)s\n\t}\n"
        let beats = own.map {
            "\($0) udp dport \(port) udp length 8 update @\(name) { meta nfproto } counter drop"
        }
        return [
            set,
            chain("heartbeat", "type filter hook output priority -20", ["oifname != \"lo\" counter return"] + beats),
        ]
    }

    // MARK: Notation

    private func chain(_ name: String, _ head: String, _ rules: [String]) -> String {
        CaptureRules.chain("\(name)/\(listener.name)", head, rules)
    }

    private func set(_ elements: [some CustomStringConvertible]) -> String {
        "{ \(elements.map(\.description).joined(separator: ", ")) }"
    }

    /// Ranges that overlap would be refused.
    private func ports(_ ranges: [ClosedRange<UInt16>]) -> String {
        var merged: [ClosedRange<UInt16>] = []
        for range in ranges.sorted(by: { ($0.lowerBound, $0.upperBound) < ($1.lowerBound, $1.upperBound) }) {
            if let last = merged.last, range.lowerBound <= last.upperBound {
                merged[merged.count - 1] = last.lowerBound...max(last.upperBound, range.upperBound)
            } else {
                merged.append(range)
            }
        }
        return set(merged.map { $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound)" })
    }

    /// Blocks by family, those left out that lie in others.
    private func families(_ blocks: [CIDR]) -> [(String, [CIDR])] {
        [("ip", true), ("ip6", false)].map { name, isIPv4 in
            var kept: [CIDR] = []
            for block in blocks.sorted(by: { $0.prefixLength < $1.prefixLength })
            where block.network.isIPv4 == isIPv4 && !kept.contains(where: { $0.contains(block.network) }) {
                kept.append(block)
            }
            return (name, kept)
        }
    }
}

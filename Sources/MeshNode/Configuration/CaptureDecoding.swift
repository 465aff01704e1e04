import MeshPolicy
import Platform
import Streams
import YAML

/// Decodes what only listeners have that traffic is led to by rules: `mode`, `direction`, `plaintext` and `capture`.
struct CaptureDecoder {
    static let listenerKeys = ["mode", "direction", "plaintext", "capture", "names"]
    let diagnostics: Diagnostics

    /// Reports the keys of a listener that mean nothing with its protocol.
    func decode(_ mapping: MappingDecoder, into listener: inout NodeConfiguration.Listener) {
        let (name, kind) = (listener.name, listener.protocol)
        if kind == .transparent {
            listener.transparency = .init(
                mode: mapping.choice("mode", of: NodeConfiguration.CaptureMode.self) ?? .redirect,
                direction: mapping.choice("direction", of: NodeConfiguration.CaptureDirection.self) ?? .outbound,
                plaintext: mapping.choice("plaintext", of: NodeConfiguration.Plaintext.self) ?? .deny
            )
            check(listener, mapping)
        } else {
            for key in ["mode", "direction", "plaintext"] where mapping[key] != nil {
                diagnostics.report(
                    "listener '\(name)': '\(key)' is for protocol transparent only: remove it",
                    at: mapping.position(of: key)
                )
            }
        }
        if let names = mapping["names"] {
            if kind == .dns {
                listener.names = NameSettingsDecoder(diagnostics: diagnostics).decode(names)
            } else {
                diagnostics.report(
                    "listener '\(name)': 'names' is for protocol dns only: remove it",
                    at: names.position
                )
            }
        }
        guard let node = mapping["capture"] else { return checkReach(of: listener, mapping) }
        guard kind == .transparent || kind == .dns else {
            return diagnostics.report(
                "listener '\(name)': 'capture' is for the protocols transparent and dns only: remove it",
                at: node.position
            )
        }
        guard let capture = capture(node) else { return }
        listener.capture = capture
        checkReach(of: listener, mapping)
        check(capture, of: listener, mapping)
    }

    /// A name server that everybody reaches floods others for whoever writes their address as his own.
    private func checkReach(of listener: NodeConfiguration.Listener, _ mapping: MappingDecoder) {
        guard listener.protocol == .dns, !listener.bind.address.isLoopback,
            listener.capture?.interfaces.isEmpty != false
        else { return }
        diagnostics.report(
            "listener '\(listener.name)': protocol dns on \(listener.bind), beyond loopback, would answer anybody, and "
                + "flood others with answers: name the interfaces of the machines that may ask, 'capture: {interfaces: "
                + "[eth1]}', whose rules keep others out, or bind 127.0.0.1:\(listener.bind.port)",
            at: mapping.position(of: "bind")
        )
    }

    private func check(_ listener: NodeConfiguration.Listener, _ mapping: MappingDecoder) {
        let transparency = listener.transparency
        if transparency.direction == .outbound, mapping["plaintext"] != nil {
            diagnostics.report(
                "listener '\(listener.name)': 'plaintext' is for 'direction: inbound' only: remove it",
                at: mapping.position(of: "plaintext")
            )
        }
        if transparency.direction == .inbound, transparency.mode == .redirect {
            diagnostics.report(
                "listener '\(listener.name)': 'direction: inbound' needs 'mode: tproxy': redirected connections would "
                    + "pass this machine's own packet filter with the listener's port instead of the service's",
                at: mapping.position(of: mapping["mode"] == nil ? "direction" : "mode")
            )
        }
    }

    private func check(
        _ capture: NodeConfiguration.Capture,
        of listener: NodeConfiguration.Listener,
        _ mapping: MappingDecoder
    ) {
        let report = { (message: String) in
            diagnostics.report("listener '\(listener.name)': \(message)", at: mapping.position(of: "capture"))
        }
        if listener.bind.port == 0 {
            report("'capture' needs a port in 'bind', which rules can lead to; 0 is another one each time")
        }
        if listener.twin == nil {
            report(
                "'capture' is for IPv4 and IPv6 alike: write 127.0.0.1:\(listener.bind.port) or "
                    + "0.0.0.0:\(listener.bind.port) in 'bind', which stand for [::1] and [::], too"
            )
        }
        let isInbound = listener.protocol == .transparent && listener.transparency.direction == .inbound
        let ofPrograms =
            !(capture.users + capture.excludeUsers + capture.groups + capture.excludeGroups).isEmpty
            || !(capture.cgroups + capture.excludeCgroups).isEmpty
        if isInbound, ofPrograms {
            report("'uids', 'gids' and 'cgroups' are about programs that connect: they mean nothing when inbound")
        }
        if !isInbound, !capture.local, capture.interfaces.isEmpty {
            report("'local: false' without 'interfaces' captures nothing: name the interfaces of other machines")
        }
        if !capture.local, ofPrograms {
            report("'uids', 'gids' and 'cgroups' are about programs of this machine, which 'local: false' leaves out")
        }
        if !capture.interfaces.isEmpty, listener.bind.address.isLoopback, !isInbound,
            listener.protocol == .dns || listener.transparency.mode == .redirect
        {
            report(
                "'interfaces' needs 0.0.0.0:\(listener.bind.port) in 'bind': what other machines send is redirected to "
                    + "an address of the interface. Let the packet filter keep others from that port"
            )
        }
        if listener.protocol == .transparent, capture.ports.contains(22...22) {
            report("'ports' has 22, and SSH is never captured: whoever repairs this machine comes in by it. Remove it")
        }
        if listener.protocol == .dns, !(capture.ports + capture.excludePorts).isEmpty || !capture.cidrs.isEmpty {
            report("'ports' and 'cidrs' mean nothing with protocol dns, whose port is 53: remove them")
        }
    }

    private func capture(_ node: YAMLNode) -> NodeConfiguration.Capture? {
        let keys = [
            "node", "local", "interfaces", "ports", "excludePorts", "cidrs", "excludeCidrs", "uids", "excludeUids",
            "gids", "excludeGids", "cgroups", "excludeCgroups", "onFailure",
        ]
        guard let mapping = MappingDecoder(node, what: "'capture'", keys: keys, diagnostics) else { return nil }
        func values<Value>(_ key: String, _ parse: (String) throws -> Value) -> [Value] {
            mapping[key]?.list("'\(key)'", diagnostics) { $0.parsed("'\(key)'", diagnostics, parse) } ?? []
        }
        var capture = NodeConfiguration.Capture()
        capture.position = node.position
        if let own = mapping["node"] { capture.node = self.own(own) ?? .mark }
        capture.local = mapping.bool("local") ?? true
        capture.interfaces = values("interfaces", Self.interface)
        capture.ports = values("ports", PolicyDecoder.ports)
        capture.excludePorts = values("excludePorts", PolicyDecoder.ports)
        capture.cidrs = values("cidrs") { try CIDR(parsing: $0) }
        capture.excludeCIDRs = values("excludeCidrs") { try CIDR(parsing: $0) }
        capture.users = values("uids", Self.number)
        capture.excludeUsers = values("excludeUids", Self.number)
        capture.groups = values("gids", Self.number)
        capture.excludeGroups = values("excludeGids", Self.number)
        capture.cgroups = values("cgroups", Self.cgroup)
        capture.excludeCgroups = values("excludeCgroups", Self.cgroup)
        capture.onFailure = mapping.choice("onFailure", of: NodeConfiguration.Capture.Failure.self) ?? .closed
        return capture
    }

    private func own(_ node: YAMLNode) -> NodeConfiguration.Capture.Own? {
        if case .scalar("mark", _) = node.content { return .mark }
        guard let mapping = MappingDecoder(node, what: "'node'", keys: ["uid", "cgroup"], diagnostics) else {
            return nil
        }
        let user = mapping.value("uid", Self.number)
        let cgroup = mapping.value("cgroup", Self.cgroup)
        if (mapping["uid"] == nil) == (mapping["cgroup"] == nil) {
            diagnostics.report(
                "'node' says how the node's own traffic is known: write mark, {uid: NUMBER} or {cgroup: PATH}",
                at: node.position
            )
        }
        return user.map { .user($0) } ?? cgroup.map { .cgroup($0) }
    }

    private static func number(_ text: String) throws -> UInt32 {
        guard let number = UInt32(text), text == "\(number)", number < .max else {
            throw StreamError(.badRequest, "'\(text.prefix(80))' is not a number of a user or group: `id` tells it")
        }
        return number
    }

    /// What the kernel lets an interface be called, and what needs no escape in a rule.
    private static func interface(_ text: String) throws -> String {
        let isValid =
            (1...15).contains(text.utf8.count)
            && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && !"\"\\/*{}".utf8.contains($0) }
        guard isValid else {
            throw StreamError(.badRequest, "'\(text.prefix(80))' is not the name of an interface: `ip link` lists them")
        }
        return text
    }

    private static func cgroup(_ text: String) throws -> String {
        let path = text.hasPrefix("/") ? String(text.dropFirst()) : text
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        let isValid =
            !path.isEmpty && path.utf8.count < 200
            && parts.allSatisfy { !$0.isEmpty && $0 != "." && $0 != ".." }
            && path.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\") }
        guard isValid else {
            throw StreamError(
                .badRequest,
                "'\(text.prefix(80))' is not a path below the root of cgroup v2, like system.slice/web.service"
            )
        }
        return path
    }
}

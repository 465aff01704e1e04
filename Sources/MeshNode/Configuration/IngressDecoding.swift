import HTTP1
import MeshPolicy
import Platform
import Streams
import YAML

/// Decodes what only listeners have that take what the world sends: `credentials`, `clients`, `routes`, `redirect`,
/// `hsts`, `timeouts` and `limits`.
struct IngressDecoder {
    static let listenerKeys = ["credentials", "clients", "routes", "redirect", "hsts", "timeouts", "limits"]
    let diagnostics: Diagnostics
    let paths: PathResolution

    private typealias Kind = NodeConfiguration.ListenerProtocol
    /// Which protocols have which key.
    private static let uses: [(key: String, kinds: [Kind])] = [
        ("credentials", [.tls, .https, .hbone]), ("clients", [.tls, .https, .hbone]), ("routes", [.http, .https]),
        ("redirect", [.http]), ("hsts", [.https]), ("timeouts", [.http, .https]), ("limits", [.http, .https]),
    ]

    /// Reports the keys of a listener that mean nothing with its protocol.
    func decode(_ mapping: MappingDecoder, into listener: inout NodeConfiguration.Listener) {
        let (name, kind) = (listener.name, listener.protocol)
        for (key, kinds) in Self.uses where mapping[key] != nil && !kinds.contains(kind) {
            let names = kinds.map(\.rawValue)
            let list = (names.count < 2 ? [] : [names.dropLast().joined(separator: ", ")]) + names.suffix(1)
            let all = (kinds.count == 1 ? "protocol " : "protocols ") + list.joined(separator: " and ")
            diagnostics.report(
                "listener '\(name)': '\(key)' is for \(all) only: remove it",
                at: mapping.position(of: key)
            )
        }
        guard kind.isIngress else { return }
        var ingress = NodeConfiguration.Ingress()
        if kind != .http {
            ingress.credentials =
                mapping["credentials"]?.list("'credentials'", diagnostics) { node in
                    node.string("a directory of 'credentials'", diagnostics).map(paths.resolve)
                } ?? []
            ingress.clients = mapping.choice("clients", of: NodeConfiguration.ClientCertificates.self) ?? .none
        }
        if kind != .tls { decodeHTTP(mapping, kind, name, &ingress) }
        listener.ingress = ingress
    }

    private func decodeHTTP(
        _ mapping: MappingDecoder,
        _ kind: Kind,
        _ name: String,
        _ ingress: inout NodeConfiguration.Ingress
    ) {
        ingress.routes = mapping["routes"]?.list("'routes'", diagnostics, route) ?? []
        if kind == .http { ingress.redirectPort = mapping.value("redirect", Self.redirect) }
        if kind == .https {
            ingress.hsts = mapping.value("hsts") { text in
                guard let seconds = UInt32(text), text == "\(seconds)", seconds <= 63_072_000 else {
                    throw StreamError(
                        .badRequest,
                        "'\(text.prefix(80))' is not a number of seconds from 0 (which takes it back) to 63072000, two years"
                    )
                }
                return seconds
            }
        }
        if mapping["routes"] == nil, mapping["redirect"] == nil, !mapping.hasUnknownKeys {
            let redirect = kind == .http ? ", or 'redirect: https'" : ""
            diagnostics.report(
                "listener '\(name)': protocol \(kind.rawValue) needs 'routes', a list of "
                    + "{host: NAME, path: /PREFIX, to: HOST:PORT}\(redirect)",
                at: mapping.node.position
            )
        }
        if let node = mapping["timeouts"] { decode(timeouts: node, &ingress.timeouts) }
        if let node = mapping["limits"] { decode(limits: node, &ingress.limits) }
        checkOrder(of: ingress.routes, name)
    }

    /// A route behind one that matches everything it could match is never used.
    private func checkOrder(of routes: [NodeConfiguration.IngressRoute], _ name: String) {
        var first: [String: NodeConfiguration.IngressRoute] = [:]
        var hosts: Set<NodeConfiguration.IngressRoute.Host> = []
        for route in routes {
            let key = route.description
            if let earlier = first[key] {
                diagnostics.report(
                    "listener '\(name)': route '\(key)' is never used, since line \(earlier.position?.line ?? 0) has the "
                        + "same 'host' and 'path': remove one",
                    at: route.position
                )
            } else if hosts.contains(route.host) || hosts.contains(.any) {
                diagnostics.report(
                    "listener '\(name)': route '\(key)' is never used, since an earlier one takes every path of its host: "
                        + "put it before that",
                    at: route.position
                )
            }
            if first[key] == nil { first[key] = route }
            if route.path == .root { hosts.insert(route.host) }
        }
    }

    private func route(_ node: YAMLNode) -> NodeConfiguration.IngressRoute? {
        let keys = ["host", "path", "to", "h2"]
        guard let mapping = MappingDecoder(node, what: "a route", keys: keys, required: ["to"], diagnostics) else {
            return nil
        }
        let h2 = mapping["h2"] == nil ? false : mapping.bool("h2") ?? false
        let host = mapping["host"] == nil ? .any : mapping.value("host", Self.host)
        let path = mapping["path"] == nil ? .root : mapping.value("path", Self.path)
        let to = mapping.value("to") { try Authority(parsing: $0) }
        guard let host, let path, let to else { return nil }
        return NodeConfiguration.IngressRoute(host: host, path: path, to: to, h2: h2, position: node.position)
    }

    private static func host(_ text: String) throws -> NodeConfiguration.IngressRoute.Host {
        if text == "*" { return .any }
        guard text.hasPrefix("*.") else { return .name(try Authority(host: text, port: 1).host) }
        let suffix = try Authority(host: String(text.dropFirst(2)), port: 1)
        guard suffix.address == nil else {
            throw StreamError(.badRequest, "'\(text.prefix(80))' is neither a host name nor *.DOMAIN")
        }
        return .suffix("." + suffix.host)
    }

    private static func path(_ text: String) throws -> HTTPPath {
        guard !text.utf8.contains(where: { "?#*".utf8.contains($0) }) else {
            throw StreamError(
                .badRequest,
                "'\(text.prefix(80))' has a '?', '#' or '*': write the beginning of a path, like /v1/, which matches whole "
                    + "segments"
            )
        }
        do throws(HTTPError) {
            let path = try HTTPPath(parsing: text[...])
            return path.isRoot || text.last != "/" ? path : try HTTPPath(parsing: path.description.dropLast())
        } catch {
            throw StreamError(.badRequest, "'\(text.prefix(80))': \(error.message)")
        }
    }

    private static func redirect(_ text: String) throws -> UInt16 {
        if text == "https" { return 443 }
        if text.hasPrefix("https:"), let port = UInt16(text.dropFirst(6)), port > 0, text == "https:\(port)" {
            return port
        }
        throw StreamError(.badRequest, "'\(text.prefix(80))' is neither https nor https:PORT")
    }

    private func decode(timeouts node: YAMLNode, _ timeouts: inout NodeConfiguration.IngressTimeouts) {
        let keys = ["head", "idle", "upstream"]
        guard let mapping = MappingDecoder(node, what: "'timeouts'", keys: keys, diagnostics) else { return }
        if let value = mapping.value("head", { try Duration(parsing: $0) }) { timeouts.head = value }
        if let value = mapping.value("idle", { try Duration(parsing: $0) }) { timeouts.idle = value }
        guard mapping["upstream"] != nil else { return }
        let upstream = mapping.value("upstream") { $0 == "none" ? Duration?.none : try Duration(parsing: $0) }
        if let upstream { timeouts.upstream = upstream }
    }

    private func decode(limits node: YAMLNode, _ limits: inout NodeConfiguration.IngressLimits) {
        let keys = ["head", "fields", "body", "requests", "connections"]
        guard let mapping = MappingDecoder(node, what: "'limits'", keys: keys, diagnostics) else { return }
        func size(_ key: String, _ range: ClosedRange<UInt64>) -> UInt64? {
            mapping.value(key) { try Self.size($0, range) }
        }
        func count(_ key: String, _ range: ClosedRange<UInt64>) -> Int? {
            mapping.value(key) { text in
                guard let number = UInt64(text), text == "\(number)", range.contains(number) else {
                    throw StreamError(
                        .badRequest,
                        "'\(text.prefix(80))' is not a number from \(range.lowerBound) to \(range.upperBound)"
                    )
                }
                return Int(number)
            }
        }
        if let head = size("head", 1024...1 << 20) {
            limits.http.head = Int(head)
            limits.http.firstLine = min(limits.http.firstLine, Int(head))
        }
        if let fields = count("fields", 10...1000) { limits.http.fields = fields }
        if let body = size("body", 0...1 << 50) { limits.http.body = body }
        if let requests = count("requests", 1...1_000_000) { limits.requests = requests }
        if let connections = count("connections", 1...1_000_000) { limits.connections = connections }
    }

    /// `4096`, `64KiB`, `10MiB`, `2GiB`.
    private static func size(_ text: String, _ range: ClosedRange<UInt64>) throws -> UInt64 {
        let units: [(String, UInt64)] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]
        let unit = units.first { text.hasSuffix($0.0) }
        let digits = unit == nil ? text[...] : text.dropLast(3)
        let isNumber = !digits.isEmpty && digits.utf8.allSatisfy { (0x30...0x39).contains($0) }
        guard isNumber, let number = UInt64(digits), number <= range.upperBound,
            range.contains(number &* (unit?.1 ?? 1)), number <= range.upperBound / (unit?.1 ?? 1)
        else {
            throw StreamError(
                .badRequest,
                "'\(text.prefix(80))' is not a size from \(range.lowerBound) to \(range.upperBound) bytes: write a number, "
                    + "or one with KiB, MiB or GiB"
            )
        }
        return number * (unit?.1 ?? 1)
    }
}

import MeshIdentity
import Platform
import SSHSignal

/// The configuration that `enroll` gives a device's node: an HBONE server with the device's identity, open to members
/// of its own namespace for the ports that the operator named.
enum NodeConfigurationFile {
    static func text(identity: String, id: SPIFFEID, node: SignalMessage.NodeRequest) -> String {
        text(identity: identity, members: members(of: id), node: node)
    }

    /// - Parameter members: Whom its policy lets in; nil: it has none.
    static func text(identity: String, members: String?, node: SignalMessage.NodeRequest) -> String {
        var text = """
            # Written by `bootstrap enroll`, which replaces it when its options change.
            identity: \(quote(identity))
            listeners:
            - {name: hbone, bind: \(quote(NumericAddress.text(node.bind, node.port))), protocol: hbone}
            default: deny

            """
        let advertised = node.advertise ?? []
        if !advertised.isEmpty { text += "advertise: [\(advertised.map(quote).joined(separator: ", "))]\n" }
        if let source = node.renewFrom { text += "renewal: {from: \(quote(source))}\n" }
        if let gateways = node.reverse, !gateways.isEmpty {
            text += "reverse:\n"
            for gateway in gateways {
                let parts = gateway.split(separator: "=", maxSplits: 1).map(String.init)
                let identity = parts.count > 1 ? ", identity: \(quote(parts[1]))" : ""
                text += "- {gateway: \(quote(parts[0]))\(identity)}\n"
            }
        }
        let hosts = Set(node.allowHosts ?? []).sorted()
        if !hosts.isEmpty {
            text += "endpoints:\n"
            for host in hosts { text += "- {match: \(quote(host)), direct: true}\n" }
        }
        let ports = Set(node.allowPorts).sorted()
        if !ports.isEmpty, let members {
            text += """
                policy:
                - name: enrolled
                  action: ALLOW
                  rules:
                  - from: [{principals: [\(quote(members))]}]
                    to: [{ports: [\(ports.map(String.init).joined(separator: ", "))]}]

                """
        }
        return text
    }

    /// What a node's configuration says that this release, or one before, has written; nil for any other file.
    static func request(in text: String) -> SignalMessage.NodeRequest? {
        var request: SignalMessage.NodeRequest?
        var ports: [UInt16] = []
        var hosts: [String] = []
        var renewFrom: String?
        var gateways: [String] = []
        for line in text.split(separator: "\n") {
            if let bind = value(in: line, "- {name: hbone, bind: ", ", protocol: hbone}").flatMap(unquote),
                let colon = bind.lastIndex(of: ":"), let port = UInt16(bind[bind.index(after: colon)...])
            {
                request = .init(bind: bind[..<colon].filter { $0 != "[" && $0 != "]" }, port: port)
            } else if let list = value(in: line, "    to: [{ports: [", "]}]") {
                ports = list.split(separator: ",").compactMap { UInt16($0.filter { $0 != " " }) }
            } else if let source = value(in: line, "renewal: {from: ", "}") {
                renewFrom = unquote(source)
            } else if let gateway = value(in: line, "- {gateway: ", "}") {
                let parts = gateway.split(separator: ", identity: ", maxSplits: 1).compactMap { unquote($0) }
                gateways.append(parts.joined(separator: "="))
            } else if let host = value(in: line, "- {match: ", ", direct: true}").flatMap(unquote) {
                hosts.append(host)
            }
        }
        guard var request else { return nil }
        (request.allowPorts, request.allowHosts, request.renewFrom) = (ports, hosts, renewFrom)
        if !gateways.isEmpty { request.reverse = gateways }
        let advertised = advertised(in: text)
        request.advertise = advertised.isEmpty ? nil : advertised
        return request
    }

    /// Where a configuration says that its node is reached beside its own addresses, in whoever's hand, as long as it
    /// is in one line.
    static func advertised(in text: String) -> [String] {
        for line in text.split(separator: "\n") {
            guard let list = value(in: line, "advertise: [", "]") else { continue }
            return list.split(separator: ",").compactMap { word in
                unquote(word.drop { $0 == " " }) ?? (word.contains("\"") ? nil : word.filter { $0 != " " })
            }
        }
        return []
    }

    /// The gateways that its node holds connections to, likewise.
    static func gateways(in text: String) -> [SignalMessage.Gateway] {
        var isInside = false
        var found: [SignalMessage.Gateway] = []
        for line in text.split(separator: "\n") {
            if line.first?.isLetter == true { isInside = line.hasPrefix("reverse:") }
            guard isInside, let address = quoted(after: "gateway: ", in: line) else { continue }
            found.append(.init(address: address, id: quoted(after: "identity: ", in: line)))
        }
        return Array(found.prefix(8))
    }

    private static func quoted(after key: String, in line: Substring) -> String? {
        guard let place = line.firstRange(of: key + "\"")?.upperBound,
            let end = line[place...].firstIndex(of: "\"")
        else { return nil }
        return String(line[place..<end])
    }

    /// Members of its namespace, as a policy names them; nil: it has none.
    static func members(of id: SPIFFEID) -> String? { id.namespace.map { "\(id.trustDomain)/ns/\($0)/sa/*" } }

    /// Whom a configuration lets in that this release, or one before, has written; nil: it has no such policy.
    static func members(in text: String) -> String? {
        for line in text.split(separator: "\n") {
            guard let found = value(in: line, "  - from: [{principals: [", "]}]").flatMap(unquote) else { continue }
            // Of a namespace, and of nobody else.
            guard found.hasSuffix("/sa/*"), let one = try? SPIFFEID("spiffe://\(found.dropLast())member") else {
                return nil
            }
            return members(of: one)
        }
        return nil
    }

    private static func value(in line: Substring, _ before: String, _ after: String) -> Substring? {
        guard line.hasPrefix(before), line.hasSuffix(after), line.count >= before.count + after.count else {
            return nil
        }
        return line.dropFirst(before.count).dropLast(after.count)
    }

    /// Of what needed no escapes: addresses.
    private static func unquote(_ text: Substring) -> String? {
        guard text.count >= 2, text.first == "\"", text.last == "\"", !text.contains("\\") else { return nil }
        return String(text.dropFirst().dropLast())
    }

    /// A double-quoted YAML scalar. Paths may hold anything but control characters, which are escaped.
    private static func quote(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": result += "\\\(scalar)"
            case _ where scalar.value < 0x20 || scalar.value == 0x7F:
                let digits = String(scalar.value, radix: 16)
                result += "\\x" + String(repeating: "0", count: 2 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}

extension SignalMessage.NodeRequest {
    /// The node that the device has, but for what others may reach.
    init(_ change: SignalMessage.Access) throws(SignalError) {
        self.init(allowHosts: [], deny: [], keeps: ["bind", "port", "renewFrom", "allow", "advertise"])
        for place in change.allow {
            if let port = try Self.port(place) {
                allowPorts.append(port)
            } else {
                allowHosts?.append(try Self.host(place))
            }
        }
        for place in change.deny {
            if let port = try Self.port(place) { deny?.append("\(port)") } else { deny?.append(try Self.host(place)) }
        }
    }

    private static func port(_ text: String) throws(SignalError) -> UInt16? {
        guard let port = UInt16(text) else { return nil }
        guard port > 0 else { throw SignalError(.refused, "'0' is no port") }
        return port
    }

    private static func host(_ text: String) throws(SignalError) -> String {
        guard let place = try? Authority(parsing: text) else {
            throw SignalError(.refused, "'\(Printable.clean(text, limit: 80))' is no port and no host:port")
        }
        return place.description
    }

    /// With what the operator has left open as the device has it, and without what is denied.
    ///
    /// - Parameters:
    ///   - present: nil: there is nothing yet, or nobody knows what.
    ///   - reach: Where what is offered is reached; nil where it is not.
    func completed(
        by present: SignalMessage.NodeRequest?,
        reaching reach: (String) -> String? = { _ in nil }
    ) -> SignalMessage.NodeRequest {
        var result = self
        if let present {
            for word in keeps ?? [] {
                switch word {
                case "bind": result.bind = present.bind
                case "port": result.port = present.port
                case "renewFrom": result.renewFrom = present.renewFrom
                case "advertise": result.advertise = present.advertise
                case "allow":
                    result.allowPorts += present.allowPorts
                    result.allowHosts = (allowHosts ?? []) + (present.allowHosts ?? [])
                default: break
                }
            }
        }
        if reverse == nil { result.reverse = present?.reverse }
        if result.reverse?.isEmpty == true { result.reverse = nil }
        // Last: what it has, or the operator has named, is not asked after.
        if result.renewFrom == nil { result.renewFrom = offersRenewal.flatMap(reach) }
        let denied = Set(deny ?? [])
        result.allowPorts = Set(result.allowPorts).filter { !denied.contains("\($0)") }.sorted()
        result.allowHosts = Set(result.allowHosts ?? []).subtracting(denied).sorted()
        (result.deny, result.keeps, result.offersRenewal) = (nil, nil, nil)
        return result
    }

    /// What is to be said where gateways are named, and others were before; nil: nothing.
    func remark(onGatewaysOf present: SignalMessage.NodeRequest?) -> String? {
        guard let reverse, !reverse.isEmpty else { return nil }
        let gone = (present?.reverse ?? []).filter { !reverse.contains($0) }
        guard !gone.isEmpty else { return nil }
        return
            "it holds no connection to \(gone.joined(separator: ", ")) any more: --reverse names all the gateways that it is to have, "
            + "and may be repeated"
    }

    /// Ports, and then the others.
    var allowed: [String] { allowPorts.map(String.init) + (allowHosts ?? []) }
}

import MeshPolicy
import Platform

/// What a `dns` listener answers by itself: names that lead to a peer of the mesh, and its addresses' names. Everything
/// else is asked of others.
struct MeshZone: Sendable {
    let tables: [EndpointTable]
    let names: VirtualNames
    let settings: NodeConfiguration.NameSettings

    /// nil: it is not about the mesh.
    func answer(to question: DNSQuestion) -> DNSAnswer? {
        guard question.isInternetClass else { return nil }
        if let address = Self.reversed(question.name) {
            switch names.meaning(of: address) {
            case .address: return nil
            case .unknown: return DNSAnswer(code: .noSuchName, lifetime: settings.lifetime)
            case .name(let name):
                let isAsked = question.kind == DNSQuestion.Kind.ptr || question.kind == DNSQuestion.Kind.any
                return DNSAnswer(content: isAsked ? .name(name) : .nothing, lifetime: settings.lifetime)
            }
        }
        guard isOfTheMesh(question.name) else { return nil }
        guard let addresses = names.addresses(of: question.name) else { return DNSAnswer(code: .serverFailure) }
        let content: DNSAnswer.Content =
            switch question.kind {
            case DNSQuestion.Kind.a, DNSQuestion.Kind.any: .address(addresses.ipv4)
            case DNSQuestion.Kind.aaaa: .address(addresses.ipv6)
            // The name is there, and has nothing else: no HTTPS record may lead a browser past the mesh.
            default: .nothing
            }
        return DNSAnswer(content: content, lifetime: settings.lifetime)
    }

    /// Whether what others answer may be passed on. A name of theirs that has an address of the mesh would lead
    /// programs, and pages in browsers, to a service that they have not named.
    func allows(_ answer: [UInt8]) -> Bool {
        guard let addresses = DNSQuestion.addresses(in: answer) else { return false }
        return addresses.allSatisfy { !settings.blocks.ipv4.contains($0) && !settings.blocks.ipv6.contains($0) }
    }

    /// Whether an endpoint leads from the name to a peer, on whichever port: what goes to its other ports is resolved
    /// when it comes. An endpoint for everything makes no name one of the mesh, for that would be all of them.
    private func isOfTheMesh(_ name: String) -> Bool {
        guard let host = try? Authority(host: name, port: 1), host.address == nil, host.host == name else {
            return false
        }
        return tables.contains { table in
            table.contains(for: name) { endpoint in
                guard endpoint.match.host != .any, case .peer = endpoint.way else { return false }
                let port = endpoint.match.port ?? 1
                guard let destination = try? Authority(host: name, port: port) else { return false }
                return endpoint.match.matches(destination)
            }
        }
    }

    /// Names that have an address whoever asks: those that endpoints write out.
    static func fixedNames(_ endpoints: [MeshPolicy.Endpoint]) -> [String] {
        endpoints.compactMap { endpoint in
            guard case .exact(let name) = endpoint.match.host, IPAddress(name) == nil, case .peer = endpoint.way else {
                return nil
            }
            return name
        }
    }

    /// The address that a name in `in-addr.arpa` or `ip6.arpa` is about (RFC 1035 §3.5, RFC 3596 §2.5).
    static func reversed(_ name: String) -> IPAddress? {
        let labels = name.split(separator: ".", omittingEmptySubsequences: false)
        if labels.count == 6, name.hasSuffix(".in-addr.arpa") {
            return IPAddress(labels[..<4].reversed().joined(separator: "."))
        }
        guard labels.count == 34, name.hasSuffix(".ip6.arpa") else { return nil }
        let digits = labels[..<32].reversed().compactMap { $0.count == 1 ? $0.first?.hexDigitValue : nil }
        guard digits.count == 32 else { return nil }
        return IPAddress(bytes: (0..<16).map { UInt8(digits[2 * $0] << 4 | digits[2 * $0 + 1]) })
    }
}

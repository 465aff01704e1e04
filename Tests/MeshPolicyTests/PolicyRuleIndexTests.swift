import MeshIdentity
import Platform
import Streams
import Testing

@testable import MeshPolicy

/// The index is an optimisation: it must answer as a plain walk over the rules does.
@Suite struct RuleIndexTests {
    @Test func agreesWithAWalkOverTheRules() throws {
        var random = SeededGenerator(state: 7)
        var matched = 0
        for _ in 0..<60 {
            let policies = (0..<Int.random(in: 1...12, using: &random)).map { index in
                AuthorizationPolicy(
                    name: "p\(index)",
                    action: Bool.random(using: &random) ? .allow : .deny,
                    rules: (0..<Int.random(in: 1...3, using: &random)).map { _ in Self.rule(&random) }
                )
            }
            let index = RuleIndex(policies)
            for _ in 0..<150 {
                let request = try Self.request(&random)
                let all = policies.flatMap { policy in policy.rules.indices.map { (policy, $0) } }
                let expected = all.first { Self.matches($0.0.rules[$0.1], request, isDeny: $0.0.action == .deny) }
                switch index.firstMatch(RequestAttributes(request, own: nil), over: request.decidedTransport) {
                case .rule(let rule):
                    matched += 1
                    #expect(rule.policy.name == expected?.0.name && rule.index == expected?.1)
                case .none, .otherTransport: #expect(expected == nil)
                }
            }
        }
        #expect((1000...8000).contains(matched), "the requests should neither all match nor all fail: \(matched)")
    }

    static let namespaces = ["ops", "dev", "prod", "op", "d"]
    static let hosts = [
        "cam-1.lan", "cam-12.lan", "db.prod", "x", "10.0.0.1", "10.200.0.1", "[fd00::1]", "[fd00:1::1]",
    ]
    static let ips = ["10.0.0.1", "10.200.3.4", "192.168.1.1", "fd00::1", "fe00::1"]

    static func some<Value>(_ random: inout SeededGenerator, _ values: [Value]) -> [Value] {
        guard Int.random(in: 0...2, using: &random) < 2 else { return [] }
        return (0..<Int.random(in: 1...2, using: &random)).compactMap { _ in values.randomElement(using: &random) }
    }

    static let tokens: [StringPattern] = [.exact("iss/ann"), .prefix("iss/"), .suffix("/ben"), .any]
    static let methods: [StringPattern] = [.exact("GET"), .exact("POST"), .prefix("P"), .any]
    static let paths: [StringPattern] = [.exact("/a"), .prefix("/a"), .prefix("/a/"), .suffix(".png"), .any]

    static func rarely<Value>(_ random: inout SeededGenerator, _ values: [Value]) -> [Value] {
        Int.random(in: 0...3, using: &random) == 0 ? some(&random, values) : []
    }

    static func details(_ random: inout SeededGenerator) -> RequestDetails? {
        guard Int.random(in: 0...2, using: &random) > 0 else { return nil }
        return RequestDetails(
            method: ["GET", "POST", "PUT"].randomElement(using: &random),
            path: ["/a", "/a/b", "/b.png", nil].randomElement(using: &random) ?? nil,
            principal: ["iss/ann", "iss/ben", "x/ben", nil].randomElement(using: &random) ?? nil,
            isTokenRead: Int.random(in: 0...2, using: &random) > 0
        )
    }

    static func rule(_ random: inout SeededGenerator) -> AuthorizationPolicy.Rule {
        let texts: [StringPattern] =
            namespaces.map { .exact("m/ns/\($0)/sa/a") } + namespaces.map { .prefix("m/ns/\($0)") } + [
                .suffix("/a"), .suffix("a"), .any, .prefix("m"),
            ]
        let spaces: [StringPattern] = namespaces.map { .exact($0) } + [.prefix("o"), .suffix("p"), .any]
        let blocks = ["10.0.0.0/8", "10.0.0.1/32", "0.0.0.0/0", "fd00::/8", "fd00::/31", "192.168.0.0/16"].compactMap {
            try? CIDR(parsing: $0)
        }
        let patterns: [HostPattern] =
            blocks.map { .block($0) } + [
                .any, .name("cam-1.lan"), .name("x"), .wildcard(prefix: "cam-", suffix: ".lan"),
                .wildcard(prefix: "", suffix: ".lan"), .wildcard(prefix: "d", suffix: ""),
            ]
        let ports: [ClosedRange<UInt16>] = [1...1, 2...2, 1...3, 1...100, 22...22]
        let from = (0..<Int.random(in: 1...2, using: &random)).map { _ in
            AuthorizationPolicy.Source(
                principals: some(&random, texts),
                notPrincipals: some(&random, texts),
                namespaces: some(&random, spaces),
                notNamespaces: some(&random, spaces),
                sourceIPs: some(&random, blocks),
                notSourceIPs: some(&random, blocks),
                requestPrincipals: rarely(&random, tokens),
                notRequestPrincipals: rarely(&random, tokens)
            )
        }
        let to = (0..<Int.random(in: 1...2, using: &random)).map { _ in
            AuthorizationPolicy.Operation(
                hosts: some(&random, patterns),
                notHosts: some(&random, patterns),
                ports: some(&random, ports),
                notPorts: some(&random, ports),
                methods: rarely(&random, methods),
                notMethods: rarely(&random, methods),
                paths: rarely(&random, paths),
                notPaths: rarely(&random, paths)
            )
        }
        let when: [AuthorizationPolicy.Condition] = some(
            &random,
            [.transport([.h2]), .transport([.ssh, .h2]), .notAfter(50), .notAfter(150)]
        )
        return .init(from: from, to: to, when: when)
    }

    static func request(_ random: inout SeededGenerator) throws -> StreamRequest {
        let namespace = namespaces.randomElement(using: &random) ?? ""
        let id = try SPIFFEID("spiffe://m/ns/\(namespace)/sa/\(Bool.random(using: &random) ? "a" : "b")")
        return StreamRequest(
            source: Int.random(in: 0...5, using: &random) == 0 ? .unauthenticated : .peer(id),
            sourceIP: try #require(IPAddress(ips.randomElement(using: &random) ?? "")),
            transport: Transport.allCases.randomElement(using: &random) ?? .h2,
            destination: try Authority(
                parsing:
                    "\(hosts.randomElement(using: &random) ?? ""):\([1, 2, 3, 22, 99].randomElement(using: &random) ?? 1)"
            ),
            details: details(&random),
            now: 100
        )
    }

    /// Written from the documentation, without the index or its helpers.
    static func matches(_ rule: AuthorizationPolicy.Rule, _ request: StreamRequest, isDeny: Bool) -> Bool {
        var principal: String?
        var namespace: String?
        if case .peer(let id) = request.source {
            principal = String(id.description.dropFirst("spiffe://".count))
            namespace = id.namespace
        }
        func any(_ patterns: [StringPattern], _ text: String?) -> Bool {
            patterns.contains { pattern in
                guard let text else { return false }
                switch pattern {
                case .any: return true
                case .exact(let whole): return text == whole
                case .prefix(let part): return text.hasPrefix(part)
                case .suffix(let part): return text.hasSuffix(part)
                }
            }
        }
        let to = request.destination
        func http(_ patterns: [StringPattern], _ excluded: [StringPattern], _ text: String?, isKnown: Bool) -> Bool {
            if patterns.isEmpty, excluded.isEmpty { return true }
            if !isKnown { return isDeny }
            return (patterns.isEmpty || any(patterns, text)) && !any(excluded, text)
        }
        let details = request.details
        let from = rule.from.contains { source in
            (source.principals.isEmpty || any(source.principals, principal)) && !any(source.notPrincipals, principal)
                && (source.namespaces.isEmpty || any(source.namespaces, namespace))
                && !any(source.notNamespaces, namespace)
                && (source.sourceIPs.isEmpty || source.sourceIPs.contains { $0.contains(request.sourceIP) })
                && !source.notSourceIPs.contains { $0.contains(request.sourceIP) }
                && http(
                    source.requestPrincipals,
                    source.notRequestPrincipals,
                    details?.principal,
                    isKnown: details?.isTokenRead == true
                )
        }
        let operation = rule.to.contains { operation in
            (operation.hosts.isEmpty || operation.hosts.contains { $0.matches(to) })
                && !operation.notHosts.contains { $0.matches(to) }
                && (operation.ports.isEmpty || operation.ports.contains { $0.contains(to.port) })
                && !operation.notPorts.contains { $0.contains(to.port) }
                && http(operation.methods, operation.notMethods, details?.method, isKnown: details?.method != nil)
                && http(operation.paths, operation.notPaths, details?.path, isKnown: details?.path != nil)
        }
        let conditions = rule.when.allSatisfy { condition in
            switch condition {
            case .transport(let transports): transports.contains(request.decidedTransport)
            case .notAfter(let time): request.now <= time
            case .source, .operation: false
            }
        }
        return (rule.from.isEmpty || from) && (rule.to.isEmpty || operation) && conditions
    }
}

struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}

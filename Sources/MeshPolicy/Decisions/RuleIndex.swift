import MeshIdentity
import Platform

/// The rules of some policies, filed so that a request meets only the few that could match it.
///
/// Each rule is filed under its rarest feature: of the fields that it cannot match without (principals, namespaces,
/// source addresses, hosts, ports), the one whose values the fewest other rules have. A request looks up its own
/// values, and the prefixes and suffixes of those lengths that occur, in one hash table; the rules found there are then
/// matched in full, so a collision costs time, never correctness. Rules without such a feature are matched each time.
///
/// A class, so that a decision retains one object and not each of its tables.
final class RuleIndex: Sendable {
    enum Match {
        case none
        case rule(RuleReference)
        /// No rule matches, but this one would if it were not for its transports.
        case otherTransport(RuleReference)
    }

    fileprivate struct Entry: Sendable {
        /// Which of the policies.
        var policy: Int
        var rule: AuthorizationPolicy.Rule
        var reference: RuleReference
        /// Matches where what it asks for is not known: a DENY rule must not be got round by hiding it.
        var matchesUnknown: Bool
        /// Its `namespaces` are those of every trust domain: whoever lets somebody in by them means his own.
        var matchesForeign: Bool
        var concernsLocalUsers: Bool
    }

    private let entries: [Entry]
    private let buckets: [UInt64: [Int32]]
    /// In ascending order, as each bucket.
    private let unfiled: [Int32]
    private let shapes: FeatureShapes

    var isEmpty: Bool { entries.isEmpty }

    init(_ policies: [AuthorizationPolicy]) {
        entries = policies.enumerated().flatMap { number, policy in
            policy.rules.enumerated().map { index, rule in
                Entry(
                    policy: number,
                    rule: rule,
                    reference: RuleReference(policy: policy, index: index),
                    matchesUnknown: policy.action == .deny,
                    matchesForeign: policy.action != .allow,
                    concernsLocalUsers: policy.importedFrom == nil
                )
            }
        }
        let features = entries.map { RuleFeatures($0.rule, matchesUnknown: $0.matchesUnknown) }
        var uses: [UInt64: Int] = [:]
        // That a request is not known has no part in it: the first such rule that fits the rest matches, and ends it.
        for key in features.lazy.flatMap(\.fields).flatMap({ $0 }) where !key.isUnknown {
            uses[key.hash, default: 0] += 1
        }

        var buckets: [UInt64: [Int32]] = [:]
        var unfiled: [Int32] = []
        var shapes = FeatureShapes()
        for (id, feature) in features.enumerated() {
            let rarest = feature.fields.min { left, right in
                left.reduce(0) { $0 + uses[$1.hash, default: 0] } < right.reduce(0) { $0 + uses[$1.hash, default: 0] }
            }
            guard let rarest else {
                unfiled.append(Int32(id))
                continue
            }
            for key in Set(rarest) {
                buckets[key.hash, default: []].append(Int32(id))
                shapes.insert(key.shape)
            }
        }
        self.buckets = buckets
        self.unfiled = unfiled
        self.shapes = shapes
    }

    /// The first rule, in the order of the file, that matches.
    func firstMatch(_ request: RequestAttributes, over transport: Transport) -> Match {
        if entries.isEmpty { return .none }
        var match: Int32?
        var nearMiss: Int32?
        func scan(_ ids: [Int32]) {
            for id in ids {
                if let match, id >= match { return }
                let entry = entries[Int(id)]
                if request.isLocalUser, !entry.concernsLocalUsers { continue }
                switch evaluate(entry, request, over: transport) {
                case .no: continue
                case .yes:
                    match = id
                    return
                case .butForTransport:
                    nearMiss = min(nearMiss ?? id, id)
                }
            }
        }
        scan(unfiled)
        shapes.forEachHash(of: request) { hash in
            if let bucket = buckets[hash] { scan(bucket) }
        }
        if let match { return .rule(entries[Int(match)].reference) }
        if let nearMiss { return .otherTransport(entries[Int(nearMiss)].reference) }
        return .none
    }

    /// Every rule that matches, in the order of the file, at most one for each policy.
    func allMatches(_ request: RequestAttributes, over transport: Transport) -> [RuleReference] {
        var ids = Set(unfiled)
        shapes.forEachHash(of: request) { ids.formUnion(buckets[$0] ?? []) }
        var policiesSeen: Set<Int> = []
        return ids.sorted().compactMap { id in
            let entry = entries[Int(id)]
            guard !request.isLocalUser || entry.concernsLocalUsers,
                case .yes = evaluate(entry, request, over: transport),
                policiesSeen.insert(entry.policy).inserted
            else {
                return nil
            }
            return entry.reference
        }
    }
}

private enum Evaluation {
    case no
    case yes
    case butForTransport
}

/// Cheap tests first.
private func evaluate(
    _ entry: RuleIndex.Entry,
    _ request: RequestAttributes,
    over transport: Transport
) -> Evaluation {
    let (rule, matchesUnknown) = (entry.rule, entry.matchesUnknown)
    guard rule.to.isEmpty || rule.to.contains(where: { matches($0, request, matchesUnknown) }) else { return .no }
    guard rule.from.isEmpty || rule.from.contains(where: { matches($0, request, entry) }) else { return .no }
    var result = Evaluation.yes
    for condition in rule.when {
        switch condition {
        case .notAfter(let time): if request.now > time { return .no }
        case .transport(let transports): if !transports.contains(transport) { result = .butForTransport }
        case .source(let source): if !matches(source, request, entry) { return .no }
        case .operation(let operation): if !matches(operation, request, matchesUnknown) { return .no }
        }
    }
    return result
}

private func matches(
    _ to: AuthorizationPolicy.Operation,
    _ request: RequestAttributes,
    _ matchesUnknown: Bool
) -> Bool {
    let destination = request.destination
    return (to.ports.isEmpty || to.ports.contains { $0.contains(destination.port) })
        && !to.notPorts.contains { $0.contains(destination.port) }
        && (to.hosts.isEmpty || to.hosts.contains { $0.matches(destination) })
        && !to.notHosts.contains { pattern in
            pattern.matches(destination) || request.destinationAliases.contains { pattern.matches($0) }
        } && (!to.readsHTTP || matchesHTTP(to, request, matchesUnknown))
}

private func matchesHTTP(
    _ to: AuthorizationPolicy.Operation,
    _ request: RequestAttributes,
    _ matchesUnknown: Bool
) -> Bool {
    func matches(_ patterns: [StringPattern], _ excluded: [StringPattern], _ text: String?) -> Bool {
        if patterns.isEmpty, excluded.isEmpty { return true }
        guard let text else { return matchesUnknown }
        return (patterns.isEmpty || patterns.contains { $0.matches(text) }) && !excluded.contains { $0.matches(text) }
    }
    return matches(to.methods, to.notMethods, request.details?.method)
        && matches(to.paths, to.notPaths, request.details?.path)
}

private func matches(
    _ from: AuthorizationPolicy.Source,
    _ request: RequestAttributes,
    _ entry: RuleIndex.Entry
) -> Bool {
    func anyMatches(_ patterns: [StringPattern], _ text: String?) -> Bool {
        guard let text else { return false }
        return patterns.contains { $0.matches(text) }
    }
    return (from.principals.isEmpty || anyMatches(from.principals, request.principal))
        && !anyMatches(from.notPrincipals, request.principal)
        && (from.namespaces.isEmpty || isMeant() && anyMatches(from.namespaces, request.namespace))
        && !anyMatches(from.notNamespaces, request.namespace)
        && (from.sourceIPs.isEmpty || from.sourceIPs.contains { $0.contains(request.sourceIP) })
        && !from.notSourceIPs.contains { block in
            block.contains(request.sourceIP) || request.sourceAliases.contains { block.contains($0) }
        } && (!from.readsToken || matchesToken())

    /// Another trust domain gives its namespaces what names it likes: it is meant where `principals` say so.
    func isMeant() -> Bool { !request.isForeign || entry.matchesForeign || !from.principals.isEmpty }

    /// Whether there is a token is known where tokens are verified, and nowhere else.
    func matchesToken() -> Bool {
        guard let details = request.details, details.isTokenRead else { return entry.matchesUnknown }
        return (from.requestPrincipals.isEmpty || anyMatches(from.requestPrincipals, details.principal))
            && !anyMatches(from.notRequestPrincipals, details.principal)
    }
}

/// A request as the rules see it. An object: it is handed to every comparison.
final class RequestAttributes {
    /// SPIFFE ID without `spiffe://`; `nil` without identity.
    let principal: String?
    let namespace: String?
    /// Of another trust domain than this node.
    let isForeign: Bool
    let sourceIP: IPAddress
    let destination: Authority
    let isLocalUser: Bool
    /// nil where nobody reads HTTP.
    let details: RequestDetails?
    /// The IPv4 addresses that stand in those two: what an ALLOW rule excludes is excluded under either name. None
    /// where each spelling is judged for itself.
    let sourceAliases: [IPAddress]
    let destinationAliases: [Authority]
    let now: Int64

    init(_ request: StreamRequest, own: SPIFFEID?) {
        let identity: SPIFFEID? =
            switch request.source {
            case .peer(let peer): peer
            case .localUser: own
            case .unauthenticated: nil
            }
        principal = identity?.principal
        namespace = identity?.namespace
        isForeign = identity.map { identity in own.map { $0.trustDomain != identity.trustDomain } ?? false } ?? false
        sourceIP = request.sourceIP
        destination = request.destination
        details = request.details
        isLocalUser = request.source == .localUser
        now = request.now
        let port = request.destination.port
        sourceAliases = request.sourceIP.embeddedIPv4
        destinationAliases = request.destination.address?.embeddedIPv4.map { Authority(address: $0, port: port) } ?? []
    }

    private init(spelling original: RequestAttributes, _ sourceIP: IPAddress, _ destination: Authority) {
        principal = original.principal
        namespace = original.namespace
        isForeign = original.isForeign
        self.sourceIP = sourceIP
        self.destination = destination
        details = original.details
        isLocalUser = original.isLocalUser
        sourceAliases = []
        destinationAliases = []
        now = original.now
    }

    /// Nearly always not.
    var hasAliases: Bool { !sourceAliases.isEmpty || !destinationAliases.isEmpty }

    /// This request, and the same under every other name that its addresses have.
    var spellings: [RequestAttributes] {
        guard hasAliases else { return [self] }
        return ([sourceIP] + sourceAliases).flatMap { source in
            ([destination] + destinationAliases).map { RequestAttributes(spelling: self, source, $0) }
        }
    }
}

import Platform

/// Something that a request must have to match a rule: a hash of the value, and how a request computes the same hash.
struct Feature: Hashable {
    enum Shape: Hashable {
        case text(TextField, TextPart, length: Int)
        case block(AddressField, isIPv4: Bool, prefixLength: Int)
        case port
        /// What a field of HTTP has where nobody has read it.
        case unknown(TextField)
    }
    var hash: UInt64
    var shape: Shape

    var isUnknown: Bool { if case .unknown = shape { true } else { false } }
}

enum TextField: UInt64, CaseIterable {
    case principal = 1
    case namespace
    case host
    case method = 6
    case path
    case requestPrincipal
}

enum AddressField: UInt64 {
    case source = 4
    case destination
}

/// Which bytes of a text are hashed.
enum TextPart: UInt64 {
    case whole = 1
    case prefix
    case suffix
}

/// The fields of a rule under which it can be filed: each with the values one of which a request must have.
struct RuleFeatures {
    var fields: [[Feature]] = []

    /// A wider range of ports is no feature: it would fill the table.
    private static let maximumRange = 16

    /// - Parameter matchesUnknown: The rule matches requests, too, whose method, path and token are not known.
    init(_ rule: AuthorizationPolicy.Rule, matchesUnknown: Bool) {
        add(rule.from) { $0.principals.isEmpty ? nil : Self.all($0.principals) { Self.feature(.principal, $0) } }
        add(rule.from) { $0.namespaces.isEmpty ? nil : Self.all($0.namespaces) { Self.feature(.namespace, $0) } }
        add(rule.from) { $0.sourceIPs.isEmpty ? nil : Self.all($0.sourceIPs) { Self.feature(.source, $0) } }
        add(rule.to) { $0.hosts.isEmpty ? nil : Self.all($0.hosts, Self.feature) }
        add(rule.to) { to in
            guard !to.ports.isEmpty, to.ports.allSatisfy({ $0.count <= Self.maximumRange }) else { return nil }
            return to.ports.flatMap { $0.map { Feature(hash: portHash($0), shape: .port) } }
        }
        func http(_ field: TextField, _ patterns: [StringPattern]) -> [Feature]? {
            guard !patterns.isEmpty, let features = Self.all(patterns, { Self.feature(field, $0) }) else { return nil }
            return features + (matchesUnknown ? [Feature(hash: unknownHash(field), shape: .unknown(field))] : [])
        }
        add(rule.to) { http(.method, $0.methods) }
        add(rule.to) { http(.path, $0.paths) }
        add(rule.from) { http(.requestPrincipal, $0.requestPrincipals) }
    }

    /// A field counts only if every alternative of `from` or `to` has it.
    private mutating func add<Element>(_ elements: [Element], _ features: (Element) -> [Feature]?) {
        let found = elements.compactMap(features)
        if !elements.isEmpty, found.count == elements.count { fields.append(found.flatMap { $0 }) }
    }

    private static func all<Value>(_ values: [Value], _ feature: (Value) -> Feature?) -> [Feature]? {
        let features = values.compactMap(feature)
        return features.count == values.count ? features : nil
    }

    private static func feature(_ field: TextField, _ pattern: StringPattern) -> Feature? {
        switch pattern {
        case .any: nil
        case .exact(let text): feature(field, .whole, text)
        case .prefix(let text): feature(field, .prefix, text)
        case .suffix(let text): feature(field, .suffix, text)
        }
    }

    private static func feature(_ pattern: HostPattern) -> Feature? {
        switch pattern {
        case .any: nil
        case .name(let text): feature(.host, .whole, text)
        case .wildcard(let prefix, let suffix):
            prefix.utf8.count >= suffix.utf8.count
                ? feature(.host, .prefix, prefix) : feature(.host, .suffix, suffix)
        case .block(let block): feature(.destination, block)
        }
    }

    private static func feature(_ field: TextField, _ part: TextPart, _ text: String) -> Feature? {
        if text.isEmpty { return nil }
        var hash = TextHash(field, part)
        switch part {
        case .whole, .prefix: for byte in text.utf8 { hash.add(byte) }
        case .suffix: for byte in text.utf8.reversed() { hash.add(byte) }
        }
        // The whole text is found at its end, whatever its length.
        return Feature(hash: hash.value, shape: .text(field, part, length: part == .whole ? 0 : text.utf8.count))
    }

    private static func feature(_ field: AddressField, _ block: CIDR) -> Feature? {
        if block.prefixLength == 0 { return nil }
        return Feature(
            hash: blockHash(field, block.network, block.prefixLength),
            shape: .block(field, isIPv4: block.network.isIPv4, prefixLength: block.prefixLength)
        )
    }
}

/// The shapes that occur among the features of a rule index: what a request has to look up.
struct FeatureShapes: Sendable {
    private struct TextLengths: Sendable {
        var hasWhole = false
        /// Ascending.
        var prefixes: [Int] = []
        var suffixes: [Int] = []
    }

    private var principal = TextLengths()
    private var namespace = TextLengths()
    private var host = TextLengths()
    private var source: [(isIPv4: Bool, prefixLength: Int)] = []
    private var destination: [(isIPv4: Bool, prefixLength: Int)] = []
    private var hasPorts = false
    private var method = TextLengths()
    private var path = TextLengths()
    private var requestPrincipal = TextLengths()
    private var unknown: [TextField] = []

    mutating func insert(_ shape: Feature.Shape) {
        switch shape {
        case .port: hasPorts = true
        case .text(.principal, let part, let length): Self.insert(part, length, &principal)
        case .text(.namespace, let part, let length): Self.insert(part, length, &namespace)
        case .text(.host, let part, let length): Self.insert(part, length, &host)
        case .text(.method, let part, let length): Self.insert(part, length, &method)
        case .text(.path, let part, let length): Self.insert(part, length, &path)
        case .text(.requestPrincipal, let part, let length): Self.insert(part, length, &requestPrincipal)
        case .unknown(let field): if !unknown.contains(field) { unknown.append(field) }
        case .block(.source, let isIPv4, let length):
            if !source.contains(where: { $0 == (isIPv4, length) }) { source.append((isIPv4, length)) }
        case .block(.destination, let isIPv4, let length):
            if !destination.contains(where: { $0 == (isIPv4, length) }) { destination.append((isIPv4, length)) }
        }
    }

    private static func insert(_ part: TextPart, _ length: Int, _ lengths: inout TextLengths) {
        func insert(into sorted: inout [Int]) {
            let index = sorted.firstIndex { $0 >= length } ?? sorted.count
            if index == sorted.count || sorted[index] != length { sorted.insert(length, at: index) }
        }
        switch part {
        case .whole: lengths.hasWhole = true
        case .prefix: insert(into: &lengths.prefixes)
        case .suffix: insert(into: &lengths.suffixes)
        }
    }

    func forEachHash(of request: RequestAttributes, _ body: (UInt64) -> Void) {
        if hasPorts { body(portHash(request.destination.port)) }
        if let text = request.principal { Self.forEachHash(of: text, .principal, principal, body) }
        if let text = request.namespace { Self.forEachHash(of: text, .namespace, namespace, body) }
        Self.forEachHash(of: request.destination.host, .host, host, body)
        for (isIPv4, length) in source where isIPv4 == request.sourceIP.isIPv4 {
            body(blockHash(.source, request.sourceIP, length))
        }
        if let address = request.destination.address {
            for (isIPv4, length) in destination where isIPv4 == address.isIPv4 {
                body(blockHash(.destination, address, length))
            }
        }
        if let details = request.details {
            if let text = details.method { Self.forEachHash(of: text, .method, method, body) }
            if let text = details.path { Self.forEachHash(of: text, .path, path, body) }
            if let text = details.principal { Self.forEachHash(of: text, .requestPrincipal, requestPrincipal, body) }
        }
        for field in unknown where !isKnown(field, request.details) { body(unknownHash(field)) }
    }

    private func isKnown(_ field: TextField, _ details: RequestDetails?) -> Bool {
        switch field {
        case .method: details?.method != nil
        case .path: details?.path != nil
        // That there is no token is known, too, where somebody looks.
        case .requestPrincipal: details?.isTokenRead == true
        case .principal, .namespace, .host: true
        }
    }

    /// One pass over the bytes yields the hashes of all prefixes, one from the end those of all suffixes.
    private static func forEachHash(
        of text: String,
        _ field: TextField,
        _ lengths: TextLengths,
        _ body: (UInt64) -> Void
    ) {
        if lengths.hasWhole {
            var hash = TextHash(field, .whole)
            for byte in text.utf8 { hash.add(byte) }
            body(hash.value)
        }
        func partHashes(_ part: TextPart, _ wanted: [Int], _ bytes: some Sequence<UInt8>) {
            var hash = TextHash(field, part)
            var (length, next) = (0, 0)
            for byte in bytes {
                if next == wanted.count { return }
                hash.add(byte)
                length += 1
                if length == wanted[next] {
                    body(hash.value)
                    next += 1
                }
            }
        }
        if !lengths.prefixes.isEmpty { partHashes(.prefix, lengths.prefixes, text.utf8) }
        if !lengths.suffixes.isEmpty { partHashes(.suffix, lengths.suffixes, text.utf8.reversed()) }
    }
}

/// FNV-1a, 64 bits: can be read off after each byte.
private struct TextHash {
    private(set) var value: UInt64

    init(_ field: TextField, _ part: TextPart) {
        value = 0xcbf2_9ce4_8422_2325
        add(UInt8(field.rawValue << 4 | part.rawValue))
    }

    mutating func add(_ byte: UInt8) { value = (value ^ UInt64(byte)) &* 0x100_0000_01b3 }
}

private func unknownHash(_ field: TextField) -> UInt64 { field.rawValue | 0xfe << 56 }

private func portHash(_ port: UInt16) -> UInt64 { UInt64(port) | 0xff << 56 }

private func blockHash(_ field: AddressField, _ address: IPAddress, _ length: Int) -> UInt64 {
    let network = address.masked(length)
    var hash = field.rawValue << 8 | UInt64(length) | (network.isIPv4 ? 1 << 16 : 0)
    for half in [network.high, network.low] {
        // The finalizer of MurmurHash3: every bit of the input reaches every bit of the result.
        hash = (hash ^ half) &* 0xff51_afd7_ed55_8ccd
        hash = (hash ^ hash >> 33) &* 0xc4ce_b9fe_1a85_ec53
        hash ^= hash >> 33
    }
    return hash
}

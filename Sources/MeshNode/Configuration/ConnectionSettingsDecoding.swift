import H2Transport
import MeshPaths
import Streams
import YAML

/// Decodes the key `connections`.
struct ConnectionSettingsDecoder {
    let diagnostics: Diagnostics

    private static let keys = [
        "keepAlive", "keepAliveTimeout", "connectTimeout", "handshakeTimeout", "requestTimeout", "idleTimeout",
        "maximumAge", "drainTimeout", "perPeer", "resumable", "resumeTimeout", "standby", "multipath", "traceparent",
    ]

    func decode(_ node: YAMLNode) -> ConnectionSettings {
        var settings = ConnectionSettings.defaults
        guard let mapping = MappingDecoder(node, what: "'connections'", keys: Self.keys, diagnostics) else {
            return settings
        }
        func read(_ key: String, _ field: WritableKeyPath<ConnectionSettings, Duration>) {
            if let value = mapping.value(key, { try Duration(parsing: $0) }) { settings[keyPath: field] = value }
        }
        /// `none` is a value of these.
        func readLimit(_ key: String, _ field: WritableKeyPath<ConnectionSettings, Duration?>) {
            guard mapping[key] != nil else { return }
            let value = mapping.value(key) { $0 == "none" ? Duration?.none : try Duration(parsing: $0) }
            if let value { settings[keyPath: field] = value }
        }
        read("keepAlive", \.keepAlive)
        read("keepAliveTimeout", \.keepAliveTimeout)
        read("connectTimeout", \.connectTimeout)
        read("handshakeTimeout", \.handshakeTimeout)
        read("requestTimeout", \.requestTimeout)
        if let value = mapping.bool("resumable") { settings.resumable = value }
        read("resumeTimeout", \.resumeTimeout)
        if let value = mapping.bool("standby") { settings.standby = value }
        if let value = mapping.bool("multipath") { settings.multipath = value }
        readLimit("idleTimeout", \.idleTimeout)
        readLimit("maximumAge", \.maximumAge)
        readLimit("drainTimeout", \.drainTimeout)
        let perPeer = mapping.value("perPeer") { text -> Int in
            guard let count = Int(text), (1...1024).contains(count), text == "\(count)" else {
                throw StreamError(.badRequest, "'\(text.prefix(80))' is not a number from 1 to 1024")
            }
            return count
        }
        if let perPeer { settings.perPeer = perPeer }
        let traceparent = mapping.value("traceparent") { text -> H2Configuration.TraceSending in
            guard let sending = H2Configuration.TraceSending(rawValue: text) else {
                throw StreamError(.badRequest, "'\(text.prefix(80))' is not foreign, always or never")
            }
            return sending
        }
        if let traceparent { settings.traceparent = traceparent }
        return settings
    }
}

extension Duration {
    /// A length of time as configuration files write it: `500ms`, `10s`, `5m`, `24h`, `7d`, or several together,
    /// `1h30m`.
    ///
    /// - Throws: ``StreamError`` with code `badRequest` for anything else, and for no time at all.
    init(parsing text: String) throws(StreamError) {
        let units: [String: Int64] = ["ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000]
        let failure = StreamError(
            .badRequest,
            "'\(text.prefix(80))' is not a length of time: write a number with its unit, like 500ms, 10s, 5m, 24h or 1h30m"
        )
        var total: Int64 = 0
        var rest = Substring(text)
        while !rest.isEmpty {
            let digits = rest.prefix { $0.isASCII && $0.isNumber }
            let unit = rest[digits.endIndex...].prefix { $0.isASCII && $0.isLetter }
            // A number without its unit is refused: 24 could be hours or seconds. A century is enough for everybody.
            guard let count = Int64(digits), let size = units[String(unit)], count <= 3_153_600_000_000 / size else {
                throw failure
            }
            total += count * size
            rest = rest[unit.endIndex...]
        }
        guard total > 0, total <= 3_153_600_000_000 else { throw failure }
        self = .milliseconds(total)
    }
}

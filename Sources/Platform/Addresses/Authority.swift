/// Where a stream goes: the `host:port` of HTTP CONNECT's `:authority` (RFC 9110 §9.3.6, RFC 3986 §3.2 without
/// userinfo).
///
/// Parsed strictly and normalised, so that policy and routing see one spelling of each destination: host names are
/// lower-cased and lose a trailing dot, IPv6 is compressed (RFC 5952), IPv4-mapped IPv6 becomes IPv4, and what a C
/// library would take for an IPv4 address in disguise (`127.1`, `0x7f.1`, `2130706433`) is refused.
public struct Authority: Hashable, Sendable, CustomStringConvertible {
    /// Lower-case host name, or an IP address without brackets.
    public let host: String
    /// 1–65535.
    public let port: UInt16
    /// ``host`` as an address, when it is a literal one.
    public let address: IPAddress?

    /// Parses `name:port`, `1.2.3.4:port` or `[v6]:port`.
    ///
    /// Throws ``AddressError`` with the reason when `text` is anything else. The message never
    /// repeats more than a short, escaped part of `text`, which comes from a peer.
    public init(parsing text: String) throws(AddressError) {
        var text = text
        switch text.withUTF8({ Self.parse($0) }) {
        case .success(let authority): self = authority
        case .failure(let reason): throw AddressError("authority '\(Printable.escape(text))' \(reason.rawValue)")
        }
    }

    /// `host` is a name or an IP address without brackets; it is checked and normalised as when parsed.
    public init(host: String, port: UInt16) throws(AddressError) {
        var host = host
        let result: Result<Authority, Refusal>
        if port == 0 {
            result = .failure(.port)
        } else if let address = IPAddress(host) {
            result = .success(Authority(address: address, port: port))
        } else {
            result = host.withUTF8 { bytes in Self.parseName(bytes[...]).map { Authority(name: $0, port: port) } }
        }
        switch result {
        case .success(let authority): self = authority
        case .failure(let reason): throw AddressError("host '\(Printable.escape(host))' \(reason.rawValue)")
        }
    }

    /// `port` must not be 0.
    public init(address: IPAddress, port: UInt16) {
        precondition(port != 0, "an authority has a port from 1 to 65535")
        self.host = address.description
        self.port = port
        self.address = address
    }

    private init(name: String, port: UInt16) {
        host = name
        self.port = port
        address = nil
    }

    /// An address says it all: its text need not be hashed as well.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(port)
        if let address {
            hasher.combine(address.high)
            hasher.combine(address.low)
        } else {
            hasher.combine(host)
        }
    }

    /// `name:port`, `1.2.3.4:port` or `[v6]:port`; parses back to the same value.
    public var description: String {
        if let address, !address.isIPv4 { return "[\(host)]:\(port)" }
        return "\(host):\(port)"
    }

    private enum Refusal: String, Error {
        case empty = "is empty: write host:port"
        case long = "is longer than any host name and port"
        case character = "has a character that no host name has: only letters, digits, '-', '_', '.', or [IPv6]"
        case userinfo = "must not name a user: write host:port without '@'"
        case noPort = "has no port: write host:port"
        case port = "has no port from 1 to 65535 without leading zeros after the last ':'"
        case noHost = "has no host before the ':'"
        case bareIPv6 = "has several ':': write an IPv6 address in brackets, [::1]:80"
        case brackets = "has brackets around or beside something that is not an IPv6 address: write [::1]:80"
        case zone = "has an IPv6 zone (%): zones mean nothing to another machine"
        case label = "has an empty or overlong label, or one that begins or ends with '-'"
        case numeric = "ends in a number but is not an IPv4 address of four decimal numbers without leading zeros"
    }

    private static func parse(_ text: UnsafeBufferPointer<UInt8>) -> Result<Authority, Refusal> {
        if text.isEmpty { return .failure(.empty) }
        if text.count > 260 { return .failure(.long) }  // 253 of a name, its trailing dot, ':' and five digits
        if text.contains(UInt8(ascii: "@")) { return .failure(.userinfo) }
        guard let colon = text.lastIndex(of: UInt8(ascii: ":")) else {
            return .failure(text.first == UInt8(ascii: "[") ? .brackets : .noPort)
        }
        let host = text[..<colon]
        if host.isEmpty { return .failure(.noHost) }

        if host.first == UInt8(ascii: "[") {
            guard host.last == UInt8(ascii: "]") else {
                return .failure(text.last == UInt8(ascii: "]") ? .noPort : .brackets)
            }
            let inner = host.dropFirst().dropLast()
            if inner.contains(UInt8(ascii: "%")) { return .failure(.zone) }
            guard inner.contains(UInt8(ascii: ":")), let address = IPAddress(String(decoding: inner, as: UTF8.self))
            else {
                return .failure(.brackets)
            }
            return parsePort(text[(colon + 1)...]).map { Authority(address: address, port: $0) }
        }
        if host.contains(UInt8(ascii: ":")) { return .failure(.bareIPv6) }

        return parsePort(text[(colon + 1)...]).flatMap { port in
            if let value = IPAddress.parseIPv4(host) {
                let address = IPAddress(high: 0, low: UInt64(value), isIPv4: true)
                return .success(Authority(address: address, port: port))
            }
            return parseName(host).map { Authority(name: $0, port: port) }
        }
    }

    private static func parsePort(_ text: Slice<UnsafeBufferPointer<UInt8>>) -> Result<UInt16, Refusal> {
        guard let port = IPAddress.parseDecimal(text, upTo: 65535), port > 0 else { return .failure(.port) }
        return .success(UInt16(port))
    }

    /// A host name as RFC 1123 §2.1 has it, with the `_` that service names use, normalised.
    private static func parseName(_ text: Slice<UnsafeBufferPointer<UInt8>>) -> Result<String, Refusal> {
        var name = text
        if name.last == UInt8(ascii: ".") { name = name.dropLast() }
        if name.isEmpty { return .failure(.noHost) }
        if name.count > 253 { return .failure(.long) }
        for byte in name {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
                continue
            case UInt8(ascii: "["), UInt8(ascii: "]"): return .failure(.brackets)
            case UInt8(ascii: "%"): return .failure(.zone)
            default: return .failure(.character)
            }
        }
        let labels = name.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        for label in labels {
            guard (1...63).contains(label.count), label.first != UInt8(ascii: "-"), label.last != UInt8(ascii: "-")
            else {
                return .failure(.label)
            }
        }
        if let last = labels.last, isNumber(last) { return .failure(.numeric) }
        return .success(String(decoding: name.map { isUpper($0) ? $0 | 0x20 : $0 }, as: UTF8.self))
    }

    /// What the "ends in a number" check of the URL standard catches: a C library may read such a name as an address.
    private static func isNumber(_ label: Slice<UnsafeBufferPointer<UInt8>>) -> Bool {
        if label.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) { return true }
        guard label.count >= 2, label.first == UInt8(ascii: "0") else { return false }
        return label.dropFirst().first.map { $0 | 0x20 } == UInt8(ascii: "x")
            && label.dropFirst(2).allSatisfy(IPAddress.isHexDigit)
    }

    private static func isUpper(_ byte: UInt8) -> Bool { (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) }
}

package import Platform
package import Streams

/// `exact`, `prefix*`, `*suffix`, or `*` for anything that is there. Compared byte by byte.
package enum StringPattern: Hashable, Sendable, CustomStringConvertible {
    case any
    case exact(String)
    case prefix(String)
    case suffix(String)

    /// Throws ``Streams/StreamError`` with code `badRequest` when `text` is empty or has a `*` in the middle.
    package init(parsing text: String) throws(StreamError) {
        guard !text.isEmpty else { throw StreamError(.badRequest, "a pattern is empty") }
        let stars = text.utf8.count { $0 == UInt8(ascii: "*") }
        switch (stars, text.first == "*", text.last == "*") {
        case (0, _, _): self = .exact(text)
        case (1, true, true): self = .any
        case (1, false, true): self = .prefix(String(text.dropLast()))
        case (1, true, false): self = .suffix(String(text.dropFirst()))
        default: throw StreamError(.badRequest, "'\(text)' must have at most one '*', at its beginning or its end")
        }
    }

    package func matches(_ text: String) -> Bool {
        switch self {
        case .any: true
        // Strings are equal where Unicode has two spellings, as the Kelvin sign for K.
        case .exact(let whole): whole.utf8.elementsEqual(text.utf8)
        case .prefix(let prefix): text.utf8.starts(with: prefix.utf8)
        case .suffix(let suffix):
            text.utf8.count >= suffix.utf8.count && text.utf8.suffix(suffix.utf8.count).elementsEqual(suffix.utf8)
        }
    }

    package var description: String {
        switch self {
        case .any: "*"
        case .exact(let whole): whole
        case .prefix(let prefix): prefix + "*"
        case .suffix(let suffix): "*" + suffix
        }
    }
}

/// An element of `hosts`: a name with at most one `*` in it, an IP address, a CIDR block, or `*` for everything.
///
/// A pattern with a `*` beside other characters matches names only, so that `10.*` cannot be met by `10.evil.example`;
/// addresses are matched by CIDR.
package enum HostPattern: Hashable, Sendable, CustomStringConvertible {
    case any
    /// A normalised name.
    case name(String)
    /// Names that begin and end so; the `*` stands for any characters, dots included, or none.
    case wildcard(prefix: String, suffix: String)
    case block(CIDR)

    /// Throws ``Streams/StreamError`` with code `badRequest` and the reason.
    package init(parsing text: String) throws(StreamError) {
        if text == "*" {
            self = .any
            return
        }
        if text.utf8.contains(UInt8(ascii: "/")) {
            self = .block(try StreamError.reading(CIDR(parsing: text)))
            return
        }
        let bare = text.hasPrefix("[") && text.hasSuffix("]") ? String(text.dropFirst().dropLast()) : text
        if let address = IPAddress(bare), let block = CIDR(address, prefixLength: address.isIPv4 ? 32 : 128) {
            self = .block(block)
            return
        }
        guard let star = text.firstIndex(of: "*") else {
            self = .name(try StreamError.reading(Authority(host: text, port: 1)).host)
            return
        }
        let prefix = text[..<star].lowercased()
        let suffix = text[text.index(after: star)...].lowercased()
        let allowed = (prefix + suffix).utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
                UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
                true
            default: false
            }
        }
        guard allowed else {
            throw StreamError(.badRequest, "'\(text)' is not a host name with at most one '*' in it")
        }
        // Such a pattern is meant for addresses, but would let names through (or nothing at all).
        let looksNumeric = { (text: String) in
            !text.isEmpty && text.utf8.allSatisfy { $0 == UInt8(ascii: ".") || (0x30...0x39).contains($0) }
        }
        if looksNumeric(prefix + suffix) || looksNumeric(suffix) {
            throw StreamError(.badRequest, "'\(text)': write a block of addresses as CIDR, like 10.0.0.0/8")
        }
        self = .wildcard(prefix: prefix, suffix: suffix)
    }

    /// Whether the host of `destination` matches; the port plays no part.
    package func matches(_ destination: Authority) -> Bool {
        switch self {
        case .any: return true
        case .name(let name): return name == destination.host
        case .block(let block): return destination.address.map { block.contains($0) } ?? false
        case .wildcard(let prefix, let suffix):
            let host = destination.host.utf8
            return destination.address == nil && host.count >= prefix.utf8.count + suffix.utf8.count
                && host.starts(with: prefix.utf8) && host.suffix(suffix.utf8.count).elementsEqual(suffix.utf8)
        }
    }

    package var description: String {
        switch self {
        case .any: "*"
        case .name(let name): name
        case .wildcard(let prefix, let suffix): "\(prefix)*\(suffix)"
        case .block(let block):
            block.prefixLength == (block.network.isIPv4 ? 32 : 128) ? block.network.description : block.description
        }
    }
}

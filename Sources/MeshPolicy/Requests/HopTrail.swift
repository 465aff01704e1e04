package import MeshIdentity
package import Platform

/// The nodes that a stream has come through, as `forwarded` (RFC 7239) tells them: so that a stream that goes round in
/// a circle is stopped, and not carried until every node on the way has no more room.
///
/// What it says is what the peer wrote. It can only have a stream refused, its own.
package struct HopTrail: Hashable, Sendable {
    /// More nodes than this are no way but a circle.
    package static let limit = 10

    /// What is known of each node, oldest first, in the syntax of the field and cleaned.
    package private(set) var elements: [String] = []
    /// Their `by`, where they say it.
    private var nodes: [String] = []

    /// A parameter that is longer is no name of anything.
    private static let longestValue = 256

    /// It has come through none.
    package init() {}

    /// - Parameter field: The value of `forwarded`; nil where there is none.
    package init(parsing field: String?) {
        guard let field else { return }
        for element in Self.split(field.utf8[...], at: UInt8(ascii: ",")) {
            // Counted all the same.
            guard elements.count <= Self.limit else { return }
            add(Self.split(element, at: UInt8(ascii: ";")).compactMap(Self.parameter))
        }
    }

    /// Why the stream must not go on from the node `own`; nil if it may.
    package func refusal(at own: SPIFFEID?) -> String? {
        // Nearly all come straight from their client, and a name is not made for nothing.
        if elements.isEmpty { return nil }
        if let own, nodes.contains(Self.name(of: own)) {
            return "the stream has come through this node before: that is a loop"
        }
        guard elements.count >= Self.limit else { return nil }
        return "the stream has come through \(Self.limit) nodes: that is taken for a loop"
    }

    /// Which nodes those are, for a log.
    package var description: String { nodes.joined(separator: ", ") }

    /// The value of `forwarded` for the next node: what came, and this node.
    ///
    /// - Parameters:
    ///   - source: Where the stream has come from.
    ///   - own: This node; nil where its identity is not known.
    package func field(from source: IPAddress, through own: SPIFFEID?) -> String {
        var next = self
        // RFC 7239 §6: an IPv6 address stands in brackets, and so in quotes.
        let origin = ("for", source.isIPv4 ? "\(source)" : "[\(source)]")
        next.add([origin] + (own.map { [("by", Self.name(of: $0))] } ?? []))
        return next.elements.joined(separator: ", ")
    }

    /// An identity as an obfuscated node (RFC 7239 §6.3): `_mesh.example_ns_prod_sa_gw`. A name has no slash, and its
    /// underscores are doubled, so that no two identities have the same.
    private static func name(of id: SPIFFEID) -> String {
        "_" + id.principal.replacing("_", with: "__").replacing("/", with: "_")
    }

    private mutating func add(_ parameters: [(name: String, value: String)]) {
        let text = parameters.map { "\($0.name)=\(Self.quoted($0.value))" }.joined(separator: ";")
        elements.append(text.isEmpty ? "for=unknown" : text)
        if let node = parameters.first(where: { $0.name == "by" }) { nodes.append(node.value) }
    }

    // MARK: Syntax

    /// The parts between separators, of which those in quotes are none.
    private static func split(_ text: Substring.UTF8View, at separator: UInt8) -> [Substring.UTF8View] {
        var parts: [Substring.UTF8View] = []
        var start = text.startIndex
        var (isQuoted, isEscaped) = (false, false)
        for index in text.indices {
            let byte = text[index]
            if isEscaped {
                isEscaped = false
            } else if isQuoted, byte == UInt8(ascii: "\\") {
                isEscaped = true
            } else if byte == UInt8(ascii: "\"") {
                isQuoted.toggle()
            } else if byte == separator, !isQuoted {
                parts.append(text[start..<index])
                start = text.index(after: index)
            }
        }
        return parts + [text[start...]]
    }

    /// Those that RFC 7239 §4 has; others say nothing to anybody.
    private static func parameter(_ text: Substring.UTF8View) -> (name: String, value: String)? {
        guard let equals = text.firstIndex(of: UInt8(ascii: "=")) else { return nil }
        let isSpace = { (byte: UInt8) in byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") }
        let name = String(decoding: text[..<equals].drop(while: isSpace), as: UTF8.self).lowercased()
        guard ["for", "by", "host", "proto"].contains(name) else { return nil }
        var bytes: [UInt8] = []
        var isEscaped = false
        for byte in text[text.index(after: equals)...] {
            if !isEscaped, byte == UInt8(ascii: "\\") {
                isEscaped = true
            } else if isEscaped || byte != UInt8(ascii: "\"") {
                isEscaped = false
                bytes.append(byte)
            }
        }
        while let last = bytes.last, isSpace(last) { bytes.removeLast() }
        guard (1...longestValue).contains(bytes.count), bytes.allSatisfy({ (0x20...0x7e).contains($0) }) else {
            return nil
        }
        return (name, String(decoding: bytes, as: UTF8.self))
    }

    private static func quoted(_ value: String) -> String {
        let isToken = value.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
                true
            default: false
            }
        }
        if isToken { return value }
        return "\"" + value.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"") + "\""
    }
}

/// W3C Baggage: what a workload says about itself, beside a request or its answer (`k8s.namespace.name`,
/// `service.name`, …). Whoever sends it writes what it likes: it is for logs, and no reason to trust anybody.
///
/// Of a field that is not right the members that are, are taken: it is never a reason to refuse a stream.
public struct Baggage: Hashable, Sendable, CustomStringConvertible {
    /// One `key=value`.
    public struct Member: Hashable, Sendable {
        /// A token, as RFC 9110 has it.
        public var key: String
        /// With `%XX` decoded.
        public var value: String
        /// What follows the value, without its `;`, as it was sent; empty for nothing.
        public var properties: String
    }

    /// Bytes of a field; a longer one is not read. The specification asks nobody to carry more.
    public static let longest = 8192
    /// Members of a field; what follows is not read.
    public static let mostMembers = 64

    /// In their order, each key once.
    public private(set) var members: [Member] = []

    /// None.
    public init() {}

    /// Reads the value of a `baggage` field; several fields are one with commas between them.
    ///
    /// - Parameter field: nil: there is none.
    public init(parsing field: String?) {
        guard let field, field.utf8.count <= Self.longest else { return }
        for text in field.utf8.split(separator: UInt8(ascii: ","), maxSplits: Self.mostMembers) {
            guard members.count < Self.mostMembers, let member = Self.member(text) else { continue }
            set(member)
        }
    }

    /// Whether there is nothing to say.
    public var isEmpty: Bool { members.isEmpty }

    /// The value of a member; nil removes it. What cannot be a key is left out, and so is what is too much.
    public subscript(key: String) -> String? {
        get { members.first { $0.key == key }?.value }
        set {
            guard let newValue else { return members.removeAll { $0.key == key } }
            guard Self.isKey(key.utf8[...]) else { return }
            set(Member(key: key, value: newValue, properties: ""))
        }
    }

    /// The value of a `baggage` field.
    public var description: String {
        var text = ""
        for member in members {
            if !text.isEmpty { text += "," }
            text += member.key
            text += "="
            text += Self.encoded(member.value)
            if !member.properties.isEmpty { text += ";\(member.properties)" }
        }
        return text
    }

    /// The last one of a key counts.
    private mutating func set(_ member: Member) {
        if let index = members.firstIndex(where: { $0.key == member.key }) {
            members[index] = member
        } else if members.count < Self.mostMembers {
            members.append(member)
        }
    }

    // MARK: Syntax

    /// Whether `text` can be a key: a token (RFC 9110 §5.6.2).
    package static func isKey(_ text: Substring.UTF8View) -> Bool {
        !text.isEmpty && text.allSatisfy(isTokenByte)
    }

    private static func member(_ text: Substring.UTF8View) -> Member? {
        guard let equals = text.firstIndex(of: UInt8(ascii: "=")) else { return nil }
        let key = trimmed(text[..<equals])
        let rest = text[text.index(after: equals)...]
        let semicolon = rest.firstIndex(of: UInt8(ascii: ";"))
        guard isKey(key), let value = decoded(trimmed(rest[..<(semicolon ?? rest.endIndex)])) else { return nil }
        let properties = semicolon.map { trimmed(rest[rest.index(after: $0)...]) } ?? rest[rest.endIndex...]
        // What goes on must be printable, and nothing that ends a member.
        guard properties.allSatisfy({ (0x20...0x7e).contains($0) && $0 != UInt8(ascii: "\"") }) else { return nil }
        return Member(
            key: String(decoding: key, as: UTF8.self),
            value: value,
            properties: String(decoding: properties, as: UTF8.self)
        )
    }

    private static func trimmed(_ text: Substring.UTF8View) -> Substring.UTF8View {
        let isSpace = { (byte: UInt8) in byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") }
        var text = text.drop(while: isSpace)
        while let last = text.last, isSpace(last) { text.removeLast() }
        return text
    }

    private static func isTokenByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
        }
    }

    /// A `baggage-octet`, `%` included.
    private static func isValueByte(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x21, 0x23...0x2b, 0x2d...0x3a, 0x3c...0x5b, 0x5d...0x7e: true
        default: false
        }
    }

    /// nil: it has what no value has. A `%` that begins no `%XX` is itself: Istio's proxies encode nothing. What is no
    /// UTF-8 becomes U+FFFD.
    private static func decoded(_ text: Substring.UTF8View) -> String? {
        guard text.allSatisfy(isValueByte) else { return nil }
        guard text.contains(UInt8(ascii: "%")) else { return String(decoding: text, as: UTF8.self) }
        var bytes: [UInt8] = []
        var rest = text
        while let byte = rest.popFirst() {
            let pair = rest.prefix(2)
            if byte == UInt8(ascii: "%"), pair.count == 2, let code = Self.byte(pair) {
                bytes.append(code)
                rest = rest.dropFirst(2)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func byte(_ digits: Substring.UTF8View) -> UInt8? {
        var code: UInt8 = 0
        for digit in digits {
            guard let value = Character(UnicodeScalar(digit)).hexDigitValue else { return nil }
            code = code << 4 | UInt8(value)
        }
        return code
    }

    private static func encoded(_ value: String) -> String {
        if value.utf8.allSatisfy({ isValueByte($0) && $0 != UInt8(ascii: "%") }) { return value }
        let digits = Array("0123456789ABCDEF".utf8)
        var bytes: [UInt8] = []
        for byte in value.utf8 {
            if isValueByte(byte), byte != UInt8(ascii: "%") {
                bytes.append(byte)
            } else {
                bytes += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// `Codable` values as JSON (RFC 8259), without FoundationEssentials: its coders are a fifth of a static binary.
///
/// Members are sorted by their names, so that the same value gives the same bytes. Whole numbers are exact up to 2⁵³,
/// as other readers of JSON have them.
package enum JSONText {
    /// - Parameter isIndented: A member or an element on a line of its own, for people.
    /// - Throws: `EncodingError` for a number that is not finite; what the value itself throws.
    package static func encode(_ value: some Encodable, isIndented: Bool = false) throws -> [UInt8] {
        let node = JSONNode()
        try value.encode(to: TreeEncoder(node: node, codingPath: []))
        var bytes: [UInt8] = []
        node.write(into: &bytes, indent: isIndented ? 0 : nil)
        return bytes
    }
}

/// A value of JSON while it is built: an encoder may be asked for its container more than once, and adds to it.
private final class JSONNode {
    enum Content {
        case null
        /// JSON already.
        case scalar([UInt8])
        case array([JSONNode])
        case object([String: JSONNode])
    }

    var content = Content.null

    func member(_ name: String) -> JSONNode {
        let node = JSONNode()
        if case .object(var members) = content {
            content = .null
            members[name] = node
            content = .object(members)
        } else {
            content = .object([name: node])
        }
        return node
    }

    func element() -> JSONNode {
        let node = JSONNode()
        if case .array(var elements) = content {
            content = .null
            elements.append(node)
            content = .array(elements)
        } else {
            content = .array([node])
        }
        return node
    }

    func set(_ integer: some BinaryInteger) { content = .scalar(Array(String(integer).utf8)) }

    func set(_ truth: Bool) { content = .scalar(Array((truth ? "true" : "false").utf8)) }

    func set(_ text: String) {
        var bytes: [UInt8] = []
        Self.quote(text, into: &bytes)
        content = .scalar(bytes)
    }

    func set(_ number: Double, at codingPath: [any CodingKey]) throws {
        guard number.isFinite else {
            throw EncodingError.invalidValue(
                number,
                .init(codingPath: codingPath, debugDescription: "JSON has no number for it")
            )
        }
        var text = "\(number)"
        if text.hasSuffix(".0") { text.removeLast(2) }
        content = .scalar(Array(text.utf8))
    }

    func write(into bytes: inout [UInt8], indent: Int?) {
        switch content {
        case .null: bytes += "null".utf8
        case .scalar(let json): bytes += json
        case .array(let elements):
            Self.write(elements, between: ("[", "]"), into: &bytes, indent: indent) { element, bytes, indent in
                element.write(into: &bytes, indent: indent)
            }
        case .object(let members):
            let sorted = members.sorted { $0.key < $1.key }
            Self.write(sorted, between: ("{", "}"), into: &bytes, indent: indent) { member, bytes, indent in
                Self.quote(member.key, into: &bytes)
                bytes += (indent == nil ? ":" : " : ").utf8
                member.value.write(into: &bytes, indent: indent)
            }
        }
    }

    private static func write<Part>(
        _ parts: [Part],
        between brackets: (open: Unicode.Scalar, close: Unicode.Scalar),
        into bytes: inout [UInt8],
        indent: Int?,
        _ write: (Part, inout [UInt8], Int?) -> Void
    ) {
        bytes.append(UInt8(ascii: brackets.open))
        let inner = indent.map { $0 + 2 }
        for (index, part) in parts.enumerated() {
            if index > 0 { bytes.append(UInt8(ascii: ",")) }
            if let inner { bytes += [UInt8(ascii: "\n")] + Array(repeating: UInt8(ascii: " "), count: inner) }
            write(part, &bytes, inner)
        }
        if let indent, !parts.isEmpty {
            bytes += [UInt8(ascii: "\n")] + Array(repeating: UInt8(ascii: " "), count: indent)
        }
        bytes.append(UInt8(ascii: brackets.close))
    }

    private static func quote(_ text: String, into bytes: inout [UInt8]) {
        let digits = StaticString("0123456789abcdef")
        bytes.reserveCapacity(bytes.count + text.utf8.count + 2)
        bytes.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): bytes += [UInt8(ascii: "\\"), byte]
            case 0x0A: bytes += [UInt8(ascii: "\\"), UInt8(ascii: "n")]
            case 0x0D: bytes += [UInt8(ascii: "\\"), UInt8(ascii: "r")]
            case 0x09: bytes += [UInt8(ascii: "\\"), UInt8(ascii: "t")]
            case ..<0x20:
                bytes += "\\u00".utf8
                bytes += [digits.utf8Start[Int(byte >> 4)], digits.utf8Start[Int(byte & 15)]]
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }
}

private struct TreeEncoder: Encoder {
    let node: JSONNode
    let codingPath: [any CodingKey]
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedEncodingContainer<Key> {
        if case .object = node.content {} else { node.content = .object([:]) }
        return KeyedEncodingContainer(Members(node: node, codingPath: codingPath))
    }

    func unkeyedContainer() -> any UnkeyedEncodingContainer {
        if case .array = node.content {} else { node.content = .array([]) }
        return Elements(node: node, codingPath: codingPath)
    }

    func singleValueContainer() -> any SingleValueEncodingContainer { Single(node: node, codingPath: codingPath) }
}

private struct Members<Key: CodingKey>: KeyedEncodingContainerProtocol {
    let node: JSONNode
    let codingPath: [any CodingKey]

    private func new(_ key: some CodingKey) -> TreeEncoder {
        TreeEncoder(node: node.member(key.stringValue), codingPath: codingPath + [key])
    }

    func encodeNil(forKey key: Key) { _ = new(key) }
    func encode(_ value: Bool, forKey key: Key) { new(key).node.set(value) }
    func encode(_ value: String, forKey key: Key) { new(key).node.set(value) }
    func encode(_ value: Double, forKey key: Key) throws { try new(key).node.set(value, at: codingPath + [key]) }
    func encode(_ value: Float, forKey key: Key) throws { try encode(Double(value), forKey: key) }
    func encode(_ value: Int, forKey key: Key) { new(key).node.set(value) }
    func encode(_ value: Int8, forKey key: Key) { new(key).node.set(value) }
    func encode(_ value: Int16, forKey key: Key) { new(key).node.set(value) }
    func encode(_ value: Int32, forKey key: Key) { new(key).node.set(value) }
    func encode(_ value: Int64, forKey key: Key) { new(key).node.set(value) }
    func encode(_ value: UInt, forKey key: Key) { new(key).node.set(value) }
    func encode(_ value: UInt8, forKey key: Key) { new(key).node.set(value) }
    func encode(_ value: UInt16, forKey key: Key) { new(key).node.set(value) }
    func encode(_ value: UInt32, forKey key: Key) { new(key).node.set(value) }
    func encode(_ value: UInt64, forKey key: Key) { new(key).node.set(value) }
    func encode(_ value: some Encodable, forKey key: Key) throws { try value.encode(to: new(key)) }

    func nestedContainer<Nested: CodingKey>(
        keyedBy type: Nested.Type,
        forKey key: Key
    ) -> KeyedEncodingContainer<Nested> {
        new(key).container(keyedBy: type)
    }

    func nestedUnkeyedContainer(forKey key: Key) -> any UnkeyedEncodingContainer { new(key).unkeyedContainer() }
    func superEncoder() -> any Encoder { new(PlaceKey("super")) }
    func superEncoder(forKey key: Key) -> any Encoder { new(key) }
}

private struct Elements: UnkeyedEncodingContainer {
    let node: JSONNode
    let codingPath: [any CodingKey]
    var count: Int { if case .array(let elements) = node.content { elements.count } else { 0 } }

    private func new() -> TreeEncoder {
        let key = PlaceKey(count)
        return TreeEncoder(node: node.element(), codingPath: codingPath + [key])
    }

    func encodeNil() { _ = new() }
    func encode(_ value: Bool) { new().node.set(value) }
    func encode(_ value: String) { new().node.set(value) }
    func encode(_ value: Double) throws { try new().node.set(value, at: codingPath) }
    func encode(_ value: Float) throws { try encode(Double(value)) }
    func encode(_ value: Int) { new().node.set(value) }
    func encode(_ value: Int8) { new().node.set(value) }
    func encode(_ value: Int16) { new().node.set(value) }
    func encode(_ value: Int32) { new().node.set(value) }
    func encode(_ value: Int64) { new().node.set(value) }
    func encode(_ value: UInt) { new().node.set(value) }
    func encode(_ value: UInt8) { new().node.set(value) }
    func encode(_ value: UInt16) { new().node.set(value) }
    func encode(_ value: UInt32) { new().node.set(value) }
    func encode(_ value: UInt64) { new().node.set(value) }
    func encode(_ value: some Encodable) throws { try value.encode(to: new()) }

    func nestedContainer<Nested: CodingKey>(keyedBy type: Nested.Type) -> KeyedEncodingContainer<Nested> {
        new().container(keyedBy: type)
    }

    func nestedUnkeyedContainer() -> any UnkeyedEncodingContainer { new().unkeyedContainer() }
    func superEncoder() -> any Encoder { new() }
}

private struct Single: SingleValueEncodingContainer {
    let node: JSONNode
    let codingPath: [any CodingKey]

    func encodeNil() { node.content = .null }
    func encode(_ value: Bool) { node.set(value) }
    func encode(_ value: String) { node.set(value) }
    func encode(_ value: Double) throws { try node.set(value, at: codingPath) }
    func encode(_ value: Float) throws { try encode(Double(value)) }
    func encode(_ value: Int) { node.set(value) }
    func encode(_ value: Int8) { node.set(value) }
    func encode(_ value: Int16) { node.set(value) }
    func encode(_ value: Int32) { node.set(value) }
    func encode(_ value: Int64) { node.set(value) }
    func encode(_ value: UInt) { node.set(value) }
    func encode(_ value: UInt8) { node.set(value) }
    func encode(_ value: UInt16) { node.set(value) }
    func encode(_ value: UInt32) { node.set(value) }
    func encode(_ value: UInt64) { node.set(value) }
    func encode(_ value: some Encodable) throws {
        try value.encode(to: TreeEncoder(node: node, codingPath: codingPath))
    }
}

/// A place in an array, or a name that no type has a key for.
struct PlaceKey: CodingKey {
    let stringValue: String
    let intValue: Int?

    init(_ index: Int) { (stringValue, intValue) = ("\(index)", index) }
    init(_ name: String) { (stringValue, intValue) = (name, nil) }
    init?(stringValue: String) { self.init(stringValue) }
    init?(intValue: Int) { self.init(intValue) }
}

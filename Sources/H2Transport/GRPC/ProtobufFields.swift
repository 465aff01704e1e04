package import Streams

/// Writes a message in the wire format of Protocol Buffers. As in proto3, a field with its default value is left out.
package struct ProtobufWriter {
    package private(set) var bytes: [UInt8] = []

    package init() {}

    package mutating func add(_ field: UInt64, _ text: String) { add(field, Array(text.utf8)) }

    package mutating func add(_ field: UInt64, _ content: [UInt8]) {
        guard !content.isEmpty else { return }
        message(field, content)
    }

    /// A message in this one: it is there, also where all its fields have their defaults.
    package mutating func message(_ field: UInt64, _ content: [UInt8]) {
        varint(field << 3 | 2)
        varint(UInt64(content.count))
        bytes += content
    }

    /// An `int64`: negative ones take ten bytes.
    package mutating func add(_ field: UInt64, _ number: Int64) {
        guard number != 0 else { return }
        varint(field << 3)
        varint(UInt64(bitPattern: number))
    }

    private mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }
}

/// Reads a message in the wire format of Protocol Buffers, field by field. What comes is a peer's: nothing is taken for
/// granted.
package struct ProtobufReader {
    package enum Value: Equatable {
        case varint(UInt64)
        /// Text, bytes, or a message.
        case bytes([UInt8])
        /// Four or eight bytes.
        case fixed
    }

    private var rest: ArraySlice<UInt8>

    package init(_ bytes: [UInt8]) { rest = bytes[...] }

    /// nil at the end.
    ///
    /// - Throws: ``Streams/StreamError`` `protocolViolation`.
    package mutating func next() throws(StreamError) -> (field: UInt64, value: Value)? {
        guard !rest.isEmpty else { return nil }
        let tag = try varint()
        let field = tag >> 3
        guard (1...UInt64(1 << 29 - 1)).contains(field) else { throw Self.damaged("a field has the number \(field)") }
        switch tag & 7 {
        case 0: return (field, .varint(try varint()))
        case 1: return (field, try skip(8))
        case 2:
            let length = try varint()
            guard length <= UInt64(rest.count) else { throw Self.damaged("it is cut") }
            defer { rest = rest.dropFirst(Int(length)) }
            return (field, .bytes(Array(rest.prefix(Int(length)))))
        case 5: return (field, try skip(4))
        case let type: throw Self.damaged("a field has the type \(type)")
        }
    }

    private mutating func varint() throws(StreamError) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while let byte = rest.popFirst() {
            // The tenth byte has one bit left.
            guard shift < 63 || byte <= 1 else { throw Self.damaged("a number has more than 64 bits") }
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        throw Self.damaged("it is cut")
    }

    private mutating func skip(_ count: Int) throws(StreamError) -> Value {
        guard rest.count >= count else { throw Self.damaged("it is cut") }
        rest = rest.dropFirst(count)
        return .fixed
    }

    private static func damaged(_ what: String) -> StreamError {
        StreamError(.protocolViolation, "the message is damaged: \(what)")
    }
}

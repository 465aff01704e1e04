/// Reads the data types of RFC 4251 §5. Every method returns nil when the bytes end early.
package struct SSHWireReader {
    package private(set) var rest: ArraySlice<UInt8>

    package init(_ bytes: some Collection<UInt8>) { rest = ArraySlice(bytes) }

    package mutating func byte() -> UInt8? { rest.popFirst() }

    package mutating func uint32() -> UInt32? {
        guard rest.count >= 4 else { return nil }
        defer { rest = rest.dropFirst(4) }
        return rest.prefix(4).reduce(0) { $0 << 8 | UInt32($1) }
    }

    package mutating func uint64() -> UInt64? {
        guard rest.count >= 8, let high = uint32(), let low = uint32() else { return nil }
        return UInt64(high) << 32 | UInt64(low)
    }

    package mutating func string() -> ArraySlice<UInt8>? {
        guard let length = uint32(), length <= rest.count else { return nil }
        defer { rest = rest.dropFirst(Int(length)) }
        return rest.prefix(Int(length))
    }

    package mutating func text() -> String? { string().map { String(decoding: $0, as: UTF8.self) } }
}

/// Writes the data types of RFC 4251 §5.
package struct SSHWireWriter {
    package private(set) var bytes: [UInt8] = []

    package init() {}

    /// Bytes that are in the wire format already.
    package mutating func raw(_ value: some Collection<UInt8>) { bytes.append(contentsOf: value) }

    package mutating func byte(_ value: UInt8) { bytes.append(value) }

    package mutating func uint32(_ value: UInt32) {
        for shift in [24, 16, 8, 0] as [UInt32] { bytes.append(UInt8(truncatingIfNeeded: value >> shift)) }
    }

    package mutating func uint64(_ value: UInt64) {
        uint32(UInt32(truncatingIfNeeded: value >> 32))
        uint32(UInt32(truncatingIfNeeded: value))
    }

    package mutating func string(_ value: some Collection<UInt8>) {
        uint32(UInt32(value.count))
        bytes.append(contentsOf: value)
    }

    package mutating func string(_ value: String) { string(value.utf8) }
}

/// The `traceparent` of W3C Trace Context: which trace a request belongs to, and which of its steps asked for it.
public struct TraceParent: Hashable, Sendable, CustomStringConvertible {
    /// Of the trace, its two halves; not both 0.
    package let high: UInt64
    package let low: UInt64
    /// Of the step that asks; not 0.
    package let parent: UInt64
    /// `01`: the caller has recorded it.
    public let flags: UInt8

    /// A trace that begins here, and that nobody has recorded.
    public init() {
        var random = SystemRandomNumberGenerator()
        self.init(using: &random)
    }

    /// A trace that begins here.
    package init(using random: inout some RandomNumberGenerator) {
        high = random.next()
        // Never 0, which stands for nothing.
        low = random.next() | 1
        parent = random.next() | 1
        flags = 0
    }

    /// Reads the value of a `traceparent` field: nil where there is none, or it is not right; then a trace begins anew.
    /// Of a version that is not known yet, what all versions have is read.
    public init?(parsing field: String?) {
        guard var field = field else { return nil }
        let parsed: (UInt64, UInt64, UInt64, UInt64)? = field.withUTF8 { bytes in
            guard bytes.count >= Self.length,
                let version = Self.number(bytes[0..<2]), version != 0xff,
                version == 0
                    ? bytes.count == Self.length : bytes.count == Self.length || bytes[Self.length] == Self.dash,
                bytes[2] == Self.dash, bytes[35] == Self.dash, bytes[52] == Self.dash,
                let high = Self.number(bytes[3..<19]), let low = Self.number(bytes[19..<35]),
                let parent = Self.number(bytes[36..<52]), let flags = Self.number(bytes[53..<55])
            else { return nil }
            return (high, low, parent, flags)
        }
        guard let (high, low, parent, flags) = parsed, high | low != 0, parent != 0 else { return nil }
        (self.high, self.low, self.parent, self.flags) = (high, low, parent, UInt8(truncatingIfNeeded: flags))
    }

    /// The trace's identifier, 32 hexadecimal digits.
    public var traceID: String { String(description.dropFirst(3).prefix(32)) }

    /// The value of a `traceparent` field, of version 00.
    public var description: String {
        String(unsafeUninitializedCapacity: Self.length) { bytes in
            bytes[0] = UInt8(ascii: "0")
            bytes[1] = UInt8(ascii: "0")
            (bytes[2], bytes[35], bytes[52]) = (Self.dash, Self.dash, Self.dash)
            Self.write(high, 16, to: bytes, at: 3)
            Self.write(low, 16, to: bytes, at: 19)
            Self.write(parent, 16, to: bytes, at: 36)
            Self.write(UInt64(flags), 2, to: bytes, at: 53)
            return Self.length
        }
    }

    private static let length = 55
    private static let dash = UInt8(ascii: "-")

    /// Lower case only (§3.2).
    private static func number(_ digits: Slice<UnsafeBufferPointer<UInt8>>) -> UInt64? {
        var number: UInt64 = 0
        for digit in digits {
            switch digit {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): number = number << 4 | UInt64(digit - UInt8(ascii: "0"))
            case UInt8(ascii: "a")...UInt8(ascii: "f"): number = number << 4 | UInt64(digit - UInt8(ascii: "a") + 10)
            default: return nil
            }
        }
        return number
    }

    private static func write(
        _ number: UInt64,
        _ digits: Int,
        to bytes: UnsafeMutableBufferPointer<UInt8>,
        at start: Int
    ) {
        var rest = number
        for place in (start..<start + digits).reversed() {
            let digit = UInt8(truncatingIfNeeded: rest & 15)
            bytes[place] = digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") - 10 + digit
            rest >>= 4
        }
    }
}

/// Random numbers for identifiers that must be different and need not be secret, without a system call for each.
package struct IdentifierGenerator: RandomNumberGenerator {
    private var state: UInt64

    package init() {
        var random = SystemRandomNumberGenerator()
        state = random.next()
    }

    /// SplitMix64.
    package mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}

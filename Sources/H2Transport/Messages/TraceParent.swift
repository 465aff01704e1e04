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

    /// The trace of a stream that has no other.
    ///
    /// - Parameters:
    ///   - stream: Its number.
    ///   - connection: Random bytes that both ends know.
    init(of stream: Int32, on connection: (UInt64, UInt64)) {
        high = connection.0
        // Never 0, which stands for nothing.
        low = IdentifierGenerator.mixed(connection.1 &+ UInt64(UInt32(bitPattern: stream))) | 1
        parent = IdentifierGenerator.mixed(low) | 1
        flags = 0
    }

    /// Reads the value of a `traceparent` field: nil where there is none, or it is not right; then a trace begins anew.
    /// Of a version that is not known yet, what all versions have is read.
    public init?(parsing field: String?) {
        guard var field = field else { return nil }
        let parsed: TraceParent? = field.withUTF8 { bytes in
            guard bytes.count >= Self.length, let start = UnsafeRawPointer(bytes.baseAddress),
                let version = HexDigits.byte(at: start), version != 0xff,
                version == 0
                    ? bytes.count == Self.length : bytes.count == Self.length || bytes[Self.length] == Self.dash,
                bytes[2] == Self.dash, bytes[35] == Self.dash, bytes[52] == Self.dash,
                let high = HexDigits.number(at: start + 3), let low = HexDigits.number(at: start + 19),
                let parent = HexDigits.number(at: start + 36), let flags = HexDigits.byte(at: start + 53)
            else { return nil }
            return TraceParent(high: high, low: low, parent: parent, flags: flags)
        }
        guard let parsed, parsed.high | parsed.low != 0, parsed.parent != 0 else { return nil }
        self = parsed
    }

    private init(high: UInt64, low: UInt64, parent: UInt64, flags: UInt8) {
        (self.high, self.low, self.parent, self.flags) = (high, low, parent, flags)
    }

    /// The trace's identifier, 32 hexadecimal digits.
    public var traceID: String { String(description.dropFirst(3).prefix(32)) }

    /// The value of a `traceparent` field, of version 00.
    public var description: String {
        String(unsafeUninitializedCapacity: Self.length) { bytes in
            if let start = bytes.baseAddress { write(to: start) }
            return Self.length
        }
    }

    /// Bytes of ``description``.
    package static let length = 55

    /// - Parameter start: Has room for ``length`` bytes.
    package func write(to start: UnsafeMutablePointer<UInt8>) {
        (start[0], start[1]) = (UInt8(ascii: "0"), UInt8(ascii: "0"))
        (start[2], start[35], start[52]) = (Self.dash, Self.dash, Self.dash)
        HexDigits.write(high, to: start + 3)
        HexDigits.write(low, to: start + 19)
        HexDigits.write(parent, to: start + 36)
        HexDigits.write(flags, to: start + 53)
    }

    private static let dash = UInt8(ascii: "-")
}

/// Hexadecimal digits in lower case (§3.2), eight of them at once: each is a byte of one number, and no byte carries
/// into the next.
private enum HexDigits {
    /// A number with `byte` eight times.
    private static func all(_ byte: UInt64) -> UInt64 { 0x0101_0101_0101_0101 &* byte }

    /// Sixteen digits; nil where one is none.
    @inline(__always)
    static func number(at start: UnsafeRawPointer) -> UInt64? {
        guard let high = half(at: start), let low = half(at: start + 8) else { return nil }
        return high << 32 | low
    }

    @inline(__always)
    private static func half(at start: UnsafeRawPointer) -> UInt64? {
        let text = UInt64(bigEndian: start.loadUnaligned(as: UInt64.self))
        // Each byte's highest bit says whether it is at least that character; all are below 0x80, or the first says no.
        let isDigit = (text &+ all(0x80 - 0x30)) & ~(text &+ all(0x80 - 0x3a))
        let isLetter = (text &+ all(0x80 - 0x61)) & ~(text &+ all(0x80 - 0x67))
        guard text & all(0x80) == 0, (isDigit | isLetter) & all(0x80) == all(0x80) else { return nil }
        // Letters have the bit 0x40, and begin with 1 below.
        var number = (text & all(0x0f)) &+ (text >> 6 & all(1)) &* 9
        number = (number | number >> 4) & 0x00ff_00ff_00ff_00ff
        number = (number | number >> 8) & 0x0000_ffff_0000_ffff
        return (number | number >> 16) & 0xffff_ffff
    }

    /// Two digits; nil where one is none.
    static func byte(at start: UnsafeRawPointer) -> UInt8? {
        guard let high = digit(start.load(as: UInt8.self)),
            let low = digit(start.load(fromByteOffset: 1, as: UInt8.self))
        else { return nil }
        return high << 4 | low
    }

    private static func digit(_ character: UInt8) -> UInt8? {
        switch character {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): character - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): character - UInt8(ascii: "a") + 10
        default: nil
        }
    }

    /// Sixteen digits.
    @inline(__always)
    static func write(_ number: UInt64, to start: UnsafeMutablePointer<UInt8>) {
        writeHalf(number >> 32, to: start)
        writeHalf(number & 0xffff_ffff, to: start + 8)
    }

    @inline(__always)
    private static func writeHalf(_ half: UInt64, to start: UnsafeMutablePointer<UInt8>) {
        var digits = (half | half << 16) & 0x0000_ffff_0000_ffff
        digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff
        digits = (digits | digits << 4) & all(0x0f)
        let isLetter = (digits &+ all(6)) >> 4 & all(1)
        let text = digits &+ all(0x30) &+ isLetter &* (0x61 - 0x3a)
        UnsafeMutableRawPointer(start).storeBytes(of: text.bigEndian, as: UInt64.self)
    }

    /// Two digits.
    static func write(_ byte: UInt8, to start: UnsafeMutablePointer<UInt8>) {
        start[0] = character(byte >> 4)
        start[1] = character(byte & 15)
    }

    private static func character(_ digit: UInt8) -> UInt8 {
        digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") - 10 + digit
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
        return Self.mixed(state)
    }

    /// Every bit of it depends on every bit of `number`.
    static func mixed(_ number: UInt64) -> UInt64 {
        var z = number
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}

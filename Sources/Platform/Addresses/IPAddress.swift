/// An IPv4 or IPv6 address, always in canonical form: an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`) becomes the IPv4
/// address it stands for, so that one machine cannot be named in two ways.
public struct IPAddress: Hashable, Sendable, CustomStringConvertible {
    /// The address as a 128-bit number, high half first; an IPv4 address occupies the low 32 bits of `low`.
    package let high: UInt64
    package let low: UInt64
    /// Whether it is an IPv4 address; an IPv4-mapped IPv6 address is one.
    public let isIPv4: Bool

    package init(high: UInt64, low: UInt64, isIPv4: Bool) {
        if !isIPv4, high == 0, low >> 32 == 0xffff {
            self.high = 0
            self.low = low & 0xffff_ffff
            self.isIPv4 = true
        } else {
            self.high = high
            self.low = low
            self.isIPv4 = isIPv4
        }
    }

    /// `bytes` in network order: 4 of them for IPv4, 16 for IPv6, anything else is `nil`.
    public init?(bytes: some Collection<UInt8>) {
        switch bytes.count {
        case 4:
            self.init(high: 0, low: bytes.reduce(0) { $0 << 8 | UInt64($1) }, isIPv4: true)
        case 16:
            let high = bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
            let low = bytes.dropFirst(8).reduce(0) { $0 << 8 | UInt64($1) }
            self.init(high: high, low: low, isIPv4: false)
        default:
            return nil
        }
    }

    /// Strict: four decimal numbers without leading zeros, or RFC 4291 §2.2 text without brackets or zone. The older
    /// forms of `inet_aton` (`127.1`, `0x7f.0.0.1`, `017700000001`) are not addresses here.
    public init?(_ text: some StringProtocol) {
        if text.utf8.contains(UInt8(ascii: ":")) {
            guard let (high, low) = Self.parseIPv6(Array(text.utf8)[...]) else { return nil }
            self.init(high: high, low: low, isIPv4: false)
        } else {
            guard let value = Self.parseIPv4(text.utf8) else { return nil }
            self.init(high: 0, low: UInt64(value), isIPv4: true)
        }
    }

    /// 127.0.0.1.
    public static let loopbackIPv4 = IPAddress(high: 0, low: 0x7f00_0001, isIPv4: true)
    /// ::1.
    public static let loopbackIPv6 = IPAddress(high: 0, low: 1, isIPv4: false)

    /// In network order, 4 or 16 of them.
    public var bytes: [UInt8] {
        if isIPv4 { return (0..<4).map { UInt8(truncatingIfNeeded: low >> (24 - 8 * $0)) } }
        return (0..<8).map { UInt8(truncatingIfNeeded: high >> (56 - 8 * $0)) }
            + (0..<8).map { UInt8(truncatingIfNeeded: low >> (56 - 8 * $0)) }
    }

    /// 127.0.0.0/8 or ::1.
    public var isLoopback: Bool { isIPv4 ? low >> 24 == 127 : high == 0 && low == 1 }

    /// 169.254.0.0/16 (where clouds keep their metadata services) or fe80::/10.
    public var isLinkLocal: Bool { isIPv4 ? low >> 16 == 0xa9fe : high >> 54 == 0x3fa }

    /// 0.0.0.0/8 or ::, which Linux takes for this host.
    public var isUnspecified: Bool { isIPv4 ? low >> 24 == 0 : high == 0 && low == 0 }

    /// 224.0.0.0/4 or ff00::/8.
    public var isMulticast: Bool { isIPv4 ? low >> 28 == 0xe : high >> 56 == 0xff }

    /// 255.255.255.255.
    public var isBroadcast: Bool { isIPv4 && low == 0xffff_ffff }

    /// Dotted decimal, or RFC 5952 text without brackets.
    public var description: String {
        if isIPv4 { return dottedDecimal }
        let groups = (0..<4).map { high >> (48 - 16 * $0) & 0xffff } + (0..<4).map { low >> (48 - 16 * $0) & 0xffff }
        // RFC 5952 §4.2: the longest run of at least two zero groups, the first of equals.
        var (bestStart, bestLength) = (8, 1)
        var index = 0
        while index < 8 {
            let start = index
            while index < 8, groups[index] == 0 { index += 1 }
            if index - start > bestLength { (bestStart, bestLength) = (start, index - start) }
            index += 1
        }
        let text = { (range: Range<Int>) in groups[range].map { String($0, radix: 16) }.joined(separator: ":") }
        if bestStart == 8 { return text(0..<8) }
        return text(0..<bestStart) + "::" + text(bestStart + bestLength..<8)
    }

    /// Each stream that opens has one: no interpolation.
    private var dottedDecimal: String {
        String(unsafeUninitializedCapacity: 15) { bytes in
            var count = 0
            func append(_ byte: UInt64) {
                bytes[count] = UInt8(truncatingIfNeeded: byte)
                count += 1
            }
            for shift in stride(from: UInt64(24), through: 0, by: -8) {
                let octet = low >> shift & 255
                if octet >= 100 { append(48 + octet / 100) }
                if octet >= 10 { append(48 + octet / 10 % 10) }
                append(48 + octet % 10)
                if shift > 0 { append(UInt64(UInt8(ascii: "."))) }
            }
            return count
        }
    }

    /// The network of `length` bits that this address lies in.
    package func masked(_ length: Int) -> IPAddress {
        if isIPv4 {
            let mask: UInt64 = length == 0 ? 0 : 0xffff_ffff << UInt64(32 - length) & 0xffff_ffff
            return IPAddress(high: 0, low: low & mask, isIPv4: true)
        }
        let highMask: UInt64 = length == 0 ? 0 : length >= 64 ? .max : .max << UInt64(64 - length)
        let lowMask: UInt64 = length <= 64 ? 0 : .max << UInt64(128 - length)
        return IPAddress(high: high & highMask, low: low & lowMask, isIPv4: false)
    }

    /// In one pass: each stream that opens needs it.
    static func parseIPv4(_ text: some Collection<UInt8>) -> UInt32? {
        var (value, octet, dots): (UInt32, UInt32, Int) = (0, 0, 0)
        var isFirst = true
        for byte in text {
            if byte == UInt8(ascii: ".") {
                if isFirst || dots == 3 { return nil }
                value = value << 8 | octet
                (octet, dots, isFirst) = (0, dots + 1, true)
                continue
            }
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
            // A number that goes on after 0 has a leading zero.
            if !isFirst, octet == 0 { return nil }
            octet = octet * 10 + UInt32(byte - UInt8(ascii: "0"))
            if octet > 255 { return nil }
            isFirst = false
        }
        return dots == 3 && !isFirst ? value << 8 | octet : nil
    }

    private static func parseIPv6(_ text: ArraySlice<UInt8>) -> (high: UInt64, low: UInt64)? {
        var groups: [UInt64] = []
        var gap: Int?
        var rest = text
        if rest.starts(with: "::".utf8) {
            gap = 0
            rest = rest.dropFirst(2)
        }
        while let first = rest.first {
            let digits = rest.prefix { $0 != UInt8(ascii: ":") }
            if first == UInt8(ascii: ":") || groups.count == 8 { return nil }
            if digits.count == rest.count, digits.contains(UInt8(ascii: ".")) {
                guard groups.count <= 6, let tail = parseIPv4(digits) else { return nil }
                groups += [UInt64(tail >> 16), UInt64(tail & 0xffff)]
                break
            }
            guard digits.count <= 4, digits.allSatisfy({ isHexDigit($0) }) else { return nil }
            groups.append(digits.reduce(0) { $0 << 4 | UInt64(hexValue($1)) })
            rest = rest.dropFirst(digits.count)
            if rest.isEmpty { break }
            rest = rest.dropFirst()
            if rest.isEmpty { return nil }  // a single colon at the end
            if rest.first == UInt8(ascii: ":") {
                if gap != nil { return nil }
                gap = groups.count
                rest = rest.dropFirst()
            }
        }
        if let gap {
            // RFC 5952 §4.2.2 writes no "::" for one group, RFC 4291 lets it stand for one or more.
            guard groups.count < 8 else { return nil }
            groups.insert(contentsOf: repeatElement(0, count: 8 - groups.count), at: gap)
        }
        guard groups.count == 8 else { return nil }
        return (groups[..<4].reduce(0) { $0 << 16 | $1 }, groups[4...].reduce(0) { $0 << 16 | $1 })
    }

    /// A decimal number without sign or leading zeros.
    static func parseDecimal(_ text: some Collection<UInt8>, upTo limit: Int) -> Int? {
        guard let first = text.first, text.count <= 5, text.count == 1 || first != UInt8(ascii: "0") else { return nil }
        var value = 0
        for byte in text {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
            value = value * 10 + Int(byte - UInt8(ascii: "0"))
        }
        return value <= limit ? value : nil
    }

    static func isHexDigit(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "f"),
            UInt8(ascii: "A")...UInt8(ascii: "F"):
            true
        default: false
        }
    }

    private static func hexValue(_ byte: UInt8) -> UInt8 {
        byte <= UInt8(ascii: "9") ? byte - UInt8(ascii: "0") : (byte | 0x20) - UInt8(ascii: "a") + 10
    }
}

/// A block of IP addresses, `10.0.0.0/8` or `fd00::/8`.
package struct CIDR: Hashable, Sendable, CustomStringConvertible {
    /// The first address of the block.
    package let network: IPAddress
    /// How many leading bits are fixed: 0–32 for IPv4, 0–128 for IPv6.
    package let prefixLength: Int

    /// `nil` when `prefixLength` is out of range for the family. Host bits of `address` are cleared.
    package init?(_ address: IPAddress, prefixLength: Int) {
        guard (0...(address.isIPv4 ? 32 : 128)).contains(prefixLength) else { return nil }
        self.network = address.masked(prefixLength)
        self.prefixLength = prefixLength
    }

    /// The block of `length` bits that `address` lies in; the length must be one of the address's family.
    package init(containing address: IPAddress, length: Int) {
        precondition((0...(address.isIPv4 ? 32 : 128)).contains(length), "no prefix length of this family")
        network = address.masked(length)
        prefixLength = length
    }

    /// Parses `ADDRESS/LENGTH`, or a lone address as the block of itself.
    ///
    /// Throws ``AddressError`` when it is neither, and when host bits are set (`10.0.0.1/8`): that
    /// is more often a mistake than meant.
    package init(parsing text: String) throws(AddressError) {
        let parts = text.utf8.split(separator: UInt8(ascii: "/"), maxSplits: 1, omittingEmptySubsequences: false)
        let addressText = parts.isEmpty ? "" : String(parts[0]) ?? ""
        guard let address = IPAddress(addressText) else {
            throw AddressError("'\(Printable.escape(text))' is not an IP address or a CIDR block like 10.0.0.0/8")
        }
        guard parts.count == 2 else {
            network = address
            prefixLength = address.isIPv4 ? 32 : 128
            return
        }
        // A block of IPv4-mapped addresses is the IPv4 block they stand for.
        let mapped = address.isIPv4 && addressText.utf8.contains(UInt8(ascii: ":"))
        let limit = address.isIPv4 && !mapped ? 32 : 128
        guard let length = IPAddress.parseDecimal(Array(parts[1]), upTo: limit), !mapped || length >= 96 else {
            let range = mapped ? "96 to 128" : "0 to \(limit)"
            throw AddressError("'\(Printable.escape(text))' has no prefix length of \(range) after the '/'")
        }
        prefixLength = mapped ? length - 96 : length
        network = address.masked(prefixLength)
        if network != address {
            throw AddressError("'\(Printable.escape(text))' has bits set after its prefix: write \(self)")
        }
    }

    package func contains(_ address: IPAddress) -> Bool {
        address.isIPv4 == network.isIPv4 && address.masked(prefixLength) == network
    }

    package var description: String { "\(network)/\(prefixLength)" }
}

/// As much of DER (X.690) as a public key and an ECDSA signature need to become OpenSSL's.
enum DEREncoding {
    static func sequence(_ parts: [UInt8]...) -> [UInt8] { value(0x30, Array(parts.joined())) }

    static func bitString(_ bytes: [UInt8]) -> [UInt8] { value(0x03, [0] + bytes) }

    static func objectIdentifier(_ content: [UInt8]) -> [UInt8] { value(0x06, content) }

    static let null: [UInt8] = [0x05, 0x00]

    /// - Parameter magnitude: unsigned, big-endian; leading zeros are removed.
    static func integer(_ magnitude: some Collection<UInt8>) -> [UInt8] {
        let digits = Array(magnitude.drop { $0 == 0 })
        guard let first = digits.first else { return value(0x02, [0]) }
        return value(0x02, first & 0x80 == 0 ? digits : [0] + digits)
    }

    private static func value(_ tag: UInt8, _ content: [UInt8]) -> [UInt8] {
        guard content.count >= 0x80 else { return [tag, UInt8(content.count)] + content }
        var length: [UInt8] = []
        var rest = content.count
        while rest > 0 {
            length.insert(UInt8(truncatingIfNeeded: rest), at: 0)
            rest >>= 8
        }
        return [tag, 0x80 | UInt8(length.count)] + length + content
    }
}

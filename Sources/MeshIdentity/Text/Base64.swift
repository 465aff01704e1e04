/// Base 64 of RFC 4648 §4, strict: padded, no white space, no stray bits.
package enum Base64 {
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    private static let values: [UInt8] = {
        var values = [UInt8](repeating: 0xFF, count: 256)
        for (value, character) in alphabet.enumerated() { values[Int(character)] = UInt8(value) }
        return values
    }()

    package static func encode(_ bytes: some Collection<UInt8>, padded: Bool = true) -> String {
        var output: [UInt8] = []
        output.reserveCapacity((bytes.count + 2) / 3 * 4)
        var rest = bytes[...]
        while !rest.isEmpty {
            let group = Array(rest.prefix(3))
            rest = rest.dropFirst(3)
            let word =
                UInt32(group[0]) << 16 | UInt32(group.count > 1 ? group[1] : 0) << 8
                | UInt32(group.count > 2 ? group[2] : 0)
            for index in 0...group.count { output.append(alphabet[Int(word >> (18 - 6 * UInt32(index)) & 63)]) }
            if padded { output += [UInt8](repeating: UInt8(ascii: "="), count: 3 - group.count) }
        }
        return String(decoding: output, as: UTF8.self)
    }

    package static func decode(_ text: some StringProtocol) -> [UInt8]? {
        let characters = Array(text.utf8)
        guard characters.count % 4 == 0 else { return nil }
        let padding = characters.suffix(2).reversed().prefix { $0 == UInt8(ascii: "=") }.count
        var output: [UInt8] = []
        output.reserveCapacity(characters.count / 4 * 3)
        var word: UInt32 = 0
        var bits = 0
        for character in characters.dropLast(padding) {
            let value = values[Int(character)]
            guard value != 0xFF else { return nil }
            word = word << 6 | UInt32(value)
            bits += 6
            if bits >= 8 {
                bits -= 8
                output.append(UInt8(truncatingIfNeeded: word >> UInt32(bits)))
            }
        }
        guard word & (1 << UInt32(bits) - 1) == 0 else { return nil }
        return output
    }

    /// The alphabet for URLs, RFC 4648 §5, as tokens have it (RFC 7515 §2): never padded, no stray bits.
    package static func decodeURL(_ text: some StringProtocol) -> [UInt8]? {
        var characters = Array(text.utf8)
        for index in characters.indices {
            switch characters[index] {
            case UInt8(ascii: "-"): characters[index] = UInt8(ascii: "+")
            case UInt8(ascii: "_"): characters[index] = UInt8(ascii: "/")
            case UInt8(ascii: "+"), UInt8(ascii: "/"), UInt8(ascii: "="): return nil
            default: break
            }
        }
        guard characters.count % 4 != 1 else { return nil }
        characters += [UInt8](repeating: UInt8(ascii: "="), count: (4 - characters.count % 4) % 4)
        return decode(String(decoding: characters, as: UTF8.self))
    }
}

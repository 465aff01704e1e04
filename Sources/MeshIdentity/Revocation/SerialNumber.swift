/// A certificate's serial number as people write it.
package enum SerialNumber {
    /// Twenty octets are allowed (RFC 5280 §4.1.2.2); programs write some more zeros in front.
    private static let longest = 64

    /// In lower-case hexadecimal; nil where `text` is none. As the ledger has it, as `openssl x509 -serial` prints it
    /// (`serial=5E5D…`), and as certificate viewers show it (`5E:5D:…`).
    package static func normalized(_ text: String) -> String? {
        var text = text.lowercased()[...]
        for prefix in ["serial=", "0x"] where text.hasPrefix(prefix) { text = text.dropFirst(prefix.count) }
        let digits = text.utf8.filter { $0 != UInt8(ascii: ":") && $0 != UInt8(ascii: " ") }
        guard (1...longest).contains(digits.count), digits.allSatisfy(isHexadecimal) else { return nil }
        return String(decoding: digits, as: UTF8.self)
    }

    private static func isHexadecimal(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
    }
}

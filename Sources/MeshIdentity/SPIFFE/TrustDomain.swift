/// The name of a trust domain: `mesh.example` in `spiffe://mesh.example/ns/prod/sa/db`.
///
/// 1 to 255 bytes of a–z, 0–9, `.`, `-` and `_` (SPIFFE-ID specification, §2.1). Two trust domains are the same if, and
/// only if, their names are equal byte by byte: that is why upper-case letters are refused and not folded.
public struct TrustDomain: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// Without a scheme: `mesh.example`.
    public let name: String

    /// The longest name, in bytes: that of a DNS host name.
    package static let maximumLength = 255

    /// - Parameter name: Without a scheme: `mesh.example`.
    /// - Throws: the rule that was broken.
    public init(_ name: String) throws(SPIFFEIDError) {
        try self.init(validating: Array(name.utf8)[...])
    }

    init(validating bytes: ArraySlice<UInt8>) throws(SPIFFEIDError) {
        guard !bytes.isEmpty else {
            throw SPIFFEIDError(.trustDomain, "the trust domain is empty; it is a name like mesh.example")
        }
        for byte in bytes where !Self.isAllowed(byte) {
            switch byte {
            case UInt8(ascii: "@"):
                throw SPIFFEIDError(
                    .userInfo,
                    "the trust domain has user info (a '@'), which a SPIFFE ID must not have"
                )
            case UInt8(ascii: ":"):
                throw SPIFFEIDError(.port, "the trust domain has a port (a ':'), which a SPIFFE ID must not have")
            case UInt8(ascii: "%"):
                throw SPIFFEIDError(.percentEncoding, "the trust domain has a '%': percent-encoding is not allowed")
            case UInt8(ascii: "A")...UInt8(ascii: "Z"):
                throw SPIFFEIDError(
                    .trustDomain,
                    "the trust domain has the upper-case letter \(quoted(byte)); trust domains are lower-case"
                )
            default:
                throw SPIFFEIDError(
                    .trustDomain,
                    "the trust domain has \(quoted(byte)); only a-z, 0-9, '.', '-' and '_' are allowed"
                )
            }
        }
        guard bytes.count <= Self.maximumLength else {
            throw SPIFFEIDError(
                .length,
                "the trust domain has \(bytes.count) bytes; at most \(Self.maximumLength) are allowed"
            )
        }
        name = String(decoding: bytes, as: UTF8.self)
    }

    /// The ID of the trust domain itself, which a CA certificate carries: a SPIFFE ID with no path.
    public var id: SPIFFEID { SPIFFEID(trustDomain: self) }

    public var description: String { name }

    public static func < (left: TrustDomain, right: TrustDomain) -> Bool { left.name < right.name }

    static func isAllowed(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
            UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"):
            true
        default:
            false
        }
    }
}

/// A byte for a message: never a raw control character or half a UTF-8 sequence from a hostile name.
func quoted(_ byte: UInt8) -> String {
    if byte > 0x20, byte < 0x7F { return "'\(Character(Unicode.Scalar(byte)))'" }
    let hex = String(byte, radix: 16, uppercase: true)
    return byte == 0x20 ? "a space" : "the byte 0x\(hex.count == 1 ? "0" : "")\(hex)"
}

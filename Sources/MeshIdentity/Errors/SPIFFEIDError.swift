/// Why a text is no SPIFFE ID (SPIFFE-ID specification, §2).
public struct SPIFFEIDError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The rule that was broken; new rules may be added.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        package enum Kind: String {
            case empty, scheme, trustDomain, userInfo, port, query, fragment, percentEncoding
            case emptySegment, dotSegment, trailingSlash, character, length
        }
        package let kind: Kind
        public var description: String { kind.rawValue }

        /// Nothing there.
        public static let empty = Code(kind: .empty)
        /// The scheme is not `spiffe://`.
        public static let scheme = Code(kind: .scheme)
        /// The trust domain is empty, or has a character other than a–z, 0–9, `.`, `-`, `_`.
        public static let trustDomain = Code(kind: .trustDomain)
        /// There is a `user@`.
        public static let userInfo = Code(kind: .userInfo)
        /// There is a `:port`.
        public static let port = Code(kind: .port)
        /// There is a `?query`.
        public static let query = Code(kind: .query)
        /// There is a `#fragment`.
        public static let fragment = Code(kind: .fragment)
        /// There is a `%`.
        public static let percentEncoding = Code(kind: .percentEncoding)
        /// Two slashes in a row, or an empty name where a segment is made of it.
        public static let emptySegment = Code(kind: .emptySegment)
        /// A path segment is `.` or `..`.
        public static let dotSegment = Code(kind: .dotSegment)
        /// The path ends in `/`.
        public static let trailingSlash = Code(kind: .trailingSlash)
        /// The path has a character other than a–z, A–Z, 0–9, `.`, `-`, `_`.
        public static let character = Code(kind: .character)
        /// Longer than 2048 bytes, or the trust domain longer than 255.
        public static let length = Code(kind: .length)
    }

    /// The rule that was broken, for programs.
    public var code: Code
    /// What is wrong with the text, for people.
    public var message: String

    /// - Parameters:
    ///   - code: The rule that was broken.
    ///   - message: What is wrong with the text.
    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}

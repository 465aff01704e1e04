/// The path of a request's target in the one spelling that routes and policy compare (RFC 3986 §6.2.2): what needs no
/// percent-encoding has none, the hexadecimal digits of the rest are in upper case, and several slashes are one.
///
/// What servers understand in different ways is refused, since a server behind this one could serve what nobody here
/// has compared: an encoded slash, a backslash, control characters, segments that are or become `.` or `..`.
package struct HTTPPath: Hashable, Sendable, CustomStringConvertible {
    package let description: String

    package static let root = HTTPPath(normalized: "/")

    private init(normalized: String) { description = normalized }

    /// - Parameter text: From its `/` to the query, without it.
    package init(parsing text: Substring) throws(HTTPError) {
        guard text.utf8.first == UInt8(ascii: "/") else { throw .bad("the path does not begin with /") }
        var path: [UInt8] = []
        path.reserveCapacity(text.utf8.count)
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            var value = byte
            var isEncoded = false
            if byte == UInt8(ascii: "%") {
                guard let high = rest.popFirst().flatMap(Self.digit), let low = rest.popFirst().flatMap(Self.digit)
                else { throw .bad("a % in the path is not followed by two hexadecimal digits") }
                value = high << 4 | low
                isEncoded = true
            }
            switch value {
            case 0x00...0x1F, 0x7F: throw .bad("the path has a control character")
            case UInt8(ascii: "\\"): throw .bad("the path has a backslash")
            case UInt8(ascii: "/") where isEncoded: throw .bad("the path has an encoded slash")
            case UInt8(ascii: "/"):
                if path.last != UInt8(ascii: "/") { path.append(value) }
            case _ where isEncoded && !Self.isUnreserved(value):
                path += [UInt8(ascii: "%"), Self.hexadecimal(value >> 4), Self.hexadecimal(value & 15)]
            default: path.append(value)
            }
        }
        for segment in path.split(separator: UInt8(ascii: "/")) {
            // Some servers take what follows a semicolon for parameters, and look at the rest.
            let name = segment.prefix { $0 != UInt8(ascii: ";") }
            guard !name.elementsEqual(".".utf8), !name.elementsEqual("..".utf8) else {
                throw .bad("the path has a segment . or ..")
            }
        }
        description = String(decoding: path, as: UTF8.self)
    }

    package var isRoot: Bool { description == "/" }

    /// Whether `prefix` is this path, or stands before it up to the end of a segment. A slash at its end says nothing.
    package func begins(with prefix: HTTPPath) -> Bool {
        var start = prefix.description.utf8[...]
        if start.last == UInt8(ascii: "/") { start.removeLast() }
        let own = description.utf8
        guard own.starts(with: start) else { return false }
        let rest = own.dropFirst(start.count)
        return rest.isEmpty || rest.first == UInt8(ascii: "/")
    }

    private static func digit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x41 + 10
        case 0x61...0x66: byte - 0x61 + 10
        default: nil
        }
    }

    private static func hexadecimal(_ value: UInt8) -> UInt8 { value < 10 ? 0x30 + value : 0x41 + value - 10 }

    /// RFC 3986 §2.3.
    private static func isUnreserved(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
            UInt8(ascii: "~"):
            true
        default: false
        }
    }
}

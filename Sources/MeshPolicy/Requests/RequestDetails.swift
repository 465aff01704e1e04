/// What is known of a request that came as HTTP, or with a token.
package struct RequestDetails: Hashable, Sendable {
    /// As it was sent: methods are case-sensitive (RFC 9110 §9.1).
    package var method: String?
    /// Normalized, without the query; nil where it means different things to different servers.
    package var path: String?
    /// `ISSUER/SUBJECT` of the verified token, as Istio writes it; nil: it has none, or nobody looks for one.
    package var principal: String?
    /// Whether tokens are verified where the request came in. Elsewhere nobody knows who has one: rules about it must
    /// not take that for a request without.
    package var isTokenRead: Bool

    package init(
        method: String? = nil,
        path: String? = nil,
        principal: String? = nil,
        isTokenRead: Bool? = nil
    ) {
        self.method = method
        self.path = path
        self.principal = principal
        self.isTokenRead = isTokenRead ?? (principal != nil)
    }

    /// - Parameter target: Path and query, as the request has them in origin-form.
    package init(method: String, target: String, principal: String? = nil, isTokenRead: Bool? = nil) {
        self.init(method: method, path: Self.path(of: target), principal: principal, isTokenRead: isTokenRead)
    }

    /// The path that rules are compared with: without query, with `%XX` decoded once.
    ///
    /// What goes on to the server is the target as it came, and servers differ in what they make of a slash that is
    /// encoded, doubled or written backwards, of dot segments, and of `;`. A path with one of those has no one meaning:
    /// nil, which no ALLOW rule about paths matches, and every DENY rule does.
    package static func path(of target: String) -> String? {
        let bytes = target.utf8.prefix { $0 != UInt8(ascii: "?") && $0 != UInt8(ascii: "#") }
        if bytes.elementsEqual("*".utf8) { return "*" }
        guard bytes.first == UInt8(ascii: "/") else { return nil }
        var path: [UInt8] = []
        path.reserveCapacity(bytes.count)
        var index = bytes.startIndex
        while index < bytes.endIndex {
            var byte = bytes[index]
            bytes.formIndex(after: &index)
            let isEncoded = byte == UInt8(ascii: "%")
            if isEncoded {
                guard let high = hexDigit(bytes, &index), let low = hexDigit(bytes, &index) else { return nil }
                byte = high << 4 | low
            }
            let isSlash = byte == UInt8(ascii: "/")
            // An encoded `%` is the beginning of another one for whoever decodes twice.
            if isEncoded, isSlash || byte == UInt8(ascii: "%") { return nil }
            guard byte >= 0x20, byte != 0x7f, byte != UInt8(ascii: "\\"), byte != UInt8(ascii: ";") else { return nil }
            if isSlash, path.last == UInt8(ascii: "/") { return nil }
            path.append(byte)
        }
        let segments = path.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        let isDotted = segments.contains { $0.elementsEqual(".".utf8) || $0.elementsEqual("..".utf8) }
        return isDotted ? nil : String(validating: path, as: UTF8.self)
    }

    private static func hexDigit(_ bytes: Substring.UTF8View, _ index: inout String.Index) -> UInt8? {
        guard index < bytes.endIndex else { return nil }
        let byte = bytes[index]
        bytes.formIndex(after: &index)
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): return byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): return byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): return byte - UInt8(ascii: "A") + 10
        default: return nil
        }
    }
}

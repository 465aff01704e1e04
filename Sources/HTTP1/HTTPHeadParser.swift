/// Reads heads of HTTP/1 messages (RFC 9112), and refuses whatever two readers could understand in two ways.
///
/// No I/O. Bytes come in whatever pieces; a head is looked at when it is whole, but what can never become one is
/// refused as soon as it is there.
package struct HTTPHeadParser: Sendable {
    package let limits: HTTPLimits
    /// Up to where the bytes were looked at.
    private var scanned = 0
    private var lineStart = 0
    private var isFirstLine = true

    package init(limits: HTTPLimits = HTTPLimits()) { self.limits = limits }

    /// Looks for the end of the head that begins at `start`.
    ///
    /// - Parameter bytes: What has come so far; each time the same and more.
    /// - Returns: The index after the empty line; nil: more is needed.
    package mutating func end(in bytes: [UInt8], from start: Int) throws(HTTPError) -> Int? {
        var index = start + scanned
        while index < bytes.count {
            let byte = bytes[index]
            if byte == 13 {
                guard index + 1 < bytes.count else { break }
                guard bytes[index + 1] == 10 else { throw .bad("a CR stands without LF") }
                let isEmpty = index == start + lineStart
                if isEmpty, isFirstLine { throw .bad("an empty line stands before the message") }
                index += 2
                lineStart = index - start
                isFirstLine = false
                if isEmpty {
                    guard index - start <= limits.head else { break }
                    (scanned, lineStart, isFirstLine) = (0, 0, true)
                    return index
                }
                continue
            }
            if byte == 10 { throw .bad("an LF stands without CR") }
            if byte < 0x20 && byte != 9 || byte == 0x7F { throw .bad("a control character stands in the head") }
            index += 1
        }
        scanned = min(index, bytes.count) - start
        if isFirstLine, scanned > limits.firstLine {
            throw HTTPError(414, "the first line is longer than \(limits.firstLine) bytes")
        }
        guard scanned <= limits.head else { throw HTTPError(431, "the head is longer than \(limits.head) bytes") }
        return nil
    }

    // MARK: Requests

    /// - Parameter head: From the first line to the empty line, as ``end(in:from:)`` found it.
    package func request(_ head: ArraySlice<UInt8>) throws(HTTPError) -> HTTPRequestHead {
        var rest = head
        let line = Self.line(&rest)
        guard line.count <= limits.firstLine else {
            throw HTTPError(414, "the first line is longer than \(limits.firstLine) bytes")
        }
        let parts = line.split(separator: 0x20, omittingEmptySubsequences: false)
        guard parts.count == 3, !parts[0].isEmpty, parts[0].allSatisfy(Self.isTokenByte) else {
            throw .bad("the first line is not METHOD TARGET VERSION")
        }
        guard !parts[1].isEmpty, parts[1].allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw .bad("the target has characters that it must not have")
        }
        let version = try Self.version(parts[2])
        let fields = try fields(&rest)
        let method = String(decoding: parts[0], as: UTF8.self)
        let hosts = fields.values("host")
        guard hosts.count <= 1 else { throw .bad("there are several Host fields") }
        if version == .http11, hosts.isEmpty { throw .bad("there is no Host field") }
        if let host = hosts.first, !Self.isHost(host) { throw .bad("the Host field is no host") }
        var framing = try Self.framing(fields, version: version) ?? HTTPFraming.none
        if method == "CONNECT" {
            // Some clients say of each request how long its content is. No content is what CONNECT has.
            guard framing.isEmpty else { throw .bad("CONNECT has no content") }
            framing = .none
        }
        return HTTPRequestHead(
            method: method,
            target: String(decoding: parts[1], as: UTF8.self),
            version: version,
            fields: fields,
            framing: framing
        )
    }

    // MARK: Responses

    /// - Parameter method: That of the request, which decides what the head says about content.
    package func response(_ head: ArraySlice<UInt8>, to method: String) throws(HTTPError) -> HTTPResponseHead {
        var rest = head
        let line = Self.line(&rest)
        let parts = line.split(separator: 0x20, maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count >= 2, parts[1].count == 3, parts[1].allSatisfy({ (0x30...0x39).contains($0) }) else {
            throw .bad("the first line is not VERSION STATUS REASON")
        }
        let version = try Self.version(parts[0])
        let status = parts[1].reduce(0) { $0 * 10 + Int($1 - 0x30) }
        guard (100...599).contains(status) else { throw .bad("there is no such status") }
        let fields = try fields(&rest)
        var framing = try Self.framing(fields, version: version)
        if status < 200 || status == 204 {
            // RFC 9110 §8.6 forbids them here; a reader that goes by them waits for what never comes.
            guard framing == nil || framing == .length(0) else { throw .bad("a \(status) says that it has content") }
            framing = HTTPFraming.none
        } else if status == 304 || method == "HEAD" {
            framing = HTTPFraming.none
        }
        return HTTPResponseHead(
            status: status,
            reason: parts.count == 3 ? Array(parts[2]) : [],
            version: version,
            fields: fields,
            framing: framing ?? .untilClose
        )
    }

    // MARK: What both have

    /// Trailer fields, up to and with their empty line; those that a trailer must not have are refused.
    package func trailers(_ section: ArraySlice<UInt8>) throws(HTTPError) -> HTTPFields {
        var rest = section
        let fields = try fields(&rest)
        let forbidden = ["transfer-encoding", "content-length", "host", "connection", "trailer", "upgrade", "te"]
        guard !forbidden.contains(where: fields.contains) else {
            throw .bad("a field that belongs to the head is among the trailers")
        }
        return fields
    }

    /// The line at the start, without its CRLF, which the head is known to have.
    private static func line(_ rest: inout ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        let end = rest.firstIndex(of: 13) ?? rest.endIndex
        defer { rest = rest[min(end + 2, rest.endIndex)...] }
        return rest[..<end]
    }

    private static func version(_ text: ArraySlice<UInt8>) throws(HTTPError) -> HTTPVersion {
        if text.elementsEqual("HTTP/1.1".utf8) { return .http11 }
        if text.elementsEqual("HTTP/1.0".utf8) { return .http10 }
        throw text.starts(with: "HTTP/".utf8)
            ? HTTPError(505, "the version of HTTP is neither 1.0 nor 1.1")
            : .bad("the first line is none of HTTP")
    }

    private func fields(_ rest: inout ArraySlice<UInt8>) throws(HTTPError) -> HTTPFields {
        var fields = HTTPFields()
        while true {
            let line = Self.line(&rest)
            if line.isEmpty { return fields }
            guard fields.all.count < limits.fields else {
                throw HTTPError(431, "there are more than \(limits.fields) fields")
            }
            if line.first == 0x20 || line.first == 9 { throw .bad("a field goes on in another line") }
            guard let colon = line.firstIndex(of: UInt8(ascii: ":")), colon > line.startIndex,
                line[..<colon].allSatisfy(Self.isTokenByte)
            else { throw .bad("a line of the head is not NAME: VALUE") }
            var value = line[line.index(after: colon)...]
            while let byte = value.first, byte == 0x20 || byte == 9 { value = value.dropFirst() }
            while let byte = value.last, byte == 0x20 || byte == 9 { value = value.dropLast() }
            let name = String(decoding: line[..<colon], as: UTF8.self)
            fields.all.append(HTTPFields.Field(name: name, value: Array(value)))
        }
    }

    /// nil: the fields say nothing.
    private static func framing(_ fields: HTTPFields, version: HTTPVersion) throws(HTTPError) -> HTTPFraming? {
        let lengths = fields.values("content-length")
        let codings = fields.values("transfer-encoding")
        if !codings.isEmpty {
            guard lengths.isEmpty else { throw .bad("there are Content-Length and Transfer-Encoding") }
            guard version == .http11 else { throw .bad("HTTP/1.0 has no Transfer-Encoding") }
            // Without case in ASCII only: Unicode has other letters whose lower case is in `chunked`.
            guard codings.count == 1, HTTPFields.isSame(codings[0], "chunked") else {
                throw HTTPError(501, "the Transfer-Encoding is not chunked alone")
            }
            return .chunked
        }
        guard let length = lengths.first else { return nil }
        // Also where all say the same: who reads the first only and who reads the list would not both be right.
        guard lengths.count == 1 else { throw .bad("there are several Content-Length fields") }
        guard (1...18).contains(length.utf8.count), length.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
            let count = UInt64(length)
        else { throw .bad("the Content-Length is no number") }
        return .length(count)
    }

    /// RFC 3986 without user and spaces: nothing that one reader takes for the end of the host and another does not.
    package static func isHost(_ text: String) -> Bool {
        text.utf8.count <= 255 + 6
            && text.utf8.allSatisfy { byte in
                isTokenByte(byte) && byte != 0x7C && byte != 0x60 && byte != 0x5E && byte != 0x23
                    || byte == UInt8(ascii: ":") || byte == UInt8(ascii: "[") || byte == UInt8(ascii: "]")
            }
    }

    /// RFC 9110 §5.6.2.
    package static func isTokenByte(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x21, 0x23...0x27, 0x2A, 0x2B, 0x2D, 0x2E, 0x5E, 0x5F, 0x60, 0x7C,
            0x7E:
            true
        default: false
        }
    }
}

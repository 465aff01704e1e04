/// The minor version of HTTP/1; a message of another major version is refused.
package enum HTTPVersion: UInt8, Hashable, Sendable {
    case http10 = 0
    case http11 = 1

    package var text: String { "HTTP/1.\(rawValue)" }
}

/// How the content of a message ends (RFC 9112 §6.3).
package enum HTTPFraming: Hashable, Sendable {
    /// There is none.
    case none
    case length(UInt64)
    case chunked
    /// A response's, with the connection.
    case untilClose

    /// Whether nothing follows the head.
    package var isEmpty: Bool { self == .none || self == .length(0) }
}

/// The head of a request that means one thing only.
package struct HTTPRequestHead: Hashable, Sendable {
    package var method: String
    /// As it was written: visible ASCII.
    package var target: String
    package var version: HTTPVersion
    package var fields: HTTPFields
    package var framing: HTTPFraming

    package init(method: String, target: String, version: HTTPVersion, fields: HTTPFields, framing: HTTPFraming) {
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields
        self.framing = framing
    }

    /// Whether the client expects the connection to stay open (RFC 9112 §9.3). A proxy does not believe a `keep-alive`
    /// of HTTP/1.0 (§C.2.2).
    package var keepsAlive: Bool { version == .http11 && !fields.list("connection").contains("close") }

    /// First line, fields, empty line.
    package var bytes: [UInt8] {
        var bytes = Array("\(method) \(target) \(version.text)\r\n".utf8)
        fields.write(to: &bytes)
        bytes += [13, 10]
        return bytes
    }
}

/// The head of a response that means one thing only, for the request that it answers.
package struct HTTPResponseHead: Hashable, Sendable {
    package var status: Int
    /// As it was written; mostly empty or the name of the status.
    package var reason: [UInt8]
    package var version: HTTPVersion
    package var fields: HTTPFields
    package var framing: HTTPFraming

    package init(
        status: Int,
        reason: [UInt8] = [],
        version: HTTPVersion = .http11,
        fields: HTTPFields = HTTPFields(),
        framing: HTTPFraming
    ) {
        self.status = status
        self.reason = reason
        self.version = version
        self.fields = fields
        self.framing = framing
    }

    /// Another response to the same request follows.
    package var isInterim: Bool { (100..<200).contains(status) && status != 101 }

    package var keepsAlive: Bool {
        let options = fields.list("connection")
        return framing != .untilClose && !options.contains("close")
            && (version == .http11 || options.contains("keep-alive"))
    }

    package var bytes: [UInt8] {
        var bytes = Array("\(version.text) \(status) ".utf8) + reason + [13, 10]
        fields.write(to: &bytes)
        bytes += [13, 10]
        return bytes
    }
}

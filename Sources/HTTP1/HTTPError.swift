/// Why a message is refused. After it the connection has no next message: where this one would have ended is not known.
package struct HTTPError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What a server answers: 400, 408, 413, 414, 431, 501 or 505.
    package let status: Int
    /// What is wrong, without what the peer wrote.
    package let message: String

    package init(_ status: Int, _ message: String) {
        self.status = status
        self.message = message
    }

    package var description: String { message }

    static func bad(_ message: String) -> HTTPError { HTTPError(400, message) }
}

/// How much of a message is read.
package struct HTTPLimits: Hashable, Sendable {
    /// Bytes of a head, with its first line and the empty line.
    package var head = 32 << 10
    /// Bytes of the first line.
    package var firstLine = 8 << 10
    package var fields = 100
    /// Bytes of all trailer fields of a message.
    package var trailers = 8 << 10
    /// Bytes of a request's content; nil: any number.
    package var body: UInt64?

    package init() {}
}

public import Streams

/// A local forward as OpenSSH's `-L` writes it: `[bind_address:]port:host:hostport`.
public struct PortForward: Hashable, Sendable, CustomStringConvertible {
    /// Where to listen; port 0 lets the kernel choose.
    public var bind: SocketAddress
    /// What is reached from the far side; `localhost` means the far side itself.
    public var destination: Authority

    public init(bind: SocketAddress, destination: Authority) {
        self.bind = bind
        self.destination = destination
    }

    /// Parses `-L`'s argument (ssh(1)): without a bind address, or with `localhost`, the loopback address; with an empty one
    /// or `*`, every address. IPv6 addresses stand in brackets.
    ///
    /// - Throws: ``Streams/StreamError`` with code ``Streams/StreamError/Code/badRequest`` that shows the form.
    public init(parsing text: String) throws(StreamError) {
        let fields = Self.split(text)
        guard fields.count == 3 || fields.count == 4 else {
            throw Self.malformed(text, "it has \(fields.count) fields")
        }
        guard let listenPort = UInt16(fields[fields.count - 3]) else {
            throw Self.malformed(text, "'\(fields[fields.count - 3])' is not a port")
        }
        let address =
            switch fields.count == 4 ? fields[0] : "localhost" {
            case "localhost": "127.0.0.1"
            case "", "*": "0.0.0.0"
            case let other: other
            }
        let host = fields[fields.count - 2]
        let port = fields[fields.count - 1]
        do {
            bind = try SocketAddress(ip: address, port: listenPort)
            destination = try Authority(parsing: host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)")
        } catch {
            throw Self.malformed(text, error.message)
        }
    }

    public var description: String { "\(bind) → \(destination)" }

    /// Splits at colons outside of brackets, and drops the brackets.
    private static func split(_ text: String) -> [String] {
        var fields = [""]
        var isBracketed = false
        for character in text {
            switch character {
            case "[": isBracketed = true
            case "]": isBracketed = false
            case ":" where !isBracketed: fields.append("")
            default: fields[fields.count - 1].append(character)
            }
        }
        return fields
    }

    private static func malformed(_ text: String, _ reason: String) -> StreamError {
        StreamError(
            .badRequest,
            "-L \(text): \(reason). Write [bind_address:]port:host:hostport, for example -L 8080:localhost:80"
        )
    }
}

package import Platform
package import Streams

/// Where a forwarded connection ends: a port, or a Unix socket.
package enum ForwardDestination: Hashable, Sendable, CustomStringConvertible {
    case authority(Authority)
    /// An absolute path.
    case unixSocket(String)

    package var description: String {
        switch self {
        case .authority(let authority): authority.description
        case .unixSocket(let path): path
        }
    }
}

/// A local forward as OpenSSH's `-L` writes it: `[bind_address:]port:host:hostport`, with a path in place of either end
/// for a Unix socket.
package struct PortForward: Hashable, Sendable, CustomStringConvertible {
    /// Where to listen; port 0 lets the kernel choose.
    package var bind: SocketAddress
    /// What is reached from the far side; `localhost` means the far side itself.
    package var destination: ForwardDestination

    package init(bind: SocketAddress, destination: ForwardDestination) {
        self.bind = bind
        self.destination = destination
    }

    /// Parses `-L`'s argument (ssh(1)): without a bind address, or with `localhost`, the loopback address; with an
    /// empty one or `*`, every address. IPv6 addresses stand in brackets; what begins with `/` is the path of a Unix
    /// socket.
    ///
    /// - Throws: ``Streams/StreamError`` with code ``Streams/StreamError/Code/badRequest`` that shows the form.
    package init(parsing text: String) throws(StreamError) {
        var fields = ForwardFields(text, option: "-L", form: Self.form)
        destination = try fields.takeDestination()
        bind = try fields.takeBind()
        try fields.end()
    }

    static let form =
        "[bind_address:]port:host:hostport, for example -L 8080:localhost:80, or the path of a Unix socket in "
        + "place of either end"

    package var description: String { "\(bind) → \(destination)" }
}

/// A remote forward as OpenSSH's `-R` writes it: `[bind_address:]port:host:hostport`.
package struct RemoteForward: Hashable, Sendable, CustomStringConvertible {
    /// The address that the far side is asked to listen on, as RFC 4254 §7.1 has it: `localhost`, or empty for every
    /// address.
    package var bindHost: String
    /// 0 lets the far side choose.
    package var port: UInt16
    /// What is reached from this side.
    package var destination: ForwardDestination

    package init(bindHost: String, port: UInt16, destination: ForwardDestination) {
        self.bindHost = bindHost
        self.port = port
        self.destination = destination
    }

    /// Parses `-R`'s argument (ssh(1)): without a bind address the far side's loopback, with an empty one or `*` every
    /// address of the far side, where its GatewayPorts allows that.
    ///
    /// - Throws: ``Streams/StreamError`` with code ``Streams/StreamError/Code/badRequest`` that shows the form.
    package init(parsing text: String) throws(StreamError) {
        var fields = ForwardFields(text, option: "-R", form: Self.form)
        destination = try fields.takeDestination()
        (bindHost, port) = try fields.takeRemoteBind()
        try fields.end()
    }

    private static let form = "[bind_address:]port:host:hostport, for example -R 8080:localhost:80"

    package var description: String { "\(bindHost.isEmpty ? "*" : bindHost):\(port) → \(destination)" }
}

/// A SOCKS server's address as OpenSSH's `-D` writes it: `[bind_address:]port`.
package struct DynamicForward: Hashable, Sendable {
    package var bind: SocketAddress

    package init(bind: SocketAddress) { self.bind = bind }

    /// Parses `-D`'s argument (ssh(1)), as `-L`'s first part.
    ///
    /// - Throws: ``Streams/StreamError`` with code ``Streams/StreamError/Code/badRequest`` that shows the form.
    package init(parsing text: String) throws(StreamError) {
        var fields = ForwardFields(text, option: "-D", form: "[bind_address:]port, for example -D 1080")
        bind = try fields.takeBind()
        try fields.end()
    }
}

/// The parts between the colons of a forward, taken from the end.
private struct ForwardFields {
    private var fields: [String]
    private let text: String
    private let option: String
    private let form: String

    /// Splits at colons outside of brackets, and drops the brackets.
    init(_ text: String, option: String, form: String) {
        self.text = text
        self.option = option
        self.form = form
        fields = [""]
        var isBracketed = false
        for character in text {
            switch character {
            case "[": isBracketed = true
            case "]": isBracketed = false
            case ":" where !isBracketed: fields.append("")
            default: fields[fields.count - 1].append(character)
            }
        }
    }

    /// `host:port`, or a path.
    mutating func takeDestination() throws(StreamError) -> ForwardDestination {
        guard fields.count > 1, let last = fields.popLast() else { throw malformed("it has too few fields") }
        if last.hasPrefix("/") { return .unixSocket(try path(last)) }
        guard fields.count > 1, let host = fields.popLast() else { throw malformed("it has too few fields") }
        do {
            return .authority(try Authority(parsing: host.contains(":") ? "[\(host)]:\(last)" : "\(host):\(last)"))
        } catch {
            throw malformed(error.message)
        }
    }

    /// `[bind_address:]port`, or a path.
    mutating func takeBind() throws(StreamError) -> SocketAddress {
        guard let last = fields.popLast() else { throw malformed("it does not say where to listen") }
        do throws(StreamError) {
            if last.hasPrefix("/") { return try SocketAddress(unixPath: last) }
            let port = try port(last)
            let address =
                switch fields.popLast() ?? "localhost" {
                case "localhost": "127.0.0.1"
                case "", "*": "0.0.0.0"
                case let other: other
                }
            return try SocketAddress(ip: address, port: port)
        } catch {
            throw error.message.hasPrefix(option) ? error : malformed(error.message)
        }
    }

    mutating func takeRemoteBind() throws(StreamError) -> (host: String, port: UInt16) {
        guard let last = fields.popLast() else { throw malformed("it does not say where to listen") }
        guard !last.hasPrefix("/") else {
            throw malformed("this program has the far side listen on ports only, not on Unix sockets")
        }
        let port = try port(last)
        let host = fields.popLast() ?? "localhost"
        return (host == "*" ? "" : host, port)
    }

    func end() throws(StreamError) {
        guard fields.isEmpty else { throw malformed("it has too many fields") }
    }

    private func port(_ text: String) throws(StreamError) -> UInt16 {
        // UInt16 would take a sign.
        guard text.utf8.allSatisfy({ (48...57).contains($0) }), let port = UInt16(text) else {
            throw malformed("'\(text)' is not a port")
        }
        return port
    }

    private func path(_ text: String) throws(StreamError) -> String {
        do {
            _ = try SocketAddress(unixPath: text)
            return text
        } catch {
            throw malformed(error.message)
        }
    }

    private func malformed(_ reason: String) -> StreamError {
        StreamError(.badRequest, "\(option) \(text): \(reason). Write \(form)")
    }
}

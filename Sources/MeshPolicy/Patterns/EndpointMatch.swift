package import Platform
package import Streams

/// The key `match` of an endpoint: which destinations it is for.
///
/// `host`, `host:port`, `host:*`, `*.suffix[:port]`, `CIDR[:port]`, or `*[:port]` for everything. Without a port, or
/// with `*`, every port matches. A destination given by name is matched by name and never resolved for it; an address
/// is matched by address and by CIDR.
package struct EndpointMatch: Hashable, Sendable, CustomStringConvertible {
    package enum Host: Hashable, Sendable {
        case any
        /// A normalised name, or an address in canonical form.
        case exact(String)
        /// Names that end in this, which begins with a dot; the bare domain does not match.
        case suffix(String)
        case block(CIDR)
    }

    package let host: Host
    /// `nil`: every port.
    package let port: UInt16?

    package init(host: Host, port: UInt16?) {
        self.host = host
        self.port = port
    }

    /// Throws ``Streams/StreamError`` with code `badRequest` and the reason.
    package init(parsing text: String) throws(StreamError) {
        // The port stands after the last colon, unless that belongs to an IPv6 address: those need brackets, except in
        // a CIDR block, where the '/' tells.
        var hostText = text[...]
        var portText: Substring?
        let slash = text.firstIndex(of: "/")
        let bracket = text.lastIndex(of: "]")
        if let colon = text.lastIndex(of: ":"), bracket.map({ colon > $0 }) ?? true, slash.map({ colon > $0 }) ?? true {
            hostText = text[..<colon]
            portText = text[text.index(after: colon)...]
        }
        if portText == nil || portText == "*" {
            port = nil
        } else if let number = portText.flatMap({ $0.first == "+" || $0.first == "0" ? nil : UInt16($0) }), number > 0 {
            port = number
        } else {
            throw StreamError(.badRequest, "'\(text)' must end in a port from 1 to 65535, in ':*', or in neither")
        }

        if slash != nil {
            if hostText.first == "[", let end = hostText.lastIndex(of: "]") {
                hostText = hostText[..<end].dropFirst() + hostText[hostText.index(after: end)...]
            }
            host = .block(try StreamError.reading(CIDR(parsing: String(hostText))))
        } else if hostText == "*" {
            host = .any
        } else if hostText.hasPrefix("*.") {
            let name = try StreamError.reading(Authority(host: String(hostText.dropFirst(2)), port: 1))
            guard name.address == nil else {
                throw StreamError(.badRequest, "'\(text)': write a block of addresses as CIDR, like 10.0.0.0/8")
            }
            host = .suffix("." + name.host)
        } else if hostText.contains("*") {
            throw StreamError(.badRequest, "'\(text)': '*' can stand alone, before '.suffix', or for the port")
        } else {
            host = .exact(try StreamError.reading(Authority(parsing: "\(hostText):1")).host)
        }
    }

    package func matches(_ destination: Authority) -> Bool {
        if let port, port != destination.port { return false }
        switch host {
        case .any: return true
        case .exact(let name): return name == destination.host
        case .suffix(let suffix):
            return destination.address == nil && destination.host.utf8.count > suffix.utf8.count
                && destination.host.utf8.suffix(suffix.utf8.count).elementsEqual(suffix.utf8)
        case .block(let block): return destination.address.map { block.contains($0) } ?? false
        }
    }

    package var description: String {
        let hostText =
            switch host {
            case .any: "*"
            case .exact(let name): name.contains(":") ? "[\(name)]" : name
            case .suffix(let suffix): "*" + suffix
            case .block(let block): block.description
            }
        return port.map { "\(hostText):\($0)" } ?? hostText
    }
}

import Platform

/// Where a connection goes by the server name of its ClientHello.
enum ServerNameDestination {
    /// Without a port in it, a name is that of an HTTPS server.
    static let defaultPort: UInt16 = 443

    /// `outbound_.PORT_.SUBSET_.HOST` is HOST:PORT, as Istio writes it for what its gateways pass through; the subset
    /// may be empty and chooses nothing here. Any other name is NAME:443.
    ///
    /// RFC 6066 §3: a host name, in ASCII, without a trailing dot, never an address.
    static func parse(_ name: [UInt8]) throws(ClientHelloError) -> Authority {
        guard name.count <= limit, name.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw refused(name, "is too long or has characters that no host name has")
        }
        let text = String(decoding: name, as: UTF8.self).lowercased()
        guard text.hasPrefix(prefix) else { return try authority(text, defaultPort, name) }
        let rest = text.dropFirst(prefix.count)
        guard let (portText, afterPort) = split(rest), let (subset, host) = split(afterPort),
            let port = port(portText), isSubset(subset)
        else {
            throw refused(name, "is not outbound_.PORT_.SUBSET_.HOST, with a PORT from 1 to 65535")
        }
        return try authority(String(host), port, name)
    }

    private static let prefix = "outbound_."
    /// 253 of a host, as much again for what Istio puts before it.
    private static let limit = 506

    private static func split(_ text: Substring) -> (Substring, Substring)? {
        guard let mark = text.firstIndex(of: "_") else { return nil }
        let after = text[text.index(after: mark)...]
        guard after.first == "." else { return nil }
        return (text[..<mark], after.dropFirst())
    }

    private static func port(_ text: Substring) -> UInt16? {
        guard (1...5).contains(text.utf8.count), text.first != "0", text.utf8.allSatisfy(isDigit) else { return nil }
        return UInt16(text)
    }

    /// A label of DNS, which Istio wants it to be.
    private static func isSubset(_ text: Substring) -> Bool {
        text.utf8.count <= 63 && text.first != "-" && text.last != "-"
            && text.utf8.allSatisfy {
                isDigit($0) || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0) || $0 == 0x2D
            }
    }

    private static func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }

    private static func authority(
        _ host: String,
        _ port: UInt16,
        _ name: [UInt8]
    ) throws(ClientHelloError) -> Authority {
        guard host.utf8.last != UInt8(ascii: ".") else { throw refused(name, "ends in a dot") }
        let authority: Authority
        do throws(AddressError) {
            authority = try Authority(host: host, port: port)
        } catch {
            throw ClientHelloError(.unrecognizedName, "the server name: \(error.message)")
        }
        guard authority.address == nil else { throw refused(name, "is an IP address") }
        return authority
    }

    private static func refused(_ name: [UInt8], _ what: String) -> ClientHelloError {
        let text = Printable.escape(String(decoding: name, as: UTF8.self))
        return ClientHelloError(.unrecognizedName, "the server name '\(text)' \(what)")
    }
}

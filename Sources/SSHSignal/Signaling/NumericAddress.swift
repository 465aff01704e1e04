import CLinux
import Glibc

/// `address:port` with a numeric address, IPv6 in brackets.
package enum NumericAddress {
    package static func isValid(_ text: String) -> Bool { split(text) != nil }

    package static func split(_ text: String) -> (address: String, port: UInt16)? {
        guard let colon = text.lastIndex(of: ":"), let port = Destination.decimalPort(text[text.index(after: colon)...])
        else {
            return nil
        }
        var address = String(text[..<colon])
        var storage = in6_addr()
        if address.hasPrefix("["), address.hasSuffix("]") {
            address = String(address.dropFirst().dropLast())
            // A zone (fe80::1%eth0) means something on that machine only.
            guard !address.contains("%") else { return nil }
            return inet_pton(AF_INET6, address, &storage) == 1 ? (address, port) : nil
        }
        return inet_pton(AF_INET, address, &storage) == 1 ? (address, port) : nil
    }

    package static func isNumeric(_ address: String) -> Bool {
        var storage = in6_addr()
        return inet_pton(AF_INET, address, &storage) == 1 || inet_pton(AF_INET6, address, &storage) == 1
    }

    package static func text(_ address: String, _ port: UInt16) -> String {
        address.contains(":") ? "[\(address)]:\(port)" : "\(address):\(port)"
    }
}

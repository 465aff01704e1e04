import Glibc
import Platform
import SSHSignal

/// Where a listener of this machine can be reached, best first.
enum DeviceAddresses {
    /// - Parameters:
    ///   - listener: `address:port` as bound.
    ///   - connection: `$SSH_CONNECTION` ("client port server port"): the address that the operator did reach comes
    ///     first.
    static func reachable(listener: String, connection: String?) -> [String] {
        guard let (address, port) = NumericAddress.split(listener) else { return [] }
        guard address == "0.0.0.0" || address == "::" else { return [listener] }
        let takesIPv6 = address == "::"
        var result: [String] = []
        func add(_ candidate: String) {
            guard NumericAddress.isNumeric(candidate), takesIPv6 || !candidate.contains(":") else { return }
            let text = NumericAddress.text(candidate, port)
            if !result.contains(text) { result.append(text) }
        }
        if let words = connection?.split(separator: " "), words.count == 4 { add(String(words[2])) }
        // Loopback and link-local addresses mean nothing elsewhere.
        for candidate in InterfaceAddress.all() where candidate.isOutward && !candidate.address.isLinkLocal {
            add("\(candidate.address)")
        }
        // More than any path would try.
        return Array(result.prefix(16))
    }
}

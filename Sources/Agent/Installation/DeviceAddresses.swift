import Glibc
import Platform
import SSHSignal

/// Where a listener of this machine can be reached, best first.
enum DeviceAddresses {
    /// - Parameters:
    ///   - listener: `address:port` as bound.
    ///   - connection: `$SSH_CONNECTION` ("client port server port"): the address that the operator did reach comes first.
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
        for candidate in interfaceAddresses() { add(candidate) }
        // More than any path would try.
        return Array(result.prefix(16))
    }

    /// Of the interfaces that are up, without loopback and link-local ones, which mean nothing elsewhere.
    private static func interfaceAddresses() -> [String] {
        var list: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&list) == 0 else { return [] }
        defer { freeifaddrs(list) }
        var result: [String] = []
        var next = list
        while let entry = next?.pointee {
            next = entry.ifa_next
            guard let address = entry.ifa_addr, entry.ifa_flags & UInt32(IFF_UP) != 0,
                entry.ifa_flags & UInt32(IFF_LOOPBACK) == 0
            else { continue }
            let family = Int32(address.pointee.sa_family)
            guard family == AF_INET || family == AF_INET6 else { continue }
            let length = family == AF_INET ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
            var text = [CChar](repeating: 0, count: Int(NI_MAXHOST))
            guard getnameinfo(address, socklen_t(length), &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST) == 0
            else { continue }
            let name = text.withUnsafeBufferPointer { $0.baseAddress.map { String(cString: $0) } ?? "" }
            if !name.contains("%"), !name.hasPrefix("169.254.") { result.append(name) }
        }
        return result
    }
}

import CLinux
import Glibc

/// An IP address of one of this machine's interfaces.
package struct InterfaceAddress: Hashable, Sendable {
    package let address: IPAddress
    /// Whether other machines may reach the interface: it is up, and not the loopback.
    package let isOutward: Bool
    /// Whether the interface has its carrier: a cable, a network that it is part of.
    package let isRunning: Bool

    /// All of them, as they are now, in the system's order. Empty if it does not say.
    package static func all() -> [InterfaceAddress] {
        var first: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&first) == 0 else { return [] }
        defer { freeifaddrs(first) }
        var addresses: [InterfaceAddress] = []
        var next = first
        while let entry = next {
            next = entry.pointee.ifa_next
            guard let address = entry.pointee.ifa_addr else { continue }
            let bytes: [UInt8]
            switch Int32(address.pointee.sa_family) {
            case AF_INET:
                bytes = address.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
                    withUnsafeBytes(of: $0.pointee.sin_addr) { Array($0) }
                }
            case AF_INET6:
                bytes = address.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) {
                    withUnsafeBytes(of: $0.pointee.sin6_addr) { Array($0) }
                }
            default: continue
            }
            guard let address = IPAddress(bytes: bytes) else { continue }
            let flags = Int32(bitPattern: entry.pointee.ifa_flags)
            let isOutward = flags & Int32(IFF_UP) != 0 && flags & Int32(IFF_LOOPBACK) == 0
            let isRunning = flags & Int32(IFF_RUNNING) != 0
            addresses.append(InterfaceAddress(address: address, isOutward: isOutward, isRunning: isRunning))
        }
        return addresses
    }
}

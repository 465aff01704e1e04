import Glibc
package import Platform
import Streams

/// A connection that must be captured, made to see whether it is: to an address that stands in documents only, so that
/// nobody is troubled where it is not.
package struct CaptureTrial: Sendable {
    package enum Outcome: Hashable, Sendable {
        /// Somebody took the connection, who can only have been the listener.
        case taken
        case refused
        case silence
        case failed(String)
    }

    package let address: IPAddress
    package let port: UInt16

    /// RFC 5737 and RFC 3849.
    private static let documentation = ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"]

    /// One for each family whose connections `listener` gets from programs of this machine; nil where this user's
    /// programs are not captured, or it is about others.
    package static func trials(for listener: NodeConfiguration.Listener) -> [CaptureTrial]? {
        guard listener.protocol == .transparent, listener.transparency.direction == .outbound,
            let capture = listener.capture, capture.local, capture.cgroups.isEmpty,
            capture.users.isEmpty || capture.users.contains(getuid()),
            capture.groups.isEmpty || capture.groups.contains(getgid()),
            !capture.excludeUsers.contains(getuid()), !capture.excludeGroups.contains(getgid())
        else { return nil }
        let ports = capture.ports.isEmpty ? [80...80, 8080...8080, 1024...65535] : capture.ports
        let port = ports.lazy.flatMap { $0 }.first { port in
            port != 22 && !capture.excludePorts.contains { $0.contains(port) }
        }
        guard let port else { return nil }
        let candidates = documentation.compactMap { IPAddress($0) } + capture.cidrs.map(\.network)
        return [true, false].compactMap { isIPv4 in
            candidates.first { address in
                address.isIPv4 == isIPv4 && !capture.excludeCIDRs.contains { $0.contains(address) }
                    && (capture.cidrs.isEmpty || capture.cidrs.contains { $0.contains(address) })
            }.map { CaptureTrial(address: $0, port: port) }
        }
    }

    /// Blocks, for two seconds where nobody answers.
    package func run() -> Outcome {
        switch SocketAddress(address, port: port).attempt(within: .seconds(2)) {
        case 0: .taken
        case ECONNREFUSED, ECONNRESET: .refused
        case ETIMEDOUT: .silence
        case let number: .failed(String(cString: strerror(number)))
        }
    }
}

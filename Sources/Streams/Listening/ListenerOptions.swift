import CLinux
import Glibc

/// What a listening TCP socket is set to before it is bound. Unix sockets have their permissions and the backlog only.
public struct ListenerOptions: Hashable, Sendable {
    /// Bind also where connections of an earlier listener still linger (SO_REUSEADDR).
    public var reusesAddress = true
    /// Accept also what was meant for addresses that are not this machine's, as TPROXY hands it over (IP_TRANSPARENT).
    /// Needs root or CAP_NET_ADMIN.
    public var isTransparent = false
    /// Bind also to an address that this machine does not have yet (IP_FREEBIND).
    public var bindsFreely = false
    /// Whether a listener on `::` leaves IPv4 alone (IPV6_V6ONLY); nil: as net.ipv6.bindv6only has it.
    public var isIPv6Only: Bool?
    /// Multipath TCP is spoken with those who ask for it, where this kernel does that (``MultipathTCP``). Settled when
    /// the socket is made.
    package var multipath = false
    /// What is accepted has ``SocketOptions/resetsUnlessEnded``.
    package var resetsUnlessEnded = false
    /// Of a Unix socket: the file's permissions, from its first moment on; nil: what the process's umask leaves.
    package var unixPermissions: UInt32?
    /// Connections that may wait to be accepted; net.core.somaxconn is above it.
    public var backlog: Int32 = 1024

    /// The defaults.
    public init() {}

    /// What is used where nothing else is asked for.
    public static var defaults: ListenerOptions { ListenerOptions() }

    /// For programs, which take an end for the whole.
    package static var programs: ListenerOptions {
        var options = ListenerOptions()
        options.resetsUnlessEnded = true
        return options
    }

    /// - Throws: ``StreamError`` that names the option.
    func apply(to descriptor: Int32, for address: SocketAddress) throws(StreamError) {
        if address.isUnix {
            // bind(2) takes over the permissions of the socket itself.
            guard let unixPermissions, fchmod(descriptor, mode_t(unixPermissions)) != 0 else { return }
            throw .system(errno, "setting permissions")
        }
        let ip = Int32(address.isIPv6 ? IPPROTO_IPV6 : IPPROTO_IP)
        if reusesAddress { try Self.set(descriptor, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR") }
        try applyTransparency(to: descriptor, for: address)
        if bindsFreely { try Self.set(descriptor, ip, address.isIPv6 ? IPV6_FREEBIND : IP_FREEBIND, 1, "IP_FREEBIND") }
        if let isIPv6Only, address.isIPv6 {
            try Self.set(descriptor, ip, IPV6_V6ONLY, isIPv6Only ? 1 : 0, "IPV6_V6ONLY")
        }
    }

    /// What a bound socket can be set to just as well.
    func applyTransparency(to descriptor: Int32, for address: SocketAddress) throws(StreamError) {
        guard isTransparent, !address.isUnix else { return }
        let ip = Int32(address.isIPv6 ? IPPROTO_IPV6 : IPPROTO_IP)
        try Self.set(descriptor, ip, address.isIPv6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, 1, "IP_TRANSPARENT")
    }

    /// Takes it away again, which needs no privilege.
    static func removeTransparency(from descriptor: Int32, for address: SocketAddress) {
        guard !address.isUnix else { return }
        let ip = Int32(address.isIPv6 ? IPPROTO_IPV6 : IPPROTO_IP)
        Socket.set(descriptor, ip, address.isIPv6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, 0)
    }

    private static func set(
        _ descriptor: Int32,
        _ level: Int32,
        _ option: Int32,
        _ value: Int32,
        _ name: String
    ) throws(StreamError) {
        var value = value
        guard setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size)) != 0 else { return }
        let number = errno
        guard number == EPERM else { throw .system(number, "setting \(name)") }
        throw StreamError(.system, "setting \(name): permission denied. It needs root or CAP_NET_ADMIN")
    }
}

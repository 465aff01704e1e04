import CLinux
import Glibc

extension Socket {
    /// Where the connection was going before a rule of the packet filter redirected it to this machine
    /// (SO_ORIGINAL_DST). The socket's own address where no rule did; nil where the kernel does not know.
    package var originalDestination: SocketAddress? {
        // The same number for both families, of linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h.
        let option: Int32 = 80
        // A dual-stack listener's IPv4 connections are known under IPv4.
        let level = localAddress?.isIPv6 == true ? IPPROTO_IPV6 : IPPROTO_IP
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        guard getsockopt(descriptor, Int32(level), option, &storage, &length) == 0 else { return nil }
        return SocketAddress(storage)
    }
}

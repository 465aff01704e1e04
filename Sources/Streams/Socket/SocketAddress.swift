import CLinux
import Glibc
public import Platform

/// An address of a stream socket: IPv4, IPv6 or a path.
public struct SocketAddress: Hashable, Sendable, CustomStringConvertible {
    private enum Kind: Hashable {
        /// In host byte order.
        case ipv4(UInt32, port: UInt16)
        case ipv6(UInt64, UInt64, scope: UInt32, port: UInt16)
        case unix(String)
    }

    private let kind: Kind

    /// - Parameters:
    ///   - ip: An IPv4 address in dotted form or an IPv6 address, without brackets; IPv6 may name a scope
    ///     (`fe80::1%eth0`).
    ///   - port: 0 lets the kernel choose, when listening.
    /// - Throws: ``StreamError`` with code ``StreamError/Code/badRequest`` when `ip` is not a numeric address.
    public init(ip: String, port: UInt16) throws(StreamError) {
        // The C functions below would stop at a NUL and accept what stands before it.
        guard !ip.utf8.contains(0) else { throw StreamError(.badRequest, "an IP address contains a NUL character") }
        var v4 = in_addr()
        if inet_pton(AF_INET, ip, &v4) == 1 {
            self.init(kind: .ipv4(UInt32(bigEndian: v4.s_addr), port: port))
            return
        }
        let parts = ip.split(separator: "%", maxSplits: 1, omittingEmptySubsequences: false)
        var v6 = in6_addr()
        guard let address = parts.first, inet_pton(AF_INET6, String(address), &v6) == 1 else {
            throw StreamError(.badRequest, "'\(ip)' is not an IP address")
        }
        var scope: UInt32 = 0
        if parts.count == 2 {
            scope = UInt32(parts[1]) ?? if_nametoindex(String(parts[1]))
            guard scope != 0 else { throw StreamError(.badRequest, "'\(ip)': there is no interface '\(parts[1])'") }
        }
        self = SocketAddress(v6, scope: scope, port: port).canonical
    }

    /// - Parameter unixPath: At most 107 bytes.
    public init(unixPath: String) throws(StreamError) {
        guard !unixPath.isEmpty, unixPath.utf8.count < MemoryLayout.size(ofValue: sockaddr_un().sun_path) else {
            throw StreamError(.badRequest, "'\(unixPath)': a socket path has 1 to 107 bytes")
        }
        guard !unixPath.utf8.contains(0) else {
            throw StreamError(.badRequest, "a socket path contains a NUL character")
        }
        self.init(kind: .unix(unixPath))
    }

    /// `IP:port` with brackets around IPv6, as configuration files write it.
    public init(parsing text: String) throws(StreamError) {
        // UInt16 would accept a sign.
        guard let colon = text.lastIndex(of: ":"),
            text[text.index(after: colon)...].utf8.allSatisfy({ (48...57).contains($0) }),
            let port = UInt16(text[text.index(after: colon)...])
        else {
            throw StreamError(.badRequest, "'\(text)' is not IP:PORT")
        }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
            guard host.contains(":") else {
                throw StreamError(.badRequest, "'\(text)': only an IPv6 address has brackets")
            }
        } else if host.contains(":") {
            throw StreamError(.badRequest, "'\(text)': write an IPv6 address in brackets, [::1]:80")
        }
        try self.init(ip: String(host), port: port)
    }

    private init(_ v6: in6_addr, scope: UInt32, port: UInt16) {
        let (high, low) = withUnsafeBytes(of: v6) { bytes in
            (bytes.loadUnaligned(as: UInt64.self), bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        }
        self.init(kind: .ipv6(UInt64(bigEndian: high), UInt64(bigEndian: low), scope: scope, port: port))
    }

    /// What the kernel reported; nil for families that are not stream sockets here.
    init?(_ storage: sockaddr_storage) {
        var storage = storage
        switch Int32(storage.ss_family) {
        case AF_INET:
            let v4 = withUnsafeBytes(of: &storage) { $0.loadUnaligned(as: sockaddr_in.self) }
            self.init(kind: .ipv4(UInt32(bigEndian: v4.sin_addr.s_addr), port: UInt16(bigEndian: v4.sin_port)))
        case AF_INET6:
            let v6 = withUnsafeBytes(of: &storage) { $0.loadUnaligned(as: sockaddr_in6.self) }
            let address = SocketAddress(v6.sin6_addr, scope: v6.sin6_scope_id, port: UInt16(bigEndian: v6.sin6_port))
            self = address.canonical
        case AF_UNIX:
            let path = withUnsafeBytes(of: &storage) { bytes in
                String(decoding: bytes.dropFirst(2).prefix { $0 != 0 }, as: UTF8.self)
            }
            self.init(kind: .unix(path))
        default: return nil
        }
    }

    /// An IPv4 address for an IPv4-mapped IPv6 one, as dual-stack sockets report it; otherwise itself.
    private var canonical: SocketAddress {
        guard case .ipv6(0, let low, _, let port) = kind, low >> 32 == 0xFFFF else { return self }
        return SocketAddress(kind: .ipv4(UInt32(truncatingIfNeeded: low), port: port))
    }

    private init(kind: Kind) { self.kind = kind }

    /// - Parameters:
    ///   - address: IPv4 or IPv6, without a scope.
    ///   - port: 0 for any, where one listens.
    public init(_ address: IPAddress, port: UInt16) {
        kind =
            address.isIPv4
            ? .ipv4(UInt32(truncatingIfNeeded: address.low), port: port)
            : .ipv6(address.high, address.low, scope: 0, port: port)
    }

    /// The address without its port and scope; `nil` for a Unix socket.
    public var address: IPAddress? {
        switch kind {
        case .ipv4(let address, _): IPAddress(high: 0, low: UInt64(address), isIPv4: true)
        case .ipv6(let high, let low, _, _): IPAddress(high: high, low: low, isIPv4: false)
        case .unix: nil
        }
    }

    /// 0 for a path.
    public var port: UInt16 {
        switch kind {
        case .ipv4(_, let port), .ipv6(_, _, _, let port): port
        case .unix: 0
        }
    }

    /// The numeric address without port or brackets; the path of a Unix socket.
    public var ip: String {
        switch kind {
        case .unix(let path): path
        case .ipv4(let address, _):
            "\(address >> 24).\(address >> 16 & 255).\(address >> 8 & 255).\(address & 255)"
        case .ipv6(_, _, let scope, _):
            withStorage { storage in
                var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
                let v6 = UnsafeRawPointer(storage).loadUnaligned(as: sockaddr_in6.self)
                var address = v6.sin6_addr
                inet_ntop(AF_INET6, &address, &text, socklen_t(text.count))
                let digits = text.withUnsafeBufferPointer { $0.baseAddress.map { String(cString: $0) } ?? "" }
                return scope == 0 ? digits : "\(digits)%\(scope)"
            }
        }
    }

    /// An IPv6 address; an IPv4-mapped one counts as it is written.
    public var isIPv6: Bool { if case .ipv6 = kind { true } else { false } }

    /// The path of a Unix socket.
    public var isUnix: Bool { if case .unix = kind { true } else { false } }

    /// 127.0.0.0/8, ::1, or a path.
    public var isLoopback: Bool {
        switch kind {
        case .ipv4(let address, _): address >> 24 == 127
        case .ipv6(let high, let low, _, _): high == 0 && low == 1
        case .unix: true
        }
    }

    /// 0.0.0.0 or ::, which stand for every address of this machine when listening.
    public var isUnspecified: Bool {
        switch kind {
        case .ipv4(let address, _): address == 0
        case .ipv6(let high, let low, _, _): high == 0 && low == 0
        case .unix: false
        }
    }

    /// The same address with another port; a path stays as it is.
    public func withPort(_ port: UInt16) -> SocketAddress {
        switch kind {
        case .ipv4(let address, _): SocketAddress(kind: .ipv4(address, port: port))
        case .ipv6(let high, let low, let scope, _): SocketAddress(kind: .ipv6(high, low, scope: scope, port: port))
        case .unix: self
        }
    }

    public var description: String {
        switch kind {
        case .ipv4: "\(ip):\(port)"
        case .ipv6: "[\(ip)]:\(port)"
        case .unix(let path): path.isEmpty ? "unix:(unnamed)" : "unix:\(path)"
        }
    }

    var family: Int32 {
        switch kind {
        case .ipv4: AF_INET
        case .ipv6: AF_INET6
        case .unix: AF_UNIX
        }
    }

    /// Calls `body` with the address as the socket functions take it.
    func withSockaddr<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        withStorage { storage in
            let length =
                switch kind {
                case .ipv4: MemoryLayout<sockaddr_in>.size
                case .ipv6: MemoryLayout<sockaddr_in6>.size
                case .unix: MemoryLayout<sockaddr_un>.size
                }
            return storage.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(length)) }
        }
    }

    private func withStorage<Result>(_ body: (UnsafePointer<sockaddr_storage>) -> Result) -> Result {
        var storage = sockaddr_storage()
        storage.ss_family = sa_family_t(family)
        withUnsafeMutableBytes(of: &storage) { bytes in
            switch kind {
            case .ipv4(let address, let port):
                var v4 = sockaddr_in()
                v4.sin_family = sa_family_t(AF_INET)
                v4.sin_addr.s_addr = address.bigEndian
                v4.sin_port = port.bigEndian
                bytes.storeBytes(of: v4, as: sockaddr_in.self)
            case .ipv6(let high, let low, let scope, let port):
                var v6 = sockaddr_in6()
                v6.sin6_family = sa_family_t(AF_INET6)
                withUnsafeMutableBytes(of: &v6.sin6_addr) {
                    $0.storeBytes(of: high.bigEndian, as: UInt64.self)
                    $0.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
                }
                v6.sin6_scope_id = scope
                v6.sin6_port = port.bigEndian
                bytes.storeBytes(of: v6, as: sockaddr_in6.self)
            case .unix(let path):
                for (index, byte) in path.utf8.enumerated() { bytes[2 + index] = byte }
            }
        }
        return withUnsafePointer(to: storage, body)
    }
}

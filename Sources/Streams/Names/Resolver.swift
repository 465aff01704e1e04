import CLinux
import Glibc
import Platform

/// Turns names into addresses, without the C library's name service: that one blocks, and in a statically linked
/// program it loads modules that crash it.
package enum Resolver {
    /// The one that reads this machine's files, made with the first name that is asked for.
    private static let shared = Lock<NameResolver?>(nil)

    /// The stream addresses of a host, in the order of preference of RFC 6724. A numeric host is answered at once.
    ///
    /// - Parameters:
    ///   - host: A name, or an IP address without brackets; IPv6 may name a scope (`fe80::1%eth0`).
    ///   - port: That of the addresses.
    ///   - requester: On whose behalf; each one's names wait in a queue of their own. Empty: this process itself.
    /// - Throws: ``StreamError`` with code ``StreamError/Code/unreachable`` when there is no such name,
    ///   ``StreamError/Code/timedOut`` when nobody answers, and ``StreamError/Code/limit`` when too many of the
    ///   requester's names wait already.
    package static func resolve(host: String, port: UInt16, for requester: String = "") async throws -> [SocketAddress]
    {
        if let address = numeric(host, port) { return [address] }
        let resolver = try system()
        return try await withCheckedThrowingContinuation { continuation in
            resolver.resolve(host, for: requester) { result in
                continuation.resume(with: result.map { $0.map { $0.withPort(port) } })
            }
        }
    }

    /// The same for code on an event loop.
    ///
    /// - Parameter completion: Called once, on the loop, never from inside this call; not at all when the loop shuts
    ///   down first.
    static func resolve(
        host: String,
        port: UInt16,
        for requester: String = "",
        on loop: EventLoop,
        completion: @escaping (Result<[SocketAddress], StreamError>) -> Void
    ) {
        if let address = numeric(host, port) { return loop.later { completion(.success([address])) } }
        let resolver: NameResolver
        do throws(StreamError) {
            resolver = try system()
        } catch {
            return loop.later { completion(.failure(error)) }
        }
        let completion = LoopBound(completion, on: loop)
        resolver.resolve(host, for: requester) { result in
            loop.submit { completion.withValue { $0(result.map { $0.map { $0.withPort(port) } }) } }
        }
    }

    /// What needs no look-up. `127.1` and the like are addresses where a person writes them, as for ssh(1); a peer's
    /// authority cannot have them (``Platform/Authority``).
    private static func numeric(_ host: String, _ port: UInt16) -> SocketAddress? {
        if let address = try? SocketAddress(ip: host, port: port) { return address }
        guard host.utf8.first.map({ (48...57).contains($0) }) == true, !host.utf8.contains(0) else { return nil }
        var v4 = in_addr()
        guard inet_aton(host, &v4) == 1 else { return nil }
        return withUnsafeBytes(of: &v4.s_addr) { IPAddress(bytes: Array($0)) }.map { SocketAddress($0, port: port) }
    }

    private static func system() throws(StreamError) -> NameResolver {
        let resolver: Result<NameResolver, StreamError> = shared.withLock { shared in
            if let shared { return .success(shared) }
            return Result { () throws(StreamError) in
                let resolver = try NameResolver()
                shared = resolver
                return resolver
            }
        }
        return try resolver.get()
    }
}

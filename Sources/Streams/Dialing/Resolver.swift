import CLinux
import Glibc
import Platform

/// Turns names into addresses with the system's resolver, off the event loops.
package enum Resolver {
    /// The stream addresses of a host, in the order of preference of RFC 6724 as getaddrinfo returns them.
    ///
    /// A numeric host is answered at once. A statically linked binary resolves names only where the same glibc is
    /// present; devices are therefore given numeric addresses.
    ///
    /// - Throws: ``StreamError`` with code ``StreamError/Code/unreachable`` when there is no such name.
    package static func resolve(host: String, port: UInt16) async throws -> [SocketAddress] {
        if let address = try? SocketAddress(ip: host, port: port) { return [address] }
        return try await withCheckedThrowingContinuation { continuation in
            startLookUp(host, port) { continuation.resume(with: $0) }
        }
    }

    /// The same for code on an event loop.
    ///
    /// - Parameter completion: Called once, on the loop, never from inside this call; not at all when the loop shuts
    ///   down first.
    static func resolve(
        host: String,
        port: UInt16,
        on loop: EventLoop,
        completion: @escaping (Result<[SocketAddress], StreamError>) -> Void
    ) {
        if let address = try? SocketAddress(ip: host, port: port) {
            return loop.later { completion(.success([address])) }
        }
        let completion = LoopBound(completion, on: loop)
        startLookUp(host, port) { result in loop.submit { completion.withValue { $0(result) } } }
    }

    /// getaddrinfo blocks for seconds: it gets a thread of its own, which is rare enough not to need a pool.
    private static func startLookUp(
        _ host: String,
        _ port: UInt16,
        _ completion: @escaping @Sendable (Result<[SocketAddress], StreamError>) -> Void
    ) {
        startThread { completion(Result { () throws(StreamError) in try lookUp(host, port) }) }
    }

    private static func lookUp(_ host: String, _ port: UInt16) throws(StreamError) -> [SocketAddress] {
        var hints = addrinfo()
        hints.ai_family = AF_UNSPEC
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_ADDRCONFIG
        var list: UnsafeMutablePointer<addrinfo>?
        let result = getaddrinfo(host, String(port), &hints, &list)
        guard result == 0 else {
            throw StreamError(.unreachable, "'\(host)' does not resolve: \(String(cString: gai_strerror(result)))")
        }
        defer { freeaddrinfo(list) }
        var addresses: [SocketAddress] = []
        var next = list
        while let entry = next {
            var storage = sockaddr_storage()
            if let address = entry.pointee.ai_addr {
                withUnsafeMutableBytes(of: &storage) {
                    $0.copyMemory(from: UnsafeRawBufferPointer(start: address, count: Int(entry.pointee.ai_addrlen)))
                }
                if let address = SocketAddress(storage), !addresses.contains(address) { addresses.append(address) }
            }
            next = entry.pointee.ai_next
        }
        return addresses
    }
}

import CLinux
import Glibc
import TestPeers
import Testing

@testable import Streams

/// What a listener's socket is set to before it is bound.
struct ListenerOptionsTests {
    /// TEST-NET-1 and the documentation prefix: no machine has these.
    private static let foreign = ["192.0.2.1", "2001:db8::1"]

    private func listen(_ ip: String, _ port: UInt16 = 0, _ options: ListenerOptions = .defaults) async throws -> UInt16
    {
        try await withLoop { loop in
            try await loop.execute {
                let listener = try Listener(bind: SocketAddress(ip: ip, port: port), on: loop, options: options) {
                    $0.close()
                }
                defer { listener.close() }
                return listener.localAddress.port
            }
        }
    }

    private func value(
        _ address: SocketAddress,
        _ options: ListenerOptions,
        _ level: Int32,
        _ name: Int32
    ) throws -> Int32 {
        let descriptor = socket(address.family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        defer { close(descriptor) }
        try options.apply(to: descriptor, for: address)
        var value: Int32 = -1
        var length = socklen_t(MemoryLayout<Int32>.size)
        getsockopt(descriptor, level, name, &value, &length)
        return value
    }

    @Test(arguments: foreign) func anAddressThatIsNotThereYet(ip: String) async throws {
        await #expect(throws: StreamError.self) { try await listen(ip) }
        var options = ListenerOptions.defaults
        options.bindsFreely = true
        #expect(try await listen(ip, 0, options) > 0)
    }

    @Test(.enabled(if: geteuid() == 0, "IP_TRANSPARENT needs root"), arguments: ["127.0.0.1", "::1"])
    func transparent(ip: String) throws {
        let address = try SocketAddress(ip: ip, port: 0)
        var options = ListenerOptions.defaults
        let (level, name) =
            address.isIPv6 ? (Int32(IPPROTO_IPV6), IPV6_TRANSPARENT) : (Int32(IPPROTO_IP), IP_TRANSPARENT)
        #expect(try value(address, options, level, name) == 0)
        options.isTransparent = true
        #expect(try value(address, options, level, name) == 1)
    }

    /// systemd's sockets need not say so: traffic is led to them all the same.
    @Test(.enabled(if: geteuid() == 0, "IP_TRANSPARENT needs root"))
    func anAdoptedSocketIsMadeTransparent() async throws {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        defer { close(descriptor) }
        let address = try SocketAddress(ip: "127.0.0.1", port: 0)
        let bound = address.withSockaddr { Glibc.bind(descriptor, $0, $1) }
        try #require(bound == 0 && Glibc.listen(descriptor, 8) == 0)
        let adopted = try ListeningSocket(adopting: dup(descriptor), name: "in")
        var transparent = ListenerOptions.defaults
        transparent.isTransparent = true
        let options = transparent
        let value = try await withLoop { loop in
            try await loop.execute {
                let listener = try Listener(adopting: adopted, on: loop, options: options) { $0.close() }
                defer { listener.close() }
                var value: Int32 = -1
                var length = socklen_t(MemoryLayout<Int32>.size)
                getsockopt(descriptor, Int32(IPPROTO_IP), IP_TRANSPARENT, &value, &length)
                return value
            }
        }
        #expect(value == 1)
    }

    @Test func bothFamiliesOrOneOfThem() async throws {
        let any = try SocketAddress(ip: "::", port: 0)
        var options = ListenerOptions.defaults
        options.isIPv6Only = true
        #expect(try value(any, options, Int32(IPPROTO_IPV6), IPV6_V6ONLY) == 1)
        options.isIPv6Only = false
        #expect(try value(any, options, Int32(IPPROTO_IPV6), IPV6_V6ONLY) == 0)
    }

    @Test func anAddressInUseIsSharedOnlyWithWhatLingers() throws {
        let address = try SocketAddress(ip: "127.0.0.1", port: 0)
        var options = ListenerOptions.defaults
        #expect(try value(address, options, SOL_SOCKET, SO_REUSEADDR) == 1)
        options.reusesAddress = false
        #expect(try value(address, options, SOL_SOCKET, SO_REUSEADDR) == 0)
    }

    @Test func aUnixSocketHasNone() throws {
        var options = ListenerOptions.defaults
        options.bindsFreely = true
        // Not even a descriptor is touched.
        try options.apply(to: -1, for: SocketAddress(unixPath: "/tmp/s"))
        #expect(throws: StreamError.self) { try options.apply(to: -1, for: SocketAddress(ip: "::1", port: 0)) }
    }
}

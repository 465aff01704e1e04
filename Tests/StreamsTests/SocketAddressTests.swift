import CLinux
import Glibc
import Testing

@testable import Streams

@Suite("SocketAddress")
struct SocketAddressTests {
    @Test(
        "parses and prints",
        arguments: [
            ("127.0.0.1:80", "127.0.0.1", 80, "127.0.0.1:80"),
            ("0.0.0.0:0", "0.0.0.0", 0, "0.0.0.0:0"),
            ("255.255.255.255:65535", "255.255.255.255", 65535, "255.255.255.255:65535"),
            ("[::1]:443", "::1", 443, "[::1]:443"),
            ("[2001:DB8:0:0:0:0:0:1]:1", "2001:db8::1", 1, "[2001:db8::1]:1"),
            ("[fe80::1%7]:22", "fe80::1%7", 22, "[fe80::1%7]:22"),
            // An IPv4-mapped address is the IPv4 address: one spelling for each destination.
            ("[::ffff:10.1.2.3]:9", "10.1.2.3", 9, "10.1.2.3:9"),
        ] as [(String, String, UInt16, String)]
    )
    func parses(text: String, ip: String, port: UInt16, description: String) throws {
        let address = try SocketAddress(parsing: text)
        #expect(address.ip == ip)
        #expect(address.port == port)
        #expect(address.description == description)
        #expect(try SocketAddress(ip: ip, port: port) == address)
        #expect(!address.isUnix)
        // What the kernel would report back is the same address.
        let copy = address.withSockaddr { pointer, length in
            var storage = sockaddr_storage()
            withUnsafeMutableBytes(of: &storage) {
                $0.copyMemory(from: UnsafeRawBufferPointer(start: pointer, count: Int(length)))
            }
            return SocketAddress(storage)
        }
        #expect(copy == address)
    }

    @Test(
        "refuses what is not exactly an address and a port",
        arguments: [
            "", ":", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:+80", "127.0.0.1: 80",
            "127.0.0.1:80 ", "127.0.0.01:80", "127.1:80", "localhost:80", "::1:80", "[::1]", "[::1]80", "[]:80",
            "[127.0.0.1]:80", "[::1:80", "::1]:80", "[fe80::1%]:80", "[%lo]:80", "[fe80::1%no-such-if]:80",
            "127.0.0.1\0:80", "[::1\0]:80", "127.0.0.1:8\u{660}",
        ]
    )
    func refuses(text: String) {
        #expect {
            _ = try SocketAddress(parsing: text)
        } throws: {
            ($0 as? StreamError)?.code == .badRequest
        }
    }

    @Test("says whether somebody accepts")
    func probes() throws {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        let bound = try SocketAddress(ip: "127.0.0.1", port: 0).withSockaddr { bind(descriptor, $0, $1) }
        try #require(bound == 0)
        var name = sockaddr_in()
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let named = withUnsafeMutablePointer(to: &name) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
        }
        try #require(named == 0)
        let address = try SocketAddress(ip: "127.0.0.1", port: UInt16(bigEndian: name.sin_port))
        #expect(!address.accepts(within: .seconds(2)))
        try #require(listen(descriptor, 1) == 0)
        #expect(address.accepts(within: .seconds(2)))
    }

    @Test("Unix paths")
    func unix() throws {
        let address = try SocketAddress(unixPath: "/run/a.sock")
        #expect(address.isUnix && address.isLoopback && !address.isUnspecified)
        #expect(address.port == 0)
        #expect(address.description == "unix:/run/a.sock")
        #expect(address.withPort(7) == address)
        #expect(try SocketAddress(unixPath: String(repeating: "x", count: 107)).ip.utf8.count == 107)
        for path in ["", String(repeating: "x", count: 108), "/run/a\0b"] {
            #expect(throws: StreamError.self) { try SocketAddress(unixPath: path) }
        }
    }

    @Test("loopback, unspecified and other ports")
    func properties() throws {
        #expect(try SocketAddress(ip: "127.255.0.1", port: 1).isLoopback)
        #expect(try SocketAddress(ip: "::1", port: 1).isLoopback)
        #expect(try SocketAddress(ip: "::ffff:127.0.0.1", port: 1).isLoopback)
        #expect(try !SocketAddress(ip: "128.0.0.1", port: 1).isLoopback)
        #expect(try !SocketAddress(ip: "::2", port: 1).isLoopback)
        #expect(try SocketAddress(ip: "0.0.0.0", port: 1).isUnspecified)
        #expect(try SocketAddress(ip: "::", port: 1).isUnspecified)
        #expect(try !SocketAddress(ip: "0.0.0.1", port: 1).isUnspecified)
        #expect(try SocketAddress(ip: "10.0.0.1", port: 1).withPort(9).description == "10.0.0.1:9")
        #expect(try SocketAddress(ip: "fe80::1%3", port: 1).withPort(9).description == "[fe80::1%3]:9")
    }

    @Test("durations become nanoseconds without overflow")
    func durations() {
        #expect(Duration.seconds(1).nanoseconds == 1_000_000_000)
        #expect(Duration.milliseconds(1500).nanoseconds == 1_500_000_000)
        #expect(Duration.nanoseconds(1).nanoseconds == 1)
        #expect(Duration(secondsComponent: 0, attosecondsComponent: 999_999_999).nanoseconds == 0)
        #expect(Duration.zero.nanoseconds == 0)
        #expect(Duration.milliseconds(-1).nanoseconds == 0)
        #expect(Duration.seconds(-5).nanoseconds == 0)
        #expect(Duration.seconds(Int64.max).nanoseconds == UInt64(Int64.max / 2))
    }
}

import Glibc
import TestPeers
import Testing

@testable import Streams

@Suite("Connecting to a host with several addresses", .timeLimit(.minutes(5)))
struct HappyEyeballsTests {
    private func addresses(_ texts: String...) throws -> [SocketAddress] {
        try texts.map { try SocketAddress(ip: $0, port: 1) }
    }

    @Test("the families take turns, the resolver's first one first")
    func order() throws {
        let mixed = try addresses("2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2")
        let expected = try addresses("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3")
        #expect(HappyEyeballs.interleaved(mixed) == expected)
        let old = try addresses("192.0.2.1", "192.0.2.2", "2001:db8::1")
        #expect(HappyEyeballs.interleaved(old) == (try addresses("192.0.2.1", "2001:db8::1", "192.0.2.2")))
        #expect(HappyEyeballs.interleaved([]).isEmpty)
    }

    @Test("an address that does not answer holds nothing up")
    func blackHole() async throws {
        let silent = try listeningDescriptor(backlog: 0)
        let hole = try #require(Socket.address(of: silent, getsockname))
        let waiting = fillQueue(of: hole)
        defer { for descriptor in waiting + [silent] { close(descriptor) } }
        try await withLoop { loop in
            let listener = try await ListenerTests.greeter(try ListenerTests.loopback(), on: loop)
            let good = try await loop.execute { listener.withValue(\.localAddress) }
            // An hour for each attempt: only the next one can be why it returns.
            let peer = try await HappyEyeballs.connect(to: [hole, good], on: loop, timeout: .seconds(3600)) { socket in
                defer { socket.close() }
                return socket.peerAddress
            }
            #expect(peer == good)
            try await loop.execute { listener.withValue { $0.close() } }
            // The attempt that was given up leaves nothing behind.
            #expect(try await loop.execute { loop.watchedDescriptors } == 0)
        }
    }

    @Test("a refusal starts the next attempt at once; when all fail, each is told")
    func refused() async throws {
        let closed = try SocketAddress(ip: "127.0.0.1", port: FreePort.next())
        let other = try SocketAddress(ip: "127.0.0.1", port: FreePort.next())
        try await withLoop { loop in
            let listener = try await ListenerTests.greeter(try ListenerTests.loopback(), on: loop)
            let good = try await loop.execute { listener.withValue(\.localAddress) }
            let peer = try await HappyEyeballs.connect(to: [closed, good], on: loop, delay: .seconds(3600)) { socket in
                defer { socket.close() }
                return socket.peerAddress
            }
            #expect(peer == good)
            await #expect {
                try await HappyEyeballs.connect(to: [closed, other], on: loop) { $0.close() }
            } throws: { error in
                guard let error = error as? StreamError else { return false }
                return error.code == .refused && error.message.contains("\(closed)")
                    && error.message.contains("\(other)")
            }
            try await loop.execute { listener.withValue { $0.close() } }
        }
    }

    @Test("connects from the address that is asked for")
    func localAddress() async throws {
        let seen = Lock<[SocketAddress]>([])
        try await withLoop { loop in
            let listener = try await ListenerTests.greeter(try ListenerTests.loopback(), on: loop) { socket in
                if let peer = socket.peerAddress { seen.withLock { $0.append(peer) } }
            }
            let address = try await loop.execute { listener.withValue(\.localAddress) }
            let from = try SocketAddress(ip: "127.9.8.7", port: 0)
            try await HappyEyeballs.connect(to: [address], from: [from], on: loop) { $0.close() }
            try await eventually("the listener has accepted") { seen.withLock { $0.count } == 1 }
            #expect(seen.withLock { $0.first?.description.hasPrefix("127.9.8.7:") } == true)
            await #expect {
                try await HappyEyeballs.connect(
                    to: [address],
                    from: [try SocketAddress(ip: "192.0.2.55", port: 0)],
                    on: loop
                ) { $0.close() }
            } throws: { error in
                "\(error)".contains("192.0.2.55")
            }
            await #expect {
                try await HappyEyeballs.connect(
                    to: [address],
                    from: [try SocketAddress(ip: "::1", port: 0)],
                    on: loop
                ) { $0.close() }
            } throws: { error in
                "\(error)".contains("no local address of its family")
            }
            try await loop.execute { listener.withValue { $0.close() } }
        }
    }
}

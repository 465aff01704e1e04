import CLinux
import Glibc
import Platform
import TestPeers
import Testing

@testable import Streams

@Suite("Dialling a host with several addresses", .timeLimit(.minutes(10)))
struct DialerTests {
    private func addresses(_ texts: String...) throws -> [SocketAddress] {
        try texts.map { try SocketAddress(ip: $0, port: 1) }
    }

    @Test("the families take turns, the resolver's first one first")
    func order() throws {
        let mixed = try addresses("2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2")
        let expected = try addresses("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3")
        #expect(ConnectionRace.interleaved(mixed) == expected)
        let old = try addresses("192.0.2.1", "192.0.2.2", "2001:db8::1")
        #expect(ConnectionRace.interleaved(old) == (try addresses("192.0.2.1", "2001:db8::1", "192.0.2.2")))
        #expect(ConnectionRace.interleaved([]).isEmpty)
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
            // Only the next attempt can be why it returns.
            let anHour = Dialer.Options(timeout: .seconds(3600))
            let peer = try await Dialer.connect(to: .addresses([hole, good]), on: loop, options: anHour) { socket in
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
            var patient = Dialer.Options.defaults
            patient.attemptDelay = .seconds(3600)
            let peer = try await Dialer.connect(to: .addresses([closed, good]), on: loop, options: patient) { socket in
                defer { socket.close() }
                return socket.peerAddress
            }
            #expect(peer == good)
            await #expect {
                try await Dialer.connect(to: .addresses([closed, other]), on: loop) { $0.close() }
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
            func options(from text: String) throws -> Dialer.Options {
                var options = Dialer.Options.defaults
                options.locals = [try SocketAddress(ip: text, port: 0)]
                return options
            }
            try await Dialer.connect(to: .addresses([address]), on: loop, options: options(from: "127.9.8.7")) {
                $0.close()
            }
            try await eventually("the listener has accepted") { seen.withLock { $0.count } == 1 }
            #expect(seen.withLock { $0.first?.description.hasPrefix("127.9.8.7:") } == true)
            await #expect {
                try await Dialer.connect(to: .addresses([address]), on: loop, options: options(from: "192.0.2.55")) {
                    $0.close()
                }
            } throws: { error in
                "\(error)".contains("192.0.2.55")
            }
            await #expect {
                try await Dialer.connect(to: .addresses([address]), on: loop, options: options(from: "::1")) {
                    $0.close()
                }
            } throws: { error in
                "\(error)".contains("no local address of its family")
            }
            try await loop.execute { listener.withValue { $0.close() } }
        }
    }

    // MARK: The check

    @Test("an address that is refused is not dialled; the others are")
    func checkedAddresses() async throws {
        try await withLoop { loop in
            let listener = try await ListenerTests.greeter(try ListenerTests.loopback(), on: loop)
            let good = try await loop.execute { listener.withValue(\.localAddress) }
            let forbidden = try SocketAddress(ip: "127.0.0.2", port: good.port)
            let other = try await ListenerTests.greeter(forbidden, on: loop)
            let asked = Lock<[IPAddress]>([])
            let peer = try await Dialer.connect(to: .addresses([forbidden, good]), on: loop) { address in
                asked.withLock { $0.append(address) }
                return address == forbidden.address ? StreamError(.denied, "not there") : nil
            } body: { socket in
                defer { socket.close() }
                return socket.peerAddress
            }
            #expect(peer == good)
            #expect(asked.withLock { $0 } == [forbidden.address, good.address])
            try await loop.execute {
                listener.withValue { $0.close() }
                other.withValue { $0.close() }
            }
        }
    }

    @Test("when no address passes, the refusal is the error, and nothing was connected")
    func everyAddressIsRefused() async throws {
        let accepted = Lock(0)
        try await withLoop { loop in
            let listener = try await ListenerTests.greeter(try ListenerTests.loopback(), on: loop) { _ in
                accepted.withLock { $0 += 1 }
            }
            let port = try await loop.execute { listener.withValue(\.localAddress) }.port
            await #expect(throws: StreamError(.denied, "not there")) {
                try await Dialer.connect(to: .host("127.0.0.1", port: port), on: loop) { _ in
                    StreamError(.denied, "not there")
                } body: {
                    $0.close()
                }
            }
            #expect(try await loop.execute { loop.watchedDescriptors } == 1, "the listener's")
            try await loop.execute { listener.withValue { $0.close() } }
        }
        #expect(accepted.withLock { $0 } == 0)
    }

    @Test("a name is resolved, its addresses are checked, and the socket has its options")
    func name() async throws {
        try await withLoop { loop in
            let listener = try await ListenerTests.greeter(try ListenerTests.loopback(), on: loop)
            let port = try await loop.execute { listener.withValue(\.localAddress) }.port
            var options = Dialer.Options(socket: SocketOptions(unsentLimit: 65_536, unacknowledgedLimit: .seconds(7)))
            options.socket.segmentLimit = 1000
            let values = try await Dialer.connect(to: .host("localhost", port: port), on: loop, options: options) {
                // Where the name leads first; the listener is on IPv4 only.
                $0.isIPv4 ? nil : StreamError(.denied, "IPv4 only")
            } body: { socket in
                defer { socket.close() }
                return [TCP_NOTSENT_LOWAT, TCP_USER_TIMEOUT, TCP_MAXSEG].map { name in
                    var value: Int32 = -1
                    var length = socklen_t(MemoryLayout<Int32>.size)
                    getsockopt(socket.descriptor, Int32(IPPROTO_TCP), name, &value, &length)
                    return value
                }
            }
            #expect(values.prefix(2) == [65_536, 7000])
            // The time stamps (RFC 7323) take 12 bytes of each segment.
            #expect((980...1000).contains(values[2]), "a segment has \(values[2]) bytes")
            try await loop.execute { listener.withValue { $0.close() } }
        }
    }

    @Test("a dialler that was cancelled calls nobody and leaves nothing behind")
    func cancelled() async throws {
        let silent = try listeningDescriptor(backlog: 0)
        let hole = try #require(Socket.address(of: silent, getsockname))
        let waiting = fillQueue(of: hole)
        defer { for descriptor in waiting + [silent] { close(descriptor) } }
        try await withLoop { loop in
            try await loop.execute {
                let dialer = Dialer(to: .addresses([hole]), on: loop) { _ in Issue.record("it was cancelled") }
                dialer.start()
                #expect(loop.watchedDescriptors == 1)
                dialer.cancel()
                #expect(loop.watchedDescriptors == 0)
            }
        }
    }

    /// Dials a port whose queue is full. Nothing but the port's answer ends that.
    private func dialFullPort(
        repeatedAfter delay: Duration,
        _ body: (EventLoop, LoopBound<Dialer>, Int32, Lock<Result<Void, StreamError>?>) async throws -> Void
    ) async throws {
        let silent = try listeningDescriptor(backlog: 0)
        let hole = try #require(Socket.address(of: silent, getsockname))
        let waiting = fillQueue(of: hole)
        defer { for descriptor in waiting { close(descriptor) } }
        let result = Lock<Result<Void, StreamError>?>(nil)
        try await withLoop { loop in
            let dialer = try await loop.execute {
                var options = Dialer.Options(timeout: .seconds(3600))
                options.repeatDelay = delay
                let dialer = Dialer(to: .addresses([hole]), on: loop, options: options) { outcome in
                    result.withLock { $0 = outcome.map { $0.close() } }
                }
                dialer.start()
                return LoopBound(dialer, on: loop)
            }
            try await body(loop, dialer, silent, result)
            #expect(try await loop.execute { loop.watchedDescriptors } == 0)
        }
    }

    @Test("what is not answered is dialled again beside the first attempt, and that one may be answered")
    func repeated() async throws {
        try await dialFullPort(repeatedAfter: .milliseconds(50)) { loop, _, silent, result in
            try await eventually("a second attempt is under way") {
                try await loop.execute { loop.watchedDescriptors == 2 }
            }
            // Room for one. The first attempt gets it only where the kernel repeats that one sooner, after a second.
            let accepted = acceptedDescriptor(silent)
            try await eventually("one of them is connected") { result.withLock { $0 != nil } }
            #expect(throws: Never.self) { try result.withLock { $0 }?.get() }
            for descriptor in [silent, accepted] { close(descriptor) }
        }
    }

    @Test("an address that refuses when it is dialled again has answered")
    func repetitionIsRefused() async throws {
        try await dialFullPort(repeatedAfter: .seconds(3600)) { loop, dialer, silent, result in
            try await loop.execute {
                close(silent)
                dialer.withValue { $0.hurry() }
            }
            // Turns of the loop, of which it needs two or three: the kernel's own repetition comes after a second.
            for _ in 0..<50 { try await loop.execute {} }
            guard case .failure(let error)? = result.withLock({ $0 }) else {
                Issue.record("no answer, or a closed port was connected")
                return try await loop.execute { dialer.withValue { $0.cancel() } }
            }
            #expect(error.code == .refused)
        }
    }
}

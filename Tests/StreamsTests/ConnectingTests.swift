import CLinux
import Foundation
import Glibc
import TestPeers
import Testing

@testable import Streams

@Suite("Connecting and resolving", .timeLimit(.minutes(10)))
struct ConnectingTests {
    /// The outcome of one attempt, after which nothing must be left on the loop.
    static func attempt(_ address: SocketAddress, timeout: Duration = .seconds(20)) async throws -> StreamError? {
        try await withLoop { loop in
            let error: StreamError? = try await onLoop(loop) { scenario in
                var isInside = true
                Dialer.connect(to: .address(address), on: loop, options: Dialer.Options(timeout: timeout)) { result in
                    #expect(!isInside, "the completion was called from inside connect")
                    switch result {
                    case .success(let socket):
                        socket.close()
                        scenario.complete(nil)
                    case .failure(let error): scenario.complete(error)
                    }
                }
                isInside = false
            }
            #expect(try await loop.execute { loop.watchedDescriptors } == 0)
            return error
        }
    }

    @Test("connects to TCP and Unix listeners", arguments: [true, false])
    func connects(isTCP: Bool) async throws {
        try await withDirectory { directory in
            try await withLoop { loop in
                let address = try isTCP ? ListenerTests.loopback() : SocketAddress(unixPath: directory + "/s")
                let listener = try await ListenerTests.greeter(address, on: loop)
                let local = try await loop.execute { listener.withValue(\.localAddress) }
                let peer = try await Dialer.connect(to: .address(local), on: loop) { socket in
                    #expect(loop.isCurrent)
                    let peer = socket.peerAddress
                    socket.close()
                    return peer
                }
                #expect(peer == local)
                try await loop.execute { listener.withValue { $0.close() } }
            }
        }
    }

    @Test("a peer that has said all and ended before the connection is noticed: its bytes and its end are read")
    func endedAtOnce() async throws {
        try await withLoop { loop in
            let text: String = try await onLoop(loop, deadline: .seconds(20)) { scenario in
                let listener = try listeningDescriptor()
                let address = try #require(Socket.address(of: listener, getsockname))
                Dialer.connect(to: .address(address), on: loop) { result in
                    guard case .success(let socket) = result else { return scenario.complete("not connected") }
                    let observer = scenario.keep(Observer())
                    socket.observer = observer
                    var text: [UInt8] = []
                    func receive() {
                        while true {
                            let (result, bytes) = socket.readBytes()
                            text += bytes
                            switch result {
                            case .bytes: continue
                            case .wouldBlock: return
                            case .end, .failed:
                                socket.close()
                                return scenario.complete("\(String(decoding: text, as: UTF8.self)), \(result)")
                            }
                        }
                    }
                    observer.readable = receive
                    receive()
                }
                // The loop is busy here, so that it learns of everything in one event.
                let server = acceptedDescriptor(listener)
                close(listener)
                #expect(write(server, "hello", 5) == 5)
                close(server)
            }
            #expect(text == "hello, end")
        }
    }

    @Test("small writes never wait for one another: TCP_NODELAY is there before the second one, and moves along")
    func smallWrites() async throws {
        try await withLoop { loop in
            let other = EventLoop(name: "other")
            let isSet: [Int32] = try await onLoop(loop, deadline: .seconds(20)) { scenario in
                let listener = try listeningDescriptor()
                let address = try #require(Socket.address(of: listener, getsockname))
                Dialer.connect(to: .address(address), on: loop) { result in
                    guard case .success(let socket) = result else { return scenario.complete([]) }
                    var values: [Int32] = []
                    for _ in 0..<2 {
                        _ = socket.write("x")
                        values.append(option(of: socket.descriptor))
                    }
                    socket.close()
                    close(listener)
                    scenario.complete(values)
                }
            }
            #expect(isSet == [0, 1])
            let moved: Int32 = try await withCheckedThrowingContinuation { continuation in
                loop.submit {
                    do {
                        let listener = try listeningDescriptor()
                        let address = try #require(Socket.address(of: listener, getsockname))
                        Dialer.connect(to: .address(address), on: loop) { result in
                            guard case .success(let socket) = result else { return continuation.resume(returning: -1) }
                            socket.move(to: other) { socket in
                                continuation.resume(returning: option(of: socket.descriptor))
                                socket.close()
                                close(listener)
                            }
                        }
                    } catch {
                        continuation.resume(throwing: error)
                    }
                }
            }
            #expect(moved == 1)
            await other.shutDown()
        }
        @Sendable func option(of descriptor: Int32) -> Int32 {
            var value: Int32 = -1
            var length = socklen_t(MemoryLayout<Int32>.size)
            getsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &value, &length)
            return value
        }
    }

    @Test("a body that throws leaves no socket behind")
    func throwingBody() async throws {
        try await withLoop { loop in
            let listener = try listeningDescriptor()
            let address = try #require(Socket.address(of: listener, getsockname))
            await #expect(throws: StreamError(.denied, "no")) {
                try await Dialer.connect(to: .address(address), on: loop) { _ in throw StreamError(.denied, "no") }
            }
            close(listener)
            #expect(try await loop.execute { loop.watchedDescriptors } == 0)
        }
    }

    @Test("nobody listens: refused, with the address")
    func refused() async throws {
        let address = try SocketAddress(ip: "127.0.0.1", port: FreePort.next())
        let error = try await Self.attempt(address)
        #expect(error?.code == .refused)
        #expect(error?.message.contains("\(address)") == true)
    }

    @Test("nobody answers: timed out, with the address and the limit")
    func blackHole() async throws {
        // A full queue drops what comes: nothing answers, as behind a firewall.
        let listener = try listeningDescriptor(backlog: 0)
        let address = try #require(Socket.address(of: listener, getsockname))
        let waiting = fillQueue(of: address)
        defer { for descriptor in waiting + [listener] { close(descriptor) } }
        let error = try await Self.attempt(address, timeout: .milliseconds(150))
        #expect(error?.code == .timedOut)
        #expect(error?.message.contains("\(address)") == true)
        #expect(error?.message.contains("0.15 seconds") == true)
    }

    @Test("no route: unreachable", .enabled(if: geteuid() == 0, "needs a network namespace"))
    func unreachable() async throws {
        let address = try SocketAddress(ip: "192.0.2.1", port: 9)
        let v6 = try SocketAddress(ip: "2001:db8::1", port: 9)
        try await withLoop { loop in
            // The loop's thread, and nothing else, moves to a namespace with no network at all.
            let isAlone = try await loop.execute { unshareThread(cloneNewNet) }
            try #require(isAlone)
            for address in [address, v6] {
                await #expect {
                    try await Dialer.connect(to: .address(address), on: loop) { $0.close() }
                } throws: {
                    ($0 as? StreamError)?.code == .unreachable
                }
            }
        }
    }

    @Test("a Unix path that is missing, not a socket, or whose listener is too busy")
    func unixFailures() async throws {
        try await withDirectory { directory in
            let missing = try await Self.attempt(try SocketAddress(unixPath: directory + "/missing"))
            #expect(missing?.code == .refused)
            #expect(missing?.message.contains(directory + "/missing") == true)

            let file = directory + "/file"
            #expect(FileManager.default.createFile(atPath: file, contents: Data()))
            let notASocket = try await Self.attempt(try SocketAddress(unixPath: file))
            #expect(notASocket?.code == .refused)

            let address = try SocketAddress(unixPath: directory + "/busy")
            let busy = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            #expect(address.withSockaddr { bind(busy, $0, $1) } == 0)
            listen(busy, 0)
            let waiting = fillQueue(of: address)
            defer { for descriptor in waiting + [busy] { close(descriptor) } }
            let error = try await Self.attempt(address)
            #expect(error?.code == .limit)
            #expect(error?.message.contains("\(address)") == true)
        }
    }

    @Test("numeric hosts resolve to themselves, names by the system, unknown names to an error that names them")
    func resolver() async throws {
        #expect(try await Resolver.resolve(host: "192.0.2.7", port: 5).map(\.description) == ["192.0.2.7:5"])
        #expect(try await Resolver.resolve(host: "2001:db8::7", port: 5).map(\.description) == ["[2001:db8::7]:5"])
        let local = try await Resolver.resolve(host: "localhost", port: 80)
        #expect(!local.isEmpty)
        #expect(local.allSatisfy { $0.isLoopback && $0.port == 80 })
        #expect(Set(local).count == local.count)
        await #expect {
            _ = try await Resolver.resolve(host: "no-such-host.invalid", port: 80)
        } throws: { error in
            guard let error = error as? StreamError else { return false }
            return error.code == .unreachable && error.message.contains("no-such-host.invalid")
        }
    }

    @Test("many names at once resolve independently")
    func concurrentResolution() async throws {
        let counts = try await withThrowingTaskGroup(of: Int.self) { group in
            for _ in 0..<30 { group.addTask { try await Resolver.resolve(host: "localhost", port: 1).count } }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        #expect(counts.count == 30)
        #expect(!counts.contains(0))
    }
}

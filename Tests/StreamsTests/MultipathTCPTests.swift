import CLinux
import Glibc
import TestPeers
import Testing

@testable import Streams

/// Sockets of Multipath TCP, and what stands in for them where there are none.
@Suite(.timeLimit(.minutes(10))) struct MultipathTCPTests {
    static let isThere = MultipathTCP.unavailability == nil

    private static let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)

    @Test func aKernelWithoutItMakesATCPSocket() {
        // No protocol has this number: socket(2) fails as on such a kernel.
        let descriptor = MultipathTCP.newSocket(AF_INET, Self.type, preferring: 250)
        #expect(descriptor >= 0)
        #expect(!MultipathTCP.isMultipath(descriptor) && !MultipathTCP.isUsed(descriptor))
        close(descriptor)
    }

    @Test(.enabled(if: isThere, "this kernel has no Multipath TCP")) func oneWithItMakesOne() {
        for family in [AF_INET, AF_INET6] {
            let descriptor = MultipathTCP.newSocket(family, Self.type)
            #expect(MultipathTCP.isMultipath(descriptor))
            close(descriptor)
        }
    }

    /// A way that has failed is dialled anew in small packets, and as plainly as can be.
    @Test func smallSegmentsGoOverPlainTCP() async throws {
        try await withLoop { loop in
            let listener = try await listen(multipath: true, on: loop) { $0.close() }
            var options = Dialer.Options()
            options.socket.multipath = true
            options.socket.segmentLimit = SocketOptions.smallSegment
            let isMultipath = try await Dialer.connect(to: .address(listener.address), on: loop, options: options) {
                socket in
                defer { socket.close() }
                return MultipathTCP.isMultipath(socket.descriptor)
            }
            #expect(!isMultipath)
            await listener.close()
        }
    }

    /// Each side with it and without: bytes both ways, an end of one direction before that of the other, a reset.
    ///
    ///     TCPClient ─ TCP ─ listener ─ relay ─ what is tested ─ listener ─ relay ─ TCP ─ EchoServer
    @Test(arguments: [(true, true), (true, false), (false, true)])
    func connectionsCarryTheSame(listens: Bool, dials: Bool) async throws {
        let backend = try EchoServer()
        try await withLoop { loop in
            let ends = AsyncStream<StreamError?>.makeStream()
            let back = try SocketAddress(ip: "127.0.0.1", port: backend.port)
            let far = try await listen(multipath: listens, on: loop) { accepted in
                Dialer.connect(to: .address(back), on: loop) { result in
                    guard case .success(let socket) = result else { return accepted.close() }
                    Relay(accepted, socket) { ends.continuation.yield($0.failure) }.start()
                }
            }
            var options = Dialer.Options()
            // Not every one of these is known for such a socket.
            options.socket = .multiplexed(unacknowledgedLimit: .seconds(10))
            options.socket.multipath = dials
            let used = AsyncStream<Bool>.makeStream()
            let near = try await listen(multipath: false, on: loop) { [options] accepted in
                Dialer.connect(to: .address(far.address), on: loop, options: options) { result in
                    guard case .success(let socket) = result else { return accepted.close() }
                    used.continuation.yield(socket.isMultipath)
                    Relay(accepted, socket).start()
                }
            }
            let sent = TestPeers.Pattern.bytes(3_000_000, seed: 7)
            let (received, ending) = try await TCPClient.exchange(port: near.address.port, sending: sent)
            #expect(ending == .endOfStream)
            #expect(Checksum.of(received) == Checksum.of(sent))
            var (uses, outcomes) = (used.stream.makeAsyncIterator(), ends.stream.makeAsyncIterator())
            #expect(await uses.next() == (listens && dials && Self.isThere))
            #expect(await outcomes.next() == .some(nil))

            let conversation = try await TCPConversation(port: near.address.port)
            #expect(try await conversation.echo([1, 2, 3]) == [1, 2, 3])
            conversation.resetWhenGone()
            _ = consume conversation
            let failure = try #require(await outcomes.next())
            #expect(failure?.code == .reset, "\(String(describing: failure))")
            await near.close()
            await far.close()
        }
    }

    private struct Listening: Sendable {
        let listener: LoopBound<Listener>
        let address: SocketAddress

        func close() async { _ = try? await listener.loop.execute { listener.withValue { $0.close() } } }
    }

    private func listen(
        multipath: Bool,
        on loop: EventLoop,
        accept: @escaping @Sendable (Socket) -> Void
    ) async throws -> Listening {
        try await loop.execute {
            var options = ListenerOptions.defaults
            options.multipath = multipath
            let address = try SocketAddress(ip: "127.0.0.1", port: 0)
            let listener = try Listener(bind: address, on: loop, options: options, accept: accept)
            return Listening(listener: LoopBound(listener, on: loop), address: listener.localAddress)
        }
    }
}

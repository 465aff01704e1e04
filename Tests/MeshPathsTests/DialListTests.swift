import Glibc
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshPaths

/// How the addresses of a peer are dialled.
@Suite(.timeLimit(.minutes(10))) struct DialListTests {
    /// A port whose queue is full: it answers nothing.
    private final class BlackHole {
        let authority: Authority
        private var descriptors: [Int32] = []

        init() throws {
            let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
            var length = socklen_t(MemoryLayout<sockaddr_in>.size)
            let listener = socket(AF_INET, type, 0)
            func withAddress(_ body: (UnsafeMutablePointer<sockaddr>) -> Int32) -> Int32 {
                withUnsafeMutablePointer(to: &address) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1, body)
                }
            }
            #expect(withAddress { bind(listener, $0, length) } == 0)
            #expect(listen(listener, 0) == 0)
            #expect(withAddress { getsockname(listener, $0, &length) } == 0)
            authority = try Authority(parsing: "127.0.0.1:\(UInt16(bigEndian: address.sin_port))")
            descriptors = [listener]
            // One is queued; the next one's answer is awaited for ever.
            for _ in 0..<4 {
                let client = socket(AF_INET, type | Int32(SOCK_NONBLOCK.rawValue), 0)
                descriptors.append(client)
                _ = withAddress { connect(client, $0, length) }
            }
        }

        deinit { for descriptor in descriptors { close(descriptor) } }
    }

    private func dial(_ addresses: [Authority], timeout: Duration) async throws -> Result<String, StreamError> {
        let loop = EventLoop(name: "dial")
        let results = AsyncStream<Result<String, StreamError>>.makeStream()
        try await loop.execute {
            DialList(addresses, on: loop, timeout: timeout) { result in
                results.continuation.yield(
                    result.map { stream in
                        defer { stream.reset(StreamError(.closed, "enough")) }
                        return stream.peerDescription
                    }
                )
            }.start()
        }
        var iterator = results.stream.makeAsyncIterator()
        let result = try #require(await iterator.next())
        await loop.shutDown()
        return result
    }

    /// An address that swallows everything costs its head start, not its time-out.
    @Test func oneThatDoesNotAnswerDoesNotStopTheOthers() async throws {
        let (hole, server) = (try BlackHole(), try EchoServer())
        let good = try Authority(parsing: "127.0.0.1:\(server.port)")
        let result = try await dial([hole.authority, good], timeout: .seconds(3600))
        #expect(try result.get().contains("\(server.port)"))
    }

    @Test("an address that is learnt while others are dialled is dialled beside them")
    func oneMore() async throws {
        let (hole, server) = (try BlackHole(), try EchoServer())
        let good = try Authority(parsing: "127.0.0.1:\(server.port)")
        let first = hole.authority
        let loop = EventLoop(name: "dial")
        let results = AsyncStream<(Result<String, StreamError>, [Authority])>.makeStream()
        try await loop.execute {
            var attempts: [Authority] = []
            let dial = DialList([first], on: loop, timeout: .seconds(3600)) { result in
                results.continuation.yield(
                    (
                        result.map { stream in
                            defer { stream.reset(StreamError(.closed, "enough")) }
                            return stream.peerDescription
                        }, attempts
                    )
                )
            }
            dial.onAttempt = { address, _, error in if error == nil { attempts.append(address) } }
            dial.start()
            dial.add([good])
        }
        var iterator = results.stream.makeAsyncIterator()
        let (result, attempts) = try #require(await iterator.next())
        #expect(try result.get().contains("\(server.port)"))
        #expect(attempts == [good])
        await loop.shutDown()
        withExtendedLifetime(hole) {}
    }

    @Test func theTimeOutsDoNotAddUp() async throws {
        let hole = try BlackHole()
        let result = try await dial([hole.authority, hole.authority, hole.authority], timeout: .milliseconds(1500))
        guard case .failure(let error) = result else {
            Issue.record("a full queue answers")
            return
        }
        #expect(error.message.contains("no answer within"))
        #expect(error.message.split(separator: ";").count == 3, "each address says it once: \(error)")
    }

    @Test func whatIsRefusedIsNotRepeated() async throws {
        let port = FreePort.next()
        let result = try await dial([try Authority(parsing: "127.0.0.1:\(port)")], timeout: .seconds(3600))
        guard case .failure(let error) = result else {
            Issue.record("a closed port answers")
            return
        }
        #expect(error.code == .refused)
        #expect(error.message.split(separator: ";").count == 1)
    }

    @Test func withoutAnAddressThereIsNothing() async throws {
        guard case .failure(let error) = try await dial([], timeout: .seconds(1)) else {
            Issue.record("nothing was connected")
            return
        }
        #expect(error.message == "there is no HBONE address")
    }
}

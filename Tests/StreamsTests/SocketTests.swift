import CLinux
import Foundation
import Glibc
import TestPeers
import Testing

@testable import Streams

@Suite("Socket", .timeLimit(.minutes(10)))
struct SocketTests {
    @Test("TCP and Unix sockets carry both directions at once, byte for byte", arguments: [true, false])
    func bothWays(isTCP: Bool) async throws {
        try await withLoop { loop in
            let outcomes: [Talker.Outcome] = try await onLoop(loop) { scenario in
                let (first, second) = try isTCP ? tcpPair(on: loop) : Socket.pair(on: loop)
                let talkers = [
                    scenario.keep(Talker(first, sending: 3_000_000, seed: 1, expecting: 2)),
                    scenario.keep(Talker(second, sending: 2_000_001, seed: 2, expecting: 1)),
                ]
                awaitAll(talkers) { scenario.complete($0) }
                for talker in talkers { talker.start() }
            }
            #expect(outcomes[0] == .init(sent: 3_000_000, received: 2_000_001, sawEnd: true))
            #expect(outcomes[1] == .init(sent: 2_000_001, received: 3_000_000, sawEnd: true))
        }
    }

    @Test("short reads, short writes and refusals over TCP lose nothing", arguments: 0..<6)
    func hostile(seed: UInt64) async throws {
        try await withLoop { loop in
            let outcomes: [Talker.Outcome] = try await onLoop(loop) { scenario in
                let (first, second) = try tcpPair(on: loop)
                let behavior: HostileStream.Behavior = seed % 2 == 0 ? .oneByte(seed: seed) : .ragged(seed: seed)
                let count = seed % 2 == 0 ? 5000 : 500_000
                let talkers = [
                    scenario.keep(Talker(HostileStream(over: first, behavior), sending: count, seed: 1, expecting: 2)),
                    scenario.keep(Talker(HostileStream(over: second, behavior), sending: count, seed: 2, expecting: 1)),
                ]
                awaitAll(talkers) { scenario.complete($0) }
                for talker in talkers { talker.start() }
            }
            let count = seed % 2 == 0 ? 5000 : 500_000
            #expect(outcomes == Array(repeating: .init(sent: count, received: count, sawEnd: true), count: 2))
        }
    }

    @Test("half-close in both orders: the other direction goes on", arguments: [true, false])
    func halfClose(firstEndsFirst: Bool) async throws {
        try await withLoop { loop in
            let outcomes: [Talker.Outcome] = try await onLoop(loop) { scenario in
                let (first, second) = try tcpPair(on: loop)
                let talkers = [
                    scenario.keep(Talker(first, sending: firstEndsFirst ? 0 : 900_000, seed: 1, expecting: 2)),
                    scenario.keep(Talker(second, sending: firstEndsFirst ? 900_000 : 0, seed: 2, expecting: 1)),
                ]
                talkers[0].finishesAfterPeer = !firstEndsFirst
                talkers[1].finishesAfterPeer = firstEndsFirst
                awaitAll(talkers) { scenario.complete($0) }
                for talker in talkers { talker.start() }
            }
            #expect(outcomes.allSatisfy { $0.sawEnd && $0.failure == nil && $0.firstWrongByte == nil })
            #expect(outcomes.map(\.received).sorted() == [0, 900_000])
        }
    }

    @Test("a peer's reset is told to an idle stream, once, and read and write then fail")
    func resetWhileIdle() async throws {
        try await withLoop { loop in
            let code: StreamError.Code? = try await onLoop(loop) { scenario in
                let (client, server) = try tcpDescriptors()
                let socket = try Socket.adopting(client, on: loop)
                let observer = scenario.keep(Observer())
                socket.observer = observer
                #expect(socket.readBytes().result == .wouldBlock)
                observer.failed = {
                    #expect(socket.readBytes().result == .failed)
                    #expect(socket.write("x") == .failed)
                    afterTurns(3, on: loop) {
                        #expect(observer.failedCount == 1)
                        socket.close()
                        scenario.complete(socket.failure?.code)
                    }
                }
                closeWithReset(server)
            }
            #expect(code == .reset)
        }
    }

    @Test(
        "what a peer said before its reset can still be read, also when a write finds the reset",
        arguments: [true, false]
    )
    func lastWords(foundByWriting: Bool) async throws {
        try await withLoop { loop in
            let (words, end): (String, ReadResult) = try await onLoop(loop) { scenario in
                let (socket, peer) = try tcpPair(on: loop)
                let observer = scenario.keep(FailureObserver())
                func readOn() {
                    var bytes = [UInt8](repeating: 0, count: 64)
                    guard case .bytes(let count) = bytes.withUnsafeMutableBytes({ socket.read(into: $0) }) else {
                        return scenario.fail(StreamError(.truncated, "the last words are lost"))
                    }
                    let end = bytes.withUnsafeMutableBytes { socket.read(into: $0) }
                    scenario.complete((String(decoding: bytes[..<count], as: UTF8.self), end))
                    socket.reset(.closed(socket))
                }
                if !foundByWriting { socket.observer = observer }
                observer.onFailure = readOn
                _ = Array("last words".utf8).withUnsafeBytes { peer.write($0) }
                peer.reset(StreamError(.limit, "enough"))
                guard foundByWriting else { return }
                // The reset is there, on a busy machine a moment later; the write is what finds it.
                var status = pollfd(fd: socket.descriptor, events: 0, revents: 0)
                #expect(poll(&status, 1, 90_000) == 1)
                let result = [UInt8(1)].withUnsafeBytes { socket.write($0) }
                #expect(result == .failed)
                readOn()
            }
            #expect(words == "last words")
            #expect(end == .failed)
        }
    }

    @Test("bytes followed by a reset never read as a clean end")
    func resetAfterBytes() async throws {
        try await withLoop { loop in
            let failure: StreamError? = try await onLoop(loop) { scenario in
                let (client, server) = try tcpDescriptors()
                let socket = try Socket.adopting(client, on: loop)
                let observer = scenario.keep(Observer())
                socket.observer = observer
                var bytes = [UInt8](repeating: 7, count: 1000)
                Glibc.write(server, &bytes, 1000)
                closeWithReset(server)
                func drain() {
                    while true {
                        let (result, _) = socket.readBytes(100)
                        switch result {
                        case .bytes: continue
                        case .wouldBlock: return
                        case .end: return scenario.fail(StreamError(.truncated, "a reset read as an end"))
                        case .failed:
                            socket.close()
                            return scenario.complete(socket.failure)
                        }
                    }
                }
                observer.readable = drain
                observer.failed = drain
                drain()
            }
            #expect(failure?.code == .reset)
        }
    }

    @Test("reset() shows as a reset at a TCP peer, close() without finish() too")
    func ownReset() async throws {
        try await withLoop { loop in
            for usesReset in [true, false] {
                let peer = try await loop.execute {
                    let (client, server) = try tcpDescriptors()
                    let socket = try Socket.adopting(client, on: loop)
                    _ = socket.write("partial")
                    if usesReset {
                        socket.reset(StreamError(.limit, "enough"))
                        #expect(socket.failure?.code == .limit)
                    } else {
                        socket.close()
                        #expect(socket.failure?.code == .closed)
                    }
                    socket.close()
                    socket.reset(.closed(socket))
                    #expect(socket.descriptor == -1)
                    #expect(socket.readBytes().result == .failed)
                    #expect(socket.write("x") == .failed)
                    return server
                }
                var buffer = [UInt8](repeating: 0, count: 100)
                var result = read(peer, &buffer, 100)
                if result > 0 { result = read(peer, &buffer, 100) }
                #expect(result == -1 && errno == ECONNRESET)
                close(peer)
            }
        }
    }

    @Test("a gathered write of more vectors than the kernel takes at once arrives whole")
    func manyVectors() async throws {
        try await withLoop { loop in
            let received: [UInt8] = try await onLoop(loop, deadline: .seconds(10)) { scenario in
                let (first, second) = try tcpPair(on: loop)
                let bytes = (0..<5000).map { UInt8(truncatingIfNeeded: $0) }
                var sent = 0
                func send() {
                    let isWhole = bytes.withUnsafeBytes { all in
                        while sent < all.count {
                            let vectors = (sent..<all.count).map { index in
                                iovec(iov_base: UnsafeMutableRawPointer(mutating: all.baseAddress! + index), iov_len: 1)
                            }
                            let offered = all.count - sent
                            switch vectors.withUnsafeBufferPointer({ first.write($0) }) {
                            // As the contract says: cut short means that a notice follows.
                            case .bytes(let count) where count < offered:
                                sent += count
                                return false
                            case .bytes(let count): sent += count
                            case .wouldBlock: return false
                            case .failed:
                                scenario.fail(first.failure ?? .closed(first))
                                return false
                            }
                        }
                        return true
                    }
                    if isWhole { first.finish() }
                }
                let writer = scenario.keep(Observer())
                writer.writable = send
                first.observer = writer
                var received: [UInt8] = []
                let reader = scenario.keep(Observer())
                second.observer = reader
                func receive() {
                    while true {
                        let (result, piece) = second.readBytes()
                        received += piece
                        switch result {
                        case .bytes: continue
                        case .wouldBlock: return
                        case .end:
                            second.finish()
                            second.close()
                            first.close()
                            return scenario.complete(received)
                        case .failed: return scenario.fail(second.failure ?? .closed(second))
                        }
                    }
                }
                reader.readable = receive
                send()
                receive()
            }
            #expect(received == (0..<5000).map { UInt8(truncatingIfNeeded: $0) })
        }
    }

    @Test(
        "a writer is stopped by a reader that does not read, and told once when it may go on",
        arguments: [true, false]
    )
    func backPressure(isTCP: Bool) async throws {
        try await withLoop { loop in
            let (pushed, received): (Int, Int) = try await onLoop(loop) { scenario in
                let (writer, reader) = try isTCP ? tcpPair(on: loop) : Socket.pair(on: loop)
                let observer = scenario.keep(Observer())
                let readObserver = scenario.keep(Observer())
                writer.observer = observer
                reader.observer = readObserver
                var pushed = writer.fill()
                // The kernel moves bytes from one socket's buffer to the other's: fill up until nothing moves any more.
                var quietTurns = 0
                func fillUp() {
                    let more = observer.writableCount > 0 ? writer.fill() : 0
                    pushed += more
                    quietTurns = more == 0 ? quietTurns + 1 : 0
                    guard quietTurns > 200 else { return afterTurns(1, on: loop, fillUp) }
                    let last = writer.write("x")
                    if case .bytes(let count) = last {
                        // The kernel has moved some after all.
                        pushed += count
                        quietTurns = 0
                        return afterTurns(1, on: loop, fillUp)
                    }
                    #expect(last == .wouldBlock)
                    let noticesBefore = observer.writableCount
                    var received = 0
                    observer.writable = {
                        #expect(observer.writableCount == noticesBefore + 1)
                        writer.finish()
                    }
                    func receive() {
                        while true {
                            switch reader.readBytes().result {
                            case .bytes(let count): received += count
                            case .wouldBlock: return
                            case .end:
                                reader.finish()
                                reader.close()
                                writer.close()
                                return scenario.complete((pushed, received))
                            case .failed: return scenario.fail(reader.failure ?? .closed(reader))
                            }
                        }
                    }
                    readObserver.readable = receive
                    receive()
                }
                fillUp()
            }
            #expect(pushed == received)
            // The kernel's own limits (tcp_wmem and tcp_rmem, 4 and 6 MiB by default), not what the writer has.
            #expect(pushed < 32 << 20)
        }
    }

    @Test("close() after finish() delivers what was accepted, although the peer is still sending and slow to read")
    func closeDelivers() async throws {
        try await withLoop { loop in
            let (peer, accepted) = try await loop.execute {
                let (client, server) = try tcpDescriptors()
                let socket = try Socket.adopting(client, on: loop)
                let accepted = socket.fill()
                // Unread input: a plain close(2) would answer it with a reset that destroys what is still queued.
                var byte: UInt8 = 1
                Glibc.write(server, &byte, 1)
                socket.finish()
                socket.close()
                #expect(socket.descriptor == -1)
                return (server, accepted)
            }
            let received = await Task.detached { readAll(peer) }.value
            #expect(received == accepted)
            close(peer)
            // The descriptor goes once all is delivered.
            try await until { try await loop.execute { loop.watchedDescriptors == 0 } }
        }
    }

    @Test("a loop that stops delivers what was closed before, for as long as it may take", arguments: [60, 0])
    func stoppingDelivers(seconds: Int) async throws {
        let loop = EventLoop(name: "stops")
        let (peer, accepted) = try await loop.execute {
            let (client, server) = try tcpDescriptors()
            let socket = try Socket.adopting(client, on: loop)
            let accepted = socket.fill()
            socket.finish()
            socket.close()
            return (server, accepted)
        }
        let stopped = Task { await loop.shutDown(timeToDepart: .seconds(seconds)) }
        if seconds == 0 { await stopped.value }
        let received = await Task.detached { readAll(peer, sending: true) }.value
        await stopped.value
        if seconds == 0 { #expect(received < accepted) } else { #expect(received == accepted) }
        close(peer)
    }

    @Test("a lingering close ends when its peer dies")
    func lingeringPeerDies() async throws {
        try await withLoop { loop in
            let peer = try await loop.execute {
                let (client, server) = try tcpDescriptors()
                let socket = try Socket.adopting(client, on: loop)
                _ = socket.fill()
                socket.finish()
                socket.close()
                return server
            }
            closeWithReset(peer)
            try await until { try await loop.execute { loop.watchedDescriptors == 0 } }
        }
    }

    @Test("a stream may be closed inside each of its callbacks")
    func closedInCallbacks() async throws {
        try await withLoop { loop in
            let done: Int = try await onLoop(loop) { scenario in
                var left = 3
                func one() {
                    left -= 1
                    if left == 0 { afterTurns(3, on: loop) { scenario.complete(loop.watchedDescriptors) } }
                }
                // Readable and writable in one event: closed in the first callback, the second must not come.
                let (near, far) = try tcpPair(on: loop)
                let observer = scenario.keep(Observer())
                near.observer = observer
                _ = near.fill()
                _ = near.readBytes()
                observer.readable = {
                    near.reset(.closed(near))
                    far.reset(.closed(far))
                    one()
                }
                observer.writable = { #expect(near.descriptor >= 0) }
                _ = far.write("x")
                _ = far.readBytes(1 << 20)
                // Writable.
                let (writer, reader) = try tcpPair(on: loop)
                let writeObserver = scenario.keep(Observer())
                writer.observer = writeObserver
                _ = writer.fill()
                writeObserver.writable = {
                    writer.reset(.closed(writer))
                    reader.reset(.closed(reader))
                    one()
                }
                func drain() {
                    while case .bytes = reader.readBytes(1 << 20).result {}
                    if reader.descriptor >= 0 { afterTurns(1, on: loop, drain) }
                }
                drain()
                // Failed.
                let (client, server) = try tcpDescriptors()
                let failing = try Socket.adopting(client, on: loop)
                let failObserver = scenario.keep(Observer())
                failing.observer = failObserver
                failObserver.failed = {
                    failing.close()
                    one()
                }
                closeWithReset(server)
            }
            #expect(done == 0)
        }
    }

    @Test("an event fetched for a closed socket does not reach the one that got its descriptor")
    func staleEvents() async throws {
        try await withLoop { loop in
            // Another test may take the number in between: then once more.
            var notices: Int?
            for _ in 0..<50 where notices == nil { notices = try await Self.noticesOfReplacement(on: loop) }
            #expect(notices == 0)
        }
    }

    /// Two sockets become readable in the same turn; whichever is served first closes the other and opens a new one
    /// with its number. Returns how many notices the new one got; nil when it got another number.
    private static func noticesOfReplacement(on loop: EventLoop) async throws -> Int? {
        try await onLoop(loop) { scenario in
            let (a, farA) = try Socket.pair(on: loop)
            let (b, farB) = try Socket.pair(on: loop)
            let observers = [a, b].map { socket -> Observer in
                let observer = scenario.keep(Observer())
                socket.observer = observer
                #expect(socket.readBytes().result == .wouldBlock)
                return observer
            }
            let newObserver = scenario.keep(Observer())
            var replaced = false
            func replace(_ victim: Socket) {
                guard !replaced else { return }
                replaced = true
                let number = victim.descriptor
                var descriptors: [Int32] = [-1, -1]
                socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &descriptors)
                victim.reset(.closed(victim))
                let again = fcntl(descriptors[0], F_DUPFD_CLOEXEC, number)
                close(descriptors[0])
                do {
                    let new = try Socket.adopting(again, on: loop)
                    new.observer = newObserver
                    #expect(new.readBytes().result == .wouldBlock)
                    afterTurns(5, on: loop) {
                        for socket in [a, b, new, farA, farB] { socket.reset(.closed(socket)) }
                        close(descriptors[1])
                        let count = newObserver.readableCount + newObserver.failedCount
                        scenario.complete(again == number ? count : nil)
                    }
                } catch {
                    scenario.fail(error)
                }
            }
            observers[0].readable = { replace(b) }
            observers[1].readable = { replace(a) }
            _ = farA.write("x")
            _ = farB.write("x")
        }
    }

    @Test("a write after finish() fails and says so")
    func writeAfterFinish() async throws {
        try await withLoop { loop in
            let failure = try await loop.execute {
                let (first, second) = try tcpPair(on: loop)
                first.finish()
                first.finish()
                #expect(first.write("x") == .failed)
                first.close()
                second.close()
                return first.failure
            }
            #expect(failure?.code == .closed)
            #expect(failure?.message.contains("after the end") == true)
        }
    }

    @Test("nothing to write is not an error, and asks for no notice")
    func emptyWrite() async throws {
        try await withLoop { loop in
            try await loop.execute {
                let (first, second) = try tcpPair(on: loop)
                #expect(first.write("") == .bytes(0))
                #expect(first.write(UnsafeBufferPointer<iovec>(start: nil, count: 0)) == .bytes(0))
                first.close()
                second.close()
            }
        }
    }

    @Test("reading into no space is a programming error, not an end")
    func emptyRead() async {
        await #expect(processExitsWith: .failure) {
            let loop = EventLoop(name: "empty read")
            try await loop.execute {
                let (first, _) = try Socket.pair(on: loop)
                _ = first.read(into: UnsafeMutableRawBufferPointer(start: nil, count: 0))
            }
        }
    }

    @Test("a client that has vanished is noticed; one that pauses keeps its connection")
    func idleProbes() async throws {
        try await withLoop { loop in
            try await loop.execute {
                let (first, second) = try tcpPair(on: loop)
                let tcp = Int32(IPPROTO_TCP)
                first.apply(.defaults)
                #expect(first.option(SOL_SOCKET, SO_KEEPALIVE) == 0)
                var options = SocketOptions.defaults
                options.probesWhenIdle = true
                first.apply(options)
                #expect(first.option(SOL_SOCKET, SO_KEEPALIVE) == 1)
                #expect(first.option(tcp, TCP_KEEPIDLE) == 180)
                #expect(first.option(tcp, TCP_KEEPINTVL) == 20)
                #expect(first.option(tcp, TCP_KEEPCNT) == 3)
                #expect(first.option(tcp, TCP_USER_TIMEOUT) == 0)
                first.close()
                second.close()
            }
        }
    }

    @Test("dead peer detection reaches the kernel, also with odd durations")
    func deadPeerOptions() async throws {
        try await withLoop { loop in
            try await loop.execute {
                let (first, second) = try tcpPair(on: loop)
                let tcp = Int32(IPPROTO_TCP)
                #expect(first.option(tcp, TCP_NODELAY) == 1)
                var options = SocketOptions(unacknowledgedLimit: .seconds(20))
                options.idleBeforeProbe = .seconds(60)
                first.apply(options)
                #expect(first.option(tcp, TCP_USER_TIMEOUT) == 20_000)
                #expect(first.option(SOL_SOCKET, SO_KEEPALIVE) == 1)
                #expect(first.option(tcp, TCP_KEEPIDLE) == 60)
                #expect(first.option(tcp, TCP_KEEPINTVL) == 20)
                // Less than the kernel's units must not mean "never", nor more than its limits the default.
                options.unacknowledgedLimit = .microseconds(10)
                options.idleBeforeProbe = .milliseconds(10)
                first.apply(options)
                #expect(first.option(tcp, TCP_USER_TIMEOUT) == 1)
                #expect(first.option(tcp, TCP_KEEPIDLE) == 1)
                options.unacknowledgedLimit = .seconds(1 << 40)
                options.idleBeforeProbe = .seconds(1 << 40)
                first.apply(options)
                #expect(first.option(tcp, TCP_USER_TIMEOUT) == Int32.max)
                #expect(first.option(tcp, TCP_KEEPIDLE) == 32767)
                first.apply(SocketOptions(unsentLimit: 131_072))
                #expect(first.option(tcp, TCP_NOTSENT_LOWAT) == 131_072)
                #expect(first.option(tcp, TCP_USER_TIMEOUT) == Int32.max, "what is nil stays as it is")
                first.close()
                second.close()
            }
        }
    }

    @Test("a Unix peer that closes with unread bytes is a reset; one that was reset reads an end, as documented")
    func unixResets() async throws {
        try await withLoop { loop in
            let ends = try await loop.execute {
                let (a, b) = try Socket.pair(on: loop)
                _ = a.write("never read")
                b.reset(.closed(b))
                let (c, d) = try Socket.pair(on: loop)
                d.reset(.closed(d))
                return LoopBound((a, c), on: loop)
            }
            // The kernel tells of it in a later turn.
            func result(ofFirst isFirst: Bool) async throws -> ReadResult {
                var result = ReadResult.wouldBlock
                while result == .wouldBlock {
                    result = try await loop.execute { ends.withValue { (isFirst ? $0.0 : $0.1).readBytes().result } }
                }
                return result
            }
            let unread = try await result(ofFirst: true)
            let reset = try await result(ofFirst: false)
            try await loop.execute {
                ends.withValue {
                    $0.0.close()
                    $0.1.close()
                }
            }
            #expect(unread == .failed)
            #expect(reset == .end)
        }
    }

    @Test("a killed peer process: a clean end only where it had read everything", arguments: [true, false])
    func killedPeer(hadReadAll: Bool) async throws {
        let listener = try listeningDescriptor()
        let port = try #require(Socket.address(of: listener, getsockname)).port
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        // It says "go", reads one byte where told to, and then waits to be killed.
        process.arguments = [
            "python3", "-c",
            """
            import socket, time
            s = socket.create_connection(("127.0.0.1", \(port)))
            s.sendall(b"go")
            \(hadReadAll ? "s.recv(1); s.sendall(b'!')" : "s.recv(1, socket.MSG_PEEK); s.sendall(b'!')")
            time.sleep(600)
            """,
        ]
        try process.run()
        let pid = process.processIdentifier
        defer {
            process.terminate()
            process.waitUntilExit()
        }
        let connection = acceptedDescriptor(listener)
        close(listener)
        try await withLoop { loop in
            let (bytes, result, code): ([UInt8], ReadResult, StreamError.Code?) = try await onLoop(loop) { scenario in
                let socket = try Socket.adopting(connection, on: loop)
                let observer = scenario.keep(Observer())
                socket.observer = observer
                var received: [UInt8] = []
                _ = socket.write("?")
                func receive() {
                    while true {
                        let (result, bytes) = socket.readBytes()
                        received += bytes
                        switch result {
                        case .bytes:
                            if received.last == UInt8(ascii: "!") { kill(pid, SIGKILL) }
                        case .wouldBlock: return
                        case .end, .failed:
                            let code = socket.failure?.code
                            socket.close()
                            return scenario.complete((received, result, code))
                        }
                    }
                }
                observer.readable = receive
                observer.failed = receive
                receive()
            }
            #expect(bytes == Array("go!".utf8))
            #expect(result == (hadReadAll ? .end : .failed))
            #expect(code == (hadReadAll ? nil : .reset))
        }
    }
}

/// Waits until `condition` holds.
func until(
    deadline: Duration = .seconds(120),
    sourceLocation: SourceLocation = #_sourceLocation,
    _ condition: () async throws -> Bool
) async throws {
    let end = ContinuousClock.now + deadline
    while try await !condition() {
        guard ContinuousClock.now < end else {
            Issue.record("the condition did not come true in \(deadline)", sourceLocation: sourceLocation)
            return
        }
        try await Task.sleep(for: .milliseconds(5))
    }
}

/// Calls back when its stream fails.
private final class FailureObserver: StreamObserver {
    var onFailure: () -> Void = {}
    func streamReadable(_ stream: ByteStream) {}
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) { onFailure() }
}

/// How many bytes come until the end; minus `errno` when the connection fails before.
///
/// - Parameter sending: It sends as well, which a socket that is closed already answers with a reset.
private func readAll(_ descriptor: Int32, sending: Bool = false) -> Int {
    var total = 0
    var byte: UInt8 = 1
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
        if sending { send(descriptor, &byte, 1, Int32(MSG_NOSIGNAL)) }
        let count = read(descriptor, &buffer, buffer.count)
        guard count > 0 else { return count == 0 ? total : -Int(errno) }
        total += count
    }
}

extension Socket {
    /// What getsockopt says; −1: nothing.
    fileprivate func option(_ level: Int32, _ name: Int32) -> Int32 {
        var value: Int32 = -1
        var length = socklen_t(MemoryLayout<Int32>.size)
        getsockopt(descriptor, level, name, &value, &length)
        return value
    }
}

import Foundation
import SSHSignal
import Streams
import TestPeers
import Testing

/// Ports that the server listens on for this side, and Unix sockets of its machine.
@Suite(.serialized) struct SessionForwardingTests {
    /// Has the server listen; what it accepts is echoed on this side.
    private func listen(_ client: SSHClient, host: String = "localhost", port: UInt16 = 0) async throws -> UInt16 {
        let loop = client.loop
        return try await withCheckedThrowingContinuation { continuation in
            loop.submit {
                client.connection.withValue { connection in
                    connection.listen(host: host, port: port) { stream in
                        Echo(stream).start()
                    } completion: {
                        continuation.resume(with: $0)
                    }
                }
            }
        }
    }

    private func exchange(port: UInt16, size: Int, seed: UInt64) async throws {
        let sent = Pattern.bytes(size, seed: seed)
        let (received, ending) = try await TCPClient.exchange(port: port, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
    }

    private func serves(_ client: SSHClient) async throws {
        let port = try await listen(client)
        #expect(port > 0)
        // Also beside a channel that this side opened, and several at once, and more than the windows hold.
        let running = try await client.execute("cat")
        try await exchange(port: port, size: 10, seed: 1)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for seed in 2...5 as ClosedRange<UInt64> {
                group.addTask { try await exchange(port: port, size: 6_000_000, seed: seed) }
            }
            try await group.waitForAll()
        }
        try await client.loop.execute { running.withValue { $0.close() } }
        try await exchange(port: port, size: 100_000, seed: 6)
        await client.close()
        // Nobody listens there any more.
        try await eventually("the server has let the port go") {
            await (try? TCPClient.exchange(port: port, sending: [1])) == nil
        }
    }

    /// With either engine.
    private func connect(_ engine: SSHEngine, to server: OpenSSHServer) async throws -> SSHClient {
        try await files.login(to: server, engine: engine).connect(on: testLoops.next())
    }

    private let files = UserFiles()

    @Test(arguments: [SSHEngine.libssh2, .openSSH]) func anOpenSSHServerListens(_ engine: SSHEngine) async throws {
        let server = try await OpenSSHServer(configuration: ["RekeyLimit 2M"])
        try await serves(try await connect(engine, to: server))
    }

    /// A port that was named, and one that other machines may reach.
    @Test(arguments: [SSHEngine.libssh2, .openSSH]) func aPortThatWasNamed(_ engine: SSHEngine) async throws {
        let server = try await OpenSSHServer(configuration: ["GatewayPorts clientspecified"])
        let client = try await connect(engine, to: server)
        let port = FreePort.next()
        #expect(try await listen(client, host: "", port: port) == port)
        try await exchange(port: port, size: 100_000, seed: 3)
        await client.close()
    }

    /// Its end looks like the end of every connection that it carried.
    @Test func aMasterThatIsKilledEndsNoStreamCleanly() async throws {
        let server = try await OpenSSHServer()
        let client = try await connect(.openSSH, to: server)
        let loop = client.loop
        let outcome = Lock<StreamError??>(nil)
        let ready = Lock(false)
        let port: UInt16 = try await withCheckedThrowingContinuation { continuation in
            loop.submit {
                client.connection.withValue { connection in
                    connection.listen(host: "localhost", port: 0) { stream in
                        let end = EndOfStream(stream) { error in outcome.withLock { $0 = .some(error) } }
                        end.start { ready.withLock { $0 = true } }
                    } completion: {
                        continuation.resume(with: $0)
                    }
                }
            }
        }
        async let conversation = TCPClient.exchange(port: port, sending: [1, 2, 3], staysOpen: true)
        try await eventually("the first bytes are here") { ready.withLock { $0 } }
        kill(try await client.master().process, SIGKILL)
        try await eventually("the stream is over") { outcome.withLock { $0 != nil } }
        let error = outcome.withLock { $0 } ?? nil
        #expect(error != nil)
        _ = try? await conversation
        await client.close()
    }

    @Test func aDropbearServerListens() async throws {
        let server = try await DropbearServer()
        try await serves(try await server.connect())
        await server.stop()
    }

    @Test(arguments: [SSHEngine.libssh2, .openSSH])
    func aServerThatDoesNotListenIsNamedWithItsReasons(_ engine: SSHEngine) async throws {
        for line in ["AllowTcpForwarding no", "AllowTcpForwarding local", "DisableForwarding yes", "PermitListen 1"] {
            let server = try await OpenSSHServer(configuration: [line])
            let client = try await connect(engine, to: server)
            let error = await streamFailure { try await listen(client) }
            #expect(error?.code == .denied, "\(line)")
            #expect(error?.message.contains("PermitListen") == true)
            #expect(try await client.run("echo on").text == "on\n")
            await client.close()
        }
        // A port that somebody has.
        let server = try await OpenSSHServer()
        let client = try await connect(engine, to: server)
        let taken = try EchoServer()
        let error = await streamFailure { try await listen(client, host: "127.0.0.1", port: taken.port) }
        #expect(error?.code == .denied)
        #expect(error?.message.contains("in use") == true)
        #expect(error?.message.contains("127.0.0.1:\(taken.port)") == true)
        await client.close()
    }

    private func open(_ path: String, _ client: SSHClient) async throws -> LoopBound<ByteStream> {
        let loop = client.loop
        return try await withCheckedThrowingContinuation { continuation in
            loop.submit {
                client.connection.withValue { connection in
                    connection.openDirectStreamLocal(path: path) { result in
                        continuation.resume(with: result.map { LoopBound($0, on: loop) })
                    }
                }
            }
        }
    }

    @Test(arguments: [SSHEngine.libssh2, .openSSH]) func unixSocketsOfTheServer(_ engine: SSHEngine) async throws {
        let server = try await OpenSSHServer()
        let client = try await connect(engine, to: server)
        let loop = client.loop
        let path = server.directory.path("echo.sock")
        let listener = try await loop.execute {
            LoopBound(
                try Listener(bind: SocketAddress(unixPath: path), on: loop) { socket in Echo(socket).start() },
                on: loop
            )
        }
        let size = 3_000_000
        let channel = try await open(path, client)
        let result = try await SSHSignalTests.exchange(channel, on: loop, send: size)
        #expect(result.failure == nil)
        #expect(result.checksum == Pattern.checksum(size))
        let missing = await streamFailure { try await open(path + "x", client) }
        #expect(missing?.code == .refused)
        #expect(missing?.message.contains("\(path)x") == true)
        try await loop.execute { listener.withValue { $0.close() } }
        await client.close()

        let closed = try await OpenSSHServer(configuration: ["AllowStreamLocalForwarding no"])
        let other = try await connect(engine, to: closed)
        let denied = await streamFailure { try await open(path, other) }
        #expect(denied?.code == .refused)
        #expect(denied?.message.contains("AllowStreamLocalForwarding") == true)
        await other.close()

        let dropbear = try await DropbearServer()
        let small = try await dropbear.connect()
        let unknown = await streamFailure { try await open(path, small) }
        #expect(unknown?.message.contains("only OpenSSH") == true)
        await small.close()
        await dropbear.stop()
    }
}

/// Reads to the end, and says whether it was one. Keeps itself alive until then.
private final class EndOfStream: StreamObserver {
    private let stream: ByteStream
    private let completion: (StreamError?) -> Void
    private var onFirst: (() -> Void)?
    private var keep: EndOfStream?

    init(_ stream: ByteStream, _ completion: @escaping (StreamError?) -> Void) {
        self.stream = stream
        self.completion = completion
    }

    func start(onFirst: @escaping () -> Void) {
        self.onFirst = onFirst
        keep = self
        stream.observer = self
        read()
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) { end(stream.failure) }

    private func read() {
        var buffer = [UInt8](repeating: 0, count: 4096)
        while keep != nil {
            switch buffer.withUnsafeMutableBytes({ stream.read(into: $0) }) {
            case .bytes:
                onFirst?()
                onFirst = nil
            case .wouldBlock: return
            case .end: end(nil)
            case .failed: end(stream.failure)
            }
        }
    }

    private func end(_ error: StreamError?) {
        guard keep != nil else { return }
        stream.reset(error ?? StreamError(.closed, "ended"))
        completion(error)
        keep = nil
    }
}

/// Sends back what it reads, and its end. Keeps itself alive until then.
private final class Echo: StreamObserver {
    private let stream: ByteStream
    private var pending: ArraySlice<UInt8> = []
    private var keep: Echo?

    init(_ stream: ByteStream) { self.stream = stream }

    func start() {
        keep = self
        stream.observer = self
        move()
    }

    func streamReadable(_ stream: ByteStream) { move() }
    func streamWritable(_ stream: ByteStream) { move() }
    func streamFailed(_ stream: ByteStream) { keep = nil }

    private func move() {
        var buffer = [UInt8](repeating: 0, count: 65536)
        while keep != nil {
            while !pending.isEmpty {
                switch pending.withUnsafeBytes({ stream.write($0) }) {
                case .bytes(let count): pending = pending.dropFirst(count)
                case .wouldBlock: return
                case .failed: return end()
                }
            }
            switch buffer.withUnsafeMutableBytes({ stream.read(into: $0) }) {
            case .bytes(let count): pending = buffer[..<count]
            case .wouldBlock: return
            case .end:
                stream.finish()
                return end()
            case .failed: return end()
            }
        }
    }

    private func end() {
        stream.close()
        keep = nil
    }
}

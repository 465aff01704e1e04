import Glibc
import H2Transport
import Logging
import Platform
import Streams
import TestDevices
import TestPeers
import Testing

@testable import MeshPaths
@testable import SSHSignal

/// Path `ssh`: which engine carries a stream, after what its destination's streams have carried before.
@Suite(.serialized, .timeLimit(.minutes(10))) struct BulkSessionTests {
    private let directory = TemporaryDirectory()

    /// Sends pieces to an echo server, each when the one before has come back. Confined to its loop.
    private final class Conversation: StreamObserver {
        private let stream: ByteStream
        private var pieces: [[UInt8]]
        private var sent = 0
        private var back: [UInt8] = []
        private var completion: ((Bool) -> Void)?
        private var keep: Conversation?

        init(_ stream: ByteStream, _ pieces: [[UInt8]], completion: @escaping (Bool) -> Void) {
            self.stream = stream
            self.pieces = pieces
            self.completion = completion
            keep = self
            stream.observer = self
            turn()
        }

        func streamReadable(_ stream: ByteStream) { turn() }
        func streamWritable(_ stream: ByteStream) { turn() }
        func streamFailed(_ stream: ByteStream) { end(false) }

        private func turn() {
            var moves = true
            while moves, let piece = pieces.first {
                moves = false
                if sent < piece.count, case .bytes(let count) = piece[sent...].withUnsafeBytes({ stream.write($0) }) {
                    sent += count
                    moves = true
                }
                var buffer = [UInt8](repeating: 0, count: 64 << 10)
                switch buffer.withUnsafeMutableBytes({ stream.read(into: $0) }) {
                case .bytes(let count):
                    back += buffer[..<count]
                    moves = true
                case .wouldBlock: break
                case .end, .failed: return end(false)
                }
                guard back.count == piece.count else { continue }
                guard back == piece else { return end(false) }
                pieces.removeFirst()
                (sent, back) = (0, [])
            }
            if pieces.isEmpty { end(true) }
        }

        private func end(_ isIntact: Bool) {
            let completion = completion
            self.completion = nil
            stream.close()
            completion?(isIntact)
            keep = nil
        }
    }

    /// Path `ssh` to a server. Confined to its loop.
    private final class Client {
        let pool: SessionPool
        let source: SSHSource

        init(_ login: SSHLogin, sessions: Int, _ longRoundTrip: Duration, on loop: EventLoop) {
            let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            pool = SessionPool(login, limit: sessions, longRoundTrip: longRoundTrip, on: loop, logger: quiet)
            source = SSHSource(over: pool)
        }

        /// Whether a new stream to it would go by the `ssh` program.
        func isBulk(_ destination: Authority) -> Bool { pool.bulk?.connection(for: destination) != nil }
    }

    private let loop = EventLoop(name: "test")

    private func client(
        _ server: OpenSSHServer,
        sessions: Int = 4,
        longRoundTrip: Duration = .seconds(600)
    ) async throws -> LoopBound<Client> {
        let login = try server.login(in: directory)
        let client = try await loop.execute { [loop] in
            LoopBound(Client(login, sessions: sessions, longRoundTrip, on: loop), on: loop)
        }
        let connected: Result<Void, StreamError> = await withCheckedContinuation { continuation in
            loop.submit {
                client.withValue { client in
                    client.source.events = PathEvents(
                        up: { continuation.resume(returning: .success(())) },
                        down: { _, _ in },
                        rest: {},
                        idle: {}
                    )
                    client.source.establish()
                }
            }
        }
        try connected.get()
        return client
    }

    /// Opens a stream and converses over it. Returns whether it went by the `ssh` program; nil where bytes were lost.
    private func converse(
        _ client: LoopBound<Client>,
        with destination: Authority,
        _ pieces: [[UInt8]]
    ) async throws -> Bool? {
        try await withCheckedThrowingContinuation { continuation in
            loop.submit {
                client.withValue { client in
                    client.source.open(to: destination, headers: [:]) { result in
                        switch result {
                        case .success(let stream):
                            let isByProgram = stream is MuxChannel
                            _ = Conversation(stream, pieces) { continuation.resume(returning: $0 ? isByProgram : nil) }
                        case .failure(.refused(let error)), .failure(.pathLost(let error?)):
                            continuation.resume(throwing: error)
                        case .failure(.pathLost(nil)): continuation.resume(throwing: SSHError(.closed, "no path"))
                        }
                    }
                }
            }
        }
    }

    private func isBulk(_ destination: Authority, _ client: LoopBound<Client>) async throws -> Bool {
        try await loop.execute { client.withValue { $0.isBulk(destination) } }
    }

    private let bulk = [Pattern.bytes(6_000_000, seed: 3)]
    private let messages = (0..<100).map { Pattern.bytes(64, seed: UInt64($0)) }

    @Test func aStreamGoesWhereTheLastOneShouldHaveGone() async throws {
        let server = try await OpenSSHServer()
        let (echo, other) = (try EchoServer(), try EchoServer())
        let destination = try Authority(parsing: echo.authority)
        let elsewhere = try Authority(parsing: other.authority)
        let client = try await client(server)
        // The first one is not known to be bulk.
        #expect(try await converse(client, with: destination, bulk) == false)
        try await eventually("the ssh program has logged in") { try await isBulk(destination, client) }
        #expect(try await converse(client, with: destination, bulk) == true)
        #expect(try await converse(client, with: elsewhere, messages) == false)
        #expect(try await !isBulk(elsewhere, client))
        // Latency counts: the next one is libssh2's again, and bulk brings it back.
        #expect(try await converse(client, with: destination, messages) == true)
        #expect(try await converse(client, with: destination, messages) == false)
        #expect(try await converse(client, with: destination, bulk) == false)
        #expect(try await converse(client, with: destination, bulk) == true)
        #expect(try await logins(server, atLeast: 2) == 2, "\(server.log)")

        // The program dies: streams go on by libssh2, also the one that was to be opened on it.
        let master = try await loop.execute {
            client.withValue { ($0.pool.bulk?.connection(for: destination) as? OpenSSHSession)?.masterProcess }
        }
        kill(try #require(master), SIGKILL)
        #expect(try await converse(client, with: destination, bulk) == false)
        await end(client, server)
    }

    /// Settings that rule it out, and a path where windows are the limit.
    @Test(arguments: [(1, Duration.seconds(600)), (4, .zero)])
    func bulkStaysWithOneSession(sessions: Int, longRoundTrip: Duration) async throws {
        let server = try await OpenSSHServer()
        let echo = try EchoServer()
        let destination = try Authority(parsing: echo.authority)
        let client = try await client(server, sessions: sessions, longRoundTrip: longRoundTrip)
        for _ in 0..<3 { #expect(try await converse(client, with: destination, bulk) == false) }
        #expect(try await !isBulk(destination, client))
        let logins = try await logins(server, atLeast: 1)
        // Where windows are the limit, libssh2 may have opened another one of its own.
        #expect(sessions > 1 || logins == 1, "\(server.log)")
        await end(client, server)
    }

    /// The one for bulk is a session as any other.
    @Test(arguments: [true, false]) func itCountsAmongTheSessions(isFirst: Bool) async throws {
        let server = try await OpenSSHServer()
        let echo = try EchoServer()
        let destination = try Authority(parsing: echo.authority)
        let client = try await client(server, sessions: 2)
        if isFirst {
            #expect(try await converse(client, with: destination, bulk) == false)
            try await eventually("the ssh program has logged in") { try await isBulk(destination, client) }
        }
        // A destination that does not answer asks for another session.
        let count = try await loop.execute {
            client.withValue { client in
                let session = client.pool.sessions.first as? SSHSession
                session?.isHeldUp = true
                session?.onHeldUp?()
                session?.isHeldUp = false
                return client.pool.count
            }
        }
        #expect(count == 2)
        if isFirst {
            #expect(try await converse(client, with: destination, bulk) == true)
        } else {
            try await eventually("there are two sessions") {
                try await loop.execute { client.withValue { $0.pool.sessions.count } } == 2
            }
            for _ in 0..<2 { #expect(try await converse(client, with: destination, bulk) == false) }
        }
        #expect(try await logins(server, atLeast: 2) == 2, "\(server.log)")
        await end(client, server)
    }

    /// The server lets nobody in any more: nothing is lost, and it is not asked again.
    @Test func aServerThatRefusesTheSecondLogin() async throws {
        let server = try await OpenSSHServer()
        let echo = try EchoServer()
        let destination = try Authority(parsing: echo.authority)
        let client = try await client(server)
        try server.directory.write("authorized_keys", "", permissions: 0o600)
        #expect(try await converse(client, with: destination, bulk) == false)
        try await server.logged("Connection closed by authenticating user")
        for _ in 0..<2 { #expect(try await converse(client, with: destination, bulk) == false) }
        let refused = server.log.split(whereSeparator: \.isNewline).filter {
            $0.contains("closed by authenticating user")
        }
        #expect(refused.count == 1, "\(server.log)")
        await end(client, server)
    }

    private func logins(_ server: OpenSSHServer, atLeast count: Int) async throws -> Int {
        try await server.logged("Accepted publickey", count: count)
        return server.log.split(whereSeparator: \.isNewline).count { $0.contains("Accepted publickey") }
    }

    private func end(_ client: LoopBound<Client>, _ server: OpenSSHServer) async {
        try? await loop.execute { client.withValue { $0.pool.close() } }
        // What was closed says so on its loop.
        try? await eventually("the sessions have ended") { server.sessionProcesses.isEmpty }
        await loop.shutDown()
        await server.stop()
    }
}

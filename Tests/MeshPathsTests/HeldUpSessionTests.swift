import Glibc
import Logging
import Platform
import SSHSignal
import Streams
import TestDevices
import TestPeers
import Testing

@testable import MeshPaths

/// Destinations behind an SSH server, of which one does not answer.
@Suite(.timeLimit(.minutes(10))) struct HeldUpSessionTests {
    private let directory = TemporaryDirectory()

    /// A port of this machine that answers to nobody: its queue is full.
    private final class SilentPort: Sendable {
        let port: UInt16
        private let descriptors: [Int32]

        init() throws {
            port = FreePort.next()
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = port.bigEndian
            address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
            let size = socklen_t(MemoryLayout<sockaddr_in>.size)
            let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            var all = [listener]
            withUnsafePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                    _ = bind(listener, address, size)
                    listen(listener, 0)
                    for _ in 0..<4 {
                        let type = SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue
                        let client = socket(AF_INET, Int32(type), 0)
                        _ = connect(client, address, size)
                        all.append(client)
                    }
                }
            }
            descriptors = all
        }

        deinit { for descriptor in descriptors { close(descriptor) } }
    }

    /// Opens streams through a pool. Confined to its loop.
    private final class Client {
        private let pool: SessionPool
        private(set) var results: [UInt16: Result<ByteStream, StreamError>] = [:]

        init(_ login: SSHLogin, on loop: EventLoop) {
            let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            pool = SessionPool(login, limit: 4, on: loop, logger: quiet)
        }

        func open(_ port: UInt16, then: @escaping (Result<Void, StreamError>) -> Void) {
            pool.connect { [self] result in
                switch result {
                case .failure(let error): then(.failure(error))
                case .success(let connection):
                    connection.openDirectTCPIP(host: "127.0.0.1", port: port) { [self] result in
                        results[port] = result
                        then(result.map { _ in })
                    }
                }
            }
        }

        func close() { pool.close() }
    }

    private func open(_ port: UInt16, _ client: LoopBound<Client>) async -> Result<Void, StreamError> {
        await withCheckedContinuation { continuation in
            client.loop.submit { client.withValue { $0.open(port) { continuation.resume(returning: $0) } } }
        }
    }

    @Test func aDestinationThatDoesNotAnswerHoldsUpNoOther() async throws {
        let server = try await OpenSSHServer()
        let silent = try SilentPort()
        let login = try server.login(in: directory, engine: .libssh2)
        let loop = EventLoop(name: "test")
        let client = try await loop.execute { LoopBound(Client(login, on: loop), on: loop) }
        try await open(server.port, client).get()
        let port = silent.port
        try await loop.execute { client.withValue { $0.open(port) { _ in } } }
        // Asked for behind the silent one, at once and when it is known to be silent.
        for _ in 0..<3 {
            if case .failure(let error) = await open(server.port, client) { Issue.record("\(error)") }
        }
        // The reason is its own.
        let failures = Lock<[StreamError]>([])
        try await eventually("the silent one is given up") {
            try await loop.execute {
                client.withValue { client in
                    if case .failure(let error)? = client.results[port] { failures.withLock { $0.append(error) } }
                }
            }
            return failures.withLock { !$0.isEmpty }
        }
        let error = failures.withLock { $0.first }
        #expect(error?.code == .timedOut)
        #expect(error?.message.contains("127.0.0.1:\(port)") == true, "\(String(describing: error))")
        if case .failure(let error) = await open(server.port, client) { Issue.record("\(error)") }
        try await loop.execute { client.withValue { $0.close() } }
        await loop.shutDown()
        await server.stop()
    }
}

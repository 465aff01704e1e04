import H2Transport
import Logging
import MeshIdentity
import Platform
import Streams
import Synchronization
import TestPeers

/// A listener and a client of the public API, with real certificates over loopback.
struct MeshPair: Sendable {
    let listener: HBONEListener
    let client: HBONEClient
    /// The listener as the client reaches it.
    let peer: HBONEPeer
    let authority: Authority

    /// Connects a client to a listener that serves with `handler`, runs `body`, and takes everything down.
    static func with(
        client: CredentialSource = .directory(TestCertificates.shared.path(.client)),
        server: CredentialSource = .directory(TestCertificates.shared.path(.server)),
        expecting expectation: PeerExpectation? = nil,
        loops: Int = 1,
        admit: HBONEAdmissionHook? = nil,
        handler: @escaping @Sendable (HBONEStream) async throws -> Void,
        body: (MeshPair) async throws -> Void
    ) async throws {
        let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        let group = EventLoopGroup(count: loops)
        let listener = try await HBONEListener(
            bind: SocketAddress(ip: "127.0.0.1", port: 0),
            credentials: server,
            loops: group,
            logger: quiet
        )
        let serving = Task { await listener.serve(admit: admit, handler: handler) }
        let client = try await HBONEClient(credentials: client, logger: quiet)
        let address = try Authority(host: "127.0.0.1", port: listener.localAddress.port)
        let pair = MeshPair(
            listener: listener,
            client: client,
            peer: HBONEPeer(address, expecting: expectation),
            authority: try Authority(parsing: "echo.example:7")
        )
        let result: Result<Void, any Error>
        do { result = .success(try await body(pair)) } catch { result = .failure(error) }
        await client.shutDown(deadline: .seconds(20))
        await listener.close()
        await serving.value
        var buffers = 0
        for loop in group.loops { buffers += try await loop.execute { loop.buffers.buffersInUse } }
        await group.shutDown()
        try result.get()
        guard buffers == 0 else { throw DeadlineExceeded("\(buffers) buffers did not come back to the pool") }
    }

    func withStream<Success>(
        headers: HeaderFields = [:],
        _ body: (HBONEStream) async throws -> Success
    ) async throws -> Success {
        try await client.withStream(to: authority, through: peer, headers: headers, body)
    }

    static let echo: @Sendable (HBONEStream) async throws -> Void = { stream in
        for try await chunk in stream.inbound { try await stream.write(chunk) }
    }
}

/// What handlers and tests tell each other.
final class Notes<Value: Sendable>: Sendable {
    private let values = Mutex<[Value]>([])

    func add(_ value: Value) { values.withLock { $0.append(value) } }
    var all: [Value] { values.withLock { $0 } }

    func until(_ what: String, count: Int = 1) async throws -> [Value] {
        try await eventually(what) { all.count >= count }
        return all
    }
}

final class Counter: Sendable {
    private let count = Mutex(0)
    func add(_ amount: Int) { count.withLock { $0 += amount } }
    var value: Int { count.withLock { $0 } }
}

/// Closed until somebody opens it.
final class Gate: Sendable {
    private let isOpen = Mutex(false)
    func open() { isOpen.withLock { $0 = true } }
    func wait() async throws { try await eventually("the gate opens") { isOpen.withLock { $0 } } }
}

extension HBONEStream {
    /// Reads to the end; returns how many bytes there were and their checksum.
    func readAll() async throws -> (count: Int, checksum: String) {
        var checksum = Checksum()
        var count = 0
        while let chunk = try await read() {
            chunk.withUnsafeBytes { checksum.update($0) }
            count += chunk.count
        }
        return (count, checksum.finish())
    }

    func readText() async throws -> String {
        var bytes: [UInt8] = []
        while let chunk = try await read() { bytes += chunk }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Writes so many bytes of a pattern in pieces of odd lengths.
    func writePattern(_ count: Int, seed: UInt64 = 1) async throws {
        let bytes = Pattern.bytes(count, seed: seed)
        var start = 0
        var size = 1
        while start < count {
            let end = min(count, start + size)
            try await write(bytes[start..<end])
            start = end
            size = size * 3 % 100_003
        }
    }
}

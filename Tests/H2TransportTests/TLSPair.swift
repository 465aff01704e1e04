import MeshIdentity
import Streams
import TestPeers

@testable import H2Transport

/// How one side of a test connection presents itself and whom it accepts.
struct TLSSide: Sendable {
    var credential: TestCertificates.Kind? = .client
    var trust: TrustBundleSet?
    var expecting = PeerExpectation.anyTrusted
    var options: TLSContext.Options?
    var serverName: String?
    var recordsPerKey = TLSEngine.recordsPerKey
    var job = Endpoint.Job()
    var aes = AESGCM.ofThisProcess

    static let client = TLSSide()
    static let server = TLSSide(credential: .server)

    func with(_ change: (inout TLSSide) -> Void) -> TLSSide {
        var side = self
        change(&side)
        return side
    }

    func context(_ role: TLSContext.Role) throws -> TLSContext {
        let certificates = TestCertificates.shared
        let trust = try trust ?? TrustBundleSet(certificates.bundle())
        let credential = try certificates.credential(credential ?? .client)
        return try TLSContext(
            role: role,
            key: credential.key,
            chain: self.credential == nil ? [] : credential.chain,
            trust: trust,
            options: options,
            aes: aes
        )
    }

    func stream(over lower: ByteStream, _ role: TLSContext.Role) throws -> TLSStream {
        try TLSStream(
            over: lower,
            context: context(role),
            expecting: expecting,
            serverName: serverName,
            recordsPerKey: recordsPerKey
        )
    }
}

/// What came of one side: the handshake, then the job where it succeeded.
struct TLSOutcome: Sendable {
    var peer: TLSPeer?
    var refusal: StreamError?
    var endpoint: EndpointOutcome?

    /// How this side learned that there is no connection: in the handshake or by its first read.
    var failure: StreamError? {
        if let refusal { return refusal }
        guard case .failed(let code, let message) = endpoint?.ending else { return nil }
        return StreamError(code, message)
    }
}

enum LowerStreams: Sendable {
    case sockets
    case tcp
    case memory(MemoryStream.Temper?)
}

/// A loop of its own for a test, shut down at its end.
func withLoop<Result: Sendable>(_ body: (EventLoop) async throws -> Result) async throws -> Result {
    let loop = EventLoop(name: "test")
    do {
        let result = try await body(loop)
        await loop.shutDown()
        return result
    } catch {
        await loop.shutDown()
        throw error
    }
}

/// Runs a handshake and then both jobs; returns when both sides are done. Checks that all pooled buffers are back.
func runPair(
    client: TLSSide = .client,
    server: TLSSide = .server,
    over lower: LowerStreams = .sockets
) async throws -> (client: TLSOutcome, server: TLSOutcome) {
    try await withLoop { loop in
        let (near, far) = try await lower.pair(on: loop)
        let result = try await withCheckedThrowingContinuation { continuation in
            loop.submit {
                do {
                    let collector = Collector { continuation.resume(returning: $0) }
                    try near.withValue { near in try client.run(over: near, .client) { collector.client = $0 } }
                    try far.withValue { far in try server.run(over: far, .server) { collector.server = $0 } }
                } catch {
                    continuation.resume(throwing: error)
                }
            }
        }
        try await eventually("all buffers are back") { try await loop.execute { loop.buffers.buffersInUse == 0 } }
        return result
    }
}

extension LowerStreams {
    func pair(on loop: EventLoop) async throws -> (LoopBound<ByteStream>, LoopBound<ByteStream>) {
        switch self {
        case .sockets:
            try await loop.execute {
                let (near, far) = try Socket.pair(on: loop)
                return (LoopBound(near, on: loop), LoopBound(far, on: loop))
            }
        case .memory(let temper):
            try await loop.execute {
                let (near, far) = MemoryStream.pair(on: loop, temper: temper)
                return (LoopBound(near, on: loop), LoopBound(far, on: loop))
            }
        case .tcp: try await Self.tcpPair(on: loop)
        }
    }

    private static func tcpPair(on loop: EventLoop) async throws -> (LoopBound<ByteStream>, LoopBound<ByteStream>) {
        let (accepted, continuation) = AsyncStream.makeStream(of: LoopBound<ByteStream>.self)
        let listener = try await loop.execute {
            let listener = try Listener(bind: SocketAddress(ip: "127.0.0.1", port: 0), on: loop) {
                continuation.yield(LoopBound($0, on: loop))
            }
            return LoopBound(listener, on: loop)
        }
        let address = try await loop.execute { listener.withValue { $0.localAddress } }
        let near = try await Dialer.connect(to: .address(address), on: loop) { LoopBound<ByteStream>($0, on: loop) }
        var arrivals = accepted.makeAsyncIterator()
        guard let far = await arrivals.next() else { throw DeadlineExceeded("nothing was accepted") }
        try await loop.execute { listener.withValue { $0.close() } }
        return (near, far)
    }
}

extension TLSSide {
    /// On the loop. `done` is called once.
    func run(over lower: ByteStream, _ role: TLSContext.Role, done: @escaping (TLSOutcome) -> Void) throws {
        let stream = try stream(over: lower, role)
        stream.startHandshake { result in
            switch result {
            case .failure(let error):
                stream.close()
                done(TLSOutcome(refusal: error))
            case .success(let peer):
                var endpoint: Endpoint?
                endpoint = Endpoint(stream, job) { outcome in
                    done(TLSOutcome(peer: peer, endpoint: outcome))
                    endpoint = nil
                }
                endpoint?.start()
            }
        }
    }
}

/// Waits for both sides.
private final class Collector {
    var client: TLSOutcome? { didSet { check() } }
    var server: TLSOutcome? { didSet { check() } }
    private let completion: ((client: TLSOutcome, server: TLSOutcome)) -> Void

    init(completion: @escaping ((client: TLSOutcome, server: TLSOutcome)) -> Void) { self.completion = completion }

    private func check() {
        if let client, let server { completion((client, server)) }
    }
}

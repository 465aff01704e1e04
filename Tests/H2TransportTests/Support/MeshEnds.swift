import H2Transport
import Logging
import MeshIdentity
import Platform
import Streams
import TestPeers

/// An HBONE server that dials what it is asked for, as a node would where policy allows everything. Confined to its
/// loop.
final class RelayingServer {
    private(set) var server: HBONEServer?
    private(set) var listener: Listener?
    private(set) var requests: [ConnectRequest] = []
    private(set) var peers: [SPIFFEID?] = []
    private(set) var results: [RelayResult] = []
    /// Requests for this destination are answered with this instead.
    var rejection: ConnectRejection?
    var port: UInt16 { listener?.localAddress.port ?? 0 }

    init(
        on loop: EventLoop,
        credential: TestCertificates.Kind = .server,
        configuration: HBONEServer.Configuration = .defaults
    ) throws {
        let context = try TLSSide(credential: credential).context(.server)
        let server = try HBONEServer(
            on: loop,
            context: context,
            configuration: configuration,
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        ) { [unowned self] in answer($0, on: loop) }
        self.server = server
        let bound = LoopBound(server, on: loop)
        listener = try Listener(bind: SocketAddress(ip: "127.0.0.1", port: 0), on: loop) { socket in
            bound.withValue { $0.accept(socket) }
        }
    }

    private func answer(_ pending: PendingConnect, on loop: EventLoop) {
        requests.append(pending.request)
        peers.append(pending.peer)
        if let rejection { return pending.reject(rejection) }
        guard let address = try? SocketAddress(ip: pending.destination.host, port: pending.destination.port) else {
            return pending.reject(ConnectRejection(StreamError(.badRequest, "not an address")))
        }
        Dialer.connect(to: .address(address), on: loop) { result in
            switch result {
            case .failure(let error): pending.reject(ConnectRejection(error))
            case .success(let socket):
                guard let stream = pending.accept() else { return socket.reset(StreamError(.closed, "gave up")) }
                Relay(stream, socket) { self.results.append($0) }.start()
            }
        }
    }

    func close() {
        listener?.close()
        server?.close()
    }
}

/// The client side: a pool, and what it was told. Confined to its loop.
final class PoolUser {
    let pool: H2ClientPool
    var endpoint: H2Endpoint
    private(set) var streams: [StreamEnd] = []
    private(set) var failures: [ConnectFailure] = []
    private(set) var connected = 0
    private(set) var draining = 0
    private(set) var dialFailures: [StreamError] = []
    private(set) var disconnected: [StreamError?] = []
    private(set) var relayed: [RelayResult] = []

    init(
        on loop: EventLoop,
        port: UInt16,
        credential: TestCertificates.Kind = .client,
        expecting: PeerExpectation = .anyTrusted,
        configuration: H2ClientPool.Configuration = .defaults
    ) throws {
        pool = try H2ClientPool(on: loop, configuration: configuration)
        endpoint = .tcp(
            try SocketAddress(ip: "127.0.0.1", port: port),
            context: try TLSSide(credential: credential).context(.client),
            expecting: expecting
        )
        pool.onChange = { [unowned self] _, change in
            switch change {
            case .connected: connected += 1
            case .failed(let error): dialFailures.append(error)
            case .disconnected(_, let reason): disconnected.append(reason)
            case .draining: draining += 1
            }
        }
    }

    func open(
        _ authority: String,
        method: ConnectRequest.Method = .connect,
        keepsBytes: Bool = false,
        readLimit: Int = .max
    ) {
        pool.openStream(ConnectRequest(authority: authority, method: method), to: endpoint) { result in
            switch result {
            case .success(let stream):
                self.streams.append(StreamEnd(stream, keepsBytes: keepsBytes, readLimit: readLimit))
            case .failure(let failure): self.failures.append(failure)
            }
        }
    }

    /// Joins a socket with a tunnel, as a node does; the other end of the pair is appended to ``streams``.
    func relay(_ authority: String) throws {
        let (inside, outside) = try Socket.pair(on: pool.loop)
        pool.openStream(ConnectRequest(authority: authority), to: endpoint) { result in
            switch result {
            case .success(let stream):
                Relay(inside, stream) { self.relayed.append($0) }.start()
                self.streams.append(StreamEnd(outside, keepsBytes: false))
            case .failure(let failure):
                self.failures.append(failure)
                inside.reset(failure.error)
                outside.close()
            }
        }
    }

    func close() {
        for end in streams { end.stream.close() }
        pool.close()
    }
}

/// A TCP server whose connections are aborted once something has been read. Confined to its loop.
final class AbortingServer {
    private var listener: Listener?
    private var ends: [StreamEnd] = []
    var port: UInt16 { listener?.localAddress.port ?? 0 }
    var reads: Int { ends.reduce(0) { $0 + $1.receivedCount } }

    init(on loop: EventLoop) throws {
        let bound = LoopBound(Reference(self), on: loop)
        listener = try Listener(bind: SocketAddress(ip: "127.0.0.1", port: 0), on: loop) { socket in
            bound.withValue { $0.object?.ends.append(StreamEnd(socket)) }
        }
    }

    func abort() {
        for end in ends { end.stream.reset(StreamError(.reset, "the backend aborts")) }
    }

    func close() {
        abort()
        listener?.close()
    }

    private final class Reference {
        weak var object: AbortingServer?
        init(_ object: AbortingServer) { self.object = object }
    }
}

import H2Transport
import Streams
import TestPeers
import Testing

/// A server with two clients: a well-behaved one, whose upload must arrive whole whatever the other one does. Confined
/// to its loop.
final class AttackedServer {
    let configuration: H2Configuration
    private(set) var connections: [(connection: H2Connection, log: ConnectionLog)] = []
    private var listener: Listener?
    /// What becomes of requests of the attacker; those of the other client are accepted.
    var onRequest: ((PendingConnect) -> Void)?
    /// Readers of the attacker's streams read up to here.
    var readLimit = Int.max
    var streams: [StreamEnd] = []
    fileprivate var upload: StreamEnd?
    private var bystander: H2Connection?
    fileprivate var uploader: StreamEnd?

    var port: UInt16 { listener?.localAddress.port ?? 0 }
    var attacker: H2Connection? { connections.count > 1 ? connections[1].connection : nil }
    var attackerLog: ConnectionLog? { connections.count > 1 ? connections[1].log : nil }

    init(on loop: EventLoop, _ configuration: H2Configuration) throws {
        self.configuration = configuration
        let bound = LoopBound(Reference(self), on: loop)
        listener = try Listener(bind: SocketAddress(ip: "127.0.0.1", port: 0), on: loop) { socket in
            bound.withValue { $0.object?.accept(socket) }
        }
    }

    private func accept(_ socket: Socket) {
        let log = ConnectionLog()
        let isAttacker = !connections.isEmpty
        log.onRequest = { [unowned self] pending in
            if isAttacker {
                if let onRequest { return onRequest(pending) }
                if let stream = pending.accept() {
                    streams.append(StreamEnd(stream, keepsBytes: false, readLimit: readLimit))
                }
            } else if let stream = pending.accept() {
                upload = StreamEnd(stream, keepsBytes: false)
            }
        }
        guard
            let connection = try? H2Connection(
                over: socket,
                role: .server,
                configuration: configuration,
                delegate: log
            )
        else { return }
        connections.append((connection, log))
    }

    func addBystander(_ socket: Socket) throws {
        let connection = try H2Connection(over: socket, role: .client)
        bystander = connection
        connection.openStream(ConnectRequest(authority: "10.0.0.9:9")) { [unowned self] result in
            if case .success(let stream) = result { uploader = StreamEnd(stream) }
        }
    }

    func close() {
        listener?.close()
        for end in streams { end.stream.close() }
        upload?.stream.close()
        uploader?.stream.close()
        bystander?.abort(StreamError(.closed, "the test is over"))
        for (connection, _) in connections { connection.abort(StreamError(.closed, "the test is over")) }
    }

    private final class Reference {
        weak var object: AttackedServer?
        init(_ object: AttackedServer) { self.object = object }
    }
}

/// Half of the well-behaved client's upload.
private let half = 300_000

/// Runs an attack on our server. Before it and after it, another client's bytes arrive, in order and complete;
/// afterwards nothing is held that the attack left.
func withAttackedServer(
    _ configuration: H2Configuration,
    settings: [String] = [],
    _ attack: (OnLoop<AttackedServer>, FramePeer) async throws -> Void
) async throws {
    try await withLoop { loop in
        let server = try await OnLoop<AttackedServer>(loop) { try AttackedServer(on: loop, configuration) }
        let address = try SocketAddress(ip: "127.0.0.1", port: try await server { $0.port })
        try await Dialer.connect(to: .address(address), on: loop) { socket in
            try server.value { try $0.addBystander(socket) }
        }
        try await server.until("the other client's stream opens") { $0.uploader != nil && $0.upload != nil }
        try await server { $0.uploader?.send(half, seed: 1, finish: false) }
        try await server.until("its first bytes arrive") { $0.upload?.receivedCount == half }

        let peer = try FramePeer.hostileClient(port: address.port, settings: settings)
        try await server.until("the attacker connects") { $0.connections.count == 2 }
        try await attack(server, peer)

        try await server { $0.uploader?.send(half, seed: 2) }
        try await server.until("the other client's upload ends") { $0.upload?.readEnded == true }
        let checksum = try await server { $0.upload?.takeChecksum() }
        #expect(checksum == expectedChecksum)
        try await server { $0.close() }
        try await server.until("nothing is held for the attacker") { server in
            server.connections.allSatisfy { $0.connection.heldBytes == 0 }
        }
        try await eventually("the budget is balanced") { configuration.memory.held == 0 }
        await peer.process.stop()
    }
}

private var expectedChecksum: String { Checksum.of(Pattern.bytes(half, seed: 1) + Pattern.bytes(half, seed: 2)) }

/// A client with two connections: one to a hostile server, one to a server of ours. Confined to its loop.
final class AttackedClient {
    let connection: H2Connection
    let log = ConnectionLog()
    var streams: [StreamEnd] = []
    var failures: [ConnectFailure] = []
    var readLimit = Int.max
    fileprivate let others: H2Pair
    fileprivate var uploader: StreamEnd?
    fileprivate var upload: StreamEnd?

    init(_ socket: Socket, _ configuration: H2Configuration) throws {
        connection = try H2Connection(over: socket, role: .client, configuration: configuration, delegate: log)
        let (first, second) = MemoryStream.pair(on: socket.loop)
        others = try H2Pair(first, second)
        others.open { [unowned self] in
            uploader = StreamEnd($0)
            upload = StreamEnd($1, keepsBytes: false)
        }
    }

    func open(_ authority: String = "10.0.0.1:80") {
        connection.openStream(ConnectRequest(authority: authority)) { [unowned self] result in
            switch result {
            case .success(let stream):
                streams.append(StreamEnd(stream, keepsBytes: false, readLimit: readLimit))
            case .failure(let failure): failures.append(failure)
            }
        }
    }

    func close() {
        for end in streams { end.stream.close() }
        uploader?.stream.close()
        upload?.stream.close()
        connection.abort(StreamError(.closed, "the test is over"))
        others.client.abort(StreamError(.closed, "the test is over"))
        others.server.abort(StreamError(.closed, "the test is over"))
    }
}

/// Runs an attack of a server on our client; see ``withAttackedServer(_:settings:_:)``.
func withAttackedClient(
    _ configuration: H2Configuration,
    settings: [String] = [],
    _ attack: (OnLoop<AttackedClient>, FramePeer) async throws -> Void
) async throws {
    try await withLoop { loop in
        let (peer, address) = try await FramePeer.hostileServer(settings: settings)
        let client = OnLoop(
            try await Dialer.connect(to: .address(address), on: loop) { socket in
                LoopBound(try AttackedClient(socket, configuration), on: loop)
            }
        )
        try await client.until("the other stream opens") { $0.uploader != nil && $0.upload != nil }
        try await client { $0.uploader?.send(half, seed: 1, finish: false) }
        try await client.until("its first bytes arrive") { $0.upload?.receivedCount == half }
        // Until the server's SETTINGS have come, one stream is assumed: the next would be refused.
        try await client.until("the server says how many streams it takes") { $0.connection.availableStreams > 1 }

        try await attack(client, peer)

        try await client { $0.uploader?.send(half, seed: 2) }
        try await client.until("the other upload ends") { $0.upload?.readEnded == true }
        let checksum = try await client { $0.upload?.takeChecksum() }
        #expect(checksum == expectedChecksum)
        try await client { $0.close() }
        try await client.until("nothing is held for the attacker") { $0.connection.heldBytes == 0 }
        try await eventually("the budget is balanced") { configuration.memory.held == 0 }
        await peer.process.stop()
    }
}

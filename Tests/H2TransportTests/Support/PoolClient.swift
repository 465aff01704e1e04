import MeshIdentity
import Streams
import TestPeers
import Testing

@testable import H2Transport

/// A pool whose connections lead to the peers one after the other, without TLS: the n-th dial reaches the n-th peer.
final class PoolClient {
    let pool: H2ClientPool
    private(set) var streams: [StreamEnd] = []
    private(set) var failures: [ConnectFailure] = []
    private(set) var dials = 0
    /// Those that are up and take streams.
    var connections: [H2Connection] { pool.connections(to: key) }
    /// Called once, from inside the next completion.
    var onOpen: (() -> Void)?
    private let addresses: [SocketAddress]

    init(_ addresses: [SocketAddress], on loop: EventLoop, _ configuration: H2ClientPool.Configuration) throws {
        self.addresses = addresses
        pool = try H2ClientPool(on: loop, configuration: configuration)
    }

    private var key: H2Endpoint.Key {
        // It needs some object for a credential.
        H2Endpoint.Key(credential: ObjectIdentifier(pool), expectation: .anyTrusted, location: "test")
    }

    func open() {
        let endpoint = H2Endpoint(key: key) { [self] loop, completion in
            let address = addresses[min(dials, addresses.count - 1)]
            dials += 1
            Dialer.connect(to: .address(address), on: loop) { result in
                completion(result.map { $0 })
            }
        }
        pool.openStream(ConnectRequest(authority: "10.0.0.1:80"), to: endpoint) { result in
            switch result {
            case .success(let stream): self.streams.append(StreamEnd(stream))
            case .failure(let failure): self.failures.append(failure)
            }
            let onOpen = self.onOpen
            self.onOpen = nil
            onOpen?()
        }
    }

    func close() {
        for end in streams { end.stream.close() }
        pool.close()
    }
}

func withPeers(
    _ count: Int,
    configuration: H2ClientPool.Configuration = .defaults,
    _ body: (OnLoop<PoolClient>, [FramePeer]) async throws -> Void
) async throws {
    try await withLoop { loop in
        var peers: [FramePeer] = []
        var addresses: [SocketAddress] = []
        for _ in 0..<count {
            let (peer, address) = try await FramePeer.server()
            peers.append(peer)
            addresses.append(address)
        }
        let ours = try await OnLoop(loop) { [addresses] in try PoolClient(addresses, on: loop, configuration) }
        try await body(ours, peers)
        try await ours { $0.close() }
        for peer in peers { await peer.process.stop() }
    }
}

/// The peer answers the request on stream 1, and bytes pass both ways.
func serve(_ peer: FramePeer, _ ours: OnLoop<PoolClient>, count: Int = 1, stream: Int = 1) async throws {
    try await peer.event("RequestReceived") { $0["stream_id"] == stream }
    try peer.send("headers \(stream) :status=200", "data \(stream) hello")
    try await ours.until("the tunnel opens") { $0.streams.count == count && $0.streams[count - 1].text == "hello" }
    try await ours { $0.streams[count - 1].send("answer") }
    try await peer.event("DataReceived") { $0["stream_id"] == stream && $0.text == "answer" }
    let failures = try await ours { $0.failures }
    #expect(failures == [])
}

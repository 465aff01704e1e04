import H2Transport
import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

/// What a path does when its peer ends connections.
@Suite(.timeLimit(.minutes(10))) struct ReconnectTests {
    /// How a peer ends each of its connections.
    enum Ending: String, CaseIterable, Sendable {
        case goAway, badFrame, fin, reset

        /// SETTINGS, and what comes behind them.
        var frames: [UInt8] {
            let settings: [UInt8] = [0, 0, 0, 4, 0, 0, 0, 0, 0]
            switch self {
            case .goAway: return settings + [0, 0, 8, 7, 0, 0, 0, 0, 0] + [UInt8](repeating: 0, count: 8)
            // WINDOW_UPDATE of one byte.
            case .badFrame: return settings + [0, 0, 1, 8, 0, 0, 0, 0, 0, 0]
            case .fin, .reset: return settings
            }
        }
    }

    /// A TLS server that says so much on each connection and ends it. Confined to its loop.
    final class Peer {
        private(set) var connections = 0
        private(set) var listener: Listener?
        private var streams: [TLSStream] = []

        init(_ ending: Ending, on loop: EventLoop) throws {
            let certificates = TestCertificates.shared
            let context = try TLSContext(
                role: .server,
                credential: certificates.credential(.server),
                trust: TrustBundleSet(certificates.bundle())
            )
            let bound = LoopBound(Weak(self), on: loop)
            let shared = LoopBound(context, on: loop)
            listener = try Listener(bind: SocketAddress(ip: "127.0.0.1", port: 0), on: loop) { socket in
                bound.withValue { weak in shared.withValue { weak.peer?.accept(socket, $0, ending) } }
            }
        }

        private func accept(_ socket: Socket, _ context: TLSContext, _ ending: Ending) {
            connections += 1
            let stream = TLSStream(over: socket, context: context, expecting: .anyTrusted)
            streams.append(stream)
            stream.startHandshake { _ in
                _ = ending.frames.withUnsafeBytes { stream.write($0) }
                guard ending == .reset else { return stream.finish() }
                // Once SETTINGS are out.
                stream.loop.later { stream.reset(StreamError(.reset, "the peer ends")) }
            }
        }

        private final class Weak {
            weak var peer: Peer?
            init(_ peer: Peer) { self.peer = peer }
        }
    }

    /// The client: its paths, and what became of what was asked of them. Confined to its loop.
    final class Client {
        let paths: PeerPaths
        private(set) var errors: [StreamError] = []

        init(port: UInt16, on loop: EventLoop) throws {
            let certificates = TestCertificates.shared
            let context = try TLSContext(
                role: .client,
                credential: certificates.credential(.client),
                trust: TrustBundleSet(certificates.bundle())
            )
            paths = PeerPaths(
                to: PeerAccess(
                    name: "peer",
                    transports: [.h2],
                    hbone: [try Authority(parsing: "127.0.0.1:\(port)")],
                    expectation: .anyTrusted,
                    login: nil
                ),
                context: context,
                on: loop,
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            ) { _ in }
        }

        func open() throws {
            paths.openStream(to: try Authority(parsing: "10.0.0.1:80")) { result in
                if case .failure(let error) = result { self.errors.append(error) }
            }
        }
    }

    @Test(
        "a peer that ends each connection at once is not dialled for nobody, and no request waits for ever",
        arguments: Ending.allCases
    )
    func storm(_ ending: Ending) async throws {
        let loop = EventLoop(name: "test")
        let peer = try await loop.execute { LoopBound(try Peer(ending, on: loop), on: loop) }
        let port = try await loop.execute { peer.withValue { $0.listener?.localAddress.port ?? 0 } }
        let client = try await loop.execute { LoopBound(try Client(port: port, on: loop), on: loop) }
        func connections() async throws -> Int { try await loop.execute { peer.withValue(\.connections) } }

        try await loop.execute { client.withValue { $0.paths.start() } }
        try await eventually("the path is tried") { try await connections() > 0 }
        // Time in which nothing may happen: it was dialled some hundred times a second.
        try await Task.sleep(for: .milliseconds(500))
        let first = try await connections()
        #expect(first <= 3)

        try await loop.execute { try client.withValue { try $0.open() } }
        try await eventually("the request fails") {
            try await loop.execute { client.withValue { $0.errors.count == 1 } }
        }
        let second = try await connections()
        #expect(second - first <= 12, "\(second - first) connections for one request")
        try await Task.sleep(for: .milliseconds(500))
        let third = try await connections()
        #expect(third - second <= 3)

        try await loop.execute {
            client.withValue { $0.paths.shutDown() }
            peer.withValue { $0.listener?.close() }
        }
        await loop.shutDown()
    }

    @Test("clients that keep coming do not make it be dialled for each of them", arguments: Ending.allCases)
    func stormOfClients(_ ending: Ending) async throws {
        let loop = EventLoop(name: "test")
        let peer = try await loop.execute { LoopBound(try Peer(ending, on: loop), on: loop) }
        let port = try await loop.execute { peer.withValue { $0.listener?.localAddress.port ?? 0 } }
        let client = try await loop.execute { LoopBound(try Client(port: port, on: loop), on: loop) }
        // A new one whenever those before it have failed.
        let end = ContinuousClock.now + .seconds(3)
        var asked = 0
        while ContinuousClock.now < end {
            asked = try await loop.execute { [asked] in
                try client.withValue {
                    guard $0.errors.count == asked else { return asked }
                    try $0.open()
                    return asked + 1
                }
            }
            try await Task.sleep(for: .milliseconds(1))
        }
        let connections = try await loop.execute { peer.withValue(\.connections) }
        // 0.1, 0.2, 0.4, 0.8 and 1 s after one another, and the first two at once.
        #expect(connections <= 10, "\(connections) connections for \(asked) clients in 3 s")
        try await loop.execute {
            client.withValue { $0.paths.shutDown() }
            peer.withValue { $0.listener?.close() }
        }
        await loop.shutDown()
    }
}

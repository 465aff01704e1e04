import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshPaths

/// The way to several servers, with servers that answer.
@Suite(.timeLimit(.minutes(10))) struct ServersSourceTests {
    /// A server that gives each request the same answer. Confined to its loop.
    final class Peer {
        private(set) var listener: Listener?
        private(set) var requests = 0
        private var server: HBONEServer?
        private var streams: [ByteStream] = []
        private let refusal: StreamError?

        init(_ kind: TestCertificates.Kind, refusing refusal: StreamError?, on loop: EventLoop) throws {
            self.refusal = refusal
            let certificates = TestCertificates.shared
            let context = try TLSContext(
                role: .server,
                credential: certificates.credential(kind),
                trust: TrustBundleSet(certificates.bundle())
            )
            let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            server = try HBONEServer(on: loop, context: context, logger: quiet) { [weak self] in self?.answer($0) }
            let bound = LoopBound(Weak(self), on: loop)
            listener = try Listener(bind: SocketAddress(ip: "127.0.0.1", port: 0), on: loop) { socket in
                bound.withValue { weak in weak.peer?.accept(socket) }
            }
        }

        private func accept(_ socket: Socket) { server?.accept(socket) }

        private func answer(_ request: PendingConnect) {
            requests += 1
            if let refusal {
                request.reject(ConnectRejection(refusal))
            } else if let stream = request.accept() {
                streams.append(stream)
            }
        }

        func close() {
            listener?.close()
            server?.abort()
        }

        private final class Weak {
            weak var peer: Peer?
            init(_ peer: Peer) { self.peer = peer }
        }
    }

    /// The way, and what became of what was asked of it. Confined to its loop.
    final class Client {
        private(set) var source: ServersSource?
        /// In the order of the servers.
        private(set) var tunnels: [TunnelSource] = []
        private(set) var streams: [H2Stream] = []
        private(set) var failures: [StreamError.Code?] = []
        private(set) var idleCount = 0
        private let loop: EventLoop
        /// The server that is not connected before ``letGo(_:)``.
        private let heldPort: UInt16?
        private var held: [(StreamError?) -> Void] = []

        init(to ports: [UInt16], holding heldPort: UInt16?, on loop: EventLoop) throws {
            self.loop = loop
            self.heldPort = heldPort
            let certificates = TestCertificates.shared
            let context = try TLSContext(
                role: .client,
                credential: certificates.credential(.client),
                trust: TrustBundleSet(certificates.bundle())
            )
            let source = ServersSource(
                name: "peer",
                to: try Self.servers(ports),
                on: loop,
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
                context: context,
                settings: ConnectionSettings()
            ) { [weak self] server, context, settings in
                let tunnel = TunnelSource(
                    over: { [weak self] completion in self?.dial(server, completion) },
                    as: .h2,
                    context: context,
                    expecting: .anyTrusted,
                    settings: settings,
                    on: loop
                )
                self?.tunnels.append(tunnel)
                return tunnel
            }
            source.events.idle = { [weak self] in self?.idleCount += 1 }
            self.source = source
        }

        private static func servers(_ ports: [UInt16]) throws -> [Authority] {
            try ports.map { try Authority(parsing: "127.0.0.1:\($0)") }
        }

        private func dial(
            _ server: Authority,
            _ completion: @escaping (Result<ByteStream, StreamError>) -> Void
        ) {
            guard server.port == heldPort else { return connect(server.port, completion) }
            held.append { [weak self] error in
                if let error { completion(.failure(error)) } else { self?.connect(server.port, completion) }
            }
        }

        private func connect(_ port: UInt16, _ completion: @escaping (Result<ByteStream, StreamError>) -> Void) {
            guard let address = try? SocketAddress(ip: "127.0.0.1", port: port) else { return }
            Dialer.connect(to: .address(address), on: loop) { result in completion(result.map { $0 }) }
        }

        /// Connects what was held up, or has it fail.
        func letGo(_ error: StreamError? = nil) {
            let dials = held
            held = []
            for dial in dials { dial(error) }
        }

        /// - Parameter ports: Those of the servers that are left.
        func end(_ ending: Ending, leaving ports: [UInt16]) throws {
            let servers = try Self.servers(ports)
            switch ending {
            case .fails: letGo(StreamError(.unreachable, "no route"))
            case .isNoneAnyMore: source?.use(servers)
            case .isLetGo: reset()
            }
        }

        func reset() { source?.reset() }

        func open() throws {
            let authority = try Authority(parsing: "10.0.0.1:80")
            source?.open(to: authority, headers: [:]) { [weak self] result in
                switch result {
                case .success(let stream):
                    if let stream = stream as? H2Stream { self?.streams.append(stream) }
                case .failure(let failure): self?.failures.append(failure.error?.code)
                }
            }
        }

        /// How many of the servers are connected.
        var connected: Int { tunnels.count { $0.peer != nil } }
        /// Streams that are with none of the servers.
        var waiting: Int { (source?.streamCount ?? 0) - tunnels.reduce(0) { $0 + $1.streamCount } }
        var outcomes: Int { streams.count + failures.count }
    }

    private let loop = EventLoop(name: "test")

    private func peer(
        _ kind: TestCertificates.Kind = .server,
        refusing refusal: StreamError? = nil
    ) async throws -> LoopBound<Peer> {
        try await loop.execute { [loop] in LoopBound(try Peer(kind, refusing: refusal, on: loop), on: loop) }
    }

    private func port(of peer: LoopBound<Peer>) async throws -> UInt16 {
        try await loop.execute { peer.withValue { $0.listener?.localAddress.port ?? 0 } }
    }

    /// A client that is connected with those that are not held up.
    private func client(to ports: [UInt16], holding held: UInt16? = nil) async throws -> LoopBound<Client> {
        let client = try await loop.execute { [loop] in
            LoopBound(try Client(to: ports, holding: held, on: loop), on: loop)
        }
        try await loop.execute { client.withValue { $0.source?.establish() } }
        let count = ports.count - (held == nil ? 0 : 1)
        try await until("\(count) are connected", client) { $0.connected == count }
        return client
    }

    private func until(
        _ what: String,
        _ client: LoopBound<Client>,
        _ condition: @escaping @Sendable (Client) -> Bool
    ) async throws {
        try await eventually(what) { try await loop.execute { client.withValue { condition($0) } } }
    }

    private func open(_ client: LoopBound<Client>) async throws {
        try await loop.execute { try client.withValue { try $0.open() } }
    }

    private func end(_ client: LoopBound<Client>, _ peers: [LoopBound<Peer>]) async throws {
        try await loop.execute {
            client.withValue { $0.reset() }
            for peer in peers { peer.withValue { $0.close() } }
        }
        await loop.shutDown()
    }

    @Test func aStreamWaitsForAServerThatIsBeingTried() async throws {
        let empty = try await peer(refusing: StreamError(.refused, "nobody listens"))
        let good = try await peer()
        let (first, second) = (try await port(of: empty), try await port(of: good))
        let client = try await client(to: [first, second], holding: second)
        try await open(client)
        try await until("the stream waits", client) { $0.waiting == 1 }
        try await loop.execute { client.withValue { $0.letGo() } }
        try await until("the second one takes it", client) { $0.streams.count == 1 }
        let (failures, waiting) = try await loop.execute { client.withValue { ($0.failures.count, $0.waiting) } }
        #expect(failures == 0 && waiting == 0)
        let requests = try await loop.execute { empty.withValue(\.requests) }
        #expect(requests == 1)
        try await end(client, [empty, good])
    }

    /// Whoever asks for more than one server can carry must not fill the memory while the others connect.
    @Test func onlySoManyStreamsWait() async throws {
        let empty = try await peer(refusing: StreamError(.refused, "nobody listens"))
        let good = try await peer()
        let (first, second) = (try await port(of: empty), try await port(of: good))
        let client = try await client(to: [first, second], holding: second)
        try await loop.execute { client.withValue { $0.source?.waitingLimit = 2 } }
        for _ in 0..<3 { try await open(client) }
        try await until("the third is told so", client) { $0.failures.count == 1 }
        let (failures, waiting) = try await loop.execute { client.withValue { ($0.failures, $0.waiting) } }
        let expected: [StreamError.Code?] = [.limit]
        #expect(failures == expected && waiting == 2)
        try await loop.execute { client.withValue { $0.letGo() } }
        try await until("those that wait are served", client) { $0.streams.count == 2 }
        // There is room again, and nothing is left of the one that was refused.
        try await open(client)
        try await until("the next is served", client) { $0.streams.count == 3 }
        try await end(client, [empty, good])
    }

    /// What becomes of the server that a stream waits for.
    enum Ending: CaseIterable, Sendable { case fails, isNoneAnyMore, isLetGo }

    @Test(arguments: Ending.allCases) func noStreamWaitsForNobody(_ ending: Ending) async throws {
        let empty = try await peer(refusing: StreamError(.refused, "nobody listens"))
        let first = try await port(of: empty)
        let second = FreePort.next()
        let client = try await client(to: [first, second], holding: second)
        try await open(client)
        try await until("the stream waits", client) { $0.waiting == 1 }
        try await loop.execute { try client.withValue { try $0.end(ending, leaving: [first]) } }
        try await until("it has the answer of the first one", client) { $0.outcomes == 1 }
        let (failures, waiting) = try await loop.execute { client.withValue { ($0.failures, $0.waiting) } }
        let expected: [StreamError.Code?] = [.refused]
        #expect(failures == expected)
        #expect(waiting == 0)
        try await end(client, [empty])
    }

    @Test func whoseDestinationDoesNotAnswerIsLeftOut() async throws {
        let slow = try await peer(refusing: StreamError(.timedOut, "no answer"))
        let good = try await peer()
        let client = try await client(to: [try await port(of: slow), try await port(of: good)])
        // The one that has no stream is asked first.
        var (opened, failed) = (0, 0)
        while failed < 5, opened < 20 {
            try await open(client)
            opened += 1
            try await until("an answer", client) { [opened] in $0.outcomes == opened }
            failed = try await loop.execute { client.withValue(\.failures.count) }
        }
        try await open(client)
        try await until("an answer", client) { [opened] in $0.outcomes == opened + 1 }
        let failures = try await loop.execute { client.withValue(\.failures) }
        #expect(failures == [StreamError.Code?](repeating: .timedOut, count: 5))
        let states = try await loop.execute { client.withValue { ($0.source?.servers ?? []).map(\.state) } }
        #expect(states == [.ejected, .up])
        let requests = try await loop.execute { slow.withValue(\.requests) }
        #expect(requests == 5)
        try await end(client, [slow, good])
    }

    @Test func eachStreamKnowsItsServer() async throws {
        let (one, other) = (try await peer(.server), try await peer(.intruder))
        let client = try await client(to: [try await port(of: one), try await port(of: other)])
        try await open(client)
        try await until("a stream", client) { $0.streams.count == 1 }
        try await open(client)
        try await until("two streams", client) { $0.streams.count == 2 }
        let (names, common, hasTime) = try await loop.execute {
            client.withValue {
                ($0.streams.compactMap { $0.peer?.description }, $0.source?.peer, $0.source?.roundTripTime != nil)
            }
        }
        let expected: Set = ["spiffe://mesh.example/ns/prod/sa/server", "spiffe://mesh.example/ns/intruder/sa/client"]
        #expect(Set(names) == expected)
        #expect(common == nil)
        #expect(hasTime)
        try await end(client, [one, other])
    }

    @Test func itIsIdleWhenAllOfThemAre() async throws {
        let (one, other) = (try await peer(), try await peer())
        let client = try await client(to: [try await port(of: one), try await port(of: other)])
        /// Has one of them say that it is idle. Returns how often the path has said so.
        func rest(_ index: Int) async throws -> Int {
            try await loop.execute {
                client.withValue {
                    $0.tunnels[index].events.idle()
                    return $0.idleCount
                }
            }
        }
        var counts = [try await rest(0), try await rest(1)]
        #expect(counts == [0, 1])
        try await open(client)
        try await until("a stream", client) { $0.streams.count == 1 }
        let used = try await loop.execute { client.withValue { $0.tunnels.firstIndex { $0.streamCount == 1 } ?? 0 } }
        counts = [try await rest(1 - used), try await rest(used)]
        #expect(counts == [1, 2])
        try await end(client, [one, other])
    }
}

import Glibc
import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshPaths

/// How a path finds out that nothing comes from its peer any more.
@Suite(.timeLimit(.minutes(10))) struct SilenceTests {
    /// A path whose second connection takes its time; its keep-alive is too patient to matter. Confined to its loop.
    final class Client {
        private(set) var path: TunnelSource?
        private(set) var isUp = false
        private(set) var downs: [StreamError] = []
        private(set) var failures = 0
        private(set) var dials = 0
        private(set) var streams: [ByteStream] = []
        private let address: SocketAddress
        private let loop: EventLoop
        private var timer: LoopTimer?

        init(port: UInt16, on loop: EventLoop) throws {
            self.loop = loop
            address = try SocketAddress(ip: "127.0.0.1", port: port)
            let certificates = TestCertificates.shared
            let context = try TLSContext(
                role: .client,
                credential: certificates.credential(.client),
                trust: TrustBundleSet(certificates.bundle())
            )
            var settings = ConnectionSettings()
            settings.keepAlive = .seconds(600)
            settings.keepAliveTimeout = .seconds(600)
            let path = TunnelSource(
                over: { [weak self] completion in self?.dial(completion) },
                as: .h2,
                context: context,
                expecting: .anyTrusted,
                settings: settings,
                on: loop
            )
            path.events.up = { [weak self] in self?.isUp = true }
            path.events.down = { [weak self] error, _ in
                self?.isUp = false
                self?.downs.append(error)
            }
            self.path = path
        }

        private func dial(_ completion: @escaping (Result<ByteStream, StreamError>) -> Void) {
            dials += 1
            guard dials > 1 else { return connect(completion) }
            // Longer than the path waits between two looks.
            let timer = LoopTimer(on: loop) { [weak self] in self?.connect(completion) }
            self.timer = timer
            timer.schedule(after: .milliseconds(700))
        }

        private func connect(_ completion: @escaping (Result<ByteStream, StreamError>) -> Void) {
            Dialer.connect(to: .address(address), on: loop) { result in completion(result.map { $0 }) }
        }

        func open() throws {
            let authority = try Authority(parsing: "10.0.0.1:80")
            path?.open(to: authority, headers: [:]) { [weak self] result in
                switch result {
                case .success(let stream): self?.streams.append(stream)
                case .failure: self?.failures += 1
                }
            }
        }

        func send(_ index: Int) {
            _ = [UInt8](repeating: 0, count: 100).withUnsafeBytes { streams[index].write($0) }
        }
    }

    /// Runs `body` while nothing happens on `loop`: its connections stand, and nobody answers.
    private func whileSilent(_ loop: EventLoop, _ body: () async throws -> Void) async throws {
        let (reader, writer) = try CloseOnExec.pipe()
        let isSilent = Lock(false)
        loop.submit {
            isSilent.withLock { $0 = true }
            var byte: UInt8 = 0
            _ = read(reader, &byte, 1)
            _ = close(reader)
        }
        defer { _ = close(writer) }
        try await eventually("the peer falls silent") { isSilent.withLock { $0 } }
        try await body()
    }

    @Test("a slow answer is granted more time, up to a bound; a long round trip all that it takes")
    func patience() {
        #expect(AnswerTime.allowed(nil, slowestAnswer: .zero) == .milliseconds(800))
        #expect(AnswerTime.allowed(.milliseconds(500), slowestAnswer: .seconds(1)) == .seconds(2))
        #expect(AnswerTime.allowed(.milliseconds(1), slowestAnswer: .milliseconds(1500)) == .seconds(3))
        #expect(AnswerTime.allowed(.milliseconds(1), slowestAnswer: .seconds(60)) == .seconds(4))
        #expect(AnswerTime.allowed(.seconds(2), slowestAnswer: .seconds(60)) == .seconds(8))
        // It is in what people are told: "no answer to PING within 1.619 seconds".
        #expect("\(AnswerTime.allowed(.nanoseconds(404_640_472)))" == "1.619 seconds")
        #expect("\(AnswerTime.allowed(nil, slowestAnswer: .nanoseconds(809_280_943)))" == "1.619 seconds")
    }

    /// A login that nobody needs costs the machine more than the answer that it is late with.
    @Test("the way around is begun as late as it may be, and never before the answer could be there")
    func suspicion() {
        func begin(_ roundTrip: Duration?, login: Duration?) -> Duration {
            AnswerTime.unsuspicious(
                roundTrip,
                allowed: AnswerTime.allowed(roundTrip),
                preparation: AnswerTime.preparation(roundTrip, login: login)
            )
        }
        // Nearby: a login that takes 80 ms is begun when 600 have gone, one of which nothing is known after 300.
        #expect(begin(.zero, login: .milliseconds(80)) == .milliseconds(600))
        #expect(begin(nil, login: nil) == .milliseconds(300))
        // With a session that is there, there is hardly anything to do.
        #expect(begin(.zero, login: .zero) == .milliseconds(700))
        // Far away: as soon as the answer is late.
        #expect(begin(.milliseconds(100), login: nil) == .milliseconds(125))
        #expect(begin(.milliseconds(100), login: .milliseconds(700)) == .milliseconds(125))
        #expect(begin(.seconds(1), login: nil) == .milliseconds(1250))
        #expect(begin(.zero, login: .seconds(20)) == .milliseconds(100), "somebody was asked for a password")
        // One that was granted more time because it was slow before is not suspected any sooner than it must be.
        let patient = AnswerTime.allowed(.zero, slowestAnswer: .seconds(1))
        #expect(
            AnswerTime.unsuspicious(.zero, allowed: patient, preparation: .milliseconds(500)) == .milliseconds(1500)
        )
    }

    @Test("a connection that was made while a request waited for it is asked, too, when it falls silent")
    func replacement() async throws {
        let (near, far) = (EventLoop(name: "near"), EventLoop(name: "far"))
        let peer = try await far.execute { LoopBound(try AcceptingPeer(on: far), on: far) }
        let port = try await far.execute { peer.withValue { $0.listener?.localAddress.port ?? 0 } }
        let client = try await near.execute { LoopBound(try Client(port: port, on: near), on: near) }

        try await near.execute { client.withValue { $0.path?.establish() } }
        try await eventually("the path is up") { try await near.execute { client.withValue { $0.isUp } } }
        try await near.execute { try client.withValue { try $0.open() } }
        try await eventually("a stream opens") {
            try await near.execute { client.withValue { $0.streams.count == 1 } }
        }
        // It goes on, and its connection is replaced.
        try await far.execute { peer.withValue { $0.drain() } }
        try await eventually("another connection is made") {
            try await near.execute { client.withValue { $0.dials == 2 } }
        }
        try await near.execute { try client.withValue { try $0.open() } }
        try await eventually("a stream opens on it") {
            try await near.execute { client.withValue { $0.streams.count == 2 } }
        }
        try await whileSilent(far) {
            try await near.execute { client.withValue { $0.send(1) } }
            try await eventually("the path is in doubt, and refuses another stream") {
                try await near.execute {
                    try client.withValue {
                        try $0.open()
                        return $0.failures > 0 && !$0.isUp
                    }
                }
            }
        }

        try await near.execute { client.withValue { $0.path?.reset() } }
        try await far.execute { peer.withValue { $0.close() } }
        await near.shutDown()
        await far.shutDown()
    }

    @Test("a peer that pauses keeps its streams; who asks for another one meanwhile is told to look elsewhere")
    func pause() async throws {
        let (near, far) = (EventLoop(name: "near"), EventLoop(name: "far"))
        let peer = try await far.execute { LoopBound(try AcceptingPeer(on: far), on: far) }
        let port = try await far.execute { peer.withValue { $0.listener?.localAddress.port ?? 0 } }
        let client = try await near.execute { LoopBound(try Client(port: port, on: near), on: near) }
        try await near.execute { client.withValue { $0.path?.establish() } }
        try await eventually("the path is up") { try await near.execute { client.withValue { $0.isUp } } }
        try await near.execute { try client.withValue { try $0.open() } }
        try await eventually("a stream opens") {
            try await near.execute { client.withValue { $0.streams.count == 1 } }
        }
        try await whileSilent(far) {
            try await near.execute {
                try client.withValue {
                    $0.send(0)
                    // Its answer is awaited when the doubt arises.
                    try $0.open()
                }
            }
            try await eventually("the request is given back, and the path is down") {
                try await near.execute { client.withValue { $0.failures == 1 && !$0.isUp } }
            }
            let (failure, code) = try await near.execute {
                client.withValue { ($0.streams[0].failure, $0.downs.first?.code) }
            }
            #expect(failure == nil)
            #expect(code == .timedOut)
        }
        try await eventually("the path is back") { try await near.execute { client.withValue { $0.isUp } } }
        try await near.execute { client.withValue { $0.send(0) } }
        try await eventually("every byte of the stream arrives") {
            try await far.execute { peer.withValue { $0.readAll() == 200 } }
        }
        try await near.execute { try client.withValue { try $0.open() } }
        try await eventually("another stream opens") {
            try await near.execute { client.withValue { $0.streams.count == 2 } }
        }
        let dials = try await near.execute { client.withValue(\.dials) }
        #expect(dials == 1)

        try await near.execute { client.withValue { $0.path?.reset() } }
        try await far.execute { peer.withValue { $0.close() } }
        await near.shutDown()
        await far.shutDown()
    }
}

import CLinux
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

/// What becomes of paths when addresses of this machine come and go.
@Suite(.timeLimit(.minutes(10))) struct NetworkChangeTests {
    private let h2 = PathID(.h2)
    private let ssh = PathID(.ssh)
    private let lost = StreamError(.unreachable, "network is unreachable")

    @Test("a pause of the better path ends with a change")
    func pauseEnds() {
        var selector = PathSelector(paths: [h2, ssh])
        _ = selector.wanted(now: 0)
        _ = selector.wentDown(h2, lost, now: 1)
        _ = selector.cameUp(ssh, now: 2)
        #expect(selector.inUse == ssh)
        #expect(selector.networkChanged(isWanted: true, now: 3) == [.connect(h2)])
        // It is under way already.
        #expect(selector.networkChanged(isWanted: true, now: 4) == [])
    }

    @Test("without a path the first one is tried at once where somebody wants one, and for nobody none")
    func withoutAPath() {
        var selector = PathSelector(paths: [h2, ssh])
        _ = selector.wanted(now: 0)
        _ = selector.wentDown(h2, lost, now: 1)
        _ = selector.wentDown(ssh, lost, now: 2)
        #expect(selector.networkChanged(isWanted: false, now: 3) == [])
        #expect(selector.networkChanged(isWanted: true, now: 4) == [.connect(h2)])
    }

    @Test("a refusal is no matter of addresses")
    func refusalStays() {
        var selector = PathSelector(paths: [h2, ssh])
        _ = selector.wanted(now: 0)
        _ = selector.wentDown(h2, StreamError(.authentication, "another identity"), now: 1)
        #expect(selector.networkChanged(isWanted: true, now: 2) == [])
    }

    @Test func pausesOfServersEnd() throws {
        let first = try Authority(parsing: "10.0.0.1:15008")
        let second = try Authority(parsing: "10.0.0.2:15008")
        var choice = ServerChoice([first, second])
        _ = choice.wanted(now: 0)
        choice.cameUp(first, now: 1)
        _ = choice.wentDown(second, lost, now: 2)
        #expect(choice.tick(now: 3) == [])
        #expect(choice.hurry(now: 4) == [second])
        #expect(choice.hurry(now: 5) == [])
    }

    /// Paths to a peer, and who tells them of changes. Confined to its loop.
    private final class Client {
        let paths: PeerPaths
        private var watch: NetworkWatch?
        private(set) var changes: [PathChange] = []
        private(set) var opened = 0
        private(set) var failures: [StreamError] = []

        init(to authority: Authority, on loop: EventLoop) throws {
            let certificates = TestCertificates.shared
            let context = try TLSContext(
                role: .client,
                credential: certificates.credential(.client),
                trust: TrustBundleSet(certificates.bundle())
            )
            let told = Told()
            paths = PeerPaths(
                to: PeerAccess(
                    name: "peer",
                    transports: [.h2],
                    hbone: [authority],
                    expectation: .anyTrusted,
                    login: nil
                ),
                context: context,
                on: loop,
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            ) { told.client?.changes.append($0) }
            paths.staysConnected = true
            told.client = self
            watch = try NetworkWatch(on: loop) { [weak paths] in paths?.networkChanged($0) }
        }

        private final class Told {
            weak var client: Client?
        }

        func open() throws {
            paths.openStream(to: try Authority(parsing: "10.0.0.1:80")) { result in
                switch result {
                case .success: self.opened += 1
                case .failure(let error): self.failures.append(error)
                }
            }
        }

        func close() {
            watch?.close()
            paths.shutDown()
        }
    }

    /// An event loop whose sockets are another machine's.
    private func loop(_ machines: SeparateMachines, _ side: SeparateMachines.Side) async throws -> EventLoop {
        let file = String(machines.on(side)[1].dropFirst("--net=".count))
        let loop = EventLoop(name: "\(side)")
        let result = try await loop.execute {
            let descriptor = Glibc.open(file, O_RDONLY | O_CLOEXEC)
            defer { Glibc.close(descriptor) }
            return clinux_enter_network(descriptor)
        }
        try #require(result == 0)
        return loop
    }

    @Test("a machine whose address is another one now has its path again, and the reason says so")
    func anotherAddress() async throws {
        guard geteuid() == 0 else {
            print("not tested, since it needs root: a change of this machine's address")
            return
        }
        let machines = try await SeparateMachines()
        try await machines.run(.far, ["ip", "address", "add", "10.9.0.2/24", "dev", "wire"])
        try await machines.run(.near, ["ip", "address", "add", "10.9.0.1/24", "dev", "wire"])
        let far = try await loop(machines, .far)
        let near = try await loop(machines, .near)
        let server = try await far.execute { LoopBound(try AcceptingPeer(on: far, address: "10.9.0.2"), on: far) }
        let port = try await far.execute { server.withValue { $0.listener?.localAddress.port ?? 0 } }
        let authority = try Authority(parsing: "10.9.0.2:\(port)")
        let client = try await near.execute { LoopBound(try Client(to: authority, on: near), on: near) }
        try await near.execute { try client.withValue { try $0.open() } }
        try await eventually("a stream") { try await near.execute { client.withValue { $0.opened == 1 } } }

        let before = ContinuousClock.now
        try await machines.run(.near, ["ip", "address", "del", "10.9.0.1/24", "dev", "wire"])
        try await machines.run(.near, ["ip", "address", "add", "10.9.0.3/24", "dev", "wire"])
        let changed = ContinuousClock.now
        try await eventually("the path is there again") {
            try await near.execute { client.withValue { $0.changes.count > 1 && $0.paths.pathInUse != nil } }
        }
        try await near.execute { try client.withValue { try $0.open() } }
        try await eventually("another stream") { try await near.execute { client.withValue { $0.opened == 2 } } }
        let (sinceNew, sinceOld) = (ContinuousClock.now - changed, ContinuousClock.now - before)
        print("address changed: a stream \(sinceNew) after the new one, \(sinceOld) after the old one was taken away")
        let reasons = try await near.execute { client.withValue { $0.changes.map { "\($0)" } } }
        #expect(reasons.contains { $0.contains("this machine has the address 10.9.0.1 no more") }, "\(reasons)")

        try await near.execute { client.withValue { $0.close() } }
        try await far.execute { server.withValue { $0.close() } }
        await near.shutDown()
        await far.shutDown()
    }
}

import Foundation
import H2Transport
import MeshIdentity
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode
@testable import MeshPaths

/// Ports on which a node listens for its peers: for whom, for how long, and how many.
@Suite(.timeLimit(.minutes(3))) struct PeerListenerTests {
    private final class Bench: Sendable {
        let directory = TemporaryDirectory()
        let node: Node
        let log = LogRecorder()
        let hbone: UInt16
        /// Where its clients live.
        let loop = EventLoop(name: "clients")
        let backend: EchoServer

        /// - Parameter endpoints: Of the node.
        init(_ endpoints: String, loops: Int = 1) async throws {
            backend = try EchoServer()
            let file = try directory.write("node.yaml", Self.yaml(endpoints, backend.port))
            node = Node(
                try NodeConfiguration.check(file),
                configurationFile: file,
                loops: loops,
                logger: log.logger
            )
            hbone = try #require(try await node.start().first).address.port
        }

        private static func yaml(_ endpoints: String, _ backend: UInt16) -> String {
            """
            \(NodeFile.server(identity: TestCertificates.shared.path(.server), ports: [backend]))
            \(endpoints.isEmpty ? "" : "endpoints: [\(endpoints)]")
            """
        }

        func reload(_ endpoints: String) async throws {
            try directory.write("node.yaml", Self.yaml(endpoints, backend.port))
            try await node.reload()
        }

        func connect(as kind: TestCertificates.Kind = .client) async throws -> AskingPeer.Bound {
            try await AskingPeer.connect(to: hbone, on: loop, as: kind)
        }

        var workers: [LoopBound<Worker>] { node.state.withLock { $0.workers } }

        /// Where the node listens for its peers, on each event loop.
        func places() async throws -> [[String]] {
            var all: [[String]] = []
            for worker in workers {
                all.append(
                    try await worker.loop.execute {
                        worker.withValue {
                            $0.live.connections.values.compactMap { ($0 as? PeerListener)?.place.description }
                        }
                    }
                )
            }
            return all
        }

        func stop() async {
            await node.drain(deadline: .zero)
            await loop.shutDown()
        }
    }

    private static func allowing(_ port: UInt16, at address: String? = nil) -> String {
        let address = address.map { ", address: \"\($0):*\"" } ?? ""
        return "{match: \"listen.bootstrap:\(port)\"\(address), direct: true}"
    }

    private static func allowingAll() -> String { "{match: \"listen.bootstrap:*\", direct: true}" }

    /// One that is gone has the port, on an event loop that has no time yet: meanwhile the rules change.
    @Test("what is allowed no more while one that is gone makes room is refused") func changedDuringTheWait()
        async throws
    {
        let bench = try await Bench(Self.allowingAll(), loops: 2)
        // By the event loop of the node that each of them is on. Loops learn of a reload in their order.
        var peers: [Int: (peer: AskingPeer.Bound, port: UInt16)] = [:]
        while peers.count < 2 {
            let (peer, port) = (try await bench.connect(), FreePort.next())
            #expect(try await peer.askToListen(port).failure == nil)
            let loop = try await bench.places().firstIndex { $0.contains("127.0.0.1:\(port)") }
            peers[try #require(loop)] = (peer, port)
        }
        let (gone, port) = try #require(peers[1])
        let asking = try #require(peers[0]).peer
        try await gone.die()
        try await eventually("it is gone") { bench.node.resumptions.detached == 1 }

        let mayGoOn = DispatchSemaphore(value: 0)
        bench.workers[1].loop.submit { mayGoOn.wait() }
        async let answer = asking.askToListen(port)
        // Requests are taken in their order.
        #expect(try await asking.ask("127.0.0.1:\(bench.backend.port)").failure == nil)
        async let reloaded: Void = bench.reload("")
        let first = bench.workers[0]
        try await eventually("the loop of who asks knows of the reload") {
            try await first.loop.execute { first.withValue { $0.snapshot.configuration.endpoints.isEmpty } }
        }
        mayGoOn.signal()
        let refusal = try await answer
        #expect(refusal.response?.status == 403, "\(refusal)")
        try await reloaded
        try await eventually("nobody listens") { bench.node.ports.count == 0 }
        await bench.stop()
    }

    @Test("one that is gone makes room for the same identity, also where the address overlaps, and for no other")
    func makesRoom() async throws {
        let port = FreePort.next()
        let bench = try await Bench(Self.allowing(port, at: "0.0.0.0"), loops: 2)
        let gone = try await bench.connect()
        #expect(try await gone.askToListen(port).failure == nil)
        let other = try await bench.connect()
        let inUse = try await other.askToListen(port)
        #expect(inUse.response?.status == 503 && "\(inUse)".contains("another process does"), "\(inUse)")
        try await gone.die()
        try await eventually("it is gone") { bench.node.resumptions.detached == 1 }
        let stranger = try await bench.connect(as: .server)
        #expect(try await stranger.askToListen(port).response?.status == 503)
        let answer = try await other.askToListen(port, on: "*")
        #expect(answer.failure == nil && answer.response?.headers["x-listen"] == "0.0.0.0:\(port)", "\(answer)")
        #expect(bench.node.ports.count == 1)
        await bench.stop()
    }

    @Test("a reload ends what it does not allow any more, and nothing else") func reload() async throws {
        let port = FreePort.next()
        let bench = try await Bench(Self.allowing(port))
        let peer = try await bench.connect()
        #expect(try await peer.askToListen(port).failure == nil)
        #expect(try await peer.askToListen(port, on: "127.0.0.2").failure == nil)
        // More is allowed, less, and something else: they are on loopback.
        for address in ["0.0.0.0", "[::]", nil, "127.0.0.3"] {
            try await bench.reload(Self.allowing(port, at: address))
            let places = try await bench.places().joined().sorted()
            #expect(places == ["127.0.0.1:\(port)", "127.0.0.2:\(port)"], "\(address ?? "")")
        }
        try await peer.die()
        try await bench.reload("")
        #expect(try await bench.places().joined().isEmpty)

        try await bench.reload(Self.allowing(port, at: "0.0.0.0"))
        let next = try await bench.connect()
        #expect(try await next.askToListen(port, on: "*").response?.headers["x-listen"] == "0.0.0.0:\(port)")
        try await bench.reload(Self.allowing(port))
        #expect(try await bench.places().joined().isEmpty, "that was for all addresses")
        await bench.stop()
    }

    @Test("a node that stops begins to listen nowhere: the client is to ask another one") func draining() async throws {
        let port = FreePort.next()
        let bench = try await Bench(Self.allowing(port))
        let peer = try await bench.connect()
        #expect(try await peer.ask("127.0.0.1:\(bench.backend.port)").failure == nil)
        // As between the first GOAWAY and the second one.
        let worker = bench.workers[0]
        try await worker.loop.execute { worker.withValue { $0.live.startDraining() } }
        let answer = try await peer.askToListen(port)
        #expect(answer.response == nil && answer.failure?.isRefusal == true, "\(answer)")
        #expect(try await bench.places().joined().isEmpty)
        await bench.stop()
    }

    @Test("an identity has so many ports, on all of its connections together; those of one that is gone make room")
    func limits() async throws {
        let bench = try await Bench(Self.allowingAll(), loops: 2)
        let peers = [try await bench.connect(), try await bench.connect()]
        for number in 0..<64 { #expect(try await peers[number % 2].askToListen(FreePort.next()).failure == nil) }
        let refusal = try await peers[1].askToListen(FreePort.next())
        #expect(refusal.response?.status == 503 && "\(refusal)".contains("64 ports for this identity"), "\(refusal)")
        #expect("\(refusal)".contains("end a `connect -R`"), "\(refusal)")
        #expect(bench.log.lines.contains { $0.contains("does not listen") && $0.contains("64 ports") })
        let other = try await bench.connect(as: .server)
        #expect(try await other.askToListen(FreePort.next()).failure == nil)

        // It lets go of one.
        try await peers[1].loop.execute {
            peers[1].withValue { $0.streams[0].reset(StreamError(.closed, "it is not needed any more")) }
        }
        try await eventually("its port is free") { bench.node.ports.count == 64 }
        #expect(try await peers[1].askToListen(FreePort.next()).failure == nil)
        #expect(try await peers[0].askToListen(FreePort.next()).response?.status == 503)

        // One of its machines is gone, and has 32.
        try await peers[0].die()
        try await eventually("they wait for it") { bench.node.resumptions.detached == 32 }
        #expect(try await peers[1].askToListen(FreePort.next()).failure == nil)
        #expect(bench.node.resumptions.detached == 31 && bench.node.ports.count == 65)
        await bench.stop()
        #expect(bench.node.ports.count == 0)
    }
}

import Foundation
import H2Transport
import MeshIdentity
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode
@testable import MeshPaths

/// Streams over connections that a device holds to its gateway: those that one does not take go over another, and those
/// that can go on do so when theirs is lost.
@Suite(.timeLimit(.minutes(10))) struct ReverseResumptionTests {
    /// The client asks to resume, and the gateway passes that on.
    private static let asks =
        "- {match: \"cam.mesh:*\", hbone: \"GATEWAY\", identity: \"\(ReverseNodes.gatewayID)\", resumable: true}"

    /// Holds a connection to the gateway as the device does, and takes no stream. Confined to its loop.
    private final class Refuser: H2ConnectionDelegate {
        enum Way: String, Sendable { case refuses, dies }

        private var stream: TLSStream?
        private var connection: H2Connection?
        private(set) var asked = 0

        init(_ way: Way, to port: UInt16, on loop: EventLoop) throws {
            let certificates = TestCertificates.shared
            let context = try TLSContext(
                role: .client,
                credential: certificates.credential(.server),
                trust: TrustBundleSet(certificates.bundle()),
                options: TLSContext.Options(applicationProtocols: [ReverseProtocol.name])
            )
            let address = try SocketAddress(ip: "127.0.0.1", port: port)
            Dialer.connect(to: .address(address), on: loop) { [self] result in
                guard case .success(let socket) = result else { return }
                let stream = TLSStream(over: socket, context: context, expecting: .anyTrusted)
                self.stream = stream
                stream.startHandshake { [self] _ in
                    // Without a delegate HTTP/2 answers each request with REFUSED_STREAM.
                    connection = try? H2Connection(over: stream, role: .server, delegate: way == .dies ? self : nil)
                }
            }
        }

        func connection(_ connection: H2Connection, received request: PendingConnect) {
            asked += 1
            connection.abort(StreamError(.reset, "the device dies"))
        }

        func connection(_ connection: H2Connection, closed reason: StreamError?) {}
        func connectionHasCapacity(_ connection: H2Connection) {}
    }

    /// The newest connection is asked first: what it does not take is asked for on the other one.
    @Test(arguments: [(Refuser.Way.refuses, 1), (.refuses, 4), (.dies, 1), (.dies, 4)])
    private func aStreamThatOneConnectionDoesNotTakeGoesOverAnother(way: Refuser.Way, loops: Int) async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(to: backend.port, loops: loops)
        try await nodes.held()
        let loop = EventLoop(name: "refuser")
        let refuser = try await loop.execute {
            LoopBound(try Refuser(way, to: nodes.port, on: loop), on: loop)
        }
        try await eventually("it holds a connection, too") {
            nodes.gatewayLog.lines.filter { $0.contains("holds a connection to this node") }.count == 2
        }
        for number in 0..<6 {
            let bytes = Pattern.bytes(1000, seed: UInt64(number))
            let port = number % 2 == 0 ? nodes.gatewayEntry : nodes.entry
            let (received, ending) = try await TCPClient.exchange(port: port, sending: bytes)
            #expect(received == bytes && ending == .endOfStream, "\(way) \(number): \(received.count) \(ending)")
        }
        let asked = try await loop.execute { refuser.withValue { $0.asked } }
        #expect(asked == (way == .dies ? 1 : 0))
        await loop.shutDown()
        await nodes.stop()
    }

    /// Those of the gateway itself, and those of its client. With several loops, most are on another one than the
    /// connection that carries them.
    @Test(arguments: [1, 4]) func streamsGoOnWhenTheConnectionIsMadeAgain(loops: Int) async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(
            to: backend.port,
            loops: loops,
            client: Self.asks,
            links: 1,
            gatewayEndpoint: ", resumable: true"
        )
        try await nodes.held()
        var talks: [TCPConversation] = []
        for number in 0..<24 {
            let talk = try await TCPConversation(port: number % 2 == 0 ? nodes.entry : nodes.gatewayEntry)
            #expect(try await talk.echo([7]) == [7])
            talks.append(talk)
        }
        nodes.links[0].cut(every: 2_000_000)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (number, talk) in talks.enumerated() {
                group.addTask {
                    let sent = Pattern.bytes(1 + (number * 7_919) % 220_000, seed: UInt64(number))
                    let received = try await talk.echo(sent)
                    #expect(Checksum.of(received) == Checksum.of(sent), "stream \(number)")
                }
            }
            try await group.waitForAll()
        }
        nodes.links[0].cut(every: .max)
        nodes.links[0].cut()
        #expect(nodes.links[0].cuts >= 2)
        // Those that are idle, and their ends.
        for (number, talk) in talks.enumerated() {
            let (rest, ending) = try await talk.end()
            #expect(ending == .endOfStream && rest == 0, "stream \(number): \(rest) bytes after the last")
        }
        #expect(backend.accepted == talks.count)
        let held = [nodes.client, nodes.gateway, nodes.device].map(\.resumptions)
        try await eventually("nothing is kept of streams that are over") {
            held.allSatisfy { $0.held == 0 && $0.detached == 0 }
        }
        await nodes.stop()
    }

    /// As after each renewal of its certificate.
    @Test(arguments: [1, 4]) func streamsGoAlongWhenTheDeviceMakesAnotherConnection(loops: Int) async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(
            to: backend.port,
            loops: loops,
            device: "connections: {maximumAge: 1s}",
            client: Self.asks,
            links: 1,
            gatewayEndpoint: ", resumable: true"
        )
        try await nodes.held()
        var talks: [TCPConversation] = []
        for number in 0..<6 {
            let talk = try await TCPConversation(port: number % 2 == 0 ? nodes.entry : nodes.gatewayEntry)
            #expect(try await talk.echo([7]) == [7])
            talks.append(talk)
        }
        // The device dials again whether or not any stream moves. Where none does, what it has let go of stays.
        let link = nodes.links[0]
        try await eventually("five connections, one after the other") { link.accepted >= 5 }
        try await eventually("the last one is left") { link.open == 1 }
        for (number, talk) in talks.enumerated() {
            let sent = Pattern.bytes(50_000, seed: UInt64(number))
            #expect(try await talk.echo(sent) == sent, "stream \(number)")
            let (rest, ending) = try await talk.end()
            #expect(ending == .endOfStream && rest == 0)
        }
        #expect(backend.accepted == talks.count)
        await nodes.stop()
    }

    /// Nothing ends the connection within the time limit of this suite: only that it does not answer.
    @Test(arguments: [1, 4]) func streamsLeaveAConnectionThatHasFallenSilent(loops: Int) async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(
            to: backend.port,
            loops: loops,
            device: "connections: {keepAlive: 1h, keepAliveTimeout: 1h}",
            client: Self.asks,
            links: 2,
            starts: false
        )
        nodes.links[1].close()
        #expect(try await nodes.device.start().isEmpty)
        try await nodes.held()
        // The newest has the streams.
        try nodes.links[1].reopen()
        try await eventually("both are held") {
            nodes.gatewayLog.lines.filter { $0.contains("holds a connection to this node") }.count == 2
        }
        var talks: [TCPConversation] = []
        for _ in 0..<4 {
            let talk = try await TCPConversation(port: nodes.entry)
            #expect(try await talk.echo([1]) == [1])
            talks.append(talk)
        }
        nodes.links[1].silence()
        for (number, talk) in talks.enumerated() {
            let bytes = Pattern.bytes(50_000, seed: UInt64(number))
            #expect(try await talk.echo(bytes) == bytes, "stream \(number)")
            let (_, ending) = try await talk.end()
            #expect(ending == .endOfStream)
        }
        await nodes.stop()
    }

    /// The device's own word ends the search: nobody waits for a minute.
    @Test func whoseDeviceWasStartedAnewIsResetAtOnce() async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(to: backend.port, loops: 2, client: Self.asks, links: 1)
        try await nodes.held()
        let talk = try await TCPConversation(port: nodes.entry)
        #expect(try await talk.echo([1]) == [1])
        nodes.links[0].close()
        try await eventually("the device knows") { nodes.device.resumptions.detached == 1 }
        await nodes.device.drain(deadline: .zero)
        let file = nodes.directory.path("device.yaml")
        let log = LogRecorder()
        let again = Node(try NodeConfiguration.check(file), configurationFile: file, loops: 1, logger: log.logger)
        #expect(try await again.start().isEmpty)
        try nodes.links[0].reopen()
        let (_, ending) = try await talk.end(finishing: false)
        #expect(ending == .broken(ECONNRESET))
        #expect(!log.lines.contains { $0.contains("was not resumed") }, "another process need not be asked")
        await again.drain(deadline: .zero)
        await nodes.stop()
    }

    /// What the device does not promise, the gateway does not promise either.
    @Test(arguments: [true, false]) func theGatewayPromisesWhatTheDeviceDoes(isOn: Bool) async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(
            to: backend.port,
            device: "connections: {resumable: \(isOn)}",
            client: Self.asks,
            links: 1
        )
        try await nodes.held()
        let client = try await HBONEClient(
            credentials: .directory(TestCertificates.shared.path(.client)),
            logger: LogRecorder().logger
        )
        let peer = HBONEPeer(
            try Authority(parsing: "127.0.0.1:\(nodes.port)"),
            expecting: .identities([try SPIFFEID(ReverseNodes.gatewayID)])
        )
        let promises = Lock<Bool?>(nil)
        // It says nothing that a resumable stream says, and may hear of it before it has left.
        try? await client.withStream(
            to: try Authority(parsing: "cam.mesh:\(backend.port)"),
            through: peer,
            headers: ["resumable": "1"]
        ) { stream in promises.withLock { $0 = stream.response.headers["resumable"] != nil } }
        #expect(promises.withLock { $0 } == isOn)
        await client.shutDown()
        let talk = try await TCPConversation(port: nodes.entry)
        #expect(try await talk.echo([1]) == [1])
        nodes.links[0].cut()
        if isOn {
            #expect(try await talk.echo([2]) == [2])
            _ = try await talk.end()
        } else {
            let (_, ending) = try await talk.end(finishing: false)
            #expect(ending == .broken(ECONNRESET))
        }
        await nodes.stop()
    }

    @Test("a reset is a reset at the other end, also where there is no carrier", arguments: [1, 4])
    func resets(loops: Int) async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(to: backend.port, loops: loops, client: Self.asks, links: 1)
        try await nodes.held()
        for isLost in [false, true] {
            let before = backend.transfers.count
            var talk: TCPConversation? = try await TCPConversation(port: nodes.entry)
            _ = try await talk?.echo([1])
            if isLost {
                nodes.links[0].close()
                try await eventually("the device knows") { nodes.device.resumptions.detached == 1 }
                // A reset that the gateway sends before it knows is lost with the connection: then the device learns
                // of it by time only (resumeTimeout).
                try await nodes.gatewayLog.line(containing: "holds a connection no more")
            }
            talk?.resetWhenGone()
            talk = nil
            if isLost { try nodes.links[0].reopen() }
            try await eventually("the backend sees a reset") {
                backend.transfers.dropFirst(before).first.map { $0.ending != .endOfStream } ?? false
            }
        }
        try await eventually("nothing is kept of them") { nodes.device.resumptions.detached == 0 }
        await nodes.stop()
    }
}

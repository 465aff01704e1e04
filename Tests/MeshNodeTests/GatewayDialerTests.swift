import Foundation
import H2Transport
import Logging
import MeshIdentity
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode
@testable import MeshPaths

/// What becomes of what a device holds when its configuration or its network changes.
@Suite(.timeLimit(.minutes(10))) struct GatewayDialerTests {
    /// What the kernel would tell the device's loops.
    private func tell(_ node: Node, _ change: NetworkChange) {
        for worker in node.state.withLock({ $0.workers }) {
            worker.loop.submit { worker.withValue { $0.networkChanged(change) } }
        }
    }

    private func count(_ words: String, in log: LogRecorder) -> Int { log.lines.count { $0.contains(words) } }

    @Test func aGatewayThatIsNamedNoMoreIsLeftAtOnce() async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(to: backend.port)
        try await nodes.held()
        let talk = try await TCPConversation(port: nodes.gatewayEntry)
        #expect(try await talk.echo([1]) == [1])
        let device = ReverseNodes.deviceYAML(
            gateways: [FreePort.next()],
            backend: backend.port,
            admin: nodes.deviceAdmin
        )
        try nodes.directory.write("device.yaml", device)
        try await nodes.device.reload()
        // Whoever takes a gateway away may have a reason not to trust it.
        let (_, ending) = try await talk.end(finishing: false)
        #expect(ending == .broken(ECONNRESET))
        try await nodes.gatewayLog.line(containing: "holds a connection no more")
        await nodes.stop()
    }

    @Test func whatIsHeldFromAnAddressThatIsGoneIsHeldAnew() async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(to: backend.port)
        try await nodes.held()
        // Another one's address is no reason.
        tell(nodes.device, NetworkChange(gone: [try #require(IPAddress("127.9.9.9"))]))
        tell(nodes.device, NetworkChange(gone: [.loopbackIPv4]))
        try await nodes.deviceLog.line(containing: "this machine has the address 127.0.0.1 no more")
        try await eventually("it is held anew") { count("reachable through the gateway", in: nodes.deviceLog) >= 3 }
        #expect(count("this machine has the address", in: nodes.deviceLog) == 1)
        #expect(try await TCPClient.exchange(port: nodes.entry, sending: [1]).received == [1])
        await nodes.stop()
    }

    /// It is asked, and answers.
    @Test func aChangeIsNoReasonToLeaveWhatAnswers() async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(to: backend.port, others: [FreePort.next()])
        try await nodes.held()
        let talk = try await TCPConversation(port: nodes.entry)
        for round in 1...3 {
            tell(nodes.device, NetworkChange())
            // The other gateway, where nobody listens, is dialled again: that is as often as the change has arrived.
            try await eventually("attempt \(round)") {
                count("no connection to the gateway", in: nodes.deviceLog) > round
            }
            #expect(try await talk.echo([UInt8(round)]) == [UInt8(round)])
        }
        #expect(count("not reachable through", in: nodes.deviceLog) == 0, "what answers is held as before")
        await nodes.stop()
    }

    /// A client that speaks with the device inside of a stream that the gateway carries has the gateway's address
    /// there, which may be loopback: it has not come over SSH for that, whatever it says.
    @Test func whatComesInsideOfAStreamIsNotBelievedToComeOverSSH() async throws {
        let backend = try EchoServer()
        let nodes = try await ReverseNodes(
            to: backend.port,
            address: "127.0.0.1:15008",
            device: "endpoints: [{match: \"cam.mesh:*\", address: \"127.0.0.1:\(backend.port)\", direct: true}]"
        )
        try await nodes.held()
        let certificates = TestCertificates.shared
        let client = try await HBONEClient(
            credentials: .directory(certificates.path(.client)),
            logger: Logger(label: "client")
        )
        let destination = try Authority(parsing: "cam.mesh:\(backend.port)")
        let gateway = HBONEPeer(try Authority(parsing: "127.0.0.1:\(nodes.port)"))
        let outer = try await client.openStream(to: destination, through: gateway)
        let context = try TLSContext(
            role: .client,
            credential: certificates.credential(.client),
            trust: TrustBundleSet(certificates.bundle())
        )
        let line = TraceLine(on: outer.loop, timeout: .seconds(120))
        let (peer, _): TraceLine.Outcome<TLSPeer> = await line.run("TLS") { line, completion in
            outer.withValue { line.take($0) }
            line.secure(context, expecting: .anyTrusted, completion)
        }
        #expect(try peer.get().identity?.description == ReverseNodes.deviceID)
        let (settled, _): TraceLine.Outcome<Void> = await line.run("HTTP/2") { $0.speak(.defaults, $1) }
        try settled.get()
        let (opened, _): TraceLine.Outcome<Int> = await line.run("CONNECT") {
            $0.connect(ConnectRequest(to: destination, headers: ["x-transport": "h2-over-ssh"]), $1)
        }
        #expect(try opened.get() == 200)
        await line.end()
        let logged = try #require(try await nodes.lines(1, of: "device").first)
        #expect(logged["over"] == "h2", "\(logged.text)")
        await client.shutDown()
        await nodes.stop()
    }
}

import Foundation
import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams
import TestDevices
import TestPeers
import Testing

@testable import MeshNode
@testable import MeshPaths
@testable import SSHSignal

/// A device that cannot be dialled says over SSH through which gateways it is reached, and the path goes there: with
/// its own mutual TLS from end to end, over the connection that the device holds to the gateway.
@Suite(.timeLimit(.minutes(3))) struct OfferedGatewayTests {
    private static let deviceID = "spiffe://mesh.example/ns/prod/sa/server"

    /// Gateway and device are real nodes; nothing dials the device.
    private final class Bench: Sendable {
        let directory = TemporaryDirectory()
        let gateway: Node
        let device: Node
        let gatewayLog = LogRecorder()
        let port = FreePort.next()
        let loop = EventLoop(name: "test")

        /// - Parameter match: What the gateway calls the device.
        init(to backend: UInt16, match: String = "server.prod:*") async throws {
            let certificates = TestCertificates.shared
            gateway = Node(
                try NodeConfiguration.parse(
                    """
                    identity: \(GatewayNodes.gatewayCredential)
                    listeners:
                    - {name: hbone, bind: "127.0.0.1:\(port)", protocol: hbone}
                    endpoints:
                    - {match: "\(match)", address: "127.0.0.1:*", reverse: true, identity: "\(OfferedGatewayTests.deviceID)"}
                    policy:
                    - {name: all, action: ALLOW, rules: [{from: [{namespaces: [prod]}], to: [{hosts: ["*.prod"]}]}]}
                    default: deny
                    """,
                    file: "gateway"
                ),
                loops: 1,
                logger: gatewayLog.logger
            )
            _ = try await gateway.start()
            // The gateway itself is let nowhere.
            device = Node(
                try NodeConfiguration.parse(
                    """
                    identity: \(certificates.path(.server))
                    reverse: [{gateway: "127.0.0.1:\(port)", identity: "\(GatewayNodes.gatewayID)"}]
                    policy:
                    - name: backend
                      action: ALLOW
                      rules:
                      - from: [{principals: ["mesh.example/ns/prod/sa/client"]}]
                        to: [{ports: [\(backend)]}]
                    """,
                    file: "device"
                ),
                loops: 1,
                logger: LogRecorder().logger
            )
            _ = try await device.start()
            try await gatewayLog.line(containing: "holds a connection to this node")
        }

        func stop() async {
            await device.drain(deadline: .milliseconds(200))
            await gateway.drain(deadline: .milliseconds(200))
            await loop.shutDown()
        }
    }

    /// Confined to its loop.
    private final class Client {
        private(set) var paths: PeerPaths!
        private(set) var changes: [String] = []
        private(set) var negotiated: [NegotiatedAddresses] = []
        private(set) var proven: [String] = []
        private(set) var streams: [ByteStream] = []
        private(set) var failures: [StreamError] = []

        init(
            _ login: SSHLogin,
            signaling command: String?,
            recorded: [PeerOffer.Gateway] = [],
            on loop: EventLoop
        ) throws {
            let certificates = TestCertificates.shared
            let context = try TLSContext(
                role: .client,
                credential: certificates.credential(.client),
                trust: TrustBundleSet(certificates.bundle())
            )
            let id = try SPIFFEID(OfferedGatewayTests.deviceID)
            var access = PeerAccess(
                name: "peer",
                transports: [.h2, .ssh],
                // Nothing listens there.
                hbone: [try Authority(parsing: "127.0.0.1:\(FreePort.next())")],
                expectation: .identities([id]),
                login: login
            )
            access.signalCommand = command
            access.gatewayTerms = GatewayTerms(of: id, port: 15008)
            access.gateways = recorded
            paths = PeerPaths(
                to: access,
                context: context,
                on: loop,
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            ) { [weak self] in self?.changes.append("\($0)") }
            paths.staysConnected = true
            paths.onNegotiated = { [weak self] in self?.negotiated.append($0) }
            paths.onProvenGateway = { [weak self] in self?.proven.append("\($0)") }
        }

        func open(_ authority: Authority) {
            paths.openStream(to: authority) { [weak self] result in
                switch result {
                case .success(let opened): self?.streams.append(opened.stream)
                case .failure(let error): self?.failures.append(error)
                }
            }
        }
    }

    /// What the device says.
    private func agent(offering gateways: [SignalMessage.Gateway], _ directory: TemporaryDirectory) throws -> String {
        let offer = SignalMessage.Offer(generation: 1, reverse: true, gateways: gateways)
        return try SpokenAgent(saying: [SpokenAgent.hello(), .offer(offer)], in: directory).command
    }

    private func client(
        _ bench: Bench,
        _ sshd: OpenSSHServer,
        signaling command: String?,
        recorded: [PeerOffer.Gateway] = []
    ) async throws -> LoopBound<Client> {
        let login = try sshd.login(in: bench.directory)
        return try await bench.loop.execute { [loop = bench.loop] in
            let client = try Client(login, signaling: command, recorded: recorded, on: loop)
            client.paths.start()
            return LoopBound(client, on: loop)
        }
    }

    private func end(_ client: LoopBound<Client>, _ bench: Bench, _ sshd: OpenSSHServer) async throws {
        try await bench.loop.execute { client.withValue { $0.paths.shutDown() } }
        await bench.stop()
        await sshd.stop()
    }

    private func echoes(_ client: LoopBound<Client>, _ bench: Bench, _ backend: EchoServer) async throws {
        let authority = try Authority(parsing: "127.0.0.1:\(backend.port)")
        try await bench.loop.execute { client.withValue { $0.open(authority) } }
        try await eventually("a stream opens") {
            try await bench.loop.execute { client.withValue { !$0.streams.isEmpty || !$0.failures.isEmpty } }
        }
        let failures = try await bench.loop.execute { client.withValue(\.failures) }
        #expect(failures.isEmpty)
        try await bench.loop.execute {
            client.withValue { client in
                let sent = Array("ahoy".utf8).withUnsafeBytes { client.streams.last?.write($0) }
                #expect(sent == .bytes(4))
            }
        }
        try await eventually("it comes back") {
            try await bench.loop.execute {
                client.withValue { client in
                    withUnsafeTemporaryAllocation(byteCount: 16, alignment: 1) { buffer in
                        client.streams.last?.read(into: buffer) == .bytes(4)
                    }
                }
            }
        }
    }

    @Test("the path goes through the gateway that the device names, and the device knows who asks")
    func throughTheGateway() async throws {
        let backend = try EchoServer()
        let (bench, sshd) = (try await Bench(to: backend.port), try await OpenSSHServer())
        let gateway = SignalMessage.Gateway(address: "127.0.0.1:\(bench.port)", id: GatewayNodes.gatewayID)
        let client = try await client(bench, sshd, signaling: agent(offering: [gateway], bench.directory))
        try await eventually("path h2-via-gateway") {
            try await bench.loop.execute { client.withValue { $0.paths.pathInUse?.transport == .h2ViaGateway } }
        }
        try await echoes(client, bench, backend)
        let (changes, proven, negotiated, peer) = try await bench.loop.execute {
            client.withValue { client in
                let report = client.paths.report.first { $0.path.transport == .h2ViaGateway }
                return (client.changes, client.proven, client.negotiated, report?.peer?.description)
            }
        }
        #expect(changes.contains { $0.contains("ssh → h2-via-gateway 127.0.0.1:\(bench.port)") }, "\(changes)")
        #expect(proven == ["127.0.0.1:\(bench.port)=\(GatewayNodes.gatewayID)"])
        #expect(negotiated.first?.gateways.map(\.port) == [bench.port])
        #expect(peer == Self.deviceID)
        try await end(client, bench, sshd)
    }

    @Test("a gateway that is on record is tried from the beginning, before SSH")
    func recorded() async throws {
        let backend = try EchoServer()
        let (bench, sshd) = (try await Bench(to: backend.port), try await OpenSSHServer())
        let gateway = try #require(
            PeerOffer.Gateway(recorded: "127.0.0.1:\(bench.port)=\(GatewayNodes.gatewayID)")
        )
        let client = try await client(bench, sshd, signaling: nil, recorded: [gateway])
        try await eventually("path h2-via-gateway") {
            try await bench.loop.execute { client.withValue { $0.paths.pathInUse?.transport == .h2ViaGateway } }
        }
        try await echoes(client, bench, backend)
        try await end(client, bench, sshd)
    }

    @Test(
        "a gateway that is not who it was said to be, or does not know the device, is no path, and refuses nobody",
        arguments: ["stranger", "unknown", "elsewhere"]
    )
    func noPath(_ kind: String) async throws {
        let backend = try EchoServer()
        let bench = try await Bench(to: backend.port, match: kind == "unknown" ? "other.prod:*" : "server.prod:*")
        let sshd = try await OpenSSHServer()
        let gateway = SignalMessage.Gateway(
            address: kind == "elsewhere" ? "169.254.169.254:15008" : "127.0.0.1:\(bench.port)",
            id: kind == "stranger" ? "spiffe://mesh.example/ns/gateways/sa/edge" : GatewayNodes.gatewayID
        )
        let client = try await client(bench, sshd, signaling: agent(offering: [gateway], bench.directory))
        try await eventually("it has been tried, or declined, and there is another path") {
            try await bench.loop.execute {
                client.withValue { client in
                    let offered = client.paths.offered
                    return client.paths.pathInUse != nil
                        && (!offered.declined.isEmpty || offered.entries.contains { $0.failure != nil })
                }
            }
        }
        let (reason, transport, changes, proven) = try await bench.loop.execute {
            client.withValue { client in
                let offered = client.paths.offered
                return (
                    offered.declined.first?.reason ?? offered.entries.first?.failure ?? "",
                    client.paths.pathInUse?.transport, client.changes, client.proven
                )
            }
        }
        let expected = ["stranger": "spiffe://", "unknown": "gateway 127.0.0.1", "elsewhere": "link-local"]
        #expect(reason.contains(try #require(expected[kind])), "\(reason)")
        #expect(transport == .ssh, "\(changes)")
        #expect(!changes.contains { $0.contains("refused the peer") }, "\(changes)")
        #expect(proven.isEmpty)
        try await end(client, bench, sshd)
    }
}

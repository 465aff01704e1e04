import Foundation
import H2Transport
import Logging
import MeshIdentity
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// A node whose identity a SPIFFE agent gives and renews.
@Suite(.timeLimit(.minutes(10))) struct WorkloadAPITests {
    private static let id = "spiffe://mesh.example/ns/prod/sa/node"
    private static let one = "{\"svids\": [{\"id\": \"\(id)\"}]}"

    private final class Bench: Sendable {
        let agent: WorkloadAPIServer
        let log = LogRecorder()
        let echo: EchoServer
        let node: Node
        let port: UInt16
        let adminPort = FreePort.next()
        let following: Task<Void, Never>

        init(_ order: String = WorkloadAPITests.one) async throws {
            agent = try await WorkloadAPIServer()
            try agent.send(order)
            echo = try EchoServer()
            let configuration = try NodeConfiguration.parse(
                """
                identity: {workloadAPI: "unix://\(agent.socket)"}
                listeners:
                - {name: hbone, bind: "127.0.0.1:0", protocol: hbone}
                policy:
                - name: all
                  action: ALLOW
                  rules:
                  - from: [{principals: ["partner.example/*", "mesh.example/*"]}]
                    to: [{hosts: ["127.0.0.1"], ports: [\(echo.port)]}]
                admin: "127.0.0.1:\(adminPort)"
                """,
                file: "node"
            )
            let node = Node(configuration, loops: 1, logger: log.logger)
            self.node = node
            port = try #require(try await node.start().first).address.port
            following = Task { await node.followWorkloadAPI { _ in } }
        }

        /// Opens a stream to the echo server, with the credential of a peer, and runs `body` meanwhile.
        func talk(_ peer: String, body: () async throws -> Void = {}) async throws -> [UInt8] {
            var source = CredentialSource.directory(agent.directory.path("peer-of-\(peer)"))
            source.foreignBundles = [
                try TrustBundle(
                    trustDomain: TrustDomain("mesh.example"),
                    roots: Certificate.all(pem: Array(agent.directory.read("root.pem").utf8))
                )
            ]
            let client = try await HBONEClient(credentials: source, logger: Logger(label: "client"))
            let server = HBONEPeer(
                try Authority(parsing: "127.0.0.1:\(port)"),
                expecting: .identities([try SPIFFEID(WorkloadAPITests.id)])
            )
            let result: Result<[UInt8], any Error>
            do {
                let stream = try await client.withStream(
                    to: Authority(parsing: "127.0.0.1:\(echo.port)"),
                    through: server
                ) { stream in
                    try await stream.write("a")
                    let first = try await stream.read() ?? []
                    try await body()
                    try await stream.write("b")
                    try await stream.finish()
                    return first + (try await stream.read() ?? [])
                }
                result = .success(stream)
            } catch {
                result = .failure(error)
            }
            await client.shutDown()
            return try result.get()
        }

        func serial() async throws -> String {
            let page = try await OperationClient.get("/certificates", adminPort).object
            let chain = try #require(page["chain"] as? [[String: Any]])
            return try #require(chain[0]["serial"] as? String)
        }

        func stop() async {
            following.cancel()
            await following.value
            await node.drain(deadline: .zero)
            await agent.stop()
        }
    }

    @Test func anIdentityIsRenewedWhileStreamsRun() async throws {
        let bench = try await Bench()
        let first = try await bench.serial()
        let echoed = try await bench.talk("mesh") {
            try bench.agent.send(Self.one)
            try await eventually("another certificate") { try await bench.serial() != first }
        }
        #expect(echoed == [97, 98])
        #expect(try await bench.talk("mesh") == [97, 98])
        await bench.stop()
    }

    @Test func aFederatedBundleLetsMembersInForAsLongAsItIsSent() async throws {
        let bench = try await Bench()
        await #expect(throws: (any Error).self) { try await bench.talk("partner") }
        var lines = bench.log.lines.count
        try bench.agent.send("{\"svids\": [{\"id\": \"\(Self.id)\"}], \"federated\": [\"partner\"]}")
        try await bench.log.line(containing: "reloaded", after: lines)
        #expect(try await bench.talk("partner") == [97, 98])
        lines = bench.log.lines.count
        // The stream that is open ends with it.
        await #expect(throws: (any Error).self) {
            try await bench.talk("partner") {
                try bench.agent.send(Self.one)
                try await bench.log.line(containing: "reloaded", after: lines)
            }
        }
        try await bench.log.line(containing: "reloaded", after: lines)
        await #expect(throws: (any Error).self) { try await bench.talk("partner") }
        #expect(try await bench.talk("mesh") == [97, 98])
        await bench.stop()
    }

    @Test func anAgentMayGoAndComeBack() async throws {
        let bench = try await Bench()
        let first = try await bench.serial()
        await bench.agent.stop()
        try await bench.log.line(containing: "the identity that is there holds until")
        #expect(try await bench.talk("mesh") == [97, 98])
        let next = try await WorkloadAPIServer(in: bench.agent.directory)
        try next.send(Self.one)
        try await eventually("another certificate") { try await bench.serial() != first }
        #expect(try await bench.talk("mesh") == [97, 98])
        await next.stop()
        await bench.stop()
    }

    /// What is refused leaves the identity as it was.
    @Test(arguments: [
        ("{\"svids\": [{\"id\": \"\(id)\", \"key\": \"other\"}]}", "do not belong together"),
        ("{\"svids\": [{\"id\": \"\(id)\", \"names\": \"\(id)x\"}]}", "and its certificate is of"),
        ("{\"svids\": [{\"id\": \"\(id)\", \"by\": \"partner\"}]}", "is not signed by a root of"),
        ("{\"svids\": [{\"id\": \"\(id)\", \"age\": 900, \"lifetime\": -60}]}", "expired"),
        ("{\"svids\": [{\"id\": \"\(id)\"}], \"what\": \"huge\"}", "4194304 are allowed"),
        ("{\"svids\": [{\"id\": \"spiffe://partner.example/a\"}]}", "is bound to the trust domain mesh.example"),
        ("{\"what\": \"garbage\"}", "the message is damaged"), ("{\"what\": \"empty\"}", "has no SVID"),
        ("{\"what\": \"denied\"}", "has issued no identity to this process (PERMISSION_DENIED"),
    ])
    func whatIsRefusedChangesNothing(order: String, reason: String) async throws {
        let bench = try await Bench()
        let first = try await bench.serial()
        try bench.agent.send(order)
        try await bench.log.line(containing: reason)
        #expect(try await bench.serial() == first)
        #expect(try await bench.talk("mesh") == [97, 98])
        await bench.stop()
    }

    @Test func anEndThatComesNearIsTold() async throws {
        let bench = try await Bench("{\"svids\": [{\"id\": \"\(Self.id)\", \"age\": 3600, \"lifetime\": 600}]}")
        try await bench.log.line(containing: "and its agent has not sent a newer one")
        await bench.stop()
    }

    private static func node(_ identity: String, logger: Logger) throws -> Node {
        let text = """
            identity: {\(identity)}
            listeners: [{name: a, bind: "127.0.0.1:0", protocol: hbone}]
            """
        return Node(try NodeConfiguration.parse(text, file: "f"), loops: 1, logger: logger)
    }

    /// A start that waits, and says for what, until it is told to end.
    private static func expectWaiting(_ identity: String, _ reason: String) async throws {
        let log = LogRecorder()
        let node = try node("\(identity), startTimeout: 1h", logger: log.logger)
        let starting = Task { try await node.start() }
        try await log.line(containing: reason)
        #expect(log.lines.contains { $0.contains("waiting for an identity: ") }, "\(log.lines)")
        node.stopWaiting()
        await #expect(throws: CancellationError.self) { try await starting.value }
        await node.drain(deadline: .zero)
    }

    @Test func aStartWithoutAnIdentitySaysWhatItWaitsFor() async throws {
        let directory = TemporaryDirectory()
        let missing = directory.path("none.sock")
        try await Self.expectWaiting("workloadAPI: \"unix://\(missing)\"", "there is no such socket: start the agent")
        let file = try directory.write("file", "x")
        try await Self.expectWaiting("workloadAPI: \"unix://\(file)\"", "that is no socket")
        let agent = try await WorkloadAPIServer()
        let place = "workloadAPI: \"unix://\(agent.socket)\""
        try agent.send("{\"what\": \"denied\"}")
        try await Self.expectWaiting(place, "has issued no identity to this process (PERMISSION_DENIED")
        try agent.send("{\"svids\": [{\"id\": \"\(Self.id)\"}, {\"id\": \"\(Self.id)2\"}]}")
        try await Self.expectWaiting(
            "\(place), spiffeID: \"spiffe://b.example/x\"",
            "None is of the trust domain b.example"
        )
        try await Self.expectWaiting("\(place), spiffeID: \"\(Self.id)3\"", "Register an entry for it")
        let log = LogRecorder()
        let second = try Self.node("\(place), spiffeID: \"\(Self.id)2\"", logger: log.logger)
        _ = try await second.start()
        #expect(log.lines.contains { $0.contains("\(Self.id)2") }, "\(log.lines)")
        await second.drain(deadline: .zero)
        await agent.stop()
    }

    /// It says nothing, and does not go.
    @Test func aStartDoesNotWaitForEver() async throws {
        let agent = try await WorkloadAPIServer()
        let node = try Self.node(
            "workloadAPI: \"unix://\(agent.socket)\", startTimeout: 1s",
            logger: LogRecorder().logger
        )
        let error = await #expect(throws: IdentityError.self) { try await node.start() }
        #expect(error?.message.contains("within 1.0 seconds") == true, "\(error as Any)")
        await node.drain(deadline: .zero)
        await agent.stop()
    }

    @Test(arguments: [
        ("{workloadAPI: \"tcp://127.0.0.1:1\"}", "would go over the network in the clear"),
        ("{workloadAPI: /run/agent.sock}", "is no Unix socket"), ("{workloadAPI: \"unix://a/b\"}", "an absolute path"),
        ("\"unix:///a\"", "for an agent's socket write"),
        ("{spiffeID: \"spiffe://a/b\"}", "needs the key 'workloadAPI'"),
    ])
    func whatIsWrongIsToldWithItsPlace(identity: String, reason: String) {
        let text = "identity: \(identity)\nlisteners: [{name: a, bind: \"127.0.0.1:0\", protocol: hbone}]"
        let error = #expect(throws: ConfigurationError.self) { try NodeConfiguration.parse(text, file: "f") }
        #expect("\(error as Any)".contains(reason), "\(error as Any)")
    }
}

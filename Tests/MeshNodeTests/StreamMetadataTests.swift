import Foundation
import H2Transport
import Logging
import Platform
import Streams
import Synchronization
import TestPeers
import Testing

@testable import MeshNode

/// What nodes say about themselves with a stream, and what they show of what others say.
@Suite(.timeLimit(.minutes(10))) struct StreamMetadataTests {
    private static func baggage(_ line: AccessLogTests.Line, _ key: String = "baggage") -> [String: String] {
        let object = try? JSONSerialization.jsonObject(with: Data(line.text.utf8)) as? [String: Any]
        return object?[key] as? [String: String] ?? [:]
    }

    @Test func bothNodesSayWhatTheyAre() async throws {
        let backend = try EchoServer()
        let files = TemporaryDirectory()
        let pair = try await NodePair(
            to: backend.port,
            serverSettings: """
                labels: {service.name: db, note: "a, b"}
                accessLog: {file: \(files.path("server"))}
                """,
            clientSettings: """
                labels: {k8s.namespace.name: prod, service.name: web, topology.istio.io/network: east}
                accessLog: {file: \(files.path("client"))}
                """
        )
        for _ in 0..<2 { _ = try await TCPClient.exchange(port: pair.entry, sending: [1, 2, 3]) }
        let near = try await AccessLogTests.wait(for: 2, in: files.path("client"))
        let far = try await AccessLogTests.wait(for: 2, in: files.path("server"))
        for (near, far) in zip(near, far) {
            #expect(Self.baggage(far) == ["k8s.namespace.name": "prod", "service.name": "web"], "\(far.text)")
            #expect(Self.baggage(near, "answerBaggage") == ["service.name": "db", "note": "a, b"], "\(near.text)")
            #expect(near["baggage"] == nil && far["answerBaggage"] == nil && far["network"] == nil)
            #expect(near["traceparent"] != nil)
        }
        // Nothing was sent for it: both make it of what they have in common.
        for (near, far) in zip(near, far) { #expect(near["traceparent"] == far["traceparent"]) }
        #expect(Set(near.map { $0["traceparent"] }).count == 2)
        await pair.stop()
    }

    @Test func aProgramSaysAndReadsIt() async throws {
        let backend = try EchoServer()
        let files = TemporaryDirectory()
        let pair = try await NodePair(
            to: backend.port,
            serverSettings: "labels: {service.name: db}\naccessLog: {file: \(files.path("log"))}"
        )
        let client = try await HBONEClient(
            credentials: .directory(TestCertificates.shared.path(.client)),
            logger: Logger(label: "client")
        )
        var own = Baggage()
        own["service.name"] = "tool"
        let trace = TraceParent()
        let answer = try await client.withStream(
            to: Authority(parsing: "127.0.0.1:\(backend.port)"),
            through: HBONEPeer(Authority(parsing: "127.0.0.1:\(pair.hbone)")),
            headers: [
                "baggage": own.description, "traceparent": trace.description, "forwarded": "for=10.1.2.3;by=_x",
                "x-forwarded-network": "west",
            ]
        ) { $0.response.baggage }
        #expect(answer["service.name"] == "db")
        let line = try #require(try await AccessLogTests.wait(for: 1, in: files.path("log")).first)
        #expect(Self.baggage(line) == ["service.name": "tool"] && line["traceparent"] == trace.description)
        #expect(line["forwarded"] == "for=10.1.2.3;by=_x" && line["network"] == "west", "\(line.text)")
        await client.shutDown()
        await pair.stop()
    }

    /// The first node of a trace, and a peer that is none: it is told what the node's log says.
    @Test func aPeerThatIsNoNodeIsToldTheTrace() async throws {
        let seen = Mutex<[String?]>([])
        let files = TemporaryDirectory()
        let listener = try await HBONEListener(
            bind: SocketAddress(ip: "127.0.0.1", port: 0),
            credentials: .directory(TestCertificates.shared.path(.server)),
            logger: Logger(label: "listener")
        )
        let serving = Task {
            await listener.serve { request in
                seen.withLock { $0.append(request.trace?.description) }
                return .admit
            } handler: { _ in
            }
        }
        let node = Node(
            try NodeConfiguration.parse(
                """
                identity: \(TestCertificates.shared.path(.client))
                listeners: [{name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "db.mesh:7"}]
                endpoints:
                - {match: "db.mesh:7", hbone: "127.0.0.1:\(listener.localAddress.port)"}
                accessLog: {file: "\(files.path("log"))"}
                """,
                file: "node"
            ),
            loops: 1,
            logger: Logger(label: "node")
        )
        let entry = try #require(try await node.start().first).address.port
        for _ in 0..<2 { _ = try await TCPClient.exchange(port: entry, sending: [1]) }
        let lines = try await AccessLogTests.wait(for: 2, in: files.path("log"))
        let told = seen.withLock { $0 }
        #expect(told.count == 2 && !told.contains(nil) && lines.map { $0["traceparent"] } == told, "\(told)")
        await node.drain(deadline: .seconds(1))
        await listener.close()
        await serving.value
    }

    @Test func aListenerReadsIt() async throws {
        let seen = Mutex<(Baggage, TraceParent?)>((Baggage(), nil))
        let listener = try await HBONEListener(
            bind: SocketAddress(ip: "127.0.0.1", port: 0),
            credentials: .directory(TestCertificates.shared.path(.server)),
            logger: Logger(label: "listener")
        )
        let serving = Task {
            await listener.serve { request in
                seen.withLock { $0 = (request.baggage, request.trace) }
                return .admit(headers: ["baggage": "service.name=own"])
            } handler: { _ in
            }
        }
        let client = try await HBONEClient(
            credentials: .directory(TestCertificates.shared.path(.client)),
            logger: Logger(label: "client")
        )
        let trace = TraceParent()
        let answer = try await client.withStream(
            to: Authority(parsing: "a:1"),
            through: HBONEPeer(Authority(parsing: "127.0.0.1:\(listener.localAddress.port)")),
            headers: ["baggage": "service.name=tool,bad", "traceparent": trace.description]
        ) { $0.response.baggage }
        #expect(answer["service.name"] == "own")
        let (baggage, found) = seen.withLock { $0 }
        #expect(baggage["service.name"] == "tool" && baggage.members.count == 1 && found == trace)
        await client.shutDown()
        await listener.close()
        await serving.value
    }

    @Test(arguments: [
        ("{service.name: web}", nil), ("{topology.istio.io/network: a}", nil),
        ("[a]", "'labels' must be a mapping like"), ("{}", "'labels' must be a mapping like"),
        ("{app.kubernetes.io/name: web}", "label 'app.kubernetes.io/name' cannot be a key of a baggage"),
        ("{service.name: [a]}", "label 'service.name' must be text"),
        (
            "{topology.istio.io/network: \"a b\"}",
            "label 'topology.istio.io/network': 'a b' must be the name of a network"
        ),
        ("{a: \(String(repeating: "x", count: 2047))}", "'labels' has 1 labels and 2049 bytes"),
    ])
    func labels(_ yaml: String, _ problem: String?) throws {
        let text = "identity: i\nlisteners: [{name: a, bind: \"127.0.0.1:1\", protocol: hbone}]\nlabels: \(yaml)\n"
        var found: String?
        do {
            _ = try NodeConfiguration.parse(text, file: "f")
        } catch {
            found = error.issues.map(\.message).joined(separator: "|")
        }
        #expect(problem.map { found?.hasPrefix($0) == true } ?? (found == nil), "\(found as Any)")
    }
}

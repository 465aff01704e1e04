import Foundation
import H2Transport
import Logging
import MeshIdentity
import MeshNode
import Platform
import Streams
import Synchronization
import TestPeers
import Testing

/// What the program that a node is part of sees of its streams.
@Suite(.timeLimit(.minutes(10))) struct StreamFilterTests {
    /// Of all streams of a node.
    private final class Witness: Sendable {
        private struct State {
            var facts: [StreamFacts] = []
            var seen: [StreamDirection: [UInt8]] = [:]
            var ends: [StreamError?] = []
        }

        private let state = Mutex(State())
        /// Ends the stream that says it.
        let forbidden: [UInt8]

        init(forbidding text: String = "forbidden") { forbidden = Array(text.utf8) }

        var facts: [StreamFacts] { state.withLock { $0.facts } }
        var ends: [StreamError?] { state.withLock { $0.ends } }
        func text(_ direction: StreamDirection) -> String {
            String(decoding: state.withLock { $0.seen[direction] ?? [] }, as: UTF8.self)
        }

        var choice: StreamFilterChoice {
            { facts, _ in
                self.state.withLock { $0.facts.append(facts) }
                return Filter(self)
            }
        }

        /// What the client gets is in capitals.
        private final class Filter: StreamFilter {
            let witness: Witness
            init(_ witness: Witness) { self.witness = witness }

            func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict {
                witness.state.withLock { $0.seen[direction, default: []] += bytes }
                guard !bytes.elementsEqual(witness.forbidden) else { throw StreamError(.denied, "not this word") }
                guard direction == .toClient else { return .pass(bytes.count) }
                return .replace(bytes.count, with: bytes.map { (97...122).contains($0) ? $0 - 32 : $0 })
            }

            func end(_ failure: StreamError?) { witness.state.withLock { $0.ends.append(failure) } }
        }
    }

    private static let server = "spiffe://mesh.example/ns/prod/sa/server"
    private static let client = "spiffe://mesh.example/ns/prod/sa/client"

    private static func start(_ yaml: String, _ witness: Witness) async throws -> (node: Node, ports: [String: UInt16])
    {
        let node = Node(
            try NodeConfiguration.parse(yaml, file: "node"),
            loops: 1,
            logger: LogRecorder().logger,
            filter: witness.choice
        )
        let ready = try await node.start()
        return (node, Dictionary(uniqueKeysWithValues: ready.map { ($0.name, $0.address.port) }))
    }

    @Test func bothEndsOfAMeshStreamSeeItsPlaintext() async throws {
        let backend = try EchoServer()
        let (near, far) = (Witness(), Witness())
        let (server, hbone) = try await Self.start(
            NodeFile.server(identity: TestCertificates.shared.path(.server), ports: [backend.port]),
            far
        )
        let (client, ports) = try await Self.start(
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(backend.port)"}
            endpoints:
            - match: "127.0.0.1:\(backend.port)"
              hbone: "127.0.0.1:\(try #require(hbone["hbone"]))"
              identity: "\(Self.server)"
            """,
            near
        )
        let (received, ending) = try await TCPClient.exchange(
            port: try #require(ports["in"]),
            sending: Array("hello, mesh".utf8)
        )
        #expect(String(decoding: received, as: UTF8.self) == "HELLO, MESH" && ending == .endOfStream)
        try await eventually("both filters know of the end") { near.ends.count == 1 && far.ends.count == 1 }
        #expect(near.ends == [nil] && far.ends == [nil])
        #expect(near.text(.toDestination) == "hello, mesh" && near.text(.toClient) == "HELLO, MESH")
        #expect(far.text(.toDestination) == "hello, mesh" && far.text(.toClient) == "hello, mesh")

        let destination = try Authority(parsing: "127.0.0.1:\(backend.port)")
        let (here, there) = (try #require(near.facts.first), try #require(far.facts.first))
        #expect(here.listener == "in" && here.listenerProtocol == "tcp" && here.client == .localUser)
        #expect(here.destination == destination && here.clientAddress == .loopbackIPv4 && here.method == nil)
        let (serverID, clientID) = (try SPIFFEID(Self.server), try SPIFFEID(Self.client))
        #expect(here.way == .peer(serverID))
        #expect(there.listener == "hbone" && there.client == .peer(clientID))
        #expect(there.destination == destination)
        #expect(there.way == .dialled(SocketAddress(.loopbackIPv4, port: backend.port)))
        await client.drain(deadline: .seconds(1))
        await server.drain(deadline: .seconds(1))
    }

    /// Lets through what it likes, when it likes.
    private final class Choppy: StreamFilter {
        private var calls = 0

        func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict {
            calls += 1
            let count = min(bytes.count, 10_007)
            switch calls % 4 {
            case 0: return .wait(.microseconds(20))
            case 1: return .replace(count, with: Array(bytes[..<count]))
            case 2: return .pass(count)
            default: return .pass(bytes.count)
            }
        }
    }

    /// Over HTTP/2, whose streams have their own ways to read and to write.
    @Test func aLargeTransferThroughFiltersOnBothSides() async throws {
        let backend = try EchoServer()
        func start(_ yaml: String) async throws -> (Node, UInt16) {
            let node = Node(
                try NodeConfiguration.parse(yaml, file: "node"),
                loops: 1,
                logger: LogRecorder().logger,
                filter: { _, _ in Choppy() }
            )
            return (node, try #require(try await node.start().first).address.port)
        }
        let (server, hbone) = try await start(
            NodeFile.server(identity: TestCertificates.shared.path(.server), ports: [backend.port])
        )
        let (client, entry) = try await start(
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(backend.port)"}
            endpoints:
            - {match: "127.0.0.1:\(backend.port)", hbone: "127.0.0.1:\(hbone)", identity: "\(Self.server)"}
            """
        )
        let bytes = Pattern.bytes(3_000_000, seed: 1)
        let (received, ending) = try await TCPClient.exchange(port: entry, sending: bytes)
        #expect(received == bytes && ending == .endOfStream)
        await client.drain(deadline: .seconds(1))
        await server.drain(deadline: .seconds(1))
    }

    @Test func aFilterThatThrowsEndsTheStreamAndTheAccessLogSaysWhy() async throws {
        let backend = try EchoServer()
        let files = TemporaryDirectory()
        let witness = Witness()
        let (node, ports) = try await Self.start(
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(backend.port)"}
            endpoints: [{match: "127.0.0.1:\(backend.port)", direct: true}]
            accessLog: {file: \(files.path("log"))}
            """,
            witness
        )
        let (_, ending) = try await TCPClient.exchange(
            port: try #require(ports["in"]),
            sending: Array("forbidden".utf8),
            staysOpen: true
        )
        #expect(ending == .broken(ECONNRESET))
        let line = try #require(try await AccessLogTests.wait(for: 1, in: files.path("log")).first)
        #expect(line["outcome"] == "cut" && line["by"] == "node" && line["code"] == "denied", "\(line)")
        #expect(line["reason"] == "the filter ended the stream: not this word", "\(line)")
        #expect(witness.ends == [StreamError(.denied, "the filter ended the stream: not this word")])
        await node.drain(deadline: .seconds(1))
    }

    /// Neither side is a program of this machine: nobody looks into it unless the configuration says so.
    @Test(arguments: [false, true]) func whatPassesThroughIsSeenWhereTheConfigurationSaysSo(isSeen: Bool) async throws {
        let backend = try EchoServer()
        let certificates = TestCertificates.shared
        let (gatewayWitness, none) = (Witness(), Witness())
        let (server, hbone) = try await Self.start(
            NodeFile.server(identity: certificates.path(.server), ports: [backend.port]),
            none
        )
        let destination = "127.0.0.1:\(backend.port)"
        let (gateway, gates) = try await Self.start(
            """
            identity: \(certificates.path(.client))
            listeners:
            - {name: gate, bind: "127.0.0.1:0", protocol: hbone}
            endpoints:
            - match: "\(destination)"
              hbone: "127.0.0.1:\(try #require(hbone["hbone"]))"
              identity: "\(Self.server)"
            \(isSeen ? "  filter: true" : "")
            """,
            gatewayWitness
        )
        let (client, ports) = try await Self.start(
            """
            identity: \(certificates.path(.server))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "\(destination)"}
            endpoints:
            - match: "\(destination)"
              hbone: "127.0.0.1:\(try #require(gates["gate"]))"
              identity: "\(Self.client)"
            """,
            Witness()
        )
        let (received, _) = try await TCPClient.exchange(port: try #require(ports["in"]), sending: Array("a".utf8))
        #expect(received.count == 1)
        #expect(gatewayWitness.facts.count == (isSeen ? 1 : 0))
        if isSeen {
            #expect(gatewayWitness.facts.first?.listener == "gate")
            let next = try SPIFFEID(Self.server)
            #expect(gatewayWitness.facts.first?.way == .peer(next))
        }
        for node in [client, gateway, server] { await node.drain(deadline: .seconds(1)) }
    }

    @Test func filtersOfAProxyKnowTheRequest() async throws {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
        let backend = try ScriptedServer(greeting: Array(answer.utf8), refrain: [])
        let witness = Witness()
        let (node, ports) = try await Self.start(
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: proxy, bind: "127.0.0.1:0", protocol: http-proxy}
            - {name: socks, bind: "127.0.0.1:0", protocol: socks5}
            endpoints: [{match: "web.lan:80", address: "127.0.0.1:\(backend.port)", direct: true}]
            """,
            witness
        )
        let request = "GET http://web.lan/some/path?q=1 HTTP/1.1\r\nHost: web.lan\r\nConnection: close\r\n\r\n"
        let (received, _) = try await TCPClient.exchange(
            port: try #require(ports["proxy"]),
            sending: Array(request.utf8),
            staysOpen: true
        )
        let text = String(decoding: received, as: UTF8.self)
        #expect(text.hasPrefix("HTTP/1.1 200 ") && text.hasSuffix("\r\n\r\nHELLO"), "\(text)")
        #expect(witness.text(.toDestination).hasPrefix("GET /some/path?q=1 HTTP/1.1\r\n"))
        let facts = try #require(witness.facts.first)
        #expect(facts.listener == "proxy" && facts.method == "GET" && facts.path == "/some/path")
        await node.drain(deadline: .seconds(1))
    }

    /// Has something else in the place of what the client says.
    private final class Rewriting: StreamFilter {
        private let text: [UInt8]
        init(_ text: String) { self.text = Array(text.utf8) }

        func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict {
            direction == .toDestination ? .replace(bytes.count, with: text) : .pass(bytes.count)
        }
    }

    /// A server of HTTP/1.1 would take what is too much for another request, and wait for what is missing.
    @Test(arguments: [("c=d", true), ("c=d&e=f", false), ("c", false)]) func contentOfHTTP2KeepsItsLength(
        text: String,
        isServed: Bool
    ) async throws {
        let server = try ChildProcess(
            TestTools.python,
            [TestTools.repository + "/Tests/Peers/http1/backend.py"],
            keepsInputOpen: true
        )
        let backend = try #require(UInt16(try await server.standardOutput.line { (UInt16($0) ?? 0) > 1023 }))
        let node = Node(
            try NodeConfiguration.parse(
                """
                identity: \(TestCertificates.shared.path(.client))
                listeners:
                - {name: web, bind: "127.0.0.1:0", protocol: http, routes: [{to: "web.lan:80"}]}
                endpoints: [{match: "web.lan:80", address: "127.0.0.1:\(backend)", direct: true}]
                policy:
                - {name: web, action: ALLOW, rules: [{to: [{hosts: [web.lan]}]}]}
                """,
                file: "node"
            ),
            loops: 1,
            logger: LogRecorder().logger,
            filter: { _, _ in Rewriting(text) }
        )
        let web = try #require(try await node.start().first).address.port
        let output = try await ChildProcess.run(
            "curl",
            [
                "-sS", "--max-time", "20", "--noproxy", "*", "--http2-prior-knowledge", "-w", " %{http_code}", "-d",
                "a=b", "http://127.0.0.1:\(web)/body",
            ]
        )
        #expect(output.standardOutput.hasSuffix(" 200") == isServed, "\(output)")
        #expect(!isServed || output.standardOutput.hasPrefix(text), "\(output)")
        await node.drain(deadline: .milliseconds(100))
        await server.stop()
    }

    /// TLS between others: there is no plaintext to see.
    @Test func whatIsPassedThroughByItsServerNameHasNoFilter() async throws {
        let backend = try ScriptedServer(greeting: Array("no TLS at all".utf8), refrain: [])
        let witness = Witness()
        let (node, ports) = try await Self.start(
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: sni, bind: "127.0.0.1:0", protocol: sni}
            endpoints: [{match: "web.lan:443", address: "127.0.0.1:\(backend.port)", direct: true}]
            policy:
            - {name: web, action: ALLOW, rules: [{to: [{hosts: [web.lan]}]}]}
            """,
            witness
        )
        let sni = try #require(ports["sni"])
        let output = try await ChildProcess.run(
            "curl",
            ["-sS", "-k", "--max-time", "20", "--connect-to", "::127.0.0.1:\(sni)", "https://web.lan/"]
        )
        // The server's words have come through.
        #expect(output.standardError.contains("wrong version number"), "\(output)")
        #expect(backend.accepted == 1 && witness.facts.isEmpty)
        await node.drain(deadline: .seconds(1))
    }
}

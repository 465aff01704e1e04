import Foundation
import MeshNode
import Platform
import Streams
import TestPeers
import Testing

/// Direct connections with TLS, to real servers with certificates good and bad.
@Suite(.timeLimit(.minutes(10))) struct EgressTests {
    /// Sends back what it gets over TLS.
    private struct Server {
        let process: ChildProcess
        let port: UInt16

        init(_ credential: String, clients: String = "-", _ more: String...) async throws {
            let process = try ChildProcess(
                TestTools.python,
                ["\(TestTools.repository)/Tests/Peers/tls/echo.py", credential, clients] + more
            )
            self.process = process
            try await eventually("the TLS server says its port: \(process.standardError.text)") {
                process.standardOutput.text.hasSuffix("\n")
            }
            port = try #require(UInt16(process.standardOutput.lines[0]))
        }

        /// What became of each connection, as far as it was told: that comes through a pipe, and may be on its way.
        var connections: [String] { process.standardOutput.lines.dropFirst().filter { !$0.isEmpty } }

        /// Waits until as many connections as these were told of.
        func expect(_ expected: String..., sourceLocation: SourceLocation = #_sourceLocation) async throws {
            try await eventually("\(expected.count) connections") { connections.count >= expected.count }
            #expect(connections == expected, sourceLocation: sourceLocation)
        }

        init(names: [String], _ configure: (inout TestCertificates.Leaf) -> Void = { _ in }) async throws {
            try await self.init(try EgressTests.certificate(names, configure))
        }
    }

    private static let certificates = TestCertificates.shared
    private static let root = certificates.caPath("root")

    private static func certificate(
        _ names: [String],
        _ configure: (inout TestCertificates.Leaf) -> Void = { _ in }
    ) throws -> String {
        try certificates.makeLeaf(id: "spiffe://mesh.example/ns/web/sa/web") { leaf in
            leaf.dnsNames = names
            configure(&leaf)
        }
    }

    /// Endpoints `NAME.lan:443`, each with a listener NAME before it.
    private static func nodes(
        _ endpoints: [(name: String, port: UInt16, tls: String)]
    ) async throws -> FrontNodes {
        try await FrontNodes(
            endpoints.map { name, _, _ in
                "- {name: \(name), bind: \"127.0.0.1:0\", protocol: tcp, forwardTo: \"\(name).lan:443\"}"
            }.joined(separator: "\n"),
            names: [:],
            more: endpoints.map { name, port, tls in
                "- {match: \"\(name).lan:443\", address: \"127.0.0.1:\(port)\", direct: true, tls: {\(tls)}}"
            }.joined(separator: "\n")
        )
    }

    @Test func bytesGoThroughVerifiedTLSBothWays() async throws {
        let web = try await Server(names: ["web.lan", "*.wild.lan"])
        let old = try await Server(try Self.certificate(["old.lan"]), clients: "-", "tls12")
        let numbered = try await Server(names: []) { $0.ipAddresses = ["127.0.0.1"] }
        let strict = try await Server(try Self.certificate(["strict.lan"]), clients: Self.root)
        let nodes = try await Self.nodes([
            // Without `serverName` the name that was asked for.
            ("web", web.port, "roots: \(Self.root)"),
            ("wild", web.port, "roots: \(Self.root), serverName: a.wild.lan"),
            ("old", old.port, "roots: \(Self.root)"),
            ("numbered", numbered.port, "roots: \(Self.root), serverName: 127.0.0.1"),
            ("strict", strict.port, "roots: \(Self.root), credential: \(Self.certificates.path(.client))"),
        ])
        let bytes = Pattern.bytes(1_000_000, seed: 3)
        for name in ["web", "wild", "old", "numbered", "strict"] {
            let (received, ending) = try await TCPClient.exchange(port: nodes.port(name), sending: bytes)
            #expect(received == bytes && ending == .endOfStream, "\(name): \(received.count), \(nodes.nearLog.lines)")
        }
        try await web.expect("web.lan TLSv1.3", "a.wild.lan TLSv1.3")
        try await old.expect("old.lan TLSv1.2")
        try await numbered.expect("None TLSv1.3")
        try await strict.expect("strict.lan TLSv1.3 spiffe://mesh.example/ns/prod/sa/client")
        await nodes.stop()
        for server in [web, old, numbered, strict] { await server.process.stop() }
    }

    @Test func whoeverIsNotTheServerIsToldFromItAndSaidClearly() async throws {
        let web = try await Server(names: ["web.lan", "*.wild.lan"])
        let stranger = try await Server(names: ["stranger.lan"]) { $0.issuer = "rogue" }
        let late = try await Server(names: ["late.lan"]) { ($0.notBefore, $0.notAfter) = (-86400, -3 * 3600) }
        let common = try await Server(names: [])
        let client = try await Server(names: ["client.lan"]) { $0.extendedKeyUsage = ["clientAuth"] }
        let strict = try await Server(try Self.certificate(["strict.lan"]), clients: Self.root, "tls12")
        let plain = try EchoServer()
        let roots = "roots: \(Self.root)"
        let expected: [(String, UInt16, String, String)] = [
            ("other", web.port, roots, "its certificate is for web.lan, *.wild.lan, not for other.lan"),
            ("deep", web.port, "\(roots), serverName: a.b.wild.lan", "not for a.b.wild.lan"),
            ("bare", web.port, "\(roots), serverName: wild.lan", "not for wild.lan"),
            ("numbered", web.port, "\(roots), serverName: 127.0.0.1", "not for 127.0.0.1"),
            ("stranger", stranger.port, roots, "is not signed by a root that is trusted for it"),
            // The mesh's own root is none of the system's.
            ("system", web.port, "serverName: web.lan", "is not signed by a root that is trusted for it"),
            ("late", late.port, roots, "expired"),
            ("common", common.port, roots, "its certificate is for nobody's name, not for common.lan"),
            ("client", client.port, roots, "cannot be verified"),
            ("strict", strict.port, roots, "without a client certificate"),
            ("plain", plain.port, roots, "the TLS connection with 127.0.0.1"),
        ]
        let nodes = try await Self.nodes(expected.map { ($0.0, $0.1, $0.2) })
        for (name, _, tls, message) in expected {
            let (received, ending) = try await TCPClient.exchange(port: nodes.port(name), sending: [22, 3, 1])
            #expect(received == [] && ending == .broken(ECONNRESET), "\(name)")
            let line = try #require(nodes.nearLog.lines.first { $0.contains("no stream to \(name).lan:443") })
            #expect(line.contains(message), "\(name): \(line)")
            let file = tls.hasPrefix("roots") ? Self.root : "/etc/"
            #expect(line.contains("no TLS with ") && line.contains("verified by the roots in \(file)"), "\(line)")
        }
        await nodes.stop()
        for server in [web, stranger, late, common, client, strict] {
            // Nobody's bytes have come that far.
            #expect(server.connections.isEmpty)
            await server.process.stop()
        }
    }

    /// TLS 1.3 tells a client that its certificate is missing when it reads first: the stream is cut, and the log says
    /// why.
    @Test func aClientCertificateThatIsMissingIsNamed() async throws {
        let strict = try await Server(try Self.certificate(["strict.lan"]), clients: Self.root)
        let nodes = try await Self.nodes([("strict", strict.port, "roots: \(Self.root)")])
        let conversation = try await TCPConversation(port: nodes.port("strict"))
        let (received, ending) = try await conversation.end(finishing: false)
        #expect(received == 0 && ending == .broken(ECONNRESET))
        let line = "warning stream cut"
        try await eventually("the log says why") {
            nodes.nearLog.lines.contains { $0.hasPrefix(line) && $0.contains("add tls: {credential: DIR}") }
        }
        await nodes.stop()
        await strict.process.stop()
    }

    /// Whether that was all, nobody knows: the client is told, and so is the log.
    @Test func aServerThatEndsWithoutItsCloseNotifyIsNamed() async throws {
        let rude = try await Server(try Self.certificate(["rude.lan"]), clients: "-", "abrupt")
        let nodes = try await Self.nodes([("rude", rude.port, "roots: \(Self.root)")])
        let (_, ending) = try await TCPClient.exchange(port: nodes.port("rude"), sending: [1])
        #expect(ending == .broken(ECONNRESET))
        try await eventually("the log says why") {
            nodes.nearLog.lines.contains { $0.hasPrefix("warning stream cut") && $0.contains("close_notify") }
        }
        await nodes.stop()
        await rude.process.stop()
    }

    /// A gateway goes on with TLS for a stream of a peer's.
    @Test func peersGetThere() async throws {
        let web = try await Server(names: ["web.lan"])
        let pair = try await NodePair(
            to: web.port,
            serverSettings: """
                endpoints:
                - match: "127.0.0.1:\(web.port)"
                  direct: true
                  tls: {serverName: web.lan, roots: \(Self.root)}
                """
        )
        let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: [1, 2, 3])
        #expect(received == [1, 2, 3] && ending == .endOfStream, "\(pair.serverLog.lines)")
        try await web.expect("web.lan TLSv1.3")
        await pair.stop()
        await web.process.stop()
    }

    /// Who vouches changes with the file, and an answer that nobody waits for any more is nobody's.
    @Test func aReloadTakesTheRootsOver() async throws {
        let web = try await Server(names: ["web.lan"])
        let directory = TemporaryDirectory()
        let file = try directory.write(
            "roots.pem",
            String(contentsOfFile: Self.certificates.caPath("rogue"), encoding: .utf8)
        )
        let nodes = try await Self.nodes([("web", web.port, "roots: \(file)")])
        #expect(try await TCPClient.exchange(port: nodes.port("web"), sending: [1]).received == [])
        _ = try directory.write("roots.pem", String(contentsOfFile: Self.root, encoding: .utf8))
        await nodes.near.reloadIfChanged()
        #expect(try await TCPClient.exchange(port: nodes.port("web"), sending: [1]).received == [1])
        await nodes.stop()
        await web.process.stop()
    }
}

import Foundation
import MeshIdentity
import MeshNode
import Streams
import TestPeers
import Testing

/// Clients that show a certificate to a `tls` listener, and a list that revokes it while they are there.
@Suite(.timeLimit(.minutes(10))) struct RevokedClientTests {
    /// A node with an echo server behind its listener, and clients of the same CA.
    private final class Bench: Sendable {
        let directory = TemporaryDirectory()
        let log = LogRecorder()
        let echo: EchoServer
        let node: Node
        let port: UInt16
        private let ca: EmbeddedCA
        private let serials: [String: String]

        /// - Parameters:
        ///   - clients: Their names; each has a credential directory.
        ///   - web: A certificate that the listener shows in the place of the node's own.
        init(clients: [String], web: Bool = false) async throws {
            let ca = try EmbeddedCA.create(directory: directory.path("ca"), trustDomain: TrustDomain("mesh.example"))
            var serials: [String: String] = [:]
            for name in clients + ["node", "web"] {
                let identity = CredentialDirectory(directory.path(name))
                let pending = try identity.prepare(id: SPIFFEID("spiffe://mesh.example/ns/prod/sa/\(name)"))
                let issued = try ca.issue(pending.request, id: pending.id)
                serials[name] = try pending.commit(chain: issued.chain, roots: issued.roots).leaf.serialNumber
            }
            (self.ca, self.serials) = (ca, serials)
            echo = try EchoServer()
            let shown = web ? ", credentials: [web]" : ""
            let file = try directory.write(
                "node.yaml",
                """
                identity: node
                listeners:
                - {name: in, bind: "127.0.0.1:0", protocol: tls, clients: mesh, forwardTo: "echo.mesh:7"\(shown)}
                endpoints:
                - {match: "echo.mesh:7", direct: true, address: "127.0.0.1:\(echo.port)"}
                policy:
                - name: clients
                  action: ALLOW
                  rules:
                  - from: [{namespaces: [prod]}]
                    to: [{hosts: ["echo.mesh"], ports: [7]}]
                """
            )
            node = Node(try NodeConfiguration.check(file), configurationFile: file, loops: 1, logger: log.logger)
            port = try #require(try await node.start().first).address.port
        }

        /// Puts a list beside the node's certificate; nobody reads it yet.
        func revoke(_ name: String) throws {
            let now = Int64(Date().timeIntervalSince1970)
            let entry = RevokedCertificate(serial: try #require(serials[name]), revokedAt: now)
            let list = try ca.revocationList(of: [entry], number: 1, nextUpdate: now + 3600)
            try CredentialDirectory(directory.path("node")).write(revocationLists: list.pem)
        }

        /// Somebody who connects, says something, and waits for the end.
        ///
        /// - Parameter holds: Keeps the last part of the handshake until its standard input ends.
        func client(_ name: String, holds: Bool = false) throws -> ChildProcess {
            try ChildProcess(
                TestTools.python,
                [
                    TestTools.repository + "/Tests/Peers/tls/late.py", "\(port)", holds ? "hold" : "go", "ping",
                    directory.path(name),
                ],
                keepsInputOpen: true
            )
        }

        func stop() async { await node.drain(deadline: .zero) }
    }

    /// The certificate is verified when the handshake is over, not when it began.
    @Test func aHandshakeThatIsHeldUpIsNoWayPastARevocation() async throws {
        let bench = try await Bench(clients: ["lost", "kept"])
        let (lost, kept) = (try bench.client("lost", holds: true), try bench.client("kept", holds: true))
        for client in [lost, kept] { try await client.standardOutput.line { $0 == "held" } }
        try bench.revoke("lost")
        try await bench.node.reload()
        lost.closeInput()
        try await lost.standardOutput.line { $0.hasPrefix("ended") }
        #expect(!lost.standardOutput.text.contains("echoed"))
        try await bench.log.line(containing: "was revoked")
        #expect(bench.echo.accepted == 0)
        kept.closeInput()
        try await kept.standardOutput.line { $0 == "echoed" }
        await bench.stop()
    }

    /// What is wrong with another file holds up neither a revocation nor a renewal, and changes nothing else.
    @Test(arguments: ["web certificate", "configuration", "port"])
    func aReloadThatFailsRevokesAllTheSame(_ broken: String) async throws {
        let bench = try await Bench(clients: ["lost", "kept"], web: true)
        let (lost, kept) = (try bench.client("lost"), try bench.client("kept"))
        for client in [lost, kept] { try await client.standardOutput.line { $0 == "echoed" } }
        let taken = try EchoServer()
        switch broken {
        case "web certificate": try bench.directory.write("web/key.pem", "no key", permissions: 0o600)
        case "configuration": try bench.directory.write("node.yaml", "identity: [")
        default:
            let text = try bench.directory.read("node.yaml")
            let other = "- {name: other, bind: \"127.0.0.1:\(taken.port)\", protocol: socks5}\n"
            try bench.directory.write("node.yaml", text.replacing("endpoints:\n", with: other + "endpoints:\n"))
        }
        await #expect(throws: (any Error).self) { try await bench.node.reload() }
        #expect(!bench.log.lines.contains { $0.contains("the credential was taken over") }, "it is the same")

        try bench.revoke("lost")
        await #expect(throws: (any Error).self) { try await bench.node.reload() }
        try await lost.standardOutput.line { $0.hasPrefix("ended") }
        try await bench.log.line(containing: "the credential was taken over, and nothing else")
        let again = try bench.client("lost")
        try await again.standardOutput.line { $0.hasPrefix("ended") }
        #expect(!again.standardOutput.text.contains("echoed"))
        let another = try bench.client("kept")
        try await another.standardOutput.line { $0 == "echoed" }
        #expect(!kept.standardOutput.text.contains("ended"))
        await bench.stop()
        withExtendedLifetime(taken) {}
    }
}

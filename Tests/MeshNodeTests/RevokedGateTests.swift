import Foundation
import MeshIdentity
import MeshNode
import Platform
import Streams
import TestPeers
import Testing

/// Members of the mesh that came by an `hbone` listener with rules of its own, and that are revoked while they are
/// there.
@Suite(.timeLimit(.minutes(10))) struct RevokedGateTests {
    /// The listener that they have come by is gone, and the one before has been forgotten since.
    @Test func whoCameByAListenerThatIsGoneIsCut() async throws {
        let (directory, log, echo) = (TemporaryDirectory(), LogRecorder(), try EchoServer())
        let ca = try EmbeddedCA.create(directory: directory.path("ca"), trustDomain: TrustDomain("mesh.example"))
        var serials: [String: String] = [:]
        for name in ["node", "near"] {
            let pending = try CredentialDirectory(directory.path(name))
                .prepare(id: SPIFFEID("spiffe://mesh.example/ns/prod/sa/\(name)"))
            let issued = try ca.issue(pending.request, id: pending.id)
            serials[name] = try pending.commit(chain: issued.chain, roots: issued.roots).leaf.serialNumber
        }
        let yaml = """
            identity: node
            listeners:
            - {name: gate, bind: "127.0.0.1:0", protocol: hbone, clients: optional}
            policy:
            - name: clients
              action: ALLOW
              rules: [{from: [{namespaces: [prod]}], to: [{ports: [\(echo.port)]}]}]
            connections: {resumable: false}
            """
        let file = try directory.write("node.yaml", yaml)
        let node = Node(try NodeConfiguration.check(file), configurationFile: file, loops: 1, logger: log.logger)
        let hbone = try #require(try await node.start().first).address.port
        let nearFile = try directory.write(
            "near.yaml",
            """
            identity: near
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(echo.port)"}
            endpoints:
            - match: "127.0.0.1:\(echo.port)"
              hbone: "127.0.0.1:\(hbone)"
              identity: "spiffe://mesh.example/ns/prod/sa/node"
            connections: {resumable: false}
            """
        )
        let near = Node(try NodeConfiguration.check(nearFile), loops: 1, logger: log.logger)
        let stream = try await TCPConversation(port: try #require(try await near.start().first).address.port)
        // The third one changes no listener.
        let other = yaml.replacing("name: gate", with: "name: other")
        for text in [yaml, other, "# more\n" + other] {
            _ = try directory.write("node.yaml", text)
            _ = try await node.reload()
            let echoed = try await stream.echo(Array("ping".utf8))
            #expect(echoed == Array("ping".utf8))
        }
        let now = WallClock.system.seconds
        let revoked = RevokedCertificate(serial: try #require(serials["near"]), revokedAt: now)
        let list = try ca.revocationList(of: [revoked], number: 1, nextUpdate: now + 3600)
        try CredentialDirectory(directory.path("node")).write(revocationLists: list.pem)
        _ = try await node.reload()
        let (_, ending) = try await stream.end(finishing: false)
        #expect(ending != .endOfStream, "\(log.lines)")
        await near.drain(deadline: .zero)
        await node.drain(deadline: .zero)
    }
}

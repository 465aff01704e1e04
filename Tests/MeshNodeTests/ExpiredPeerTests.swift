import Foundation
import MeshIdentity
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// A certificate that ends while streams run: nothing new is believed of its owner, and no byte is lost for it.
@Suite(.timeLimit(.minutes(10))) struct ExpiredPeerTests {
    /// A server whose certificate lasts for seconds, of a CA that can issue another one.
    private final class Bench: Sendable {
        let directory = TemporaryDirectory()
        let ca: EmbeddedCA
        let server: Node
        let client: Node
        let log = LogRecorder()
        let entry: UInt16

        init(to backend: UInt16, lasting lifetime: Duration) async throws {
            ca = try EmbeddedCA.create(directory: directory.path("ca"), trustDomain: TrustDomain("mesh.example"))
            try Self.issue("server", lifetime, by: ca, in: directory)
            try Self.issue("client", .seconds(3600), by: ca, in: directory)
            let serverFile = try directory.write(
                "server.yaml",
                NodeFile.server(identity: directory.path("server"), ports: [backend])
            )
            server = Node(
                try NodeConfiguration.load(serverFile),
                configurationFile: serverFile,
                loops: 1,
                logger: LogRecorder().logger
            )
            let hbone = try #require(try await server.start().first).address.port
            let clientFile = try directory.write(
                "client.yaml",
                """
                identity: client
                listeners:
                - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(backend)"}
                endpoints:
                - match: "127.0.0.1:\(backend)"
                  hbone: "127.0.0.1:\(hbone)"
                  identity: "spiffe://mesh.example/ns/prod/sa/server"
                  resumable: true
                """
            )
            client = Node(try NodeConfiguration.load(clientFile), loops: 1, logger: log.logger)
            entry = try #require(try await client.start().first).address.port
        }

        static func issue(
            _ name: String,
            _ lifetime: Duration,
            by ca: EmbeddedCA,
            in directory: TemporaryDirectory
        ) throws {
            let identity = CredentialDirectory(directory.path(name))
            let pending = try identity.prepare(id: SPIFFEID("spiffe://mesh.example/ns/prod/sa/\(name)"))
            let options = IssuanceOptions(lifetime: lifetime)
            let issued = try ca.issue(pending.request, id: pending.id, options: options)
            _ = try pending.commit(chain: issued.chain, roots: issued.roots)
        }
    }

    @Test func streamsOutliveTheCertificateOfTheirPeer() async throws {
        let backend = try EchoServer()
        // Long enough for a slow machine to begin the stream before.
        let bench = try await Bench(to: backend.port, lasting: .seconds(30))
        let stream = try await TCPConversation(port: bench.entry)
        #expect(try await stream.echo([1]) == [1])
        // The connection that is to take its place shows that it has ended.
        try await bench.log.line(containing: "expired")
        let bytes = Pattern.bytes(500_000, seed: 1)
        #expect(try await stream.echo(bytes) == bytes)
        // Nothing new is begun.
        let (received, ending) = try await TCPClient.exchange(port: bench.entry, sending: [2])
        #expect(received.isEmpty && ending != .endOfStream)
        #expect(try await stream.echo([3]) == [3])
        // A renewed one is believed, and cuts nothing either.
        try Bench.issue("server", .seconds(3600), by: bench.ca, in: bench.directory)
        try await bench.server.reload()
        try await eventually("new streams are taken again") {
            try await TCPClient.exchange(port: bench.entry, sending: [4]).received == [4]
        }
        #expect(try await stream.echo(bytes) == bytes)
        let (_, end) = try await stream.end()
        #expect(end == .endOfStream)
        await bench.client.drain(deadline: .zero)
        await bench.server.drain(deadline: .zero)
    }
}

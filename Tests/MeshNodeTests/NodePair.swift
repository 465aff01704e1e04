import Foundation
import Logging
import MeshIdentity
import MeshNode
import Streams
import TestPeers
import Testing

/// A server node and a client node in this process, joined over loopback, with a backend behind the server: what a
/// whitebox user has.
final class NodePair: Sendable {
    let directory = TemporaryDirectory()
    let server: Node
    let client: Node
    let serverLog = LogRecorder()
    let clientLog = LogRecorder()
    /// The client's whitebox listener.
    let entry: UInt16
    /// The server's HBONE listener.
    let hbone: UInt16

    /// - Parameters:
    ///   - backend: The port that the stream leads to.
    ///   - allowed: Ports that the server's policy names; by default the backend's.
    ///   - serverSettings: More lines for its configuration, as for the client's.
    init(
        to backend: UInt16,
        allowed: [UInt16]? = nil,
        server serverKind: TestCertificates.Kind = .server,
        client clientKind: TestCertificates.Kind = .client,
        expecting: String? = "spiffe://mesh.example/ns/prod/sa/server",
        ssh: String = "",
        path: String = "auto",
        serverLoops: Int = 1,
        serverSettings: String = "",
        clientSettings: String = ""
    ) async throws {
        let certificates = TestCertificates.shared
        let serverFile = try directory.write(
            "server.yaml",
            NodeFile.server(identity: certificates.path(serverKind), ports: allowed ?? [backend])
                + "\n\(serverSettings)\n"
        )
        server = Node(
            try NodeConfiguration.load(serverFile),
            configurationFile: serverFile,
            loops: serverLoops,
            logger: serverLog.logger
        )
        hbone = try #require(try await server.start().first).address.port
        let clientFile = try directory.write(
            "client.yaml",
            """
            identity: \(certificates.path(clientKind))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(backend)"}
            endpoints:
            - match: "127.0.0.1:\(backend)"
              hbone: "127.0.0.1:\(hbone)"
              path: \(path)
            \(expecting.map { "  identity: \"\($0)\"" } ?? "")
            \(ssh)
            \(clientSettings)
            """
        )
        client = Node(
            try NodeConfiguration.load(clientFile),
            configurationFile: clientFile,
            loops: 1,
            logger: clientLog.logger
        )
        entry = try #require(try await client.start().first).address.port
    }

    func stop() async {
        await client.drain(deadline: .seconds(1))
        await server.drain(deadline: .seconds(1))
    }
}

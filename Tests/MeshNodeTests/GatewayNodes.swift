import Foundation
import Logging
import MeshIdentity
import MeshNode
import Streams
import TestPeers
import Testing

/// A client, gateways and a workload, each a node of its own with an access log, and a backend behind the workload:
/// double HBONE as a user sets it up. The client's listener leads to `echo.mesh:7`.
final class GatewayNodes: Sendable {
    static let workloadID = "spiffe://mesh.example/ns/prod/sa/server"
    static let gatewayID = "spiffe://mesh.example/ns/prod/sa/gateway"
    static let destination = "echo.mesh:7"

    static let gatewayCredential: String = {
        do { return try TestCertificates.shared.makeLeaf(id: gatewayID) } catch { fatalError("\(error)") }
    }()

    let directory = TemporaryDirectory()
    let workload: Node
    let gateway: Node
    let client: Node
    let clientLog = LogRecorder()
    let gatewayLog = LogRecorder()
    /// The client's listener.
    let entry: UInt16
    /// HBONE listeners.
    let workloadPort: UInt16
    let gatewayPort: UInt16

    /// - Parameters:
    ///   - backend: Where the destination is, behind the workload.
    ///   - front: The port by which the gateway reaches the workload; nil: its own.
    ///   - client: More of the client's endpoint, in lines of four spaces; by default who must be where.
    ///   - match: Of the client's endpoint.
    ///   - workloadSettings: More lines for the configuration, as for the others.
    init(
        to backend: UInt16,
        front: ((UInt16) throws -> UInt16)? = nil,
        client more: String = "  viaIdentity: [\"\(gatewayID)\"]\n  identity: \"\(workloadID)\"",
        match: String = destination,
        workloadSettings: String = "",
        gatewaySettings: String = "",
        clientSettings: String = ""
    ) async throws {
        let certificates = TestCertificates.shared
        let files = directory
        func node(_ name: String, _ yaml: String, _ log: LogRecorder) async throws -> (Node, UInt16) {
            let file = try files.write("\(name).yaml", yaml + "\naccessLog: {file: \(files.path(name)).log}\n")
            let node = Node(
                try NodeConfiguration.check(file),
                configurationFile: file,
                loops: 1,
                logger: log.logger
            )
            return (node, try #require(try await node.start().first).address.port)
        }
        func hop(_ identity: String, _ address: UInt16, _ namespace: String, _ settings: String) -> String {
            """
            identity: \(identity)
            listeners:
            - {name: hbone, bind: "127.0.0.1:0", protocol: hbone}
            endpoints:
            - {match: "*.mesh", address: "127.0.0.1:\(address)", direct: true}
            policy:
            - {name: all, action: ALLOW, rules: [{from: [{namespaces: [\(namespace)]}], to: [{hosts: ["*.mesh"]}]}]}
            \(settings)
            """
        }
        (workload, workloadPort) = try await node(
            "workload",
            hop(certificates.path(.server), backend, "prod", workloadSettings),
            LogRecorder()
        )
        let reached = try front?(workloadPort) ?? workloadPort
        (gateway, gatewayPort) = try await node(
            "gateway",
            hop(Self.gatewayCredential, reached, "prod", gatewaySettings),
            gatewayLog
        )
        (client, entry) = try await node(
            "client",
            """
            identity: \(certificates.path(.client))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "\(Self.destination)"}
            endpoints:
            - match: "\(match)"
              via: ["127.0.0.1:\(gatewayPort)"]
            \(more)
            \(clientSettings)
            """,
            clientLog
        )
    }

    /// Lines of the access log of `client`, `gateway` or `workload`.
    func lines(_ count: Int, of name: String) async throws -> [AccessLogTests.Line] {
        try await AccessLogTests.wait(for: count, in: directory.path("\(name).log"))
    }

    func stop() async {
        await client.drain(deadline: .seconds(1))
        await gateway.drain(deadline: .seconds(1))
        await workload.drain(deadline: .seconds(1))
    }
}

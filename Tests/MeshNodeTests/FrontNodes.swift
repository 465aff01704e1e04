import Foundation
import Logging
import MeshNode
import Streams
import TestPeers
import Testing

/// A node with a front for the programs of its machine, and behind it a node that has the services: names that nobody
/// but the mesh knows.
final class FrontNodes: Sendable {
    let directory = TemporaryDirectory()
    let near: Node
    let far: Node
    let nearLog = LogRecorder()
    let clientFile: String
    /// Of each listener of the near node.
    let ports: [String: UInt16]

    /// - Parameters:
    ///   - listeners: Of the near node, lines of YAML; `DIR` is ``directory``.
    ///   - names: What leads to which port behind the far node, as `web.mesh:80`.
    ///   - denied: Ports that the far node's policy does not name.
    ///   - files: Written to ``directory`` before.
    init(
        _ listeners: String,
        names: [String: UInt16],
        denied: Set<UInt16> = [],
        files: [String: String] = [:],
        more: String = ""
    ) async throws {
        let certificates = TestCertificates.shared
        for (name, text) in files { _ = try directory.write(name, text) }
        let farFile = try directory.write(
            "far.yaml",
            NodeFile.server(
                identity: certificates.path(.server),
                ports: [1] + names.values.filter { !denied.contains($0) }
            )
        )
        far = Node(try NodeConfiguration.load(farFile), loops: 1, logger: LogRecorder().logger)
        let hbone = try #require(try await far.start().first).address.port
        let endpoints = names.map { name, port in
            """
            - match: "\(name)"
              address: "127.0.0.1:\(port)"
              hbone: "127.0.0.1:\(hbone)"
              identity: "spiffe://mesh.example/ns/prod/sa/server"
            """
        }
        clientFile = try directory.write(
            "near.yaml",
            """
            identity: \(certificates.path(.client))
            listeners:
            \(listeners.replacingOccurrences(of: "DIR", with: directory.path("")))
            endpoints:
            \(endpoints.joined(separator: "\n"))
            - {match: "nobody.mesh:80", hbone: "127.0.0.1:\(FreePort.next())"}
            \(more)
            """
        )
        let configuration = try NodeConfiguration.check(clientFile)
        near = Node(configuration, configurationFile: clientFile, loops: 1, logger: nearLog.logger)
        ports = Dictionary(
            uniqueKeysWithValues: try await near.start().map { ($0.name, $0.address.port) }
        )
    }

    func port(_ name: String) throws -> UInt16 { try #require(ports[name]) }

    func stop() async {
        await near.drain(deadline: .milliseconds(100))
        await far.drain(deadline: .milliseconds(100))
    }
}

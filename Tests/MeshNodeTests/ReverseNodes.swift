import Foundation
import MeshIdentity
import MeshNode
import Streams
import TestPeers
import Testing

/// A client, a gateway and a device that listens nowhere: it holds a connection to the gateway, which has an endpoint
/// `cam.mesh` for it. The client's listener leads to the backend behind the device.
final class ReverseNodes: Sendable {
    static let deviceID = "spiffe://mesh.example/ns/prod/sa/server"
    static let gatewayID = GatewayNodes.gatewayID

    let directory = TemporaryDirectory()
    /// Between the device and the gateway.
    let links: [CuttingLink]
    let gateway: Node
    let device: Node
    let client: Node
    let gatewayLog = LogRecorder()
    let deviceLog = LogRecorder()
    let clientLog = LogRecorder()
    /// The gateway's HBONE listener.
    let port: UInt16
    /// The gateway's administration.
    let admin = FreePort.next()
    /// The device's.
    let deviceAdmin = FreePort.next()
    /// Listeners of the client, and of the gateway itself, that lead to the device.
    let entry: UInt16
    let gatewayEntry: UInt16

    /// - Parameters:
    ///   - backend: The port behind the device.
    ///   - loops: Of the gateway.
    ///   - identity: The device's credential.
    ///   - expected: Who may hold the connection, as the gateway says.
    ///   - gatewayIdentity: Who the gateway is, as the device says.
    ///   - others: More of the device's gateways.
    ///   - gatewayPolicy: `when` of the gateway's rule, as for the device's.
    ///   - gatewayEndpoint: More keys of the gateway's endpoint.
    ///   - address: Of the gateway's endpoint: what the device is asked for.
    ///   - device: More of its configuration.
    ///   - client: The client's endpoint, where `GATEWAY` is the gateway's address; nil: by one connection to it.
    ///   - links: How many are between the device and the gateway, each with a connection; 0: it dials the gateway.
    ///   - starts: Whether the device runs already.
    init(
        to backend: UInt16,
        loops: Int = 1,
        identity: String = TestCertificates.shared.path(.server),
        expected: String = deviceID,
        gatewayIdentity: String = gatewayID,
        others: [UInt16] = [],
        gatewayPolicy: String = "",
        devicePolicy: String = "",
        address: String = "127.0.0.1:*",
        device deviceMore: String = "",
        client more: String? = nil,
        links count: Int = 0,
        gatewayEndpoint: String = "",
        starts: Bool = true
    ) async throws {
        let files = directory
        port = FreePort.next()
        func node(_ name: String, _ yaml: String, _ log: LogRecorder, loops: Int = 1) throws -> Node {
            let file = try files.write("\(name).yaml", yaml + "\naccessLog: {file: \(files.path(name)).log}\n")
            return Node(
                try NodeConfiguration.check(file),
                configurationFile: file,
                loops: loops,
                logger: log.logger
            )
        }
        gateway = try node(
            "gateway",
            Self.gatewayYAML(
                port: port,
                backend: backend,
                expected: expected,
                policy: gatewayPolicy,
                address: address,
                endpoint: gatewayEndpoint,
                admin: admin
            ),
            gatewayLog,
            loops: loops
        )
        let listeners = try await gateway.start()
        gatewayEntry = try #require(listeners.first { $0.name == "in" }).address.port
        let port = port
        links = try (0..<count).map { _ in try CuttingLink(to: port) }
        device = try node(
            "device",
            Self.deviceYAML(
                identity: identity,
                gateways: (links.isEmpty ? [port] : links.map(\.port)) + others,
                gatewayIdentity: gatewayIdentity,
                backend: backend,
                policy: devicePolicy,
                admin: deviceAdmin
            ) + "\n\(deviceMore)\n",
            deviceLog
        )
        if starts { #expect(try await device.start().isEmpty) }
        let plain = "- {match: \"cam.mesh:*\", hbone: \"GATEWAY\", identity: \"\(Self.gatewayID)\"}"
        client = try node(
            "client",
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "cam.mesh:\(backend)"}
            endpoints:
            \((more ?? plain).replacingOccurrences(of: "GATEWAY", with: "127.0.0.1:\(port)"))
            """,
            clientLog
        )
        entry = try #require(try await client.start().first).address.port
    }

    static func gatewayYAML(
        port: UInt16,
        backend: UInt16,
        expected: String = deviceID,
        policy: String = "",
        address: String = "127.0.0.1:*",
        endpoint: String = "",
        admin: UInt16? = nil
    ) -> String {
        """
        identity: \(GatewayNodes.gatewayCredential)
        listeners:
        - {name: hbone, bind: "127.0.0.1:\(port)", protocol: hbone}
        - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "cam.mesh:\(backend)"}
        endpoints:
        - {match: "cam.mesh:*", address: "\(address)", reverse: true, identity: "\(expected)"\(endpoint)}
        policy:
        - name: devices
          action: ALLOW
          rules: [{from: [{namespaces: [prod]}], to: [{hosts: ["cam.mesh"]}]\(policy)}]
        \(admin.map { "admin: \"127.0.0.1:\($0)\"" } ?? "")
        """
    }

    static func deviceYAML(
        identity: String = TestCertificates.shared.path(.server),
        gateways: [UInt16],
        gatewayIdentity: String = gatewayID,
        backend: UInt16,
        policy: String = "",
        admin: UInt16? = nil
    ) -> String {
        let list = gateways.map { "{gateway: \"127.0.0.1:\($0)\", identity: \"\(gatewayIdentity)\"}" }
        return """
            identity: \(identity)
            reverse: [\(list.joined(separator: ", "))]
            policy:
            - name: backend
              action: ALLOW
              rules:
              - from: [{principals: ["mesh.example/ns/prod/sa/*"]}]
                to: [{hosts: ["127.0.0.1", "cam.mesh"], ports: [\(backend)]}]\(policy)
            \(admin.map { "admin: \"127.0.0.1:\($0)\"" } ?? "")
            """
    }

    /// The device holds a connection, as the gateway sees it.
    func held() async throws { try await gatewayLog.line(containing: "holds a connection to this node") }

    /// Lines of the access log of `client`, `gateway` or `device`.
    func lines(_ count: Int, of name: String) async throws -> [AccessLogTests.Line] {
        try await AccessLogTests.wait(for: count, in: directory.path("\(name).log"))
    }

    func stop() async {
        await client.drain(deadline: .milliseconds(200))
        await device.drain(deadline: .milliseconds(200))
        await gateway.drain(deadline: .milliseconds(200))
        for link in links { link.close() }
    }
}

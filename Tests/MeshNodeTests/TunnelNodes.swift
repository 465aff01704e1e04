import Foundation
import MeshNode
import Streams
import TestPeers
import Testing

/// A node, a proxy of the web that is trusted with nothing, and behind that a node that has the service: what a stream
/// with `x-tun` goes through.
final class TunnelNodes: Sendable {
    /// The name of the proxy, and what its tokens are for.
    static let proxyName = "tunnel.example.net"
    static let certificates = TestCertificates.shared
    /// Who vouches for the proxy: nobody whom the mesh trusts.
    static let roots = certificates.caPath("rogue")

    static func proxyCertificate(_ name: String = proxyName, issuer: String = "rogue") throws -> String {
        try certificates.makeLeaf(id: "spiffe://web.example/ns/web/sa/web", issuer: issuer) { $0.dnsNames = [name] }
    }

    /// The proxy of `Tests/Peers/h2/tunnel.py`.
    struct Proxy: Sendable {
        let process: ChildProcess
        let port: UInt16

        init(_ credential: String, to upstream: UInt16, _ options: [String]) async throws {
            let process = try ChildProcess(
                TestTools.python,
                ["\(TestTools.repository)/Tests/Peers/h2/tunnel.py", credential, "\(upstream)"] + options
            )
            self.process = process
            try await eventually("the proxy says its port: \(process.standardError.text)") {
                process.standardOutput.text.contains("\n")
            }
            port = try #require(UInt16(process.standardOutput.lines[0]))
        }

        /// One of others.
        init(_ process: ChildProcess, port: UInt16) { (self.process, self.port) = (process, port) }

        struct Event: Decodable {
            var request: [String: String]?
            var over: String?
            var count: Int?
            var marked: Bool?
            var replayed: Int?
            var back: Int?
        }

        var events: [Event] {
            process.standardOutput.lines.dropFirst().filter { !$0.isEmpty }.compactMap {
                try? JSONDecoder().decode(Event.self, from: Data($0.utf8))
            }
        }

        /// Those that were told of so far: that comes through a pipe, and may be on its way still.
        var requests: [[String: String]] { events.compactMap(\.request) }

        /// Waits until there were so many requests.
        func asked(_ count: Int = 1) async throws -> [[String: String]] {
            try await eventually("\(count) requests") { requests.count >= count }
            return requests
        }

        func ended(_ count: Int = 1) async throws -> [Event] {
            try await eventually("\(count) streams are over") { events.count { $0.over != nil } >= count }
            return events.filter { $0.over != nil }
        }
    }

    let directory = TemporaryDirectory()
    let near: Node
    let far: Node
    let proxy: Proxy
    let nearLog = LogRecorder()
    let farLog = LogRecorder()
    /// The near node's listener, by which the backend is reached.
    let entry: UInt16
    let nearFile: String
    let farFile: String

    /// - Parameters:
    ///   - backend: What the stream leads to.
    ///   - method: Of the requests to the proxy.
    ///   - proxyOptions: As `tunnel.py` has them; `DIR` is ``directory``.
    ///   - endpoint: More lines of the near node's endpoint; `DIR` likewise.
    ///   - hop: Starts another proxy in the place of `tunnel.py`, with its certificate, to a port.
    ///   - farKind: Who the far node is.
    ///   - files: Written to ``directory`` before.
    ///   - farSettings: More lines for the far node's configuration; more of its listener after `listener`.
    init(
        to backend: UInt16,
        method: String = "POST",
        proxy proxyOptions: [String] = [],
        certificate: String? = nil,
        hop: ((_ certificate: String, _ upstream: UInt16) async throws -> Proxy)? = nil,
        endpoint: [String] = [],
        far farKind: TestCertificates.Kind = .server,
        allowed: [UInt16]? = nil,
        near nearKind: TestCertificates.Kind = .client,
        listener: String = "protocol: hbone, cleartext: true",
        files: [String: String] = [:],
        farSettings: String = "",
        nearSettings: String = ""
    ) async throws {
        let directory = directory
        for (name, text) in files { _ = try directory.write(name, text) }
        let filled = { (text: String) in text.replacingOccurrences(of: "DIR", with: directory.path("")) }
        let ports = (allowed ?? [backend]).map(String.init).joined(separator: ", ")
        farFile = try directory.write(
            "far.yaml",
            """
            identity: \(Self.certificates.path(farKind))
            listeners:
            - {name: tunnels, bind: "127.0.0.1:0", \(filled(listener))}
            policy:
            - name: backend
              action: ALLOW
              rules:
              - from: [{namespaces: [prod]}]
                to: [{hosts: ["127.0.0.1"], ports: [\(ports)]}]
            \(filled(farSettings))
            """
        )
        far = Node(
            try NodeConfiguration.check(farFile),
            configurationFile: farFile,
            loops: 1,
            logger: farLog.logger
        )
        let upstream = try #require(try await far.start().first).address.port
        let shown = try certificate ?? Self.proxyCertificate()
        if let hop {
            proxy = try await hop(shown, upstream)
        } else {
            proxy = try await Proxy(shown, to: upstream, proxyOptions.map(filled))
        }
        nearFile = try directory.write(
            "near.yaml",
            """
            identity: \(Self.certificates.path(nearKind))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(backend)"}
            endpoints:
            - match: "127.0.0.1:\(backend)"
              hbone: "127.0.0.1:\(proxy.port)"
              labels: {tun: \(method)}
              proxy: {serverName: \(Self.proxyName), roots: \(Self.roots)}
              identity: "spiffe://mesh.example/ns/prod/sa/server"
            \(endpoint.map { "  " + filled($0) }.joined(separator: "\n"))
            \(filled(nearSettings))
            """
        )
        near = Node(
            try NodeConfiguration.check(nearFile),
            configurationFile: nearFile,
            loops: 1,
            logger: nearLog.logger
        )
        entry = try #require(try await near.start().first).address.port
    }

    func stop() async {
        await near.drain(deadline: .milliseconds(100))
        await far.drain(deadline: .milliseconds(100))
        await proxy.process.stop()
    }
}

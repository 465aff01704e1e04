import Fleet
import MeshIdentity
import Platform
import TestDevices
import TestPeers
import Testing

@testable import SSHSignal

/// Two devices of one operator, `a` and `b`, enrolled by SSH on this machine, which let each other reach ``backend``.
final class TwoDevices {
    let server: OpenSSHServer
    let owner: Operator
    let backend: EchoServer
    let bases = (a: TemporaryDirectory(), b: TemporaryDirectory())
    let a: Device
    let b: Device

    init() async throws {
        server = try await OpenSSHServer()
        owner = try await Operator()
        backend = try EchoServer()
        try owner.know(server)
        for (name, base) in [("a", bases.a), ("b", bases.b)] {
            let enrolled = try await owner.enroll(
                server,
                // One sshd for both.
                ["--name", name, "--base", base.path, "--allow-port", "\(backend.port)", "--accept-known-machine"]
            )
            try #require(enrolled.succeeded, "\(enrolled.standardError)")
        }
        a = try #require(try owner.devices.record(named: "a"))
        b = try #require(try owner.devices.record(named: "b"))
    }

    deinit {
        LocalDevice.stopNode(state: bases.a.path("bootstrap/state"))
        LocalDevice.stopNode(state: bases.b.path("bootstrap/state"))
    }

    /// Another node with the identity of one device, for what its users ask for: its port leads to ``backend`` through
    /// the other device's node.
    func forward(
        from own: Device,
        to peer: Device
    ) async throws -> (process: ChildProcess, port: UInt16, directory: TemporaryDirectory) {
        let directory = TemporaryDirectory()
        let hbone = try #require(peer.hbone.first)
        let file = try directory.write(
            "node.yaml",
            """
            identity: \(own.agent.state)/identity
            listeners:
            - {name: out, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "service:\(backend.port)"}
            endpoints:
            - {match: "service:\(backend.port)", address: "127.0.0.1:\(backend.port)", hbone: "\(hbone)", identity: "\(peer.identity)"}
            """
        )
        let node = try ChildProcess(TestTools.bootstrap, ["node", "--config", file])
        let ready = try await node.standardOutput.line(containing: "ready out")
        return (node, try #require(UInt16(ready.split(separator: ":").last ?? "")), directory)
    }
}

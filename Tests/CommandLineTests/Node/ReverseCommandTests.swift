import Foundation
import Glibc
import TestPeers
import Testing

/// A device that listens nowhere, and a gateway that dies: both are `bootstrap node`.
@Suite(.timeLimit(.minutes(10))) struct ReverseCommandTests {
    private static let deviceID = "spiffe://mesh.example/ns/prod/sa/server"
    private static let gatewayID = "spiffe://mesh.example/ns/prod/sa/client"

    @Test func aDeviceIsReachedThroughAGatewayAlsoAfterThatHasDied() async throws {
        let backend = try EchoServer()
        let files = TemporaryDirectory()
        let (port, entry, admin) = (FreePort.next(), FreePort.next(), FreePort.next())
        let gatewayFile = try files.write(
            "gateway.yaml",
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: hbone, bind: "127.0.0.1:\(port)", protocol: hbone}
            - {name: in, bind: "127.0.0.1:\(entry)", protocol: tcp, forwardTo: "cam.mesh:\(backend.port)"}
            endpoints:
            - {match: "cam.mesh:*", address: "127.0.0.1:*", reverse: true, identity: "\(Self.deviceID)"}
            admin: "127.0.0.1:\(admin)"
            """
        )
        let deviceFile = try files.write(
            "device.yaml",
            """
            identity: \(TestCertificates.shared.path(.server))
            reverse: [{gateway: "127.0.0.1:\(port)", identity: "\(Self.gatewayID)"}]
            policy:
            - {name: echo, action: ALLOW, rules: [{to: [{ports: [\(backend.port)]}], when: [{transport: [h2-reverse]}]}]}
            """
        )
        for arguments in [["--check"], ["--print-config"]] {
            let output = try await ChildProcess.run(TestTools.bootstrap, ["node", "--config", deviceFile] + arguments)
            #expect(output.succeeded, "\(output.standardError)")
        }
        func start(_ file: String) throws -> ChildProcess {
            try ChildProcess(TestTools.bootstrap, ["node", "--config", file, "--loops", "2"])
        }
        let gateway = try start(gatewayFile)
        _ = try await gateway.standardOutput.line(containing: "ready in")
        let device = try start(deviceFile)
        _ = try await gateway.standardError.line(containing: "holds a connection to this node")
        for _ in 0..<4 {
            #expect(try await TCPClient.exchange(port: entry, sending: [1, 2, 3]).received == [1, 2, 3])
        }
        let page = try await ChildProcess.run("curl", ["-sS", "--max-time", "30", "http://localhost:\(admin)/paths"])
        #expect(page.standardOutput.contains("\"held\":[{\"peer\":\"\(Self.deviceID)\""), "\(page.standardOutput)")

        kill(gateway.pid, SIGKILL)
        _ = try await gateway.exit()
        _ = try await device.standardError.line(containing: "not reachable through the gateway")
        let again = try start(gatewayFile)
        _ = try await again.standardOutput.line(containing: "ready in")
        _ = try await again.standardError.line(containing: "holds a connection to this node")
        #expect(try await TCPClient.exchange(port: entry, sending: [4]).received == [4])

        device.signal(SIGTERM)
        #expect(try await device.exit() == .exited(0))
        _ = try await again.standardError.line(containing: "holds a connection no more")
        again.signal(SIGTERM)
        #expect(try await again.exit() == .exited(0))
    }
}

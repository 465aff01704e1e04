import Fleet
import Platform
import TestDevices
import TestPeers
import Testing

@testable import SSHSignal

/// `connect` to a device that is not where it was when it was enrolled.
@Suite(.timeLimit(.minutes(10))) struct NegotiationTests {
    @Test("a device that has moved is found by way of SSH, and is on record there from then on")
    func aDeviceThatHasMoved() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        let backend = try EchoServer()
        try owner.know(server)
        let enrolled = try await owner.enroll(
            server,
            ["--name", "dev", "--allow-port", "\(backend.port)", "--advertise", "home.invalid:25008"]
        )
        try #require(enrolled.succeeded, "\(enrolled.standardError)")
        let place = try #require(try owner.devices.record(named: "dev")?.hbone.first)
        // Nothing listens there.
        let former = try Authority(parsing: "127.0.0.1:\(FreePort.next())")
        try owner.devices.update("dev", by: "test", "moved") { $0.hbone = [former] }

        func start(_ more: [String]) throws -> ChildProcess {
            try ChildProcess(
                TestTools.bootstrap,
                ["connect", "dev", "-N", "-i", server.userKey] + more,
                environment: ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil]
            )
        }
        let connect = try start(["-v"])
        _ = try await connect.standardOutput.line(containing: "→ h2: h2 is back and stable")
        let log = connect.standardError
        let line = try await log.line(containing: "negotiated over SSH (generation ")
        #expect(line.contains("\(place)") && line.contains("home.invalid:25008"), "\(line)")
        _ = try await log.line(containing: "  \(place), by its own word: handshake ")
        _ = try await log.line(containing: "dev is recorded at \(place)")
        #expect(try owner.devices.record(named: "dev")?.hbone == [former, place])
        try await eventually("the device knows how it was reached") {
            (try? owner.base.read("bootstrap/state/outcome"))?.contains("\"chosen\" : \"h2\"") == true
        }
        await connect.stop()

        // The next one knows the place.
        let again = try start([])
        _ = try await again.standardOutput.line(containing: "path h2: first path that answered")
        await again.stop()
        owner.stopNode()
        await server.stop()
    }
}

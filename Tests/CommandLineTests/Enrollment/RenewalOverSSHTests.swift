import Fleet
import Foundation
import MeshIdentity
import Platform
import TestPeers
import Testing

@testable import SSHSignal

/// What becomes of a certificate after enrolment: renewed, revoked. With the real command, sshd and nodes.
extension EnrollmentOverSSHTests {
    /// Which certificate the device's node shows now, by OpenSSL's client.
    private func shownSerial(_ address: String) async throws -> String {
        let shown = try await ChildProcess.run(
            "sh",
            [
                "-c",
                "openssl s_client -connect \(address) -alpn h2 </dev/null 2>/dev/null | openssl x509 -noout -serial",
            ]
        )
        return shown.standardOutput.split(separator: "=").last.map {
            $0.trimmingCharacters(in: .whitespacesAndNewlines).lowercased()
        } ?? ""
    }

    @Test func renewalIsTakenUpWithoutARestart() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        let before = try await owner.enrolled(on: server)
        let process = try String(contentsOfFile: owner.state + "/node.pid", encoding: .utf8)
        let address = try #require(before.hbone.first).description
        #expect(try await shownSerial(address) == before.serial)

        let none = try await owner.run(["renew", "--due"])
        #expect(none.succeeded && none.standardOutput.contains("No certificate is due"), "\(none.standardError)")
        let renewed = try await owner.run(["renew", "dev7"])
        #expect(renewed.succeeded, "\(renewed.standardOutput)\(renewed.standardError)")
        let after = try #require(try owner.devices.record(named: "dev7"))
        #expect(after.serial != before.serial && after.renewedAt != nil)
        #expect(renewed.standardOutput.contains("dev7  renewed  until "))
        #expect(try CredentialDirectory(owner.state + "/identity").load().leaf.serialNumber == after.serial)
        try await eventually("the node shows the new certificate") { try await shownSerial(address) == after.serial }
        #expect(try String(contentsOfFile: owner.state + "/node.pid", encoding: .utf8) == process)
        let states = try owner.devices.ledger.certificates(of: "dev7").map { "\($0.command) \($0.state.rawValue)" }
        #expect(states == ["renew issued", "enroll superseded"])

        let unknown = try await owner.run(["renew", "nobody"])
        #expect(unknown.status == .exited(2) && unknown.standardError.contains("'nobody' is not enrolled"))
    }

    /// An expired certificate strands nobody: SSH does not ask for it.
    @Test func anExpiredCertificateIsRenewedOverSSH() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        let before = try await owner.enrolled(on: server, ["--ttl", "10s"])
        try await eventually("the certificate has expired") { Date().timeIntervalSince1970 > Double(before.notAfter) }
        #expect(try await owner.run(["status"]).standardOutput.contains("EXPIRED"))
        let renewed = try await owner.run(["renew", "--due", "--ttl", "1h"])
        #expect(renewed.succeeded, "\(renewed.standardOutput)\(renewed.standardError)")
        let after = try #require(try owner.devices.record(named: "dev7"))
        #expect(after.notAfter > before.notAfter + 3000)
        #expect(try CredentialDirectory(owner.state + "/identity").load().leaf.serialNumber == after.serial)
    }

    @Test func theWatchRenewsWhatIsDueUntilItIsStopped() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try await owner.enrolled(on: server, ["--ttl", "12s"])
        // The operator's configuration names a directory from now on, and nobody has written it.
        try owner.home.write("bootstrap/config.yaml", "directory: {file: ../mesh.yaml}\n")
        let watch = try ChildProcess(
            TestTools.bootstrap,
            ["renew", "--watch"],
            environment: ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil]
        )
        _ = try await watch.standardOutput.line(containing: "dev7  renewed")
        _ = try await watch.standardOutput.line(containing: "mesh.yaml says so, from revision")
        let text = try await owner.run(["mesh", "get"]).standardOutput
        #expect(text.contains("- {name: \"dev7\""), "\(text)")
        // Then the device cannot be reached: it is tried again, and again.
        await server.stop()
        _ = try await watch.standardError.line(containing: "trying again in")
        watch.signal(SIGTERM)
        #expect(try await watch.exit() == .exited(0))
        let commands = try owner.devices.ledger.certificates(of: "dev7").map(\.command)
        #expect(commands.last == "enroll" && commands.dropLast().contains("renew"))
    }

    /// Two devices, each with a stream to the other. One is revoked: both streams are cut, and no new one opens.
    @Test func aRevokedDeviceIsCutOffEverywhere() async throws {
        let devices = try await TwoDevices()
        let (owner, a, b) = (devices.owner, devices.a, devices.b)
        // Another node of each device, for what its users ask for.
        let fromA = try await devices.forward(from: a, to: b)
        let fromB = try await devices.forward(from: b, to: a)
        let streams = [
            try await TCPConversation(port: fromA.port), try await TCPConversation(port: fromB.port),
        ]
        for stream in streams { #expect(try await stream.echo(Array("hello".utf8)) == Array("hello".utf8)) }

        let revoked = try await owner.run(["revoke", "a", "--reason", "stolen"])
        #expect(revoked.succeeded, "\(revoked.standardOutput)\(revoked.standardError)")
        #expect(revoked.standardOutput.contains("b  told"), "\(revoked.standardOutput)")
        for stream in streams { #expect(try await stream.end(finishing: false).1 == .broken(ECONNRESET)) }
        // b's server refuses a, and b's client refuses a.
        for port in [fromA.port, fromB.port] {
            let (received, ending) = try await TCPClient.exchange(port: port, sending: Array("hello".utf8))
            #expect(received.isEmpty && ending == .broken(ECONNRESET))
        }
        let log = devices.bases.b.path("bootstrap/state/node.log")
        try await eventually("the node of b says so") {
            try String(contentsOfFile: log, encoding: .utf8).contains("reloaded")
        }

        let again = try await owner.run(["renew", "a"])
        #expect(again.status == .exited(5) && again.standardError.contains("--reinstate"), "\(again.standardError)")
        #expect(try owner.devices.ledger.certificates(of: "a").allSatisfy { $0.state == .revoked })
        #expect(try await owner.run(["status"]).standardOutput.contains("a     REVOKED"))
        let knew = try await owner.run(["revoke"])
        #expect(knew.succeeded && knew.standardOutput.contains("b  told"), "\(knew.standardError)")

        // A renewal brings the lists, too; and the device comes back when somebody says so.
        let refused = try await owner.enroll(
            port: devices.server.port,
            key: devices.server.userKey,
            ["--name", "a", "--base", devices.bases.a.path]
        )
        #expect(refused.status == .exited(5))
        let reinstated = try await owner.enroll(
            port: devices.server.port,
            key: devices.server.userKey,
            ["--name", "a", "--base", devices.bases.a.path, "--allow-port", "\(devices.backend.port)", "--reinstate"]
        )
        #expect(reinstated.succeeded, "\(reinstated.standardError)")
        try await eventually("a reaches b again") {
            let (received, _) = try await TCPClient.exchange(port: fromA.port, sending: Array("hello".utf8))
            return received == Array("hello".utf8)
        }
        await fromA.process.stop()
        await fromB.process.stop()
    }
}

import Fleet
import Foundation
import MeshIdentity
import TestPeers
import Testing

@testable import SSHSignal

/// Many devices from one file.
extension EnrollmentOverSSHTests {
    @Test func anInventoryInYAMLPartOfWhichFailsAndIsResumed() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        let absent = FreePort.next()
        func inventory(_ second: UInt16) throws -> String {
            try owner.home.write(
                "hosts.yaml",
                """
                defaults: {user: "\(OpenSSHServer.user)", identityFile: "\(server.userKey)", namespace: lab}
                hosts:
                - {host: 127.0.0.1, port: \(server.port), name: one, allowPorts: [22], labels: {site: berlin}}
                - {host: 127.0.0.1, port: \(second), name: two}
                """
            )
        }
        let options = [
            "--base", owner.base.path, "--agent-binary", TestTools.bootstrap, "--hbone-port", "0", "--hbone-address",
            "127.0.0.1",
        ]
        let first = try await owner.run(["enroll", "--inventory", try inventory(absent)] + options)
        #expect(first.status == .exited(6), "\(first.standardError)")
        #expect(first.standardOutput.contains("1 of 2 devices enrolled, 1 failed"), "\(first.standardOutput)")
        #expect(first.standardOutput.contains("two  unreachable  two: "), "\(first.standardOutput)")
        #expect(!first.standardOutput.contains("\u{1B}"), "lines are redrawn on a terminal only")
        let one = try #require(try owner.devices.record(named: "one"))
        #expect(one.identity.description == "spiffe://test.example/ns/lab/sa/one")
        #expect(one.labels == ["site": "berlin"])
        #expect(one.destination == "\(OpenSSHServer.user)@127.0.0.1:\(server.port)")
        #expect(try String(contentsOfFile: owner.state + "/node.yaml", encoding: .utf8).contains("ports: [22]"))
        #expect(try await owner.run(["status", "one"]).standardOutput.contains("berlin"))

        let again = try await owner.run(["enroll", "--resume", "--inventory", try inventory(absent)] + options)
        #expect(again.status == .exited(6))
        #expect(
            again.standardOutput.contains("1 device is enrolled already, and left alone"),
            "\(again.standardOutput)"
        )
        #expect(try owner.devices.record(named: "one") == one, "it was left alone")
    }

    /// Another CA with a command line: here our own, by way of a program.
    @Test func aProgramSigns() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        let elsewhere = owner.home.path("elsewhere")
        let made = try await owner.run(["ca", "init", "--trust-domain", "other.example", "--ca", elsewhere])
        #expect(made.succeeded, "\(made.standardError)")
        let program = try owner.home.write(
            "sign",
            "#!/bin/sh\nexec '\(TestTools.bootstrap)' ca sign --ca '\(elsewhere)' --id \"$BOOTSTRAP_SPIFFE_ID\"\n",
            permissions: 0o755
        )
        let enrolled = try await owner.enroll(
            server,
            ["--name", "dev7", "--issuer", "exec:\(program)", "--trust-domain", "other.example"]
        )
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        let before = try #require(try owner.devices.record(named: "dev7"))
        #expect(before.identity.description == "spiffe://other.example/ns/default/sa/dev7")
        let renewed = try await owner.run(["renew", "dev7", "--issuer", "exec:\(program)"])
        #expect(renewed.succeeded, "\(renewed.standardError)")
        #expect(try owner.devices.record(named: "dev7")?.serial != before.serial)
        let wrong = try await owner.run(["renew", "dev7", "--issuer", "sign"])
        #expect(wrong.status == .exited(2) && wrong.standardError.contains("exec:PROGRAM"))
    }
}

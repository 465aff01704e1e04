import Foundation
import TestPeers
import Testing

/// `doctor` names what is wrong and how to fix it: one test for each thing that goes wrong on the way to a device.
@Suite(.timeLimit(.minutes(10))) struct DoctorTests {
    /// A line of `--output json`.
    struct Finding: Decodable {
        var check: String
        var verdict: String
        var detail: String
        var fix: String?

        private enum CodingKeys: String, CodingKey {
            case check, verdict, detail
            case fix = "mend"
        }
    }

    struct Diagnosis {
        var findings: [Finding]
        var status: TestPeers.ExitStatus
        var standardError: String

        /// The worst of a check.
        func of(_ check: String) -> Finding? {
            let all = findings.filter { $0.check == check }
            return all.first { $0.verdict == "failed" } ?? all.first { $0.verdict == "warning" } ?? all.first
        }
        var failed: [String] { findings.filter { $0.verdict == "failed" }.map(\.check) }
    }

    private func diagnose(
        _ journey: Journey,
        _ destination: String?,
        options: [String]? = nil
    ) async throws -> Diagnosis {
        let output = try await journey.run(
            ["doctor"] + (destination.map { [$0] } ?? []) + ["--output", "json", "--agent-binary", TestTools.bootstrap]
                + (options ?? (destination == nil ? [] : journey.sshOptions))
        )
        let findings = try output.standardOutput.split(separator: "\n").map {
            try JSONDecoder().decode(Finding.self, from: Data($0.utf8))
        }
        return Diagnosis(findings: findings, status: output.status, standardError: output.standardError)
    }

    @Test func anEnrolledDeviceIsFineThroughout() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: 1).succeeded)
        let diagnosis = try await diagnose(journey, "device1", options: [])
        #expect(diagnosis.status == .exited(0), "\(diagnosis.standardError)")
        for check in [
            "home", "CA", "ssh_config", "record", "host key", "login", "shell", "fit", "installation", "clock",
            "forwarding",
            "certificate", "path h2",
        ] {
            #expect(diagnosis.of(check)?.verdict == "ok", "\(check): \(String(describing: diagnosis.of(check)))")
        }
        await journey.stop()
    }

    @Test func withoutADestinationOnlyThisMachineIsLookedAt() async throws {
        let journey = try await Journey()
        let before = try await diagnose(journey, nil)
        #expect(before.of("CA")?.verdict == "warning")
        #expect(before.of("CA")?.fix?.contains("bootstrap ca init") == true)
        try await journey.makeAuthority()
        chmod(journey.directory.path("home/.bootstrap"), 0o777)
        let after = try await diagnose(journey, nil)
        #expect(after.of("CA")?.verdict == "ok")
        #expect(after.failed == ["home"])
        #expect(after.of("home")?.fix?.hasPrefix("chmod go-w") == true)
        #expect(after.status == .exited(1))
        await journey.stop()
    }

    @Test func nobodyListens() async throws {
        let journey = try await Journey()
        let port = FreePort.next()
        let diagnosis = try await diagnose(journey, "\(OpenSSHServer.user)@127.0.0.1:\(port)")
        #expect(diagnosis.status == .exited(6))
        #expect(diagnosis.failed == ["connection"])
        #expect(diagnosis.of("connection")?.fix?.contains("sshd runs there") == true)
        #expect(diagnosis.of("shell")?.verdict == "skipped")
        await journey.stop()
    }

    @Test func theHostKeyHasChanged() async throws {
        let journey = try await Journey()
        let other = try await OpenSSHServer()
        let key = try other.directory.read("host_ed25519.pub").split(separator: " ").prefix(2).joined(separator: " ")
        try journey.directory.write("home/.ssh/known_hosts", "[127.0.0.1]:\(journey.sshd.port) \(key)\n")
        let diagnosis = try await diagnose(journey, journey.destination)
        #expect(diagnosis.status == .exited(3))
        #expect(diagnosis.failed == ["host key"])
        #expect(diagnosis.of("host key")?.detail.contains("HOST KEY CHANGED") == true)
        await other.stop()
        await journey.stop()
    }

    @Test func theKeyIsNotAccepted() async throws {
        let journey = try await Journey()
        let stranger = journey.directory.path("stranger")
        try await OpenSSHServer.makeKey("ed25519", stranger)
        let options = journey.sshOptions.map { $0 == journey.sshd.userKey ? stranger : $0 }
        let diagnosis = try await diagnose(journey, journey.destination, options: options)
        #expect(diagnosis.status == .exited(4))
        #expect(diagnosis.failed == ["login"])
        #expect(diagnosis.of("login")?.fix?.contains("authorized_keys") == true)
        await journey.stop()
    }

    @Test func thePasswordComesFromAFile() async throws {
        let sshd = try await OpenSSHServer(
            configuration: [
                "PermitRootLogin yes", "PasswordAuthentication yes", "UsePAM yes", "PubkeyAuthentication no",
            ],
            password: "correct horse"
        )
        let journey = try await Journey(sshd: sshd)
        for (password, isRight) in [("correct horse", true), ("battery staple", false)] {
            let file = try journey.directory.write("password", password + "\n", permissions: 0o600)
            let options = journey.sshOptions + ["--password-file", file]
            let diagnosis = try await diagnose(journey, journey.destination, options: options)
            #expect(diagnosis.of("login")?.verdict == (isRight ? "ok" : "failed"), "\(diagnosis)")
        }
        chmod(journey.directory.path("password"), 0o644)
        let open = try await diagnose(
            journey,
            journey.destination,
            options: journey.sshOptions + ["--password-file", journey.directory.path("password")]
        )
        #expect(open.status == .exited(2))
        #expect(open.standardError.contains("others can read the password"))
        await journey.stop()
    }

    @Test func theAccountMayRunNothing() async throws {
        let sshd = try await OpenSSHServer(authorizedKeyOptions: "command=\"echo go away\"")
        let journey = try await Journey(sshd: sshd)
        let diagnosis = try await diagnose(journey, journey.destination)
        #expect(diagnosis.failed == ["shell"])
        #expect(
            diagnosis.of("shell")?.detail.contains("go away") == true,
            "\(String(describing: diagnosis.of("shell")))"
        )
        #expect(diagnosis.of("fit")?.verdict == "skipped")
        #expect(diagnosis.status == .exited(1))
        await journey.stop()
    }

    @Test func forwardingIsForbidden() async throws {
        let sshd = try await OpenSSHServer(configuration: ["AllowTcpForwarding no"])
        let journey = try await Journey(sshd: sshd)
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: 1).succeeded)
        let diagnosis = try await diagnose(journey, "device1", options: [])
        #expect(diagnosis.of("forwarding")?.verdict == "warning")
        #expect(diagnosis.of("forwarding")?.fix?.contains("AllowTcpForwarding") == true)
        // The native path works without it.
        #expect(diagnosis.status == .exited(0))
        await journey.stop()
    }

    @Test func onlyOneSessionAtATime() async throws {
        let sshd = try await OpenSSHServer(configuration: ["MaxSessions 1"])
        let journey = try await Journey(sshd: sshd)
        let diagnosis = try await diagnose(journey, journey.destination)
        #expect(diagnosis.of("sessions")?.verdict == "warning")
        #expect(diagnosis.of("sessions")?.fix?.contains("MaxSessions") == true)
        #expect(diagnosis.of("shell")?.verdict == "ok")
        await journey.stop()
    }

    @Test func theDeviceWasRevoked() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: 1).succeeded)
        let revoked = try await journey.run(["revoke", "device1"])
        #expect(revoked.succeeded, "\(revoked.standardError)")
        let diagnosis = try await diagnose(journey, "device1", options: [])
        #expect(diagnosis.of("record")?.verdict == "failed")
        #expect(diagnosis.status == .exited(5))
        await journey.stop()
    }

    /// What a cut installation leaves, and one that is under way: a lock with the name of its owner, alive or not.
    @Test func anInstallationIsUnderWayOrWasCut() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: 1).succeeded)
        let none = try await diagnose(journey, "device1", options: [])
        #expect(none.of("installation")?.verdict == "ok", "\(none.findings)")

        let boot = try String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8)
        let lock = try journey.directory.makeDirectory("device/bootstrap/.lock")
        try journey.directory.write("device/bootstrap/.lock/owner", "\(getpid()) \(boot.dropLast()) 0\n")
        let underWay = try await diagnose(journey, "device1", options: [])
        #expect(underWay.of("installation")?.verdict == "warning")
        #expect(underWay.of("installation")?.detail.contains("process \(getpid()) there") == true)

        try journey.directory.write("device/bootstrap/.lock/owner", "\(getpid()) another-boot 0\n")
        let cut = try await diagnose(journey, "device1", options: [])
        #expect(cut.of("installation")?.detail.contains("was cut") == true)
        try FileManager.default.removeItem(atPath: lock)
        try journey.directory.makeDirectory("device/bootstrap/0.0.0-00")
        try journey.directory.write("device/bootstrap/0.0.0-00/bootstrap.part.1", "half")
        #expect(
            try await diagnose(journey, "device1", options: []).of("installation")?.fix?.contains("enroll") == true
        )
        #expect(try await journey.enroll(allow: 1).succeeded)
        #expect(try await diagnose(journey, "device1", options: []).of("installation")?.verdict == "ok")
        await journey.stop()
    }

    @Test func theNodeIsDown() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: 1).succeeded)
        let node = try #require(journey.node)
        kill(node, SIGKILL)
        try await eventually("the node is gone") { kill(node, 0) != 0 }
        let diagnosis = try await diagnose(journey, "device1", options: [])
        #expect(diagnosis.failed == ["forwarding"])
        #expect(diagnosis.of("forwarding")?.detail.contains("its node does not run") == true)
        #expect(diagnosis.of("path h2")?.detail.contains("nobody listens") == true)
        #expect(diagnosis.status == .exited(1))
        await journey.stop()
    }

    @Test func theNativePortBelongsToSomebodyElse() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: 1).succeeded)
        // The device's node now runs with the identity of another mesh.
        let stranger = try await Journey()
        try await stranger.makeAuthority()
        let issued = try await stranger.run(
            ["ca", "issue", "--id", "ns/default/sa/device1", "--out", stranger.directory.path("issued")]
        )
        #expect(issued.succeeded, "\(issued.standardError)")
        let node = try #require(journey.node)
        kill(node, SIGKILL)
        try await eventually("the node is gone") { kill(node, 0) != 0 }
        let yaml = try stranger.directory.write(
            "node.yaml",
            """
            identity: \(stranger.directory.path("issued"))
            listeners:
            - {name: hbone, bind: "127.0.0.1:\(journey.hbonePort)", protocol: hbone}
            """
        )
        let impostor = try stranger.start(["node", "--config", yaml])
        _ = try await impostor.standardOutput.line(containing: "ready ")
        let diagnosis = try await diagnose(journey, "device1", options: [])
        #expect(diagnosis.failed == ["path h2"])
        #expect(diagnosis.status == .exited(4))
        await impostor.stop()
        await stranger.stop()
        await journey.stop()
    }

    @Test func aLineOfTheConfigurationMakesNoSense() async throws {
        let journey = try await Journey()
        try journey.directory.write("ssh_config", "Host *\n  Port many\n")
        let diagnosis = try await diagnose(journey, journey.destination)
        #expect(diagnosis.failed == ["ssh_config"])
        #expect(diagnosis.of("ssh_config")?.detail.contains("ssh_config:2") == true)
        #expect(diagnosis.status == .exited(2))
        await journey.stop()
    }

    /// A CA whose key is gone, or that others may read, signs nothing.
    @Test func aKeyThatCannotSignIsNoCA() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        let key = journey.directory.path("home/.bootstrap/ca/ca-key.pem")
        chmod(key, 0o644)
        let open = try await diagnose(journey, nil)
        #expect(open.failed == ["CA"])
        #expect(open.of("CA")?.fix?.contains("chmod 600 \(key)") == true)
        unlink(key)
        let gone = try await diagnose(journey, nil)
        #expect(gone.failed == ["CA"])
        #expect(gone.of("CA")?.fix?.contains("backup") == true)
        #expect(gone.status == .exited(1))
        await journey.stop()
    }

    /// rc files that print something stand in the way of nothing: neither of enrolment, nor of reading files.
    @Test func rcFilesThatPrintAreNoFault() async throws {
        let journey = try await Journey(
            sshd: try await OpenSSHServer(configuration: ["ForceCommand echo Welcome; eval \"$SSH_ORIGINAL_COMMAND\""])
        )
        try await journey.makeAuthority()
        let enrolled = try await journey.enroll(allow: 1)
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        let diagnosis = try await diagnose(journey, "device1", options: [])
        #expect(diagnosis.failed == [], "\(diagnosis.findings)")
        #expect(diagnosis.of("certificate")?.verdict == "ok")
        let copied = try await journey.run(["copy", "device1:/etc/passwd", journey.directory.path("passwd")])
        #expect(copied.succeeded, "\(copied.standardError)")
        #expect(
            try Data(contentsOf: URL(filePath: journey.directory.path("passwd")))
                == Data(contentsOf: URL(filePath: "/etc/passwd"))
        )
        await journey.stop()
    }

    /// A device without an agent is read where its credential is, and not advised to take one.
    @Test func aDeviceWithoutAnAgent() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        let files = journey.directory.path("credential")
        let enrolled = try await journey.run(
            ["enroll", journey.destination, "--name", "router", "--agentless", "--credential-dir", files]
                + journey.sshOptions
        )
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        let diagnosis = try await diagnose(journey, "router", options: [])
        #expect(diagnosis.status == .exited(0), "\(diagnosis.findings)")
        #expect(diagnosis.of("certificate")?.verdict == "ok")
        for check in ["fit", "service", "forwarding", "path h2"] {
            #expect(diagnosis.of(check) == nil, "\(check)")
        }
        await journey.stop()
    }
}

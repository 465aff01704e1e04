import Foundation
import TestPeers
import Testing

/// Exit codes that scripts rely on, and errors that say what to do.
@Suite(.timeLimit(.minutes(10))) struct ExitCodeTests {
    @Test(arguments: [
        (["connect", "device1"], "-L"),
        (["connect", "device1", "-L", "nonsense"], "8080:localhost:80"),
        (["node", "--config", "does-not-exist.yaml"], "does-not-exist.yaml"),
        (["frobnicate"], "frobnicate"),
        (["enroll", "nowhere.invalid", "--name", "a b"], "'a b' is no device name"),
        (["enroll", "nowhere.invalid", "--name", "../x"], "'../x' is no device name"),
        (["enroll", "nowhere.invalid", "--allow-port", "0"], "'0' is no port: write 1 to 65535"),
    ])
    func usageIs2(arguments: [String], mention: String) async throws {
        let journey = try await Journey()
        let output = try await journey.run(arguments)
        #expect(output.status == .exited(2))
        #expect(output.standardError.contains(mention), "\(output.standardError)")
        #expect(output.standardError.hasPrefix("error: ") || arguments[0] == "node", "\(output.standardError)")
        await journey.stop()
    }

    @Test func aConfigurationWithAnUnknownKeyNamesTheLine() async throws {
        let journey = try await Journey()
        let file = try journey.directory.write("node.yaml", "identity: /nowhere\nlisteners: []\nendpionts: []\n")
        let output = try await journey.run(["node", "--check", "--config", file])
        #expect(output.status == .exited(2))
        #expect(output.standardError.contains("node.yaml:3:"), "\(output.standardError)")
        #expect(output.standardError.contains("endpoints"))
        await journey.stop()
    }

    @Test func anUnknownHostKeyIs3() async throws {
        let journey = try await Journey(knowsHost: false)
        let output = try await journey.run(
            ["connect", journey.destination, "-L", "0:localhost:1"] + journey.sshOptions
        )
        #expect(output.status == .exited(3), "\(output.standardError)")
        #expect(output.standardError.contains("SHA256:"))
        #expect(!journey.sshd.log.contains("Accepted publickey"))
        await journey.stop()
    }

    @Test func aChangedHostKeyIs3AndNothingIsSent() async throws {
        let journey = try await Journey()
        let other = try await OpenSSHServer()
        let key = try other.directory.read("host_ed25519.pub").split(separator: " ").prefix(2).joined(separator: " ")
        try journey.directory.write("home/.ssh/known_hosts", "[127.0.0.1]:\(journey.sshd.port) \(key)\n")
        let output = try await journey.run(
            ["connect", journey.destination, "-L", "0:localhost:1"] + journey.sshOptions
                + ["-o", "StrictHostKeyChecking=no"]
        )
        #expect(output.status == .exited(3), "\(output.standardError)")
        #expect(output.standardError.contains("HOST KEY CHANGED"))
        #expect(!journey.sshd.log.contains("Accepted publickey"))
        await other.stop()
        await journey.stop()
    }

    @Test func aKeyThatIsNotAcceptedIs4() async throws {
        let journey = try await Journey()
        let other = try await OpenSSHServer()
        let output = try await journey.run(
            ["connect", journey.destination, "-L", "0:localhost:1"] + journey.sshOptions.dropLast(4)
                + ["-i", other.userKey] + journey.sshOptions.suffix(2)
        )
        #expect(output.status == .exited(4), "\(output.standardError)")
        await other.stop()
        await journey.stop()
    }

    @Test func nobodyThereIs6() async throws {
        let journey = try await Journey()
        let output = try await journey.run(
            ["connect", "\(OpenSSHServer.user)@127.0.0.1:\(FreePort.next())", "-L", "0:localhost:1"]
                + journey.sshOptions
        )
        #expect(output.status == .exited(6), "\(output.standardError)")
        #expect(output.standardError.contains("refused"))
        await journey.stop()
    }

    @Test func aPortInUseNamesItAndHowToFindItsOwner() async throws {
        let journey = try await Journey()
        let taken = try EchoServer()
        let output = try await journey.run(
            ["connect", journey.destination, "-L", "\(taken.port):localhost:1"] + journey.sshOptions
        )
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains("127.0.0.1:\(taken.port)"))
        #expect(output.standardError.contains("ss -ltnp"))
        await journey.stop()
    }

    // MARK: Names and files that are not there

    /// Where only a device can be meant, a name that none has is a mistake of the command line. Where any host will do,
    /// it cannot be reached. Either way what was probably meant is said.
    @Test func aNameThatNoDeviceHas() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: 1).succeeded)
        let name = "devcie1.invalid"
        let devicesOnly = [
            ["allow", name, "1"], ["deny", name, "1"], ["renew", name], ["revoke", name, "--list-only"],
            ["status", name], ["status", "--probe", name], ["connect", name, "--path", "h2", "-W", "localhost:1"],
        ]
        let anyHost = [
            ["exec", name, "--", "true"], ["exec", name, "--put", "/etc/passwd:/dev/null"],
            ["copy", "/etc/passwd", "\(name):/dev/null"], ["connect", name, "-W", "localhost:1"],
            ["enroll", name, "--agent-binary", TestTools.bootstrap], ["unenroll", name], ["doctor", name],
        ]
        // A name that the resolver is not to know, and that is near a device's.
        let ledger = journey.directory.path("home/.bootstrap/ledger.sqlite")
        let renamed = try await ChildProcess.run(
            "python3",
            [
                "-c",
                """
                import sqlite3, sys
                ledger = sqlite3.connect(sys.argv[1])
                for name, record in ledger.execute("SELECT name, record FROM devices").fetchall():
                    record = record.replace('"name":"device1"', '"name":"device1.invalid"')
                    ledger.execute("UPDATE devices SET name = 'device1.invalid', record = ?", [record])
                ledger.commit()
                """, ledger,
            ]
        )
        #expect(renamed.succeeded, "\(renamed.standardError)")
        for (commands, code) in [(devicesOnly, Int32(2)), (anyHost, 6)] {
            for command in commands {
                let output = try await journey.run(command)
                #expect(output.status == .exited(code), "\(command): \(output.standardOutput)\(output.standardError)")
                let said = output.standardError + output.standardOutput
                #expect(said.contains("did you mean 'device1.invalid'?"), "\(command): \(said)")
                if code == 2 { #expect(said.contains("'\(name)' is not enrolled"), "\(command): \(said)") }
            }
        }
        await journey.stop()
    }

    /// A file of this machine that the command line names and that is not there.
    @Test func aFileThatIsNotThere() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        let there = ["-o", "BatchMode=yes", "--agent-binary", TestTools.bootstrap]
        let host = journey.destination
        for command in [
            ["enroll", "--inventory", "missing"], ["enroll", host, "--agent-binary", "missing"],
            ["enroll", host, "--passphrase-file", "missing"] + there, ["enroll", host, "--ca", "missing"] + there,
            ["enroll", host, "--password-file", "missing"] + there, ["enroll", host, "-F", "missing"] + there,
            [
                "enroll", host, "--issuer", "istiod:localhost:1", "--issuer-token", "missing", "--issuer-ca",
                "/etc/passwd",
            ] + there,
            [
                "enroll", host, "--issuer", "istiod:localhost:1", "--issuer-token", "/etc/passwd", "--issuer-ca",
                "missing",
            ] + there,
            ["exec", "--inventory", "missing", "--", "true"], ["exec", host, "--put", "missing:/tmp/x"],
            ["exec", host, "-F", "missing", "--", "true"], ["exec", host, "-F", "missing", "--put", "/etc/passwd:/x"],
            ["exec", host, "--password-file", "missing", "--", "true"], ["copy", "missing", "\(host):/tmp/x"],
            ["copy", "/etc/passwd", "\(host):/x", "-F", "missing"],
            ["connect", host, "-F", "missing", "-W", "localhost:1"], ["doctor", host, "-F", "missing"],
            ["doctor", "--agent-binary", "missing"], ["unenroll", host, "-F", "missing"],
            ["renew", "--due", "--passphrase-file", "missing"], ["renew", "--due", "--ca", "missing"],
            ["revoke", "--ca", "missing"], ["revoke", "--passphrase-file", "missing"],
            ["ca", "init", "--trust-domain", "other.example", "--ca", "other", "--passphrase-file", "missing"],
            ["ca", "issue", "--id", "ns/a/sa/b", "--out", "out", "--ca", "missing"],
            ["ca", "bundle", "--ca", "missing"],
            ["ca", "sign", "--id", "ns/a/sa/b", "--passphrase-file", "missing"],
            ["ca", "ssh", "ca", "--ca", "missing"],
            ["ca", "ssh", "sign", "--user", "--principal", "root", "missing.pub"], ["ca", "serve", "--ca", "missing"],
            ["ca", "rotate", "--passphrase-file", "missing"], ["node", "--config", "missing"],
            ["explain", "--config", "missing", "--from", "local", "--to", "a:1"],
            ["capture", "verify", "--netns", "missing", "--config", "missing"],
        ] {
            let output = try await journey.run(command, input: [])
            #expect(output.status == .exited(2), "\(command): \(output.standardOutput)\(output.standardError)")
            #expect((output.standardError + output.standardOutput).contains("missing"), "\(command)")
        }
        await journey.stop()
    }

    /// What each command does with a machine that it has to log in to.
    private static func commands(_ destination: String) -> [[String]] {
        [
            ["exec", destination], ["copy", "/etc/passwd", "\(destination):/dev/null"],
            ["connect", destination, "-L", "0:localhost:1"], ["connect", destination, "-W", "localhost:1"],
            ["enroll", destination, "--agent-binary", TestTools.bootstrap], ["unenroll", destination],
            ["doctor", destination],
        ]
    }

    /// Equal causes have equal codes, and one error, whichever command meets them.
    @Test(arguments: [("host key", 3), ("login", 4), ("nobody", 6), ("name", 6)] as [(String, Int32)])
    func theSameCauseHasTheSameCode(cause: String, code: Int32) async throws {
        let journey = try await Journey(knowsHost: cause != "host key")
        try await journey.makeAuthority()
        let other = try await OpenSSHServer()
        var options = journey.sshOptions + ["-o", "BatchMode=yes"]
        var destination = journey.destination
        switch cause {
        case "login": options = options.map { $0 == journey.sshd.userKey ? other.userKey : $0 }
        case "nobody": destination = "\(OpenSSHServer.user)@127.0.0.1:\(FreePort.next())"
        case "name": destination = "does-not-exist.invalid"
        default: break
        }
        for command in Self.commands(destination) {
            let more = command[0] == "exec" ? ["--", "true"] : []
            let output = try await journey.run(command + options + more)
            #expect(output.status == .exited(code), "\(command): \(output.standardOutput)\(output.standardError)")
            guard command[0] != "doctor" else { continue }
            let errors = output.standardError.split(separator: "\n").filter { $0.hasPrefix("error:") }
            #expect(errors.count == 1, "\(command): \(output.standardError)")
        }
        await other.stop()
        await journey.stop()
    }

    /// As ssh's ProxyCommand, `-W` loses its reader when standard output ends: by then the reason is printed.
    @Test(arguments: ["closed port", "no login"]) func theReasonIsPrintedBeforeStandardOutputEnds(
        cause: String
    ) async throws {
        let journey = try await Journey()
        let other = try await OpenSSHServer()
        let options =
            cause == "no login"
            ? journey.sshOptions.map { $0 == journey.sshd.userKey ? other.userKey : $0 } : journey.sshOptions
        // Ends the command as soon as its output has ended.
        let script = """
            import os, signal, subprocess, sys
            for _ in range(12):
                process = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                process.stdout.read()
                process.kill()
                process.wait()
                said = process.stderr.read().decode()
                print("said" if "error: localhost:" in said else "lost: " + said)
            """
        let output = try await ChildProcess.run(
            "python3",
            ["-c", script, TestTools.bootstrap, "connect", journey.destination, "-W", "localhost:\(FreePort.next())"]
                + options + ["-o", "BatchMode=yes"],
            environment: ["HOME": journey.home, "SSH_AUTH_SOCK": nil],
            within: .seconds(60)
        )
        #expect(output.standardOutput == String(repeating: "said\n", count: 12), "\(output.standardError)")
        await other.stop()
        await journey.stop()
    }
}

import Foundation
import Platform
import TestPeers
import Testing

/// `enroll --ssh-host-cert` and `--ssh-user-ca`: a real sshd, its configuration changed, tested, reloaded, and
/// confirmed by new connections.
@Suite(.timeLimit(.minutes(10))) struct SSHServerSetupTests {
    /// A home without an agent, which makes an enrolment short, at an sshd that includes a directory.
    private struct Setup {
        let journey: Journey
        let included = TemporaryDirectory()

        init(
            configuration: [String] = [],
            includes: Bool = true,
            authorizedKeyOptions: String = ""
        ) async throws {
            let lines = includes ? ["Include \(included.path("*.conf"))"] : []
            journey = try await Journey(
                sshd: try await OpenSSHServer(
                    configuration: lines + configuration,
                    authorizedKeyOptions: authorizedKeyOptions
                )
            )
            try await journey.makeAuthority()
        }

        var sshd: OpenSSHServer { journey.sshd }
        var dropIn: String { included.path("50-bootstrap.conf") }
        var knownHosts: String { journey.directory.path("home/.ssh/known_hosts") }

        func enroll(_ extra: [String]) async throws -> ChildProcess.Output {
            try await journey.run(
                [
                    "enroll", journey.destination, "--name", "dev7", "--agentless", "--agent-binary",
                    TestTools.bootstrap,
                    "--credential-dir", journey.directory.path("device/identity"),
                ] + journey.sshOptions + extra
            )
        }

        /// Waits until sshd has begun to listen for the nth time: a reload closes its socket for a moment, and refuses
        /// who comes then.
        func listened(times: Int) async throws { try await sshd.logged("Server listening on", count: times) }

        func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: path) }

        /// What the device has of ours in sshd.
        var leftovers: [String] {
            let files = [sshd.directory.path, included.path].flatMap { directory in
                (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
            }
            return files.filter { $0.contains("bootstrap") || $0.contains("-cert.pub") }
        }

        func knownHostsLines() throws -> [String] {
            try String(contentsOfFile: knownHosts, encoding: .utf8).split(separator: "\n").map(String.init)
        }

        /// The operator trusts hosts by the CA, and no key by itself.
        func forgetPlainKeys() throws {
            let lines = try knownHostsLines().filter { $0.hasPrefix("@cert-authority") }
            try journey.directory.write("home/.ssh/known_hosts", lines.joined(separator: "\n") + "\n")
        }

        /// The user's own ssh, which may ask nothing.
        func ssh(_ options: [String] = []) async throws -> ChildProcess.Output {
            try await ChildProcess.run(
                "ssh",
                [
                    "-F", "none", "-i", sshd.userKey, "-p", "\(sshd.port)", "-o", "BatchMode=yes", "-o",
                    "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=\(knownHosts)", "-o",
                    "GlobalKnownHostsFile=/dev/null", "-o", "IdentityAgent=none",
                ] + options + ["\(OpenSSHServer.user)@127.0.0.1", "echo in"]
            )
        }

        /// Our client.
        func exec() async throws -> ChildProcess.Output {
            try await journey.run(
                ["exec", journey.destination] + journey.sshOptions + [
                    "-o", "StrictHostKeyChecking=yes", "--", "echo", "in",
                ]
            )
        }

        func stop() async { await journey.stop() }
    }

    /// The bytes of `ssh-keygen -L`.
    private func describe(_ certificate: String) async throws -> String {
        try await ChildProcess.run("ssh-keygen", ["-L", "-f", certificate]).standardOutput
    }

    @Test func fromEnrolmentToUnenrolment() async throws {
        let setup = try await Setup()
        let before = try setup.sshd.directory.read("sshd_config")
        let enrolled = try await setup.enroll(["--ssh-host-cert"])
        #expect(enrolled.succeeded, "\(enrolled.standardOutput)\(enrolled.standardError)\(setup.sshd.log)")
        let certificate = setup.sshd.directory.path("host_ed25519-cert.pub")
        let first = try await describe(certificate)
        #expect(first.contains("host certificate") && first.contains("127.0.0.1") && first.contains("dev7"), "\(first)")
        // Its other key is certified as well, and said to be by its own word.
        #expect(setup.exists(setup.sshd.directory.path("host_ecdsa-cert.pub")))
        #expect(enrolled.standardOutput.contains("(by the device's word)"), "\(enrolled.standardOutput)")
        #expect(enrolled.standardOutput.contains("principals 127.0.0.1, dev7"), "\(enrolled.standardOutput)")
        var status = stat()
        #expect(stat(certificate, &status) == 0 && status.st_mode & 0o777 == 0o644)
        #expect(try String(contentsOfFile: setup.dropIn, encoding: .utf8).contains("HostCertificate \(certificate)\n"))
        #expect(try setup.sshd.directory.read("sshd_config") == before)
        #expect(setup.leftovers.sorted() == ["50-bootstrap.conf", "host_ecdsa-cert.pub", "host_ed25519-cert.pub"])

        // The CA is trusted for this host alone, and the line was said.
        let port = setup.sshd.port
        let trusted = try setup.knownHostsLines().filter { $0.hasPrefix("@cert-authority") }
        #expect(trusted.count == 1)
        #expect(
            trusted.first?.hasPrefix("@cert-authority [127.0.0.1]:\(port),[dev7]:\(port) ecdsa-sha2-nistp256 ") == true
        )
        #expect(enrolled.standardOutput.contains(trusted.first ?? "-"))
        let shown = try await setup.journey.run(["status", "dev7"])
        #expect(shown.standardOutput.contains("certified until"), "\(shown.standardOutput)")
        let doctor = try await setup.journey.run(["doctor", "dev7"])
        #expect(doctor.standardOutput.contains("the SSH host certificate is valid until"), "\(doctor.standardOutput)")

        // No key is trusted by itself any more, and the machine gets another one: no question, no refusal.
        try setup.forgetPlainKeys()
        try await replaceHostKey(setup, certified: true)
        let byCertificate = try await setup.ssh()
        #expect(byCertificate.succeeded, "\(byCertificate.standardError)")
        let byUs = try await setup.exec()
        #expect(byUs.succeeded && byUs.standardOutput == "in\n", "\(byUs.standardError)")
        try await replaceHostKey(setup, certified: false)
        #expect(try await setup.ssh().status == .exited(255))
        #expect(try await setup.exec().status == .exited(3))
        await setup.stop()
    }

    /// The name stands in the configuration of `$HOME` only, which the `ssh` that confirms does not read by itself.
    @Test func theConfigurationThatWasReadHoldsForTheConfirmation() async throws {
        let setup = try await Setup()
        try setup.journey.directory.write(
            "home/.ssh/config",
            """
            Host device
              HostName 127.0.0.1
              Port \(setup.sshd.port)
              User \(OpenSSHServer.user)
              IdentityFile \(setup.sshd.userKey)
              IdentityAgent none

            """,
            permissions: 0o600
        )
        let enrolled = try await setup.journey.run(
            [
                "enroll", "device", "--name", "dev7", "--agentless", "--agent-binary", TestTools.bootstrap,
                "--credential-dir", setup.journey.directory.path("device/identity"), "--ssh-host-cert",
            ]
        )
        #expect(enrolled.succeeded, "\(enrolled.standardOutput)\(enrolled.standardError)")
        #expect(setup.exists(setup.sshd.directory.path("host_ed25519-cert.pub")))
        await setup.stop()
    }

    /// As a machine that was installed anew; only this key is left to it.
    private func replaceHostKey(_ setup: Setup, certified: Bool) async throws {
        let key = setup.sshd.directory.path("host_ed25519")
        for file in [key, key + ".pub", key + "-cert.pub", setup.sshd.directory.path("host_ecdsa-cert.pub")] {
            try? FileManager.default.removeItem(atPath: file)
        }
        try await OpenSSHServer.makeKey("ed25519", key)
        if certified {
            let signed = try await setup.journey.run(
                ["ca", "ssh", "sign", "--host", "--principal", "127.0.0.1", key + ".pub"]
            )
            #expect(signed.succeeded, "\(signed.standardError)")
        }
        let text = setup.sshd.log
        setup.sshd.process.signal(SIGHUP)
        try await eventually("sshd has started anew") {
            setup.sshd.log.dropFirst(text.count).contains("Server listening on")
        }
    }

    @Test func againRenewedAndTakenAway() async throws {
        let setup = try await Setup()
        let certificate = setup.sshd.directory.path("host_ed25519-cert.pub")
        #expect(
            try await setup.enroll(["--ssh-host-cert", "--ssh-ttl", "10d", "--ssh-principal", "dev7.lan"]).succeeded
        )
        let first = try await describe(certificate)
        #expect(first.contains("dev7.lan"), "\(first)")
        let again = try await setup.enroll(["--ssh-host-cert"])
        #expect(again.succeeded, "\(again.standardError)")
        let second = try await describe(certificate)
        #expect(second != first && second.contains("dev7.lan"), "\(second)")
        #expect(try setup.knownHostsLines().filter { $0.hasPrefix("@cert-authority") }.count == 1)

        // An enrolment that does not ask for it leaves it, and so does a renewal while it is not due.
        #expect(try await setup.enroll([]).succeeded)
        let quiet = try await setup.journey.run(["renew", "dev7"])
        #expect(quiet.succeeded && !quiet.standardOutput.contains("SSH host certificate"), "\(quiet.standardError)")
        #expect(try await describe(certificate) == second)
        let renewed = try await setup.journey.run(["renew", "dev7", "--ssh-host-cert"])
        #expect(renewed.succeeded, "\(renewed.standardError)")
        #expect(renewed.standardOutput.contains("SSH host certificate"), "\(renewed.standardOutput)")
        let third = try await describe(certificate)
        #expect(third != second && third.contains("dev7.lan"), "\(third)")

        let removed = try await setup.journey.run(["unenroll", "dev7"])
        #expect(removed.succeeded, "\(removed.standardError)")
        #expect(removed.standardOutput.contains("removed  \(setup.dropIn)"), "\(removed.standardOutput)")
        #expect(removed.standardOutput.contains("removed  \(certificate)"))
        #expect(setup.leftovers == [])
        try await eventually("sshd takes logins again after its reload") { try await setup.ssh().succeeded }
        await setup.stop()
    }

    /// Past half of its time a renewal brings a new one, and `--due` finds it though the mesh certificate is fresh.
    @Test func dueByItself() async throws {
        let setup = try await Setup()
        #expect(try await setup.enroll(["--ssh-host-cert", "--ssh-ttl", "1m"]).succeeded)
        // Its validity begins five minutes before it was signed.
        let due = try await setup.journey.run(["renew", "--due"])
        #expect(
            due.succeeded && due.standardOutput.contains("SSH host certificate"),
            "\(due.standardOutput)\(due.standardError)"
        )
        let doctor = try await setup.journey.run(["doctor", "dev7"])
        #expect(doctor.standardOutput.contains("renew --ssh-host-cert dev7"), "\(doctor.standardOutput)")
        await setup.stop()
    }

    /// Without an Include, and with a Match at the end: what stands behind that would count for it alone.
    @Test func usersInMarkedLines() async throws {
        let setup = try await Setup(includes: false)
        let file = setup.sshd.directory.path("sshd_config")
        let before = try setup.sshd.directory.read("sshd_config") + "Match User nobody\n  X11Forwarding no"
        try setup.sshd.directory.write("sshd_config", before)
        let enrolled = try await setup.enroll(["--ssh-user-ca", "--ssh-host-cert"])
        #expect(enrolled.succeeded, "\(enrolled.standardOutput)\(enrolled.standardError)")
        let after = try setup.sshd.directory.read("sshd_config")
        #expect(after.contains("# BEGIN bootstrap: SSH certificates\nHostCertificate "))
        #expect(after.hasSuffix("# END bootstrap: SSH certificates\nMatch User nobody\n  X11Forwarding no"), "\(after)")
        #expect(after.split(separator: "\n").filter { before.contains($0) }.joined(separator: "\n") == before)

        // Somebody whom the server has never heard of, with a certificate.
        let key = setup.journey.directory.path("guest")
        try await OpenSSHServer.makeKey("ecdsa", key)
        let signed = try await setup.journey.run(
            ["ca", "ssh", "sign", "--user", "--principal", OpenSSHServer.user, key + ".pub"]
        )
        #expect(signed.succeeded, "\(signed.standardError)")
        let options = setup.journey.sshOptions.map { $0 == setup.sshd.userKey ? key : $0 }
        let guest = try await setup.journey.run(
            ["exec", setup.journey.destination] + options + ["--", "echo", "guest"]
        )
        #expect(guest.succeeded && guest.standardOutput == "guest\n", "\(guest.standardError)")

        let removed = try await setup.journey.run(["unenroll", "dev7"])
        #expect(removed.succeeded, "\(removed.standardError)")
        #expect(removed.standardOutput.contains("lines of \(file)"), "\(removed.standardOutput)")
        #expect(try setup.sshd.directory.read("sshd_config") == before)
        try await setup.listened(times: 3)
        #expect(setup.leftovers == [])
        #expect(
            try await setup.journey.run(["exec", setup.journey.destination] + options + ["--", "true"]).status
                == .exited(4)
        )
        #expect(try await setup.ssh().succeeded)
        await setup.stop()
    }

    /// sshd takes the configuration and shows no certificate: only a connection finds that out.
    @Test func whatANewConnectionDoesNotConfirmIsTakenBack() async throws {
        let setup = try await Setup(configuration: ["HostKeyAlgorithms ssh-ed25519,ecdsa-sha2-nistp256"])
        let output = try await setup.enroll(["--ssh-host-cert", "--ssh-user-ca"])
        #expect(output.status == .exited(1), "\(output.standardError)")
        #expect(output.standardError.contains("does not show the host certificate"), "\(output.standardError)")
        #expect(output.standardError.contains("the change was taken back"), "\(output.standardError)")
        #expect(output.standardError.contains("dev7 is enrolled, but: "))
        #expect(setup.leftovers == [])
        #expect(try setup.knownHostsLines().contains { $0.hasPrefix("@cert-authority") } == false)
        try await setup.listened(times: 3)
        #expect(try await setup.ssh().succeeded)
        await setup.stop()
    }

    @Test func aConfigurationThatIsBrokenAlready() async throws {
        let setup = try await Setup()
        let broken = try setup.sshd.directory.read("sshd_config") + "Nonsense yes\n"
        try setup.sshd.directory.write("sshd_config", broken)
        let output = try await setup.enroll(["--ssh-host-cert"])
        #expect(output.status == .exited(1))
        #expect(
            output.standardError.contains("sshd does not accept its present configuration"),
            "\(output.standardError)"
        )
        #expect(output.standardError.contains("Nonsense"))
        #expect(setup.leftovers == [])
        #expect(try await setup.ssh().succeeded)
        await setup.stop()
    }

    /// A certificate of another CA, and another file of user CAs, are somebody's.
    @Test func whatOthersHaveSetUpStays() async throws {
        let setup = try await Setup()
        let ca = setup.journey.directory.path("other-ca")
        try await OpenSSHServer.makeKey("ed25519", ca)
        let key = setup.sshd.directory.path("host_ed25519")
        let signed = try await ChildProcess.run(
            "ssh-keygen",
            ["-q", "-s", ca, "-I", "other", "-h", "-n", "dev7", key + ".pub"]
        )
        #expect(signed.succeeded)
        let certificate = try setup.sshd.directory.read("host_ed25519-cert.pub")
        let output = try await setup.enroll(["--ssh-host-cert"])
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains("is there already and not of this CA"), "\(output.standardError)")
        #expect(try setup.sshd.directory.read("host_ed25519-cert.pub") == certificate)

        try setup.included.write("10-site.conf", "TrustedUserCAKeys \(ca).pub\n")
        let users = try await setup.enroll(["--ssh-user-ca"])
        #expect(users.status == .exited(1))
        #expect(users.standardError.contains("trusts the user CAs in \(ca).pub already"), "\(users.standardError)")
        #expect(setup.leftovers == ["host_ed25519-cert.pub"])
        await setup.stop()
    }

    /// Somebody who may not is told so, and nothing is changed.
    @Test func neitherRootNorSudo() async throws {
        // The account of the login is another one behind this.
        let setup = try await Setup(
            authorizedKeyOptions: "command=\"exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -s\""
        )
        chmod(setup.journey.directory.path, 0o755)
        chmod(setup.journey.directory.path("device"), 0o777)
        let output = try await setup.enroll(["--ssh-host-cert"])
        #expect(output.status == .exited(1))
        #expect(
            output.standardError.contains("neither root nor has sudo without a password"),
            "\(output.standardError)"
        )
        #expect(setup.leftovers == [])
        await setup.stop()
    }

    /// With stand-ins for `id` and `sudo`: the account says that it is nobody, and sudo that it may.
    @Test func withSudo() async throws {
        let programs = TemporaryDirectory()
        chmod(programs.path, 0o755)
        let setup = try await Setup(
            authorizedKeyOptions: "command=\"PATH=\(programs.path):$PATH exec sh -c \\\"$SSH_ORIGINAL_COMMAND\\\"\""
        )
        for (name, text) in [
            ("id", "echo 1000"),
            (
                "sudo",
                "[ \"$1\" = -n ] || exit 1\nshift\necho \"$@\" >>\(programs.path("used"))\nPATH=${PATH#*:}\nexec \"$@\""
            ),
        ] {
            try programs.write(name + ".text", "#!/bin/sh\n\(text)\n")
            let made = try await ChildProcess.run(
                "sh",
                [
                    "-c",
                    "cp '\(programs.path(name)).text' '\(programs.path(name))' && chmod 755 '\(programs.path(name))'",
                ]
            )
            #expect(made.succeeded)
        }
        let output = try await setup.enroll(["--ssh-host-cert"])
        #expect(output.succeeded, "\(output.standardError)")
        #expect(try programs.read("used").contains("sh -s"))
        #expect(setup.exists(setup.dropIn))
        await setup.stop()
    }

    @Test func dropbearHasNoCertificates() async throws {
        let server = try await DropbearServer()
        let journey = try await Journey()
        try await journey.makeAuthority()
        let output = try await journey.run(
            [
                "enroll", "\(DropbearServer.user)@127.0.0.1:\(server.port)", "--name", "small", "--agentless",
                "--agent-binary", TestTools.bootstrap, "--credential-dir", journey.directory.path("device/identity"),
                "--ssh-host-cert", "-F", "none", "-i", server.userKey, "-o", "StrictHostKeyChecking=accept-new", "-o",
                "UserKnownHostsFile=\(journey.directory.path("known"))",
            ]
        )
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains("dropbear, which has no certificates"), "\(output.standardError)")
        await server.stop()
        await journey.stop()
    }
}

import Foundation
import TestPeers
import Testing

/// Whatever `ssh HOST` can do: enrolment and tunnels by way of the user's own ssh program.
@Suite(.timeLimit(.minutes(10))) struct OpenSSHEngineTests {
    /// A login that libssh2 must leave alone, chosen without an option.
    @Test func enrollAndConnectThroughAProxyCommand() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        try await journey.makeAuthority()
        // ssh -W is the proxy that most people have; here it leads to the server itself.
        let hop = try await OpenSSHServer()
        let options = [
            "-F none", "-i \(hop.userKey)", "-p \(hop.port)", "-o StrictHostKeyChecking=no", "-o BatchMode=yes",
            "-o UserKnownHostsFile=/dev/null", "-o IdentityAgent=none", "-o LogLevel=ERROR",
        ]
        let proxy = "ProxyCommand ssh \(options.joined(separator: " ")) -W %h:%p \(OpenSSHServer.user)@127.0.0.1\n"
        try journey.directory.write("ssh_config", "IdentityAgent none\n" + proxy, permissions: 0o600)
        let enrolled = try await journey.enroll(allow: backend.port)
        #expect(enrolled.succeeded, "\(enrolled.standardOutput)\(enrolled.standardError)")
        #expect(enrolled.standardError.contains("by way of "), "\(enrolled.standardError)")
        #expect(enrolled.standardOutput.contains("spiffe://journey.example/ns/default/sa/device1"))
        try await hop.logged("Accepted publickey")
        let status = try await journey.run(["status", "device1", "--output", "json"])
        #expect(status.standardOutput.contains(try await journey.sshd.hostKeyFingerprint()))

        for path in ["h2-over-ssh", "ssh"] {
            let port = FreePort.next()
            let connect = try journey.start(
                ["connect", "device1", "--path", path, "-L", "\(port):localhost:\(backend.port)"]
            )
            _ = try await connect.standardOutput.line(containing: "path \(path): ")
            let sent = Pattern.bytes(1_000_000, seed: 1)
            let (received, ending) = try await TCPClient.exchange(port: port, sending: sent)
            #expect(ending == .endOfStream)
            #expect(Checksum.of(received) == Checksum.of(sent))
            // However it ends, nothing of it stays behind.
            connect.signal(path == "ssh" ? SIGKILL : SIGTERM)
            _ = try await connect.exit()
            try await eventually("the ssh programs have ended") {
                journey.sshd.sessionProcesses.isEmpty && hop.sessionProcesses.isEmpty
            }
        }
        await journey.stop()
        await hop.stop()
    }

    /// `ssh` looks into the account's own home directory; what was read from `$HOME` holds all the same.
    @Test func theHomeThatWasReadIsTheOneThatHolds() async throws {
        let journey = try await Journey()
        try journey.directory.write(
            "home/.ssh/config",
            """
            Host device
              HostName 127.0.0.1
              Port \(journey.sshd.port)
              User \(OpenSSHServer.user)
              IdentityAgent none
              RekeyLimit 1G 1h

            """,
            permissions: 0o600
        )
        let key = journey.directory.path("home/.ssh/id_ed25519")
        try FileManager.default.copyItem(atPath: journey.sshd.userKey, toPath: key)
        let output = try await journey.run(["exec", "device", "--", "echo in"])
        #expect(output.succeeded, "\(output.standardError)")
        #expect(output.standardOutput == "in\n")
        #expect(output.standardError.contains("by way of "), "\(output.standardError)")
        await journey.stop()
    }

    /// By name, and recorded with the device.
    @Test func theEngineIsRememberedWithTheDevice() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        let enrolled = try await journey.enroll(allow: 1, extra: ["--ssh-engine", "openssh"])
        #expect(enrolled.succeeded, "\(enrolled.standardOutput)\(enrolled.standardError)")
        #expect(enrolled.standardOutput.contains("OpenSSH_"))
        let status = try await journey.run(["status", "device1", "--output", "json"])
        #expect(status.standardOutput.contains("\"openssh\""), "\(status.standardOutput)")
        await journey.stop()
    }

    /// Where libssh2 is left out by itself, the pin goes with the login.
    @Test func aPinnedHostKeyThroughAProxyCommand() async throws {
        let journey = try await Journey(knowsHost: false)
        let proxy = "ProxyCommand bash -c 'exec 3<>/dev/tcp/%h/%p; cat <&3 & exec cat >&3'\n"
        try journey.directory.write("ssh_config", "IdentityAgent none\n" + proxy, permissions: 0o600)
        let right = try await journey.sshd.hostKeyFingerprint("ecdsa")
        let arguments = ["exec", journey.destination] + journey.sshOptions
        let good = try await journey.run(arguments + ["--host-key", right, "--", "echo", "in"])
        #expect(good.succeeded && good.standardOutput == "in\n", "\(good.standardError)")
        #expect(good.standardError.contains("by way of "), "\(good.standardError)")
        let wrong = try await OpenSSHServer.fingerprint(journey.sshd.userKey)
        let refused = try await journey.run(arguments + ["--host-key", wrong, "--", "echo", "in"])
        #expect(refused.status == .exited(3), "\(refused.standardError)")
        #expect(refused.standardError.contains("HOST KEY MISMATCH"))
        #expect(try journey.directory.read("home/.ssh/known_hosts") == "")
        await journey.stop()
    }

    @Test(arguments: ["none", "ssh"]) func anEngineThatDoesNotExist(name: String) async throws {
        let journey = try await Journey()
        let output = try await journey.run(["enroll", "host", "--ssh-engine", name])
        #expect(output.status == .exited(2))
        #expect(output.standardError.contains("auto, libssh2, openssh"))
        await journey.stop()
    }

    /// The exit codes that scripts decide by.
    @Test func exitCodes() async throws {
        let journey = try await Journey(knowsHost: false)
        try await journey.makeAuthority()
        let unknown = try await journey.enroll(allow: 1, extra: ["--ssh-engine", "openssh"])
        #expect(unknown.status == .exited(3), "\(unknown.standardError)")
        let key = journey.directory.path("wrong")
        try await OpenSSHServer.makeKey("ed25519", key)
        let refused = try await journey.run(
            [
                "enroll", journey.destination, "--name", "x", "--ssh-engine", "openssh", "-F", "none", "-i", key, "-o",
                "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=accept-new", "-o",
                "UserKnownHostsFile=\(journey.directory.path("known"))",
            ]
        )
        #expect(refused.status == .exited(4), "\(refused.standardError)")
        let port = FreePort.next()
        let closed = try await journey.run(
            ["enroll", "u@127.0.0.1:\(port)", "--name", "x", "--ssh-engine", "openssh", "-F", "none"]
        )
        #expect(closed.status == .exited(6), "\(closed.standardError)")
        await journey.stop()
    }

    /// The program is not installed.
    @Test func thereIsNoSSH() async throws {
        let owner = try await Operator()
        let bin = owner.home.path("bin")
        try owner.home.makeDirectory("bin")
        let config = try owner.home.write("config", "ProxyCommand none-such\n", permissions: 0o600)
        let output = try await ChildProcess.run(
            TestTools.bootstrap,
            ["enroll", "127.0.0.1", "-F", config, "--name", "x"],
            environment: ["PATH": bin, "HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome]
        )
        #expect(output.status == .exited(6) || output.status == .exited(1), "\(output)")
        let text = output.standardError + output.standardOutput
        #expect(text.contains("ProxyCommand") && text.contains("openssh-client"), "\(text)")
    }
}

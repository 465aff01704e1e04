import Foundation
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// Logins that `ssh` can do and libssh2 1.10 cannot: each is left to `ssh` without being asked for, and said.
@Suite(.serialized) struct OpenSSHLoginTests {
    private let files = UserFiles()

    private func check(_ login: SSHLogin, byOpenSSH: Bool = true) async throws {
        let client = try await login.connect(on: testLoops.next())
        #expect(try await client.isOpenSSH == byOpenSSH)
        #expect(try await client.run("echo in").text == "in\n")
        #expect(files.saysByWayOfSSH == byOpenSSH, "\(files.warnings.lines)")
        await client.close()
    }

    /// Those that a newer libssh2 can do itself.
    private var needsSSHForRSA: Bool { !EngineCapabilities.current.signsRSAWithSHA2 }

    // MARK: Chosen

    @Test func anOrdinaryLoginStaysWithLibSSH2() async throws {
        let server = try await OpenSSHServer()
        try await check(files.login(to: server, engine: .automatic), byOpenSSH: false)
    }

    /// README's own ProxyCommand, read by an `ssh` that we have started: it would start us again, and so on.
    @Test(arguments: [SSHEngine.automatic, .openSSH]) func aProxyCommandThatIsThisProgram(
        engine: SSHEngine
    ) async throws {
        let server = try await OpenSSHServer()
        let command = "ProxyCommand=bootstrap connect %h -W localhost:22"
        let login = try files.login(to: server, engine: engine, options: [command])
        let client = try await login.connect(on: testLoops.next())
        #expect(try await client.isOpenSSH == (engine == .openSSH))
        await client.close()
    }

    @Test(arguments: [true, false]) func aHostWithAnRSAKeyOnly(known: Bool) async throws {
        let server = try await OpenSSHServer(hostKeys: ["rsa"])
        let line = "[127.0.0.1]:\(server.port) " + (try server.directory.read("host_rsa.pub"))
        let login = try files.login(
            to: server,
            engine: .automatic,
            knownHosts: known ? line : "",
            options: known ? [] : ["StrictHostKeyChecking=accept-new"]
        )
        try await check(login, byOpenSSH: needsSSHForRSA)
        let recorded = try files.directory.read("known_hosts")
        #expect(recorded.contains(line.split(separator: " ")[2]))
    }

    @Test func anRSAUserKey() async throws {
        let server = try await OpenSSHServer(configuration: ["PubkeyAcceptedAlgorithms rsa-sha2-512,rsa-sha2-256"])
        let key = files.directory.path("id_rsa")
        try await OpenSSHServer.makeKey("rsa", key)
        try server.authorize(key + ".pub")
        try await check(files.login(to: server, engine: .automatic, identity: key), byOpenSSH: needsSSHForRSA)
    }

    @Test func aUserCertificateOfAnEd25519Key() async throws {
        let (ca, key) = (files.directory.path("ca"), files.directory.path("id"))
        try await OpenSSHServer.makeKey("ed25519", ca)
        try await OpenSSHServer.makeKey("ed25519", key)
        let arguments = ["-q", "-s", ca, "-I", "user", "-n", OpenSSHServer.user, key + ".pub"]
        #expect(try await ChildProcess.run("ssh-keygen", arguments).succeeded)
        let server = try await OpenSSHServer(configuration: ["TrustedUserCAKeys \(ca).pub", "AuthorizedKeysFile none"])
        try await check(files.login(to: server, engine: .automatic, identity: key))
    }

    @Test func aHostThatIsKnownByItsCertificate() async throws {
        let server = try await OpenSSHServer(hostKeys: ["ed25519"])
        let ca = files.directory.path("ca")
        try await OpenSSHServer.makeKey("ed25519", ca)
        let host = server.directory.path("host_ed25519")
        let arguments = ["-q", "-s", ca, "-h", "-I", "host", "-n", "127.0.0.1", host + ".pub"]
        #expect(try await ChildProcess.run("ssh-keygen", arguments).succeeded)
        // The same keys, and now the certificate.
        let certified = try await OpenSSHServer(
            configuration: ["HostKey \(host)", "HostCertificate \(host)-cert.pub"],
            hostKeys: []
        )
        let authority = "@cert-authority [127.0.0.1]:* " + (try files.directory.read("ca.pub"))
        let login = try files.login(to: certified, engine: .openSSH, knownHosts: authority)
        let client = try await login.connect(on: testLoops.next())
        // The key that the certificate is about, as a plain login would have seen it.
        #expect(client.hostKey.algorithm == "ssh-ed25519")
        #expect(client.hostKey.fingerprint == (try await server.hostKeyFingerprint()))
        await client.close()

        let other = "@cert-authority [127.0.0.1]:* " + (try server.directory.read("id_ed25519.pub"))
        let refused = try files.login(to: certified, engine: .openSSH, knownHosts: other)
        let error = await sshFailure { try await refused.connect(on: testLoops.next()) }
        #expect(error?.code == .hostKeyRefused)
    }

    @Test func aProxyCommand() async throws {
        let server = try await OpenSSHServer()
        let relay = try files.directory.write(
            "relay.py",
            """
            import os, socket, sys, threading
            s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
            def up():
                while True:
                    b = os.read(0, 65536)
                    if not b: break
                    s.sendall(b)
                s.shutdown(socket.SHUT_WR)
            threading.Thread(target=up, daemon=True).start()
            while True:
                b = s.recv(65536)
                if not b: break
                os.write(1, b)

            """
        )
        let lines = ["Host device", "  ProxyCommand python3 \(relay) 127.0.0.1 \(server.port)"]
        let login = try files.login(
            to: server,
            engine: .automatic,
            lines: lines,
            options: ["HostKeyAlias=[127.0.0.1]:\(server.port)"],
            host: "device"
        )
        try await check(login)

        let broken = try files.login(
            to: server,
            engine: .automatic,
            lines: ["ProxyCommand sh -c 'echo no way >&2; exit 1'"]
        )
        let error = await sshFailure { try await broken.connect(on: testLoops.next()) }
        #expect(error?.code == .connectionFailed)
        #expect(error?.message.contains("no way") == true, "\(String(describing: error))")
    }

    @Test func aMatchThatRunsACommand() async throws {
        let server = try await OpenSSHServer()
        let lines = ["Match originalhost device exec \"true\"", "  HostName 127.0.0.1", "Match all"]
        let alias = ["HostKeyAlias=[127.0.0.1]:\(server.port)"]
        let login = try files.login(to: server, engine: .automatic, lines: lines, options: alias, host: "device")
        try await check(login, byOpenSSH: false)
    }

    @Test func aJumpHost() async throws {
        let (jump, server) = (try await OpenSSHServer(), try await OpenSSHServer())
        let known = try [jump, server].map { try "[127.0.0.1]:\($0.port) " + $0.directory.read("host_ed25519.pub") }
        let login = try files.login(
            to: server,
            lines: [
                "Host jump", "  HostName 127.0.0.1", "  Port \(jump.port)", "  User \(OpenSSHServer.user)",
                "  IdentityFile \(jump.userKey)", "  IdentityAgent none",
                "  UserKnownHostsFile \(files.directory.path("known_hosts"))", "Host 127.0.0.1", "  ProxyJump jump",
            ],
            knownHosts: known.joined()
        )
        let client = try await login.connect(on: testLoops.next())
        #expect(client.hostKey.fingerprint == (try await server.hostKeyFingerprint()))
        #expect(try await client.run("echo there").text == "there\n")
        try await jump.logged("Accepted publickey")
        let master = try await client.master()
        await client.close()
        try await eventually("nothing is left") { isGone(master) }
        try await eventually("the jump host is left") { jump.sessionProcesses.isEmpty }
    }

    // MARK: The user's own settings

    /// What the user's files have for terminals and for sharing connections does not get in the way.
    @Test func settingsForTerminals() async throws {
        let server = try await OpenSSHServer()
        let lines = [
            "Host *", "  ControlMaster auto", "  ControlPath \(files.directory.path("cm-%C"))", "  ControlPersist 10m",
            "  RequestTTY force", "  RemoteCommand exit 9", "  LocalForward 1 127.0.0.1:1",
            "  ExitOnForwardFailure yes",
            "  PermitLocalCommand yes", "  LocalCommand touch \(files.directory.path("touched"))", "  LogLevel QUIET",
            "  ForkAfterAuthentication yes", "  ForwardAgent yes", "  StdinNull yes",
        ]
        let client = try await files.login(to: server, lines: lines).connect(on: testLoops.next())
        #expect(try await client.run("cat", input: .bytes(Array("quiet".utf8))).text == "quiet")
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: files.directory.path).filter {
                $0.hasPrefix("cm-") || $0 == "touched"
            }.isEmpty
        )
        await client.close()
    }

    /// Then the key is found by the fingerprint that ssh tells, in the files that ssh reads.
    @Test func aKnownHostsCommandOfTheUser() async throws {
        let server = try await OpenSSHServer()
        let lines = ["KnownHostsCommand /bin/true"]
        let client = try await files.login(to: server, lines: lines).connect(on: testLoops.next())
        #expect(client.hostKey.fingerprint == (try await server.hostKeyFingerprint()))
        await client.close()
        #expect(!files.warnings.lines.contains { $0.contains("debug1") })
    }

    /// As ssh splits it (argv_split of its misc.c), with two per cent signs for one.
    @Test func aPathThatNeedsQuoting() {
        let option = ControlDirectory.knownHostsCommand(writingTo: "/a b/100% \"x\"\\y/k")
        #expect(option.hasSuffix(" \"/a b/100%% \\\"x\\\"\\\\y/k\" %t %K"))
    }

    /// What a `Host` block of the user's file ends with does not swallow the system's, however each gets in.
    @Test(arguments: ["config", "config 100%"]) func theSystemsFileHoldsBesideTheUsers(name: String) async throws {
        let user = try files.directory.write(name, "Host other\n  User no", permissions: 0o600)
        let system = try files.directory.write("ssh_config", "User yes\nPort 1022\n", permissions: 0o600)
        let directory = try ControlDirectory()
        defer { directory.remove() }
        #expect(try directory.writeConfiguration(of: [user, files.directory.path("none"), system]))
        let output = try await ChildProcess.run("ssh", ["-G", "-F", directory.configuration, "device"])
        let lines = output.standardOutput.split(separator: "\n")
        #expect(lines.contains("user yes") && lines.contains("port 1022"), "\(output)")
        directory.remove()
        #expect(access(directory.path, F_OK) != 0)
    }

    @Test func withoutAnyFileThereIsNoConfiguration() throws {
        let directory = try ControlDirectory()
        #expect(try !directory.writeConfiguration(of: [files.directory.path("none")]))
        directory.remove()
    }

    // MARK: Refused

    @Test func keysThatAreRefused() async throws {
        let server = try await OpenSSHServer()
        let key = files.directory.path("other")
        try await OpenSSHServer.makeKey("ed25519", key)
        let login = try files.login(to: server, identity: key)
        let error = await sshFailure { try await login.connect(on: testLoops.next()) }
        #expect(error?.code == .authenticationRefused)
        #expect(error?.message.contains("Permission denied") == true)

        // With libssh2 there is one attempt, and none with ssh behind it: the server would count it.
        try await server.logged("Connection from")
        let connections = server.log.components(separatedBy: "Connection from").count - 1
        let automatic = try files.login(to: server, engine: .automatic, identity: key)
        #expect(await sshFailure { try await automatic.connect(on: testLoops.next()) }?.code == .authenticationRefused)
        try await server.logged("Connection from", count: connections + 1)
        #expect(server.log.components(separatedBy: "Connection from").count - 1 == connections + 1)
        #expect(!files.saysByWayOfSSH)
    }

    @Test func aPassphraseThatNobodyIsAskedFor() async throws {
        let server = try await OpenSSHServer()
        let key = files.directory.path("locked")
        try await OpenSSHServer.makeKey("ed25519", key, passphrase: "secret")
        try server.authorize(key + ".pub")
        let login = try files.login(to: server, identity: key)
        let error = await sshFailure { try await login.connect(on: testLoops.next()) }
        #expect(error?.code == .authenticationRefused)
    }

    @Test(arguments: ["yes", "ask", "accept-new", "no"]) func aHostKeyThatHasChanged(checking: String) async throws {
        let server = try await OpenSSHServer(hostKeys: ["ed25519"])
        let other = "[127.0.0.1]:\(server.port) " + (try server.directory.read("id_ed25519.pub"))
        let login = try files.login(to: server, knownHosts: other, options: ["StrictHostKeyChecking=\(checking)"])
        let error = await sshFailure { try await login.connect(on: testLoops.next()) }
        #expect(error?.code == .hostKeyRefused)
        #expect(error?.message.contains("Host key verification failed") == true)
    }

    /// One fingerprint decides, whatever known_hosts has, and before anything secret is sent.
    @Test(arguments: [true, false]) func aPinnedHostKey(matches: Bool) async throws {
        let server = try await OpenSSHServer(hostKeys: ["ed25519"])
        let own = try await server.hostKeyFingerprint()
        let other = try await OpenSSHServer.fingerprint(server.directory.path("id_ed25519.pub"))
        // known_hosts says the contrary.
        let line = "[127.0.0.1]:\(server.port) "
        let known = try files.directory.write(
            "known_hosts",
            line + server.directory.read(matches ? "id_ed25519.pub" : "host_ed25519.pub")
        )
        let login = OpenSSHLogin(
            destination: Destination(user: OpenSSHServer.user, host: "127.0.0.1", port: server.port),
            arguments: SSHArguments(
                configurationFile: "none",
                options: ["UserKnownHostsFile=\(known)", "IdentityAgent=none"],
                identityFiles: [server.userKey]
            ),
            pinnedHostKey: matches ? own : other,
            isInteractive: false,
            warn: { _ in }
        )
        if matches {
            let client = try await login.connect(on: testLoops.next())
            #expect(client.hostKey.fingerprint == own)
            await client.close()
        } else {
            let error = await sshFailure { try await login.connect(on: testLoops.next()) }
            #expect(error?.code == .hostKeyRefused)
            #expect(!server.log.contains("Accepted"))
        }
    }

    @Test func aHostKeyThatIsUnknown() async throws {
        let server = try await OpenSSHServer(hostKeys: ["rsa"])
        let login = try files.login(to: server, engine: .automatic, knownHosts: "")
        let error = await sshFailure { try await login.connect(on: testLoops.next()) }
        #expect(error?.code == .hostKeyRefused)
    }

    @Test func nothingListens() async throws {
        let server = try await OpenSSHServer()
        await server.stop()
        let login = try files.login(to: server)
        let error = await sshFailure { try await login.connect(on: testLoops.next()) }
        #expect(error?.code == .connectionFailed)
    }

    @Test func aConfigurationThatSSHRefuses() async throws {
        let server = try await OpenSSHServer()
        let login = try files.login(to: server, options: ["Tunnel=nosuchvalue"])
        let error = await sshFailure { try await login.connect(on: testLoops.next()) }
        #expect(error?.code == .system)
        #expect(error?.message.lowercased().contains("nosuchvalue") == true)
    }
}

import Foundation
import Glibc
import TestPeers
import Testing

@testable import SSHSignal
@testable import Streams

/// Logins as a user has them: an ssh_config file, known_hosts, jump hosts.
@Suite(.serialized) struct SSHLoginTests {
    private let directory = TemporaryDirectory()

    private func login(
        _ destination: String,
        _ config: String,
        _ warnings: Lock<[String]> = Lock([]),
        _ change: (inout SSHArguments) -> Void = { _ in }
    ) throws -> SSHLogin {
        let file = try directory.write("config", config, permissions: 0o600)
        var arguments = SSHArguments(configurationFile: file)
        change(&arguments)
        return try SSHLogin(
            to: Destination(parsing: destination),
            arguments: arguments,
            prompts: SSHLogin.Prompts(warn: { text in warnings.withLock { $0.append(text) } })
        )
    }

    /// What all hosts have in common.
    private var common: String {
        """
        Host *
          User \(OpenSSHServer.user)
          UserKnownHostsFile \(directory.path("known_hosts"))
          GlobalKnownHostsFile none
          StrictHostKeyChecking accept-new
          IdentityAgent none

        """
    }

    private func host(_ name: String, _ server: OpenSSHServer, _ more: String = "") -> String {
        """
        Host \(name)
          HostName 127.0.0.1
          Port \(server.port)
          IdentityFile \(server.userKey)
          \(more)

        """
    }

    /// Whoever answers for the destination (a password file) can tell its questions from those of a jump host.
    @Test func aJumpHostAsksAsOne() async throws {
        let file = try directory.write("config", "Host last\n  ProxyJump one,two\n", permissions: 0o600)
        let asked = Lock<[Bool]>([])
        let login = try SSHLogin(
            to: Destination(parsing: "me@last"),
            arguments: SSHArguments(configurationFile: file),
            prompts: SSHLogin.Prompts(
                authentication: { question in
                    asked.withLock { $0.append(question.isFromDestination) }
                    return nil
                },
                warn: { _ in }
            )
        )
        let question = AuthenticationQuestion(
            method: "password",
            destination: "me@one",
            text: "password: ",
            isSecret: true,
            attempt: 1
        )
        for session in login.sessions { _ = await session.authenticationPrompt?(question) }
        #expect(asked.withLock { $0 } == [false, false, true])
    }

    @Test func threeJumpHosts() async throws {
        let (one, two, three) = (try await OpenSSHServer(), try await OpenSSHServer(), try await OpenSSHServer())
        let last = try await OpenSSHServer()
        // The first host of a list is reached by its own ProxyJump, as with ssh.
        let config =
            host("one", one) + host("two", two, "ProxyJump one") + host("three", three)
            + host("last", last, "ProxyJump two,three") + common
        let login = try login("last", config)
        let client = try await login.connect(on: testLoops.next())
        #expect(try await client.run("echo in").text == "in\n")
        for server in [one, two, three, last] {
            try await server.logged("Accepted publickey")
        }
        await client.close()
        // Each through the one before it: where one of them forwards nothing, the way ends.
        let closed = try await OpenSSHServer(configuration: ["AllowTcpForwarding no"])
        for (number, broken) in [
            host("one", closed) + host("two", two, "ProxyJump one") + host("three", three),
            host("one", one) + host("two", closed, "ProxyJump one") + host("three", three),
            host("one", one) + host("two", two, "ProxyJump one") + host("three", closed),
        ].enumerated() {
            let error = await sshFailure {
                try await self.login("last", broken + host("last", last, "ProxyJump two,three") + common)
                    .connect(on: testLoops.next())
            }
            #expect(error?.message.contains("AllowTcpForwarding") == true, "\(number): \(String(describing: error))")
        }
        await closed.stop()
        for server in [one, two, three, last] { await server.stop() }
    }

    @Test func circlesOfJumpHosts() throws {
        let config = "Host a\n ProxyJump b\nHost b\n ProxyJump c\nHost c\n ProxyJump a\n" + common
        let error = #expect(throws: SSHConfigurationError.self) { try login("a", config) }
        #expect(error?.message.contains("circle") == true)
        #expect(error?.message.contains("b → c → a → b") == true)
        let own = #expect(throws: SSHConfigurationError.self) { try login("x", "Host *\n ProxyJump x\n") }
        #expect(own?.message.contains("circle") == true)
    }

    /// As with `ssh`: behind a jump host the same address is another machine.
    @Test func aHostBehindAJumpHostMayHaveItsAddress() async throws {
        let server = try await OpenSSHServer()
        let config = host("jump", server) + host("target", server, "ProxyJump jump") + common
        let login = try login("target", config)
        #expect(login.hostNames == ["127.0.0.1", "127.0.0.1"])
        let client = try await login.connect(on: testLoops.next())
        #expect(try await client.run("echo in").text == "in\n")
        await client.close()
        await server.stop()
    }

    @Test func algorithmsOfTheFileAreUsedOrLeftToSSH() throws {
        let config = """
            Host one
              Ciphers aes256-ctr,aes128-gcm@openssh.com
              MACs -hmac-sha2-256*
              KexAlgorithms ^ecdh-sha2-nistp256
              HostKeyAlgorithms ecdsa*
              PubkeyAcceptedAlgorithms ssh-ed25519
            Host two
              Ciphers chacha20-poly1305@openssh.com
            Host three
              HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com

            """ + common
        let one = try login("one", config)
        #expect(one.limits.isEmpty)
        #expect(one.lastSession.ciphers == ["aes256-ctr"])
        #expect(one.lastSession.macs == ["hmac-sha2-512", "hmac-sha2-512-etm@openssh.com"])
        #expect(one.lastSession.keyExchanges.first == "ecdh-sha2-nistp256")
        #expect(one.lastSession.keyExchanges.count == SSHSessionConfiguration(user: "u").keyExchanges.count)
        #expect(one.lastSession.hostKeyAlgorithms.allSatisfy { $0.hasPrefix("ecdsa") })
        #expect(one.lastSession.acceptedKeys?.allows(key: "ecdsa-sha2-nistp256") == false)
        for name in ["two", "three"] {
            let limits = try login(name, config).limits
            #expect(limits.map(\.kind) == [.algorithms])
            #expect(limits.first?.isDecisive == true)
        }
    }

    @Test func theBannerIsShownOnceAndClean() async throws {
        let text = "Welcome \u{1B}[31mred\u{1B}[0m\r\n\n  to\tthe machine\n\n"
        let banner = try directory.write("banner", text)
        let server = try await OpenSSHServer(configuration: ["Banner \(banner)"])
        let told = Lock<[String]>([])
        func login(_ more: String = "") throws -> SSHLogin {
            let file = try directory.write("config", host("h", server, more) + common, permissions: 0o600)
            var prompts = SSHLogin.Prompts(warn: { _ in })
            prompts.banner = { line in told.withLock { $0.append(line) } }
            return try SSHLogin(
                to: Destination(host: "h"),
                arguments: SSHArguments(configurationFile: file),
                prompts: prompts
            )
        }
        let ordinary = try login()
        for _ in 0..<2 {
            let client = try await ordinary.connect(on: testLoops.next())
            #expect(try await client.run("echo in").text == "in\n")
            await client.close()
        }
        #expect(told.withLock { $0 } == ["Welcome ?[31mred?[0m\n\n  to the machine"])
        await (try login("LogLevel QUIET").connect(on: testLoops.next())).close()
        #expect(told.withLock(\.count) == 1)
        // Also where the login fails, and however long it is.
        let long = (1...180).map { "line \($0) of a banner that fills more than one packet of the network" }
        try directory.write("banner", long.joined(separator: "\n") + "\n")
        try server.directory.write("authorized_keys", "")
        let refused = await sshFailure { try await login().connect(on: testLoops.next()) }
        #expect(refused?.code == .authenticationRefused)
        #expect(told.withLock { $0.last } == long.joined(separator: "\n"))
        await server.stop()
    }

    /// One command makes several logins, each by an `SSHLogin` of its own, by either engine.
    @Test(arguments: [SSHEngine.libssh2, .openSSH]) func aRunHearsAHostsBannerOnce(engine: SSHEngine) async throws {
        let banner = try directory.write("banner", "Hello from here\n")
        let server = try await OpenSSHServer(configuration: ["Banner \(banner)"])
        let file = try directory.write("config", host("a", server) + host("b", server) + common)
        let told = Lock<[String]>([])
        var prompts = SSHLogin.Prompts(warn: { line in told.withLock { $0.append(line) } })
        prompts.banner = { line in told.withLock { $0.append(line) } }
        for name in ["a", "a", "a", "b"] {
            let login = try SSHLogin(
                to: Destination(host: name),
                arguments: SSHArguments(configurationFile: file, engine: engine),
                prompts: prompts
            )
            let client = try await login.connect(on: testLoops.next())
            #expect(try await client.run("echo in").text == "in\n")
            await client.close()
        }
        let heard = told.withLock { $0.filter { $0 == "Hello from here" }.count }
        #expect(heard == 2, "\(told.withLock { $0 })")
        await server.stop()
    }

    @Test func aJumpListOnTheCommandLineLeavesTheLaterHostsOwnJumpsOut() throws {
        let config = "Host b\n ProxyJump elsewhere\n" + common
        let login = try login("dest", config) { $0.jump = "a,b" }
        #expect(login.limits.isEmpty)
        #expect(login.hostNames == ["a", "b", "dest"])
        #expect(try self.login("dest", config) { $0.jump = "b,a" }.hostNames == ["elsewhere", "b", "a", "dest"])
    }

    @Test(arguments: ["::1", "localhost"]) func sixthVersion(name: String) async throws {
        let server = try await OpenSSHServer(address: "::1")
        let config = "Host v6\n HostName \(name)\n Port \(server.port)\n IdentityFile \(server.userKey)\n" + common
        do {
            let client = try await login("v6", config).connect(on: testLoops.next())
            #expect(try await client.run("echo in").text == "in\n")
            await client.close()
        } catch let error as SSHError where name == "localhost" {
            // A machine whose localhost has no IPv6 address says that.
            #expect(error.code == .connectionFailed)
        }
        let refused = await sshFailure {
            try await login("v6", "Host v6\n AddressFamily inet\n" + config).connect(on: testLoops.next())
        }
        #expect(refused?.code == .connectionFailed)
        await server.stop()
    }

    @Test func bindAddress() async throws {
        let server = try await OpenSSHServer()
        let client = try await login("h", host("h", server, "BindAddress 127.4.5.6") + common).connect(
            on: testLoops.next()
        )
        #expect(try await client.run("echo $SSH_CLIENT").text.hasPrefix("127.4.5.6 "))
        await client.close()
        await server.stop()
    }

    @Test func keepAliveAndTimeoutsComeFromTheFile() throws {
        let config =
            "Host h\n ServerAliveInterval 7\n ServerAliveCountMax 4\n ConnectTimeout 3\n BatchMode yes\n" + common
        let session = try login("h", config).lastSession
        #expect(session.keepAlive.interval == .seconds(7))
        #expect(session.keepAlive.timeout == .seconds(28))
        #expect(session.handshakeTimeout == .seconds(3))
        let off = try login("h", "Host h\n ServerAliveInterval 0\n" + common).lastSession
        #expect(off.keepAlive.interval == nil)
        let unset = try login("h", common).lastSession
        #expect(unset.keepAlive == SSHSessionConfiguration(user: "u").keepAlive)
    }

    @Test func keywordsWithoutEffectAreToldWithTheirPlaceForEveryHost() throws {
        let warnings = Lock<[String]>([])
        let config =
            "Host j\n RequiredRSASize 4096\nHost d\n ProxyJump j\n SendEnv X\n RequiredRSASize 3072\n"
            + common
        _ = try login("d", config, warnings)
        let file = directory.path("config")
        #expect(
            warnings.withLock { $0 } == [
                "\(file):2: RequiredRSASize is not supported and has no effect",
                "\(file):6: RequiredRSASize is not supported and has no effect",
            ]
        )
    }

    @Test(arguments: [SSHEngine.libssh2, .openSSH]) func aPinnedHostKey(engine: SSHEngine) async throws {
        let server = try await OpenSSHServer()
        let config = host("h", server) + common
        func pinned(_ fingerprint: String) throws -> SSHLogin {
            try login("h", config) { ($0.hostKey, $0.engine) = (fingerprint, engine) }
        }
        // What known_hosts says does not count, in either direction, and a pinned key is not recorded: it is the
        // caller's to keep.
        let known = "[127.0.0.1]:\(server.port) " + (try server.directory.read("id_ed25519.pub"))
        try directory.write("known_hosts", known)
        for type in ["ed25519", "ecdsa"] {
            let fingerprint = try await server.hostKeyFingerprint(type)
            let client = try await pinned(fingerprint).connect(on: testLoops.next())
            #expect(client.hostKey.fingerprint == fingerprint)
            #expect(try await client.isOpenSSH == (engine == .openSSH))
            await client.close()
        }
        try await server.logged("Accepted publickey", count: 2)
        let shown = server.log.components(separatedBy: "publickey").count
        let other = try await OpenSSHServer.fingerprint(server.userKey)
        let error = await sshFailure { try await pinned(other).connect(on: testLoops.next()) }
        #expect(error?.code == .hostKeyRefused)
        #expect(error?.message.contains("HOST KEY MISMATCH") == true, "\(error?.message ?? "")")
        #expect(error?.message.contains(other) == true)
        // Refused before anything of the user's was shown.
        #expect(server.log.components(separatedBy: "publickey").count == shown)
        #expect(try directory.read("known_hosts") == known)
        #expect(throws: SSHConfigurationError.self) { try login("h", config) { $0.hostKey = "SHA256:short" } }
        await server.stop()
    }

    @Test(arguments: [SSHEngine.libssh2, .openSSH])
    func aRevokedKeyIsRefusedEvenWhenPinned(engine: SSHEngine) async throws {
        let server = try await OpenSSHServer(hostKeys: ["ed25519"])
        let key = try server.directory.read("host_ed25519.pub")
        try directory.write("known_hosts", "@revoked * \(key)")
        let fingerprint = try await server.hostKeyFingerprint()
        let error = await sshFailure {
            try await login("h", host("h", server) + common) { ($0.hostKey, $0.engine) = (fingerprint, engine) }
                .connect(on: testLoops.next())
        }
        #expect(error?.message.contains("REVOKED HOST KEY") == true)
        await server.stop()
    }

    @Test func theKeyTypeThatIsRecordedIsAskedFor() async throws {
        let server = try await OpenSSHServer()
        for type in ["ecdsa", "ed25519"] {
            let key = try server.directory.read("host_\(type).pub")
            try directory.write("known_hosts", "[127.0.0.1]:\(server.port) \(key)")
            let client = try await login("h", host("h", server, "StrictHostKeyChecking yes") + common)
                .connect(on: testLoops.next())
            #expect(client.hostKey.algorithm.contains(type))
            await client.close()
        }
        await server.stop()
    }

    @Test func manyLoginsAtOnceToAServerWithDefaultLimits() async throws {
        let server = try await OpenSSHServer(configuration: ["MaxStartups 10:30:100"])
        let login = try login("h", host("h", server) + common)
        let succeeded = await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<40 {
                group.addTask {
                    guard let client = try? await login.connect(on: testLoops.next()) else { return false }
                    await client.close()
                    return true
                }
            }
            return await group.reduce(0) { $0 + ($1 ? 1 : 0) }
        }
        // On a busy machine sshd may see a login end after we did, and drop the next one: that is tried again
        // (``DialLimitTests`` count them).
        #expect(succeeded == 40)
        await server.stop()
    }

    @Test func aServerThatRefusesForAWhileIsTriedAgain() async throws {
        let server = try await OpenSSHServer(configuration: ["MaxStartups 1:100:1"])
        let warnings = Lock<[String]>([])
        let login = try login("h", host("h", server) + common, warnings)
        // Somebody else keeps the only place.
        let other = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        let address = try SocketAddress(ip: "127.0.0.1", port: server.port)
        #expect(address.withSockaddr { Glibc.connect(other, $0, $1) } == 0)
        try await eventually("sshd greets the other connection") { server.sessionProcesses.count > 0 }
        let waiting = Task { try await login.connect(on: testLoops.next()) }
        try await eventually("the login was refused once") { warnings.withLock { !$0.isEmpty } }
        close(other)
        let client = try await waiting.value
        #expect(warnings.withLock { $0.first?.contains("trying again") } == true)
        await client.close()
        await server.stop()
    }
}

@Suite struct DialLimitTests {
    @Test func noMoreThanAllowedAreUnderWay() async throws {
        let limit = DialLimit(perAddress: 3)
        let most = Lock(0)
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<30 {
                group.addTask {
                    _ = try? await limit.run(to: "a") { () throws(SSHError) in
                        most.withLock { $0 = max($0, limit.underWay(to: "a")) }
                        await Task.yield()
                    }
                }
            }
        }
        #expect(most.withLock { $0 } <= 3)
        #expect(most.withLock { $0 } > 1)
        #expect(limit.underWay(to: "a") == 0)
    }

    @Test func onlyABusyServerIsTriedAgainAndNotForEver() async throws {
        let limit = DialLimit(perAddress: 1)
        let (calls, told) = (Lock(0), Lock(0))
        func fail(_ code: SSHError.Code) async -> SSHError? {
            await sshFailure {
                try await limit.runPatiently(
                    to: "a",
                    pause: .milliseconds(1),
                    retrying: { _ in told.withLock { $0 += 1 } }
                ) { () throws(SSHError) in
                    calls.withLock { $0 += 1 }
                    throw SSHError(code, "x")
                }
            }
        }
        #expect(await fail(.busy)?.code == .busy)
        #expect(calls.withLock { $0 } == DialLimit.tries)
        #expect(told.withLock { $0 } == DialLimit.tries - 1)
        #expect(await fail(.authenticationRefused)?.code == .authenticationRefused)
        #expect(calls.withLock { $0 } == DialLimit.tries + 1)
        #expect(limit.underWay(to: "a") == 0)
    }

    @Test func aCancelledLoginStopsWaiting() async throws {
        let limit = DialLimit(perAddress: 1)
        let calls = Lock(0)
        let task = Task {
            await sshFailure {
                try await limit.runPatiently(to: "a", pause: .seconds(3600), retrying: { _ in }) {
                    () throws(SSHError) in
                    calls.withLock { $0 += 1 }
                    throw SSHError(.busy, "x")
                }
            }
        }
        try await eventually("the first try") { calls.withLock { $0 } == 1 }
        task.cancel()
        #expect(await task.value?.code == .busy)
        #expect(calls.withLock { $0 } == 1)
    }
}

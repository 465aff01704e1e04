import Foundation
import SSHSignal
import Streams
import TestPeers
import Testing

@Suite(.serialized) struct SessionCommandTests {
    @Test func runsACommandOnOpenSSH() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let result = try await client.run("printf out; printf err >&2; cat; exit 7", input: .bytes("in".utf8))
        #expect(result.text == "outin")
        #expect(result.standardErrorText == "err")
        #expect(result.exit == .status(7))
        #expect(client.serverVersion.hasPrefix("SSH-2.0-OpenSSH"))
        let fingerprint = try await server.hostKeyFingerprint()
        #expect(client.hostKey.fingerprint == fingerprint)
        await client.close()
    }

    @Test func runsACommandOnDropbear() async throws {
        let server = try await DropbearServer()
        let client = try await server.connect()
        let result = try await client.run("printf out; printf err >&2; cat; kill -TERM $$", input: .bytes("in".utf8))
        #expect(result.text == "outin")
        #expect(result.standardErrorText == "err")
        #expect(result.exit == .signal("TERM"))
        await client.close()
    }

    @Test func manyCommandsAtOnce() async throws {
        let server = try await OpenSSHServer(configuration: ["MaxSessions 20"])
        let client = try await server.connect()
        try await withThrowingTaskGroup(of: Bool.self) { group in
            for number in 0..<10 {
                group.addTask { try await client.run("echo \(number)").text == "\(number)\n" }
            }
            for try await isRight in group { #expect(isRight) }
        }
        await client.close()
    }

    @Test func outputHasALimit() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let error = await sshFailure { try await client.run("head -c 100000 /dev/zero", outputLimit: 99_999) }
        #expect(error?.code == .limit)
        let whole = try await client.run("head -c 100000 /dev/zero", outputLimit: 100_000)
        #expect(whole.output.count == 100_000)
        await client.close()
    }

    @Test func aCommandThatDoesNotEndTimesOut() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let error = await sshFailure { try await client.run("sleep 60", timeout: .milliseconds(300)) }
        #expect(error?.code == .timedOut)
        // The session is none the worse.
        #expect(try await client.run("echo on").text == "on\n")
        await client.close()
    }

    @Test func standardErrorIsKeptShortAndNeverBlocks() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let result = try await client.run("head -c 5000000 /dev/zero | tr '\\0' x >&2; echo end >&2")
        #expect(result.exit == .status(0))
        #expect(result.standardErrorText.hasSuffix("xend"))
        #expect(result.standardErrorText.utf8.count < 20_000)
        await client.close()
    }

    @Test func moreSessionsThanTheServerAllows() async throws {
        let server = try await OpenSSHServer(configuration: ["MaxSessions 1"])
        let client = try await server.connect()
        let first = try await client.execute("cat")
        let error = await sshFailure { try await client.run("echo") }
        #expect(error?.code == .sessionLimit)
        #expect(error?.message.contains("MaxSessions") == true)
        #expect(error?.streamError.code == .draining)
        try await client.loop.execute { first.withValue { $0.close() } }
        try await eventually("the slot is free again") { (try? await client.run("echo"))?.text == "\n" }
        await client.close()
    }

    @Test func aForcedCommandReplacesTheOneAskedFor() async throws {
        let server = try await OpenSSHServer(configuration: ["ForceCommand echo no commands here >&2; exit 1"])
        let client = try await server.connect()
        let result = try await client.run("echo hello")
        #expect(result.exit == .status(1))
        #expect(result.standardErrorText == "no commands here")
        await client.close()
    }

    @Test func idleSessionsAnswerTheServersKeepalives() async throws {
        // Two unanswered requests, one second apart, and sshd hangs up; there is no channel that would read them.
        let server = try await OpenSSHServer(configuration: ["ClientAliveInterval 1", "ClientAliveCountMax 2"])
        let client = try await server.connect()
        try await Task.sleep(for: .seconds(4))
        #expect(try await client.run("echo alive").text == "alive\n")
        await client.close()
    }

    @Test func aSilentServerIsFoundDead() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect([.keyFile(path: server.userKey)]) {
            $0.keepAlive.interval = .milliseconds(200)
            // A machine that is busy for a while is not silent.
            $0.keepAlive.timeout = .seconds(10)
        }
        // Answers keep it alive for several intervals.
        try await Task.sleep(for: .seconds(1))
        #expect(try await client.run("echo alive").text == "alive\n")
        for pid in server.sessionProcesses { kill(pid, SIGSTOP) }
        let error = await client.ended()
        #expect(error.code == .connectionLost)
        #expect(error.message.contains("dead"))
        for pid in server.sessionProcesses { kill(pid, SIGCONT) }
    }

    @Test func aServerThatOwesAnAnswerIsFoundDeadLongBeforeAnIdleOne() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect([.keyFile(path: server.userKey)]) {
            $0.keepAlive.interval = .seconds(3600)
            $0.keepAlive.timeout = .seconds(3600)
            $0.keepAlive.whileWaiting?.interval = .milliseconds(300)
            $0.keepAlive.whileWaiting?.timeout = .seconds(8)
        }
        let echo = try EchoServer()
        let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port)
        let pids = server.sessionProcesses
        for pid in pids { try await suspend(pid) }
        // The stream is told why, and never ends cleanly.
        let result = try await exchange(channel, on: client.loop, send: 1000)
        #expect(result.failure?.code == .truncated)
        #expect(result.failure?.message.contains("dead") == true)
        #expect(await client.ended().code == .connectionLost)
        for pid in pids { kill(pid, SIGCONT) }
    }

    @Test func serverAliveCountsAsInSSHConfig() {
        let thrice = SSHSessionConfiguration.KeepAlive(interval: .seconds(20), count: 3)
        #expect(thrice.interval == .seconds(20))
        #expect(thrice.timeout == .seconds(60))
        #expect(thrice.whileWaiting == nil)
        #expect(SSHSessionConfiguration.KeepAlive(interval: .zero, count: 3).interval == nil)
    }

    @Test func surviveShortReadsAndWritesBelow() async throws {
        let server = try await OpenSSHServer()
        let loop = testLoops.next()
        let address = try SocketAddress(ip: "127.0.0.1", port: server.port)
        for seed in 1...3 as ClosedRange<UInt64> {
            let lower = try await Dialer.connect(to: .address(address), on: loop) { socket in
                LoopBound<ByteStream>(HostileStream(over: socket, .ragged(seed: seed)), on: loop)
            }
            let client = try await SSHClient.connect(
                over: lower,
                configuration: server.configuration,
                hostKeyVerifier: AnyHostKey(),
                on: loop
            )
            let input = Pattern.bytes(300_000, seed: seed)
            let result = try await client.run("cat", input: .bytes(input))
            #expect(result.output == input, "seed \(seed)")
            await client.close()
        }
    }
}

@Suite(.serialized) struct SessionHandshakeTests {
    @Test func theRecordedKindOfHostKeyIsAskedFor() async throws {
        let server = try await OpenSSHServer(hostKeys: ["ed25519", "ecdsa"])
        for (type, algorithm) in [("ecdsa", "ecdsa-sha2-nistp256"), ("ed25519", "ssh-ed25519")] {
            let client = try await server.connect(verifier: AnyHostKey(preferredAlgorithms: [algorithm]))
            #expect(client.hostKey.algorithm == algorithm)
            let fingerprint = try await server.hostKeyFingerprint(type)
            #expect(client.hostKey.fingerprint == fingerprint)
            await client.close()
        }
    }

    @Test func aRefusedHostKeyEndsBeforeAuthentication() async throws {
        let server = try await OpenSSHServer()
        let other = try await OpenSSHServer.makeFingerprint()
        let error = await sshFailure { try await server.connect(verifier: PinnedHostKey(fingerprint: other)) }
        #expect(error?.code == .hostKeyRefused)
        #expect(error?.message.contains(other) == true)
        let actual = try await server.hostKeyFingerprint()
        #expect(error?.message.contains(actual) == true)
        // sshd names the user in its log as soon as it hears of one.
        _ = try await server.process.standardError.line(containing: ":9: Host key verification failed")
        #expect(!server.log.contains(OpenSSHServer.user))
    }

    @Test func knownHostsDecide() async throws {
        let server = try await OpenSSHServer()
        let directory = TemporaryDirectory()
        let key = try server.directory.read("host_ed25519.pub")
        let wrong = try await OpenSSHServer(hostKeys: ["ed25519"])
        let wrongKey = try wrong.directory.read("host_ed25519.pub")
        for (line, expected) in [(key, nil), (wrongKey, SSHError.Code.hostKeyRefused), ("", .hostKeyRefused)] {
            let file = try directory.write(
                "known_hosts",
                line.isEmpty ? "" : "[127.0.0.1]:\(server.port) \(line)"
            )
            let configuration = try SSHClientConfiguration(
                resolving: Destination(host: "127.0.0.1", port: server.port),
                arguments: SSHArguments(
                    configurationFile: "none",
                    options: ["UserKnownHostsFile=\(file)", "GlobalKnownHostsFile=none"]
                )
            )
            let policy = HostKeyPolicy(configuration, warn: { _ in })
            if let expected {
                let error = await sshFailure { try await server.connect(verifier: policy) }
                #expect(error?.code == expected)
                #expect(error?.message.contains(line.isEmpty ? "unknown" : "HOST KEY CHANGED") == true)
            } else {
                let client = try await server.connect(verifier: policy)
                await client.close()
            }
        }
    }

    @Test func whatIsNoSSHServerIsSaidSo() async throws {
        let echo = try SinkServer()
        let loop = testLoops.next()
        var configuration = SSHSessionConfiguration(user: "nobody")
        configuration.handshakeTimeout = .milliseconds(500)
        let error = await sshFailure {
            try await SSHClient.connect(
                host: "127.0.0.1",
                port: echo.port,
                configuration: configuration,
                hostKeyVerifier: AnyHostKey(),
                on: loop
            )
        }
        #expect(error?.code == .timedOut)
    }

    @Test func nothingListens() async throws {
        let port = FreePort.next()
        let error = await sshFailure {
            try await SSHClient.connect(
                host: "127.0.0.1",
                port: port,
                configuration: SSHSessionConfiguration(user: "nobody"),
                hostKeyVerifier: AnyHostKey(),
                on: testLoops.next()
            )
        }
        #expect(error?.code == .connectionFailed)
    }

    @Test func aServerThatIsTooBusyIsToldApart() async throws {
        let server = try await OpenSSHServer(configuration: ["MaxStartups 1"])
        let loop = testLoops.next()
        let address = try SocketAddress(ip: "127.0.0.1", port: server.port)
        // Occupies the only slot without authenticating.
        let first = try await Dialer.connect(to: .address(address), on: loop) { LoopBound($0, on: loop) }
        try await eventually("sshd serves the first connection") { !server.sessionProcesses.isEmpty }
        let error = await sshFailure { try await server.connect() }
        #expect(error?.code == .busy)
        #expect(error?.message.contains("MaxStartups") == true)
        try await loop.execute { first.withValue { $0.close() } }
    }

    @Test func onlyRSAHostKeys() async throws {
        let server = try await OpenSSHServer(hostKeys: ["rsa"])
        do {
            let client = try await server.connect()
            // libssh2 1.11 and newer.
            #expect(client.hostKey.algorithm == "ssh-rsa")
            await client.close()
        } catch let error as SSHError {
            #expect(error.code == .negotiationFailed)
            #expect(error.message.contains("ed25519"))
        }
    }

    @Test func onlyWeakAlgorithms() async throws {
        let server = try await OpenSSHServer(configuration: ["Ciphers aes128-cbc"])
        let error = await sshFailure { try await server.connect() }
        #expect(error?.code == .negotiationFailed)
    }
}

extension OpenSSHServer {
    /// The fingerprint of a key that no server has.
    static func makeFingerprint() async throws -> String {
        let directory = TemporaryDirectory()
        try await makeKey("ed25519", directory.path("key"))
        return try await fingerprint(directory.path("key.pub"))
    }
}

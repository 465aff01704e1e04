import Foundation
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// Commands and streams that the user's `ssh` carries.
@Suite(.serialized) struct OpenSSHSessionTests {
    private let files = UserFiles()

    @Test func commands() async throws {
        let server = try await OpenSSHServer()
        let client = try await files.login(to: server).connect(on: testLoops.next())
        let master = try await client.master()
        #expect(client.hostKey.fingerprint == (try await server.hostKeyFingerprint()))
        #expect(client.hostKey.algorithm == "ssh-ed25519")
        #expect(client.serverVersion.contains("OpenSSH_"))

        let size = 3_000_000
        var pattern = Pattern(seed: 5)
        var input = [UInt8](repeating: 0, count: size)
        input.withUnsafeMutableBytes { pattern.fill($0) }
        let echoed = try await client.run("cat; echo oops >&2; exit 3", input: .bytes(input), outputLimit: size)
        #expect(echoed.exit == .status(3))
        #expect(Checksum.of(echoed.output) == Pattern.checksum(size, seed: 5))
        #expect(echoed.standardErrorText == "oops")

        // Of errors without end the last are kept.
        let noisy = try await client.run("yes | head -c 1000000 >&2; echo last >&2; echo out")
        #expect(noisy.exit.isSuccess)
        #expect(noisy.text == "out\n")
        #expect(noisy.standardErrorText.hasSuffix("last"))
        #expect(noisy.standardErrorText.utf8.count <= 16 << 10)

        let killed = try await client.run("kill -9 $$")
        #expect(!killed.exit.isSuccess)
        let slow = await sshFailure { try await client.run("sleep 100", timeout: .milliseconds(200)) }
        #expect(slow?.code == .timedOut)
        let long = await sshFailure { try await client.run(String(repeating: ":;", count: 70_000)) }
        #expect(long?.code == .limit)
        await client.close()
        try await eventually("nothing is left") { isGone(master) }
    }

    @Test(arguments: [true, false]) func uploads(sftp: Bool) async throws {
        let server = try await OpenSSHServer(sftp: sftp)
        let client = try await files.login(to: server).connect(on: testLoops.next())
        let bytes = (0..<500_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        let path = server.directory.path("uploaded")
        let method = try await client.upload(.bytes(bytes), to: path, permissions: 0o640)
        #expect(method == (sftp ? .sftp : .cat))
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data(bytes))
        #expect(Checksum.of(try await client.download(path)) == Checksum.of(bytes))
        await client.close()
    }

    @Test func halfCloseInBothDirections() async throws {
        let server = try await OpenSSHServer()
        let client = try await files.login(to: server).connect(on: testLoops.next())
        let size = 5_000_000
        // The answer comes after the client's end.
        let sink = try SinkServer()
        let toSink = try await client.openDirectTCPIP(host: "127.0.0.1", port: sink.port)
        let answered = try await exchange(toSink, on: client.loop, send: size)
        #expect(answered.failure == nil)
        #expect(answered.checksum == Checksum.of(Array("\(Pattern.checksum(size)) \(size)\n".utf8)))

        // The server ends first, and the client sends on.
        let source = try SourceServer(count: size, seed: 3)
        let fromSource = try await client.openDirectTCPIP(host: "127.0.0.1", port: source.port)
        #expect(try await exchangeReading(fromSource, on: client.loop) == size)
        let loop = client.loop
        _ = try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
            loop.submit {
                fromSource.withValue { PatternSender($0, size: size) { continuation.resume(with: $0) }.start() }
            }
        }
        let transfer = try await source.transfers(1)[0]
        #expect(transfer == Transfer(received: size, checksum: Pattern.checksum(size), ending: .endOfStream))
        await client.close()
    }

    @Test func fiftyStreamsAtOnce() async throws {
        let server = try await OpenSSHServer()
        let client = try await files.login(to: server).connect(on: testLoops.next())
        let echo = try EchoServer()
        let size = 200_000
        try await withThrowingTaskGroup(of: Exchange.self) { group in
            for seed in 1...50 as ClosedRange<UInt64> {
                group.addTask {
                    let stream = try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port)
                    return try await exchange(stream, on: client.loop, send: size, seed: seed)
                }
            }
            for try await result in group {
                #expect(result.failure == nil)
                #expect(result.received == size)
            }
        }
        #expect(try await client.run("echo still here").text == "still here\n")
        await client.close()
    }

    /// The master asks the kernel about each connection to its socket at every turn: those that carry nothing are few.
    @Test func whatManyStreamsLeaveIsClosed() async throws {
        let server = try await OpenSSHServer()
        let client = try await files.login(to: server).connect(on: testLoops.next())
        let echo = try EchoServer()
        var streams: [LoopBound<ByteStream>] = []
        for _ in 0..<40 {
            streams.append(try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port))
        }
        // A refused one keeps its connection: the master would not outlive the end of that.
        let port = FreePort.next()
        _ = await streamFailure { try await client.openDirectTCPIP(host: "127.0.0.1", port: port) }
        let master = try await client.master().process
        let descriptors = { try FileManager.default.contentsOfDirectory(atPath: "/proc/\(master)/fd").count }
        #expect(try descriptors() > 40)
        for stream in streams {
            let result = try await exchange(stream, on: client.loop, send: 100_000)
            #expect(result.failure == nil && result.received == 100_000)
        }
        // Seventeen, and what the master has of its own.
        try await eventually("few connections are left") { try descriptors() < 35 }
        let stream = try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port)
        #expect(try await exchange(stream, on: client.loop, send: 3_000_000).received == 3_000_000)
        #expect(try await client.run("echo still here").text == "still here\n")
        await client.close()
    }

    @Test func refusalsAreToldApart() async throws {
        let server = try await OpenSSHServer()
        let client = try await files.login(to: server).connect(on: testLoops.next())
        let port = FreePort.next()
        let refused = await streamFailure { try await client.openDirectTCPIP(host: "127.0.0.1", port: port) }
        #expect(refused?.code == .refused)
        #expect(refused?.message.contains("nothing listens") == true)
        await client.close()

        let strict = try await OpenSSHServer(configuration: ["AllowTcpForwarding no", "MaxSessions 1"])
        let second = try await files.login(to: strict).connect(on: testLoops.next())
        let denied = await streamFailure { try await second.openDirectTCPIP(host: "127.0.0.1", port: 1) }
        #expect(denied?.code == .denied)
        #expect(denied?.message.contains("AllowTcpForwarding") == true)
        // The master has no session of its own, so that one is left.
        let first = try await second.execute("cat")
        let limit = await sshFailure { try await second.run("true") }
        #expect(limit?.code == .sessionLimit)
        try await second.loop.execute { first.withValue { $0.close() } }
        await second.close()
    }

    @Test func aStreamThatIsResetEndsAtTheServer() async throws {
        let server = try await OpenSSHServer()
        let client = try await files.login(to: server).connect(on: testLoops.next())
        let sink = try SinkServer()
        let stream = try await client.openDirectTCPIP(host: "127.0.0.1", port: sink.port)
        try await client.loop.execute {
            stream.withValue { $0.reset(StreamError(.closed, "enough")) }
        }
        #expect(try await sink.transfers(1)[0].received == 0)
        await client.close()
    }

    /// `finish()` and `close()` at once, and the connection closed behind it: what was accepted arrives.
    @Test func whatWasAcceptedArrives() async throws {
        let server = try await OpenSSHServer()
        let client = try await files.login(to: server).connect(on: testLoops.next())
        let sink = try SinkServer()
        let stream = try await client.openDirectTCPIP(host: "127.0.0.1", port: sink.port)
        let accepted = try await client.loop.execute {
            stream.withValue { stream in
                var bytes = [UInt8](repeating: 0, count: 4 << 20)
                var pattern = Pattern(seed: 1)
                bytes.withUnsafeMutableBytes { pattern.fill($0) }
                let result = bytes.withUnsafeBytes { stream.write($0) }
                stream.finish()
                stream.close()
                guard case .bytes(let count) = result else { return 0 }
                return count
            }
        }
        let master = try await client.master()
        await client.close()
        let transfer = try await sink.transfers(1)[0]
        #expect(accepted > 0)
        #expect(transfer == Transfer(received: accepted, checksum: Pattern.checksum(accepted), ending: .endOfStream))
        try await eventually("nothing is left") { isGone(master) }
    }

    // MARK: Loss

    @Test func aMasterThatIsKilledFailsItsStreams() async throws {
        let server = try await OpenSSHServer()
        let client = try await files.login(to: server).connect(on: testLoops.next())
        let master = try await client.master()
        let source = try SourceServer(count: 1 << 30)
        let stream = try await client.openDirectTCPIP(host: "127.0.0.1", port: source.port)
        let command = try await client.execute("cat")
        async let ended = exchange(stream, on: client.loop, send: 0) { _ in kill(master.process, SIGKILL) }
        let result = try await ended
        #expect(result.failure?.code == .truncated)
        #expect(await client.ended().code == .connectionLost)
        try await eventually("the command's end") {
            try await client.loop.execute {
                command.withValue { if case .failure = $0.result { true } else { false } }
            }
        }
        let late = await sshFailure { try await client.run("true") }
        #expect(late?.code == .connectionLost)
        try await eventually("nothing is left") { isGone(master) }
    }

    @Test func aServerThatIsKilledFailsItsStreams() async throws {
        let server = try await OpenSSHServer()
        let client = try await files.login(to: server).connect(on: testLoops.next())
        let master = try await client.master()
        let source = try SourceServer(count: 1 << 30)
        let stream = try await client.openDirectTCPIP(host: "127.0.0.1", port: source.port)
        let result = try await exchange(stream, on: client.loop, send: 0) { _ in server.killSessions() }
        #expect(result.failure?.code == .truncated)
        #expect(await client.ended().code == .connectionLost)
        try await eventually("nothing is left") { isGone(master) }
    }

    /// By our side here: libssh2 never asks for new keys, ssh does.
    @Test func fourChannelsBothWaysWhileKeysChange() async throws {
        let server = try await OpenSSHServer(configuration: ["LogLevel DEBUG1"])
        let client = try await files.login(to: server, lines: ["RekeyLimit 1M"]).connect(on: testLoops.next())
        let echo = try EchoServer()
        let size = 8 << 20
        try await withThrowingTaskGroup(of: (UInt64, Exchange).self) { group in
            for seed in 1...4 as ClosedRange<UInt64> {
                group.addTask {
                    let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port)
                    return (seed, try await exchange(channel, on: client.loop, send: size, seed: seed))
                }
            }
            for try await (seed, result) in group {
                #expect(result.failure == nil)
                #expect(result.checksum == Pattern.checksum(size, seed: seed))
            }
        }
        try await server.logged("SSH2_MSG_NEWKEYS received", count: 10)
        await client.close()
    }

    @Test func aServerThatFallsSilentIsNoticed() async throws {
        let server = try await OpenSSHServer()
        let options = ["ServerAliveInterval=1", "ServerAliveCountMax=3"]
        let client = try await files.login(to: server, options: options).connect(on: testLoops.next())
        let stopped = server.sessionProcesses
        for process in stopped { kill(process, SIGSTOP) }
        let end = await client.ended()
        for process in stopped { kill(process, SIGCONT) }
        #expect(end.code == .connectionLost)
        #expect(end.message.contains("Timeout, server"), "\(end)")
    }

    @Test func aReleasedClientLeavesNothing() async throws {
        let server = try await OpenSSHServer()
        let master = try await files.login(to: server).connect(on: testLoops.next()).master()
        try await eventually("nothing is left") { isGone(master) }
    }

    @Test func aLoopThatStopsLeavesNoProcess() async throws {
        let server = try await OpenSSHServer()
        let loop = EventLoop(name: "short")
        let client = try await files.login(to: server).connect(on: loop)
        let master = try await client.master()
        await loop.shutDown()
        try await eventually("no process") {
            // Unreaped where the session is still referenced.
            let state = try? String(contentsOfFile: "/proc/\(master.process)/stat", encoding: .utf8)
            return state?.contains(") Z ") ?? true
        }
        withExtendedLifetime(client) {}
    }
}

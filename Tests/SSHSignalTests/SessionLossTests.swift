import Foundation
import SSHSignal
import Streams
import Synchronization
import TestPeers
import Testing

/// The connection goes away: whatever waits must hear of it, promptly and with the reason, and nothing may look
/// complete.
@Suite(.serialized) struct SessionLossTests {
    @Test func everythingThatWaitsFailsWhenTheServerDies() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let source = try SourceServer(count: 1 << 30)
        let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: source.port)
        let isFlowing = Mutex(false)
        async let command = sshFailure { try await client.run("sleep 60") }
        async let stream = exchange(channel, on: client.loop, send: 1 << 20) { progress in
            if progress.received > 1_000_000 { isFlowing.withLock { $0 = true } }
        }
        async let ended = client.ended()
        try await eventually("bytes flow") { isFlowing.withLock { $0 } }
        server.killSessions()
        let failed = try await stream
        #expect(failed.failure?.code == .truncated, "\(failed)")
        let commandError = await command
        #expect(commandError?.code == .connectionLost)
        let reason = await ended
        #expect(reason.code == .connectionLost)
        #expect(reason.message.contains("lost"))
        // Later calls fail at once, with the same reason.
        let later = await sshFailure { try await client.run("echo") }
        #expect(later == reason)
        let laterStream = await streamFailure { try await client.openDirectTCPIP(host: "127.0.0.1", port: 1) }
        #expect(laterStream?.code == .truncated)
    }

    @Test func closingFailsWhatIsOpen() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let echo = try EchoServer()
        let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port)
        let sign = server.directory.path("started")
        async let command = sshFailure { try await client.run("touch \(sign); sleep 60") }
        // More than a fast machine can send before it is closed.
        async let stream = exchange(channel, on: client.loop, send: 4 << 30)
        try await eventually("both run") { echo.accepted == 1 && FileManager.default.fileExists(atPath: sign) }
        await client.close()
        let failed = try await stream
        #expect(failed.failure?.code == .closed)
        let commandError = await command
        #expect(commandError != nil)
        try await eventually("the server has let go") { server.sessionProcesses.isEmpty && echo.open == 0 }
        let ended = await client.ended()
        #expect(ended.code == .closed)
    }

    @Test func releasingTheClientClosesTheSession() async throws {
        let server = try await OpenSSHServer()
        do {
            let client = try await server.connect()
            #expect(try await client.run("echo on").text == "on\n")
        }
        try await eventually("the server has let go") { server.sessionProcesses.isEmpty }
    }

    /// Cuts the connection after every number of bytes that a whole session needs, as a reset and as an end: always an
    /// error, never a hang, never a success.
    @Test func aConnectionCutAtEveryStep() async throws {
        let server = try await OpenSSHServer()
        let loop = testLoops.next()
        // A signature or a padding may be a few bytes shorter the next time: the last bytes are left out.
        let total = try await runOverHostile(server, loop) { _ in } - 200
        var failures: [SSHError.Code: Int] = [:]
        for kind in [HostileStream.Behavior.Cut.Kind.reset, .end] {
            for position in stride(from: 0, to: total, by: max(1, total / 25)) {
                do {
                    _ = try await runOverHostile(server, loop) { $0.readCut = .init(at: position, kind) }
                    Issue.record("a session cut after \(position) of \(total) bytes looked complete")
                } catch let error as SSHError {
                    failures[error.code, default: 0] += 1
                }
            }
        }
        #expect(failures[.busy] != nil, "before the banner")
        #expect(failures[.connectionLost] != nil)
        #expect(Set(failures.keys).isSubset(of: [.busy, .connectionLost, .transferFailed]), "\(failures)")
    }

    /// Connects and runs a command; returns how many bytes were read until its output was complete.
    private func runOverHostile(
        _ server: OpenSSHServer,
        _ loop: EventLoop,
        _ change: @escaping @Sendable (inout HostileStream.Behavior) -> Void
    ) async throws -> Int {
        let address = try SocketAddress(ip: "127.0.0.1", port: server.port)
        let (lower, hostile) = try await Dialer.connect(to: .address(address), on: loop) { socket in
            var behavior = HostileStream.Behavior(seed: 1)
            change(&behavior)
            let stream = HostileStream(over: socket, behavior)
            return (LoopBound<ByteStream>(stream, on: loop), LoopBound(stream, on: loop))
        }
        let client = try await SSHClient.connect(
            over: lower,
            configuration: server.configuration,
            hostKeyVerifier: AnyHostKey(),
            on: loop
        )
        let result = try await client.run("echo whole")
        #expect(result.text == "whole\n")
        let count = try await loop.execute { hostile.withValue(\.bytesRead) }
        await client.close()
        return count
    }

    @Test func theServersLastWordsAreReadBeforeTheLoss() async throws {
        // The command's whole output, its end, and the connection's end arrive together while nobody reads.
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let size = 200_000
        let source = try SourceServer(count: size)
        let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: source.port)
        try await client.loop.execute { channel.withValue { $0.finish() } }
        _ = try await source.transfers(1)
        // sshd has passed on the end once the command after it is answered.
        _ = try await client.run("true")
        server.killSessions()
        _ = await client.ended()
        let late = try await exchange(channel, on: client.loop, send: 0)
        #expect(late.received == size)
        #expect(late.checksum == Pattern.checksum(size))
        #expect(late.failure == nil)
    }

    @Test func jumpHosts() async throws {
        let far = try await OpenSSHServer()
        let near = try await OpenSSHServer()
        let first = try await near.connect()
        let second = try await first.connect(
            host: "127.0.0.1",
            port: far.port,
            configuration: far.configuration,
            hostKeyVerifier: AnyHostKey()
        )
        let input = Pattern.bytes(2_000_000)
        let result = try await second.run("cat", input: .bytes(input), outputLimit: 4 << 20)
        #expect(result.output == input)
        let fingerprint = try await far.hostKeyFingerprint()
        #expect(second.hostKey.fingerprint == fingerprint)
        let echo = try EchoServer()
        let channel = try await second.openDirectTCPIP(host: "127.0.0.1", port: echo.port)
        let echoed = try await exchange(channel, on: second.loop, send: 3 << 20)
        #expect(echoed.checksum == Pattern.checksum(3 << 20))

        // The near connection dies: so does the one inside it.
        async let ended = second.ended()
        near.killSessions()
        let reason = await ended
        #expect(reason.code == .connectionLost)
    }

    @Test func aJumpToNowhere() async throws {
        let near = try await OpenSSHServer()
        let first = try await near.connect()
        let port = FreePort.next()
        let error = await sshFailure {
            try await first.connect(
                host: "127.0.0.1",
                port: port,
                configuration: SSHSessionConfiguration(user: "nobody"),
                hostKeyVerifier: AnyHostKey()
            )
        }
        #expect(error?.code == .connectionFailed)
        #expect(error?.message.contains("127.0.0.1:\(port)") == true)
        await first.close()
    }
}

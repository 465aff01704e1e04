import Foundation
import SSHSignal
import Streams
import TestPeers
import Testing

@Suite(.serialized) struct SessionChannelTests {
    @Test func forwardsBothWaysWithHalfClose() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let echo = try EchoServer()
        let size = 1_000_000
        let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port)
        let result = try await exchange(channel, on: client.loop, send: size)
        #expect(result.failure == nil)
        #expect(result.received == size)
        #expect(result.checksum == Pattern.checksum(size))

        // The answer comes after the client's end: lost where half-close is.
        let sink = try SinkServer()
        let toSink = try await client.openDirectTCPIP(host: "127.0.0.1", port: sink.port)
        let answered = try await exchange(toSink, on: client.loop, send: size)
        #expect(answered.failure == nil)
        let answer = Array("\(Pattern.checksum(size)) \(size)\n".utf8)
        #expect(answered.checksum == Checksum.of(answer))

        // The server ends first; the client goes on sending.
        let source = try SourceServer(count: 10, seed: 3)
        let fromSource = try await client.openDirectTCPIP(host: "127.0.0.1", port: source.port)
        let ended = try await sendAfterEnd(fromSource, on: client.loop, size: size)
        #expect(ended == 10)
        let transfer = try await source.transfers(1)[0]
        #expect(transfer == Transfer(received: size, checksum: Pattern.checksum(size), ending: .endOfStream))
        await client.close()
    }

    /// Reads to the end, and only then sends `size` bytes and the end. Returns how much was read.
    private func sendAfterEnd(_ channel: LoopBound<ByteStream>, on loop: EventLoop, size: Int) async throws -> Int {
        let received = try await exchangeReading(channel, on: loop)
        _ = try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
            loop.submit {
                channel.withValue { channel in
                    let sender = PatternSender(channel, size: size) { continuation.resume(with: $0) }
                    sender.start()
                }
            }
        }
        return received
    }

    /// dropbear dies of a command that ends while another session is opened and not started yet, and of a close that
    /// meets the end of its command. What is opened and closed in quick succession must not bring them together.
    @Test func manyQuickChannelsOnDropbear() async throws {
        let server = try await DropbearServer()
        let client = try await server.connect()
        let echo = try EchoServer()
        for round in 0..<12 {
            try await withThrowingTaskGroup(of: Void.self) { group in
                for index in 0..<16 {
                    group.addTask {
                        switch index % 4 {
                        case 0:
                            #expect(try await client.run("echo \(index)").text == "\(index)\n")
                        case 1:
                            let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port)
                            #expect(try await exchange(channel, on: client.loop, send: 1000).received == 1000)
                        case 2:
                            #expect(try await client.run("cat", input: .bytes([1, 2, 3])).output == [1, 2, 3])
                        default:
                            // Closed while it ends by itself.
                            let process = try await client.execute("exit \(round)")
                            client.loop.submit { process.withValue { $0.close() } }
                        }
                    }
                }
                try await group.waitForAll()
            }
        }
        #expect(try await client.run("echo in").text == "in\n")
        let log = server.process.standardError.text
        #expect(!log.contains("ssertion"), "\(log)")
        await client.close()
        await server.stop()
    }

    @Test func sixtyFourMegabytesEachWay() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let size = 64 << 20
        let sink = try SinkServer()
        let up = try await client.openDirectTCPIP(host: "127.0.0.1", port: sink.port)
        let sent = try await exchange(up, on: client.loop, send: size)
        #expect(sent.checksum == Checksum.of(Array("\(Pattern.checksum(size)) \(size)\n".utf8)))
        let source = try SourceServer(count: size)
        let down = try await client.openDirectTCPIP(host: "127.0.0.1", port: source.port)
        let received = try await exchange(down, on: client.loop, send: 0)
        #expect(received.received == size)
        #expect(received.checksum == Pattern.checksum(size))
        #expect(received.failure == nil)
        await client.close()
    }

    @Test func fourChannelsBothWaysWhileKeysChange() async throws {
        let server = try await OpenSSHServer(configuration: ["RekeyLimit 1M"])
        let client = try await server.connect()
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
                #expect(result.received == size)
                #expect(result.checksum == Pattern.checksum(size, seed: seed))
            }
        }
        #expect(try await client.run("echo still there").text == "still there\n")
        await client.close()
    }

    @Test func keysChangeOverAHostileStream() async throws {
        let server = try await OpenSSHServer(configuration: ["RekeyLimit 256K"])
        let loop = testLoops.next()
        let address = try SocketAddress(ip: "127.0.0.1", port: server.port)
        let lower = try await Dialer.connect(to: .address(address), on: loop) { socket in
            LoopBound<ByteStream>(HostileStream(over: socket, .ragged(seed: 9, longest: 20_000)), on: loop)
        }
        let client = try await SSHClient.connect(
            over: lower,
            configuration: server.configuration,
            hostKeyVerifier: AnyHostKey(),
            on: loop
        )
        let echo = try EchoServer()
        let size = 3 << 20
        async let first = exchange(
            client.openDirectTCPIP(host: "127.0.0.1", port: echo.port),
            on: loop,
            send: size,
            seed: 1
        )
        async let second = exchange(
            client.openDirectTCPIP(host: "127.0.0.1", port: echo.port),
            on: loop,
            send: size,
            seed: 2
        )
        let results = try await (first, second)
        #expect(results.0.checksum == Pattern.checksum(size, seed: 1))
        #expect(results.1.checksum == Pattern.checksum(size, seed: 2))
        await client.close()
    }

    @Test func oneSlowReaderStopsNobodyElse() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let source = try SourceServer(count: 64 << 20)
        // Nobody reads this one: the server may send its window and no more.
        let slow = try await client.openDirectTCPIP(host: "127.0.0.1", port: source.port)
        let echo = try EchoServer()
        for seed in 1...3 as ClosedRange<UInt64> {
            let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port)
            let result = try await exchange(channel, on: client.loop, send: 4 << 20, seed: seed)
            #expect(result.checksum == Pattern.checksum(4 << 20, seed: seed))
        }
        // It has lost nothing meanwhile.
        let late = try await exchange(slow, on: client.loop, send: 0)
        #expect(late.checksum == Pattern.checksum(64 << 20))
        await client.close()
    }

    @Test func manyStreamsOneAfterTheOther() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let echo = try EchoServer()
        for number in 0..<100 {
            let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port)
            let result = try await exchange(channel, on: client.loop, send: number, seed: UInt64(number))
            #expect(result.failure == nil)
            #expect(result.checksum == Pattern.checksum(number, seed: UInt64(number)))
        }
        // All of them were let go, here and there.
        try await eventually("every connection is closed") { echo.open == 0 }
        await client.close()
    }

    @Test func forwardingThatIsForbidden() async throws {
        let echo = try EchoServer()
        for line in ["AllowTcpForwarding no", "DisableForwarding yes", "PermitOpen 127.0.0.1:1"] {
            let server = try await OpenSSHServer(configuration: [line])
            let client = try await server.connect()
            let error = await streamFailure { try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port) }
            #expect(error?.code == .denied, "\(line)")
            #expect(error?.message.contains("AllowTcpForwarding no") == true)
            #expect(error?.message.contains("PermitOpen") == true)
            // Commands still work.
            #expect(try await client.run("echo on").text == "on\n")
            await client.close()
        }
    }

    @Test func forwardingThatAKeyOrDropbearForbids() async throws {
        let echo = try EchoServer()
        for options in ["restrict", "no-port-forwarding", "permitopen=\"127.0.0.1:1\""] {
            let server = try await OpenSSHServer(authorizedKeyOptions: options)
            let client = try await server.connect()
            let error = await streamFailure { try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port) }
            #expect(error?.code == .denied, "\(options)")
            #expect(error?.message.contains("authorized_keys") == true)
            await client.close()
        }
        let dropbear = try await DropbearServer(arguments: ["-j", "-k"])
        let client = try await dropbear.connect()
        let error = await streamFailure { try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port) }
        #expect(error?.code == .denied, "\(String(describing: error))")
        await client.close()
        await dropbear.stop()
    }

    @Test func aPortWhereNothingListens() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let port = FreePort.next()
        let error = await streamFailure { try await client.openDirectTCPIP(host: "127.0.0.1", port: port) }
        #expect(error?.code == .refused)
        #expect(error?.message.contains("127.0.0.1:\(port)") == true)
        await client.close()
    }

    @Test func aResetClosesTheFarConnection() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let echo = try EchoServer()
        let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port)
        try await client.loop.execute {
            channel.withValue { channel in
                channel.reset(StreamError(.closed, "not needed"))
                #expect(channel.write([1, 2, 3].withUnsafeBytes { UnsafeRawBufferPointer($0) }) == .failed)
            }
        }
        _ = try await echo.transfers(1)
        #expect(try await client.run("echo on").text == "on\n")
        await client.close()
    }

    @Test func relaysToASocket() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let echo = try EchoServer()
        let loop = client.loop
        let listener = try await RelayListener.start(client, to: echo.port)
        let result = try await ChildProcess.run(
            "python3",
            ["-c", Self.socketClient, "\(listener.port)"],
            within: .seconds(60)
        )
        #expect(result.standardOutput == "ok\n", "\(result.standardError)")
        try await loop.execute { [listener] in listener.listener.withValue { $0.close() } }
        await client.close()
    }

    /// Sends 5 MB and its end, and compares what comes back.
    private static let socketClient = """
        import socket, sys, threading, os
        s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
        data = os.urandom(5_000_000)
        def send():
            s.sendall(data); s.shutdown(socket.SHUT_WR)
        threading.Thread(target=send).start()
        back = b''
        while chunk := s.recv(1 << 16): back += chunk
        print('ok' if back == data else 'different: %d' % len(back))
        """
}

/// A TCP port whose connections are relayed through a session, as `ssh -L` does.
struct RelayListener: Sendable {
    let port: UInt16
    let listener: LoopBound<Listener>

    static func start(_ client: SSHClient, to target: UInt16) async throws -> RelayListener {
        let loop = client.loop
        return try await client.withConnection { session in
            let bound = LoopBound(session, on: loop)
            let listener = try Listener(bind: SocketAddress(ip: "127.0.0.1", port: 0), on: loop) { socket in
                bound.withValue { session in
                    session.openDirectTCPIP(host: "127.0.0.1", port: target) { result in
                        switch result {
                        case .success(let channel): Relay(socket, channel).start()
                        case .failure(let error): socket.reset(error)
                        }
                    }
                }
            }
            return RelayListener(port: listener.localAddress.port, listener: LoopBound(listener, on: loop))
        }
    }
}

import Foundation
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// Windows and turns of several streams over one session, to real sshds at the end of long and of narrow links.
@Suite(.serialized, .timeLimit(.minutes(10))) struct SessionWindowTests {
    private func connect(_ server: OpenSSHServer, through link: DelayedLink) async throws -> SSHClient {
        try await SSHClient.connect(
            host: "127.0.0.1",
            port: link.port,
            configuration: server.configuration,
            hostKeyVerifier: AnyHostKey(),
            on: testLoops.next()
        )
    }

    /// What has been announced at most, of a session that is looked at while its streams run.
    private final class Peak: Sendable {
        private let most = Lock(0)
        func note(_ announced: Int) { most.withLock { $0 = max($0, announced) } }
        var value: Int { most.withLock { $0 } }
    }

    @Test func aDistantStreamGetsAWindowThatFitsThePath() async throws {
        let server = try await OpenSSHServer()
        let link = try await DelayedLink(to: server.port, roundTrip: 150, rate: 100_000_000)
        let client = try await connect(server, through: link)
        let size = 16 << 20
        let source = try SourceServer(count: size)
        let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: source.port)
        let before = try await client.withConnection { ($0.announced, ($0 as? SSHSession)?.roundTripTime ?? 0) }
        #expect(before.0 <= ChannelWindow.initial)
        #expect(before.1 >= 150_000_000)
        let peak = Peak()
        let connection = client.connection
        let result = try await exchange(channel, on: client.loop, send: 0) { _ in
            peak.note(connection.withValue { $0.announced })
        }
        #expect(result.checksum == Pattern.checksum(size))
        #expect(peak.value > 1 << 20)
        #expect(peak.value <= server.configuration.totalWindow)
        await client.close()
    }

    @Test func bulkStreamsShareTheBudgetAndALateOneGetsItsPart() async throws {
        let server = try await OpenSSHServer()
        let link = try await DelayedLink(to: server.port, roundTrip: 40, rate: 60_000_000)
        let client = try await connect(server, through: link)
        let size = 12 << 20
        let source = try SourceServer(count: size)
        let peak = Peak()
        let connection = client.connection
        try await withThrowingTaskGroup(of: Exchange.self) { group in
            for _ in 0..<6 {
                let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: source.port)
                group.addTask {
                    try await exchange(channel, on: client.loop, send: 0) { _ in
                        peak.note(connection.withValue { $0.announced })
                    }
                }
            }
            for try await result in group { #expect(result.checksum == Pattern.checksum(size)) }
        }
        // Those that come when everything is given out begin with the smallest window all the same: five at most.
        #expect(peak.value <= server.configuration.totalWindow + 5 * ChannelWindow.smallest)
        // Everything is given back when the channels are gone.
        try await eventually("nothing is announced") {
            try await client.withConnection { $0.announced } == 0
        }
        await client.close()
    }

    /// Sends over all channels what comes back, beginning with all of them in one turn of the loop: on a busy machine
    /// tasks begin at very different times.
    ///
    /// - Returns: What came of each, and what each had received when the first had everything.
    private func exchangeTogether(
        _ channels: [LoopBound<ByteStream>],
        on loop: EventLoop,
        send size: Int
    ) async throws -> (results: [Exchange], atFirstEnd: [Int]) {
        try await withCheckedThrowingContinuation { continuation in
            loop.submit {
                var running: [StreamExchange] = []
                var results: [Int: Exchange] = [:]
                var received = Array(repeating: 0, count: channels.count)
                var atFirstEnd: [Int]?
                let timer = LoopTimer(on: loop) {
                    running = []
                    continuation.resume(throwing: DeadlineExceeded("the exchanges did not end"))
                }
                for (number, channel) in channels.enumerated() {
                    let stream = channel.withValue { $0 }
                    let exchange = StreamExchange(stream, send: size, seed: UInt64(number), closes: true) { result in
                        guard !running.isEmpty else { return }
                        results[number] = result
                        guard results.count == channels.count else { return }
                        timer.cancel()
                        running = []
                        let all = (0..<channels.count).compactMap { results[$0] }
                        continuation.resume(returning: (all, atFirstEnd ?? []))
                    }
                    exchange.onProgress = { progress in
                        received[number] = progress.received
                        if progress.received == size, atFirstEnd == nil { atFirstEnd = received }
                    }
                    running.append(exchange)
                }
                timer.schedule(after: .seconds(90))
                for exchange in running { exchange.start() }
            }
        }
    }

    /// Nobody is left behind: their windows, and that they take turns, see to it.
    @Test func streamsThatAllHaveSomethingToSendGetTheSameShare() async throws {
        let server = try await OpenSSHServer()
        let link = try await DelayedLink(to: server.port, roundTrip: 2, rate: 10_000_000)
        let client = try await connect(server, through: link)
        let echo = try EchoServer()
        let size = 6 << 20
        var channels: [LoopBound<ByteStream>] = []
        for _ in 0..<4 {
            channels.append(try await client.openDirectTCPIP(host: "127.0.0.1", port: echo.port))
        }
        let (results, atFirstEnd) = try await exchangeTogether(channels, on: client.loop, send: size)
        for (number, result) in results.enumerated() {
            #expect(result.checksum == Pattern.checksum(size, seed: UInt64(number)))
        }
        #expect((atFirstEnd.min() ?? 0) > size / 4, "\(atFirstEnd)")
        await client.close()
    }

    // MARK: The arithmetic

    @Test func aWindowFollowsItsReader() {
        var window = ChannelWindow(size: ChannelWindow.initial)
        let roundTrip: UInt64 = 100_000_000
        var now: UInt64 = 1
        #expect(window.took(1000, at: now, roundTrip: roundTrip) == nil)
        // Not before a round trip is over.
        now += roundTrip / 2
        #expect(window.took(200_000, at: now, roundTrip: roundTrip) == nil)
        now += roundTrip / 2
        #expect(window.took(200_000, at: now, roundTrip: roundTrip) == 800_000)
        window.resize(to: 800_000)
        // As much as fits changes nothing, little makes it smaller, none makes it smaller than it began.
        now += roundTrip
        #expect(window.took(300_000, at: now, roundTrip: roundTrip) == nil)
        now += roundTrip
        #expect(window.took(1000, at: now, roundTrip: roundTrip) == ChannelWindow.initial)
        window.resize(to: 1)
        #expect(window.size == ChannelWindow.initial)
    }

    @Test func theBudgetKeepsSomethingForTheNextOne() {
        var budget = WindowBudget(total: 1 << 20)
        let now: UInt64 = 5_000_000_000
        budget.change(by: 256 << 10)
        #expect(budget.share(of: 2, at: now) == nil)
        #expect(budget.grant(100_000, at: now) == 100_000)
        #expect(budget.share(of: 2, at: now) == nil)
        // Half of what is left, and the others are to shrink for a while.
        #expect(budget.grant(10 << 20, at: now) == 384 << 10)
        #expect(budget.share(of: 2, at: now) == 512 << 10)
        #expect(budget.share(of: 100, at: now) == ChannelWindow.smallest)
        #expect(budget.share(of: 2, at: now + 2_000_000_000) == nil)
        budget.change(by: 512 << 10)
        #expect(budget.opening(256 << 10) == ChannelWindow.smallest)
        budget.change(by: 1 << 20)
        #expect(budget.grant(1, at: now) == 0)
    }
}

extension SSHConnection {
    /// What the server may send now; -1 where another engine than libssh2 drives the connection.
    fileprivate var announced: Int { (self as? SSHSession)?.windows.announced ?? -1 }
}

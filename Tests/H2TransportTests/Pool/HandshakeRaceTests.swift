import MeshIdentity
import Streams
import TestPeers
import Testing

@testable import H2Transport

/// A handshake that stalls, and the one beside it.
@Suite struct HandshakeRaceTests {
    /// What a way to the peer leads to.
    enum Way: Sendable {
        /// Connected, and nothing comes back.
        case silent
        case answers
        /// By somebody whom nobody trusts.
        case stranger
        case refused
        /// Answers once the other one has failed.
        case late
    }

    /// A race, what it has dialled, and what came of it. Confined to its loop.
    private final class Race {
        var results: [Result<ByteStream, StreamError>] = []
        /// The other ends.
        var far: [ByteStream] = []
        private var servers: [TLSStream] = []
        private var late: ByteStream?

        init(_ first: Way, _ second: Way, patience: Duration, on loop: EventLoop) throws {
            let context = try TLSSide.client.context(.client)
            let race = HandshakeRace(
                { [unowned self] in dial(first, on: loop, $0) },
                again: { [unowned self] in dial(second, on: loop, $0) },
                secure: { TLSStream(over: $0, context: context, expecting: .anyTrusted) },
                patience: patience,
                on: loop,
                completion: { [unowned self] in results.append($0) }
            )
            race.start()
        }

        private func dial(_ way: Way, on loop: EventLoop, _ completion: @escaping HandshakeRace.Completion) {
            guard way != .refused else {
                return loop.later { completion(.failure(StreamError(.refused, "refused"))) }
            }
            let (near, far) = TestPeers.MemoryStream.pair(on: loop)
            self.far.append(far)
            loop.later { completion(.success(near)) }
            guard way != .silent else { return }
            guard way != .late else {
                late = far
                return
            }
            do {
                let side = way == .stranger ? TLSSide.server.with { $0.credential = .rogue } : TLSSide.server
                let server = try side.stream(over: far, .server)
                servers.append(server)
                server.startHandshake { [unowned self] result in
                    guard case .failure = result, let late else { return }
                    self.late = nil
                    answer(over: late)
                }
            } catch {
                Issue.record(error)
            }
        }

        private func answer(over far: ByteStream) {
            do {
                let server = try TLSSide.server.stream(over: far, .server)
                servers.append(server)
                server.startHandshake { _ in }
            } catch {
                Issue.record(error)
            }
        }

        var isUp: Bool { if case .success? = results.first { true } else { false } }
        var error: StreamError? { if case .failure(let error)? = results.first { error } else { nil } }

        func end() {
            for result in results { try? result.get().reset(StreamError(.closed, "the test is over")) }
            for server in servers { server.reset(StreamError(.closed, "the test is over")) }
        }
    }

    /// One nanosecond: the second one starts with the next turn after the first is connected.
    private static let none = Duration.nanoseconds(1)

    @Test(
        "a handshake that stalls is overtaken by the one that follows it, and let go",
        arguments: [(Way.silent, Way.answers, 2), (.answers, .silent, 1)]
    )
    func stalled(first: Way, second: Way, dials: Int) async throws {
        try await withLoop { loop in
            let patience = first == .silent ? Self.none : .seconds(20)
            let race = try await OnLoop(loop) { try Race(first, second, patience: patience, on: loop) }
            try await race.until("one is done") { !$0.results.isEmpty }
            let (isUp, count) = try await race { ($0.isUp, $0.far.count) }
            #expect(isUp)
            #expect(count == dials)
            if first == .silent {
                try await race.until("the other one is let go") { $0.far[0].failure != nil }
            }
            try await race { $0.end() }
        }
    }

    /// It may lead to another machine: the first one still counts.
    @Test func aStrangerAtTheSecondConnectionDoesNotEndTheFirst() async throws {
        try await withLoop { loop in
            let race = try await OnLoop(loop) { try Race(.late, .stranger, patience: Self.none, on: loop) }
            try await race.until("one is done") { !$0.results.isEmpty }
            let isUp = try await race { $0.isUp }
            #expect(isUp)
            try await race { $0.end() }
        }
    }

    @Test(
        "what fails before it stalls has no second one, be it a stranger or nobody",
        arguments: [
            (Way.refused, Way.answers, StreamError.Code.refused),
            (.stranger, .answers, .authentication),
        ]
    )
    func failed(first: Way, second: Way, code: StreamError.Code) async throws {
        try await withLoop { loop in
            let race = try await OnLoop(loop) { try Race(first, second, patience: .seconds(20), on: loop) }
            try await race.until("it fails") { !$0.results.isEmpty }
            let (error, count) = try await race { ($0.error, $0.results.count) }
            #expect(error?.code == code)
            #expect(count == 1)
            try await race { $0.end() }
        }
    }
}

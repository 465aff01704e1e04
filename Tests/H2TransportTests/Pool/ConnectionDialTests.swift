import MeshIdentity
import Streams
import TestPeers
import Testing

@testable import H2Transport

/// One attempt to get a connection, with and without the PING that proves it.
@Suite struct ConnectionDialTests {
    /// An attempt over a stream whose other end is `far`, and what came of it. Confined to its loop.
    private final class Attempt {
        var results: [Result<H2Connection, StreamError>] = []
        let far: ByteStream
        /// The far end as a server, where somebody speaks there.
        let server: H2Connection?
        private let dial: ConnectionDial

        init(answers: Bool, firstAnswer: Duration?, on loop: EventLoop) throws {
            let (near, far) = TestPeers.MemoryStream.pair(on: loop)
            self.far = far
            server = answers ? try H2Connection(over: far, role: .server) : nil
            let key = H2Endpoint.Key(credential: ObjectIdentifier(loop), expectation: .anyTrusted, location: "test")
            let endpoint = H2Endpoint(key: key) { loop, completion in loop.later { completion(.success(near)) } }
            dial = ConnectionDial(to: endpoint, configuration: .defaults, firstAnswer: firstAnswer, on: loop)
            dial.start { [unowned self] in results.append($0) }
        }

        func cancel() { dial.cancel() }

        /// Takes the connection away, if there is one.
        func end() -> Bool {
            defer { server?.abort(StreamError(.closed, "the test is over")) }
            guard case .success(let connection) = results[0] else { return false }
            connection.abort(StreamError(.closed, "the test is over"))
            return true
        }

        var error: StreamError? {
            if case .failure(let error) = results.first { error } else { nil }
        }
    }

    @Test("a peer that takes the connection and says nothing is none, where a PING has to be answered")
    func silence() async throws {
        try await withLoop { loop in
            let proven = try await OnLoop(loop) {
                try Attempt(answers: false, firstAnswer: .milliseconds(50), on: loop)
            }
            try await proven.until("the attempt fails") { $0.results.count == 1 }
            let error = try await proven { $0.error }
            #expect(error?.code == .timedOut)
            #expect(error?.message.contains("does not answer over HTTP/2") == true)
            let unproven = try await OnLoop(loop) { try Attempt(answers: false, firstAnswer: nil, on: loop) }
            try await unproven.until("the attempt succeeds") { $0.results.count == 1 }
            let isUp = try await unproven { $0.end() }
            #expect(isUp)
        }
    }

    @Test("a peer that speaks HTTP/2 answers")
    func answers() async throws {
        try await withLoop { loop in
            let attempt = try await OnLoop(loop) {
                try Attempt(answers: true, firstAnswer: .seconds(20), on: loop)
            }
            try await attempt.until("the attempt succeeds") { $0.results.count == 1 }
            let isUp = try await attempt { $0.end() }
            #expect(isUp)
        }
    }

    @Test("an attempt that is cancelled drops what it gets, and tells nobody")
    func cancelled() async throws {
        try await withLoop { loop in
            let attempt = try await OnLoop(loop) {
                let attempt = try Attempt(answers: true, firstAnswer: .seconds(20), on: loop)
                attempt.cancel()
                return attempt
            }
            try await attempt.until("the other side sees it go") { $0.server?.isClosed == true }
            let count = try await attempt { $0.results.count }
            #expect(count == 0)
        }
    }
}

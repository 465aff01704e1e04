import Foundation
import Logging
import MeshIdentity
import Streams
import Synchronization
import TestPeers
import Testing

@testable import H2Transport

/// Who looks whether somebody was revoked, and how often it is said that this cannot be told.
@Suite(.timeLimit(.minutes(10))) struct RevocationLookTests {
    private enum Opening {
        @TaskLocal static var isUnderWay = false
    }

    /// A look asks a database and may wait for it: a stream that is opened does not.
    @Test func nobodyLooksWhenAStreamIsOpened() async throws {
        let looks = Mutex<(all: Int, byOpening: Int)>((0, 0))
        var clients = CredentialSource.directory(TestCertificates.shared.path(.client))
        clients.alsoRevoked = {
            looks.withLock { looks in
                looks.all += 1
                if Opening.isUnderWay { looks.byOpening += 1 }
            }
            return []
        }
        try await MeshPair.with(client: clients, handler: MeshPair.echo) { pair in
            try await eventually("it is looked some times") {
                try await Opening.$isUnderWay.withValue(true) {
                    try await pair.withStream { stream in
                        try await stream.write("a")
                        #expect(try await stream.read() == [97])
                    }
                    _ = pair.client.identity
                }
                return looks.withLock { $0.all } > 4
            }
        }
        #expect(looks.withLock { $0.byOpening } == 0)
    }

    private struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    @Test func whatCannotBeToldIsSaidOnce() async throws {
        let lines = Mutex<[String]>([])
        let problem = Mutex<String?>(nil)
        let looks = Mutex(0)
        let log = Recorder { line in lines.withLock { $0.append(line) } }
        var source = CredentialSource.directory(TestCertificates.shared.path(.client))
        source.alsoRevoked = {
            looks.withLock { $0 += 1 }
            if let text = problem.withLock({ $0 }) { throw Failure(description: text) }
            return []
        }
        let credential = try LiveCredential(source, role: .client, logger: Logger(label: "test") { _ in log })
        let following = credential.follow { _ in }
        defer { following?.cancel() }
        func look(three text: String?) async throws {
            problem.withLock { $0 = text }
            let start = looks.withLock { $0 }
            try await eventually("it is looked again") { looks.withLock { $0 } >= start + 3 }
        }
        try await look(three: "the ledger is in use")
        #expect(lines.withLock { $0.count } == 1)
        try await look(three: "the ledger is damaged")
        #expect(lines.withLock { $0.count } == 2)
        try await look(three: nil)
        try await look(three: "the ledger is damaged")
        #expect(lines.withLock { $0 }.map { $0.hasSuffix("damaged") } == [false, true, true])
    }

    private struct Recorder: LogHandler {
        let note: @Sendable (String) -> Void
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.debug

        init(_ note: @escaping @Sendable (String) -> Void) { self.note = note }

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) { note("\(event.message)") }
    }
}

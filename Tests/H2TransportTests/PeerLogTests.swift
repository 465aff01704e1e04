import Logging
import Streams
import TestPeers
import Testing

@testable import H2Transport

/// Lines that peers cause.
@Suite struct PeerLogTests {
    private final class Lines: Sendable {
        let all = Lock<[String]>([])

        func logger() -> Logger {
            var logger = Logger(label: "test") { _ in Handler(lines: self) }
            logger.logLevel = .info
            return logger
        }
    }

    private struct Handler: LogHandler {
        let lines: Lines
        var metadata = Logger.Metadata()
        var logLevel = Logger.Level.info

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            let words = (event.metadata ?? [:]).map { "\($0)=\($1)" }.sorted().joined(separator: " ")
            lines.all.withLock { $0.append("\(event.message) \(words)") }
        }
    }

    @Test("so many lines of each peer and kind, and how many were left out")
    func limit() async throws {
        let lines = Lines()
        let loop = EventLoop(name: "test")
        let log = PeerLog(lines.logger(), on: loop, lines: 3, interval: .milliseconds(200))
        for index in 0..<40_000 { log.log(.notice, "denied", of: "mallory", ["to": "10.0.0.1:\(index)"]) }
        log.log(.notice, "denied", of: "alice", ["to": "10.0.0.1:80"])
        log.log(.info, "backend failed", of: "mallory", ["to": "10.0.0.1:80"])
        log.log(.debug, "denied", of: "nobody sees it")
        try await eventually("it is told what was left out") { lines.all.withLock { $0.count } == 6 }
        let said = lines.all.withLock { $0 }
        #expect(said.prefix(3) == (0..<3).map { "denied peer=mallory to=10.0.0.1:\($0)" }[...])
        #expect(said[3] == "denied peer=alice to=10.0.0.1:80")
        #expect(said[4] == "backend failed peer=mallory to=10.0.0.1:80")
        #expect(said[5] == "denied, again and again lines left out=39997 peer=mallory")
        // The next interval begins anew.
        log.log(.notice, "denied", of: "mallory", ["to": "10.0.0.1:7"])
        #expect(lines.all.withLock { $0.last } == "denied peer=mallory to=10.0.0.1:7")
        await loop.shutDown()
    }

    @Test("a line that is about no peer calls it by another name")
    func label() async throws {
        let lines = Lines()
        let loop = EventLoop(name: "test")
        let log = PeerLog(lines.logger(), on: loop, lines: 1, interval: .milliseconds(200))
        for _ in 0..<2 { log.log(.notice, "no stream", of: "10.0.0.1:80", label: "to") }
        try await eventually("it is told what was left out") { lines.all.withLock { $0.count } == 2 }
        #expect(
            lines.all.withLock { $0 } == [
                "no stream to=10.0.0.1:80", "no stream, again and again lines left out=1 to=10.0.0.1:80",
            ]
        )
        await loop.shutDown()
    }

    @Test("peers that are too many to tell apart are limited together")
    func manyPeers() async throws {
        let lines = Lines()
        let loop = EventLoop(name: "test")
        let log = PeerLog(lines.logger(), on: loop, lines: 3, interval: .seconds(3600))
        for index in 0..<10_000 { log.log(.info, "handshake failed", of: "10.0.0.\(index)") }
        #expect(lines.all.withLock { $0.count } == 256 + 3)
        await loop.shutDown()
    }
}

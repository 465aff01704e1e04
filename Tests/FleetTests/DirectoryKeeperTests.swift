import Platform
import Synchronization
import TestPeers
import Testing

@testable import Fleet

/// A daemon that keeps the mesh's directory saying what the ledger does.
@Suite(.timeLimit(.minutes(10))) struct DirectoryKeeperTests {
    private final class Record: Sendable {
        let outcomes: Mutex<[Result<String?, HostError>]>
        let calls = Mutex(0)
        let lines = Mutex<[String]>([])

        init(_ outcomes: [Result<String?, HostError>]) { self.outcomes = Mutex(outcomes) }

        var report: HostReport {
            let note: @Sendable (String) -> Void = { line in self.lines.withLock { $0.append(line) } }
            return HostReport(say: note, warn: note, complain: note)
        }

        /// The next of the outcomes; the last one again and again.
        func publish() throws -> String? {
            calls.withLock { $0 += 1 }
            return try outcomes.withLock { $0.count > 1 ? $0.removeFirst() : $0[0] }.get()
        }

        func wait(for count: Int) async throws {
            try await eventually("\(count) calls") { self.calls.withLock { $0 } >= count }
        }
    }

    @Test func itPublishesAtItsStartAndAfterEachChange() async throws {
        let record = Record([.success("first"), .success("second"), .success(nil)])
        let keeper = DirectoryKeeper(report: record.report, pause: .seconds(3600)) { try record.publish() }
        let running = Task { await keeper.run() }
        try await record.wait(for: 1)
        keeper.changed()
        try await record.wait(for: 2)
        keeper.changed()
        try await record.wait(for: 3)
        running.cancel()
        await running.value
        #expect(record.lines.withLock { $0 } == ["first", "second"])
        #expect(record.calls.withLock { $0 } == 3)
    }

    /// Nobody has to ask again, and the log does not fill.
    @Test func whatFailsIsToldOnceAndTriedAgain() async throws {
        let away = HostError(.unreachable, "etcd is away")
        let record = Record([
            .failure(away), .failure(away), .failure(HostError(.unreachable, "wiped")), .success("written"),
            .success(nil),
        ])
        let keeper = DirectoryKeeper(report: record.report, pause: .milliseconds(1)) { try record.publish() }
        let running = Task { await keeper.run() }
        try await record.wait(for: 6)
        running.cancel()
        await running.value
        let lines = record.lines.withLock { $0 }
        #expect(lines.count == 4, "\(lines)")
        #expect(lines[0].contains("etcd is away") && lines[1].contains("wiped"))
        #expect(lines[2...] == ["written", "the mesh's directory can be written again"])
    }
}

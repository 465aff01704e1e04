import Synchronization
import TestPeers
import Testing

@testable import Fleet

/// The one parallel loop over hosts.
@Suite(.timeLimit(.minutes(10))) struct HostRunTests {
    /// How many bodies run at a time, and how many have begun.
    private final class Count: Sendable {
        private let state = Mutex((running: 0, most: 0, begun: 0))
        var most: Int { state.withLock { $0.most } }
        var begun: Int { state.withLock { $0.begun } }

        func enter() {
            state.withLock { state in
                state.running += 1
                state.begun += 1
                state.most = max(state.most, state.running)
            }
        }

        func leave() { state.withLock { $0.running -= 1 } }
    }

    @Test func outcomesComeInTheOrderOfTheHosts() async {
        let isLastDone = Atomic(false)
        let outcomes = await HostRun(width: 3)(["a", "b", "c"]) { (host, _) async throws(HostError) in
            if host == "c" {
                isLastDone.store(true, ordering: .sequentiallyConsistent)
            } else {
                // The first two end after the last one.
                while !isLastDone.load(ordering: .sequentiallyConsistent) { await Task.yield() }
            }
            return host.uppercased()
        }
        #expect(outcomes.map(\.host) == ["a", "b", "c"])
        #expect(outcomes.map(\.value) == ["A", "B", "C"])
    }

    @Test func asManyAsItMayAndNoMore() async {
        let count = Count()
        let outcomes = await HostRun(width: 3)(Array(0..<9)) { (_, _) async throws(HostError) in
            count.enter()
            // All that may be at it at the same time are, once; a smaller width would never get on.
            while count.begun < 3 { await Task.yield() }
            count.leave()
        }
        #expect(outcomes.count == 9)
        #expect(count.most == 3)
    }

    @Test func whatFailsStopsNoOther() async {
        let outcomes = await HostRun(width: 2)(["a", "b", "c"]) { (host, _) async throws(HostError) in
            guard host != "b" else { throw HostError(.unreachable, "b: no answer") }
        }
        #expect(outcomes.map { $0.error?.reason } == [nil, .unreachable, nil])
        #expect(outcomes[1].error?.message == "b: no answer")
    }

    @Test func aCancelledTaskBeginsNoFurtherHost() async {
        let count = Count()
        let task = Task {
            await HostRun(width: 1)(["a", "b", "c"]) { (_, _) async throws(HostError) in
                count.enter()
                while !Task.isCancelled { await Task.yield() }
            }
        }
        while count.begun == 0 { await Task.yield() }
        task.cancel()
        #expect(await task.value.map(\.host) == ["a"])
        #expect(count.begun == 1)
    }

    @Test func noHostsAreNoWork() async {
        let outcomes = await HostRun(width: 4)([Int]()) { (_, _) async throws(HostError) in }
        #expect(outcomes.isEmpty)
    }

    @Test func aMixtureOfFailuresIsJustAFailure() {
        #expect(HostFailures([]) == nil)
        #expect(HostFailures([.unreachable, .unreachable])?.reason == .unreachable)
        #expect(HostFailures([.unreachable, .denied])?.reason == .failed)
        #expect(HostFailures([.unreachable, .denied])?.count == 2)
    }
}

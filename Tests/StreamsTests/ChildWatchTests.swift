import Glibc
import Platform
import Testing

@testable import Streams

/// A child's end, told on an event loop.
@Suite(.timeLimit(.minutes(10)))
struct ChildWatchTests {
    private static func start(_ arguments: String...) throws -> StartedProgram {
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        defer { close(null) }
        return try Program("/bin/sh", ["sh"] + arguments, environment: [:], group: .own)
            .start(input: null, output: null, errors: null)
    }

    /// Whether there is not even a zombie.
    private static func isReaped(_ pid: Int32) -> Bool { kill(pid, 0) != 0 && errno == ESRCH }

    @Test(arguments: [ProgramEnd.exited(0), .exited(3), .signalled(9)])
    func theEndIsToldOnce(expected: ProgramEnd) async throws {
        try await withLoop { loop in
            let (status, pid) = try await onLoop(loop) { (scenario: Scenario<(ProgramEnd, Int32)>) in
                let script =
                    switch expected {
                    case .exited(let status): "exit \(status)"
                    case .signalled(let signal): "kill -\(signal) $$"
                    }
                let child = try Self.start("-c", script)
                // Kept by the loop.
                _ = ChildWatch(child, on: loop) { scenario.complete(($0, child.pid)) }
            }
            #expect(status == expected)
            #expect(Self.isReaped(pid))
            #expect(try await loop.execute { loop.watchedDescriptors } == 0)
        }
    }

    @Test func aSignalEndsIt() async throws {
        try await withLoop { loop in
            let status = try await onLoop(loop) { (scenario: Scenario<ProgramEnd>) in
                let watch = ChildWatch(try Self.start("-c", "exec sleep 600"), on: loop) { scenario.complete($0) }
                watch.signal(SIGTERM)
            }
            #expect(status == .signalled(SIGTERM))
        }
    }

    @Test func aLoopThatStopsLeavesNoZombie() async throws {
        let loop = EventLoop(name: "stops")
        let pid = try await loop.execute {
            let child = try Self.start("-c", "exec sleep 600")
            _ = ChildWatch(child, on: loop) { _ in Issue.record("nobody is there to be told") }
            return child.pid
        }
        await loop.shutDown()
        #expect(Self.isReaped(pid))
    }
}

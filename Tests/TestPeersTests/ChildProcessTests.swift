import Foundation
import Synchronization
import TestPeers
import Testing

@Suite struct ChildProcessTests {
    @Test func capturesOutputsAndStatus() async throws {
        let output = try await ChildProcess.run("sh", ["-c", "echo out; echo err >&2; exit 3"])
        #expect(output.status == .exited(3))
        #expect(output.standardOutput == "out\n")
        #expect(output.standardError == "err\n")
    }

    @Test func feedsStandardInput() async throws {
        let bytes = Pattern.bytes(300_000)
        let output = try await ChildProcess.run("sha256sum", input: bytes)
        #expect(output.standardOutput.hasPrefix(Checksum.of(bytes)))
    }

    @Test func inputThatIsNotReadIsNoError() async throws {
        let output = try await ChildProcess.run("true", input: Pattern.bytes(1_000_000))
        #expect(output.succeeded)
    }

    @Test func waitsForALine() async throws {
        let child = try ChildProcess(
            "sh",
            ["-c", "echo first; read word; echo got $word; exec sleep 600"],
            keepsInputOpen: true
        )
        try await child.standardOutput.line(containing: "first")
        try child.write("hello\n")
        #expect(try await child.standardOutput.line(containing: "got") == "got hello")
        #expect(await child.stop() == .signalled(SIGTERM))
    }

    @Test func killsWhatIgnoresTerm() async throws {
        let child = try ChildProcess("sh", ["-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])
        try await child.standardOutput.line(containing: "ready")
        #expect(await child.stop(grace: .milliseconds(200)) == .signalled(SIGKILL))
    }

    @Test func doesNotOutliveItsObject() async throws {
        var child: ChildProcess? = try ChildProcess("sleep", ["600"])
        let pid = try #require(child?.pid)
        #expect(kill(pid, 0) == 0)
        child = nil
        #expect(kill(pid, 0) == -1)
    }

    @Test func anOutputThatEndsWithoutTheLineIsAnError() async throws {
        let child = try ChildProcess("echo", ["something else"])
        await #expect(throws: DeadlineExceeded.self) {
            try await child.standardOutput.line(containing: "never")
        }
    }

    @Test func aProgramThatIsNotThereIsSeen() async throws {
        let output = try await ChildProcess.run("no-such-program-here")
        #expect(output.status != .exited(0))
    }
}

@Suite struct SuspendTests {
    @Test func aSuspendedProcessDoesNothingUntilItMayGoOn() async throws {
        let child = try ChildProcess("cat", keepsInputOpen: true)
        try await suspend(child.pid)
        try child.write("word\n")
        let state = try String(contentsOfFile: "/proc/\(child.pid)/stat", encoding: .utf8)
        #expect(state.contains(") T "))
        #expect(child.standardOutput.text.isEmpty)
        child.signal(SIGCONT)
        try await child.standardOutput.line(containing: "word")
        await child.stop()
    }
}

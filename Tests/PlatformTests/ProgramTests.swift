import Glibc
import Testing

@testable import Platform

/// A program as a child of this process: what it inherits, and how its end is told.
struct ProgramTests {
    private func shell(
        _ script: String,
        environment: [String: String] = [:],
        timeout: Duration = .seconds(60),
        errors: ProgramRun.Errors = .tail(2048)
    ) -> ProgramRun {
        let environment = Program.currentEnvironment.merging(environment) { $1 }
        let program = Program("/bin/sh", ["sh", "-c", script], environment: environment, group: .own)
        return ProgramRun(program, timeout: timeout, errors: errors)
    }

    private func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

    // MARK: What it inherits

    @Test func noDescriptorButThree() throws {
        // Without O_CLOEXEC, as a library may open one.
        let leaked = open("/dev/null", O_RDONLY)
        defer { close(leaked) }
        #expect(leaked > 2)
        let outcome = try shell("ls /proc/$$/fd").run()
        #expect(text(outcome.output).split(separator: "\n") == ["0", "1", "2"])
    }

    @Test func defaultSignalsNoneOfThemBlocked() throws {
        var (blocked, before) = (sigset_t(), sigset_t())
        sigemptyset(&blocked)
        sigaddset(&blocked, SIGUSR1)
        pthread_sigmask(SIG_BLOCK, &blocked, &before)
        let ignored = signal(SIGUSR2, SIG_IGN)
        defer {
            pthread_sigmask(SIG_SETMASK, &before, nil)
            signal(SIGUSR2, ignored)
        }
        let outcome = try shell("grep -E '^Sig(Blk|Ign)' /proc/self/status").run()
        // 32 and 33 are the C library's own, which it lets nobody touch.
        let sets = text(outcome.output).split(separator: "\n").map { UInt64($0.suffix(16), radix: 16) ?? .max }
        #expect(sets.map { $0 & ~(3 << 31) } == [0, 0])
    }

    @Test func environmentAndArguments() throws {
        let outcome = try shell("printf '%s|%s' \"$COLOUR\" \"$HOME\"", environment: ["COLOUR": "deep blue"]).run()
        #expect(text(outcome.output) == "deep blue|\(Program.currentEnvironment["HOME"] ?? "")")
    }

    @Test func itsGroup() throws {
        func start(_ group: Program.Group) throws -> (child: pid_t, group: pid_t, session: pid_t) {
            let null = open("/dev/null", O_RDWR | O_CLOEXEC)
            defer { close(null) }
            let child = try Program("/bin/sleep", ["sleep", "60"], environment: [:], group: group)
                .start(input: null, output: null, errors: null)
            defer {
                child.signal(SIGKILL)
                child.wait()
            }
            return (child.pid, getpgid(child.pid), getsid(child.pid))
        }
        let callers = try start(.callers)
        #expect(callers.group == getpgrp() && callers.session == getsid(0))
        let own = try start(.own)
        #expect(own.group == own.child && own.session == getsid(0))
        let session = try start(.session)
        #expect(session.group == session.child && session.session == session.child)
    }

    @Test func endsWithTheThreadThatHasStartedIt() async throws {
        let status: ProgramEnd = try await withCheckedThrowingContinuation { continuation in
            startThread {
                let null = open("/dev/null", O_RDWR | O_CLOEXEC)
                defer { close(null) }
                var program = Program("/bin/sleep", ["sleep", "600"], environment: [:], group: .own)
                program.endsWithThread = true
                do {
                    let child = try program.start(input: null, output: null, errors: null)
                    startThread { continuation.resume(returning: child.wait()) }
                } catch {
                    continuation.resume(throwing: error)
                }
            }
        }
        #expect(status == .signalled(SIGTERM))
    }

    @Test func whatCannotBeStarted() throws {
        #expect(throws: SystemError(ENOENT)) {
            try ProgramRun(
                Program("/no/such/program", ["x"], environment: [:], group: .own),
                timeout: .seconds(1),
                errors: .withOutput
            ).run()
        }
        #expect(throws: SystemError(EACCES)) {
            try ProgramRun(
                Program("/etc/passwd", ["x"], environment: [:], group: .own),
                timeout: .seconds(1),
                errors: .withOutput
            ).run()
        }
    }

    @Test func programsAreFoundInThePath() {
        #expect(Program.find("sh", in: ["/no/such/directory", "/bin"]) == "/bin/sh")
        #expect(Program.find("etc", in: ["/"]) == nil, "a directory is no program")
        #expect(Program.find("passwd", in: ["/etc"]) == nil, "not executable")
        #expect(Program.find("./sh", in: ["/bin"]) == "./sh")
    }

    // MARK: How it ends

    @Test func exitStatus() throws {
        #expect(try shell("exit 7").run().status == .exited(7))
        #expect(try shell("kill -9 $$").run().status == .signalled(9))
        #expect(ProgramEnd.exited(7).shellStatus == 7 && ProgramEnd.signalled(9).shellStatus == 137)
        #expect("\(ProgramEnd.exited(7)), \(ProgramEnd.signalled(9))" == "status 7, signal 9")
    }

    @Test func endedInTimeWithWhatItHasStarted() throws {
        try withTemporaryFile { path in
            // The grandchild would write after the end of its parent.
            let run = shell("(sleep 600; echo late > \(path)) & echo $! > \(path); wait", timeout: .milliseconds(300))
            let outcome = try run.run()
            #expect(outcome.status == nil)
            let grandchild = try #require(pid_t(text(contents(path)).filter(\.isNumber)))
            #expect(eventuallyGone(grandchild))
        }
    }

    @Test func itsEndCountsNotThatOfItsOutput() throws {
        // What it leaves running holds the pipe open.
        let outcome = try shell("echo done; sleep 600 & echo $! >&2").run()
        let sleeper = try #require(pid_t(text(outcome.errors).filter(\.isNumber)))
        defer { kill(sleeper, SIGKILL) }
        #expect(outcome.status == .exited(0))
        #expect(text(outcome.output) == "done\n")
    }

    @Test func noneIsLeftBehind() throws {
        let outcome = try shell("echo $$").run()
        let pid = try #require(pid_t(text(outcome.output).filter(\.isNumber)))
        #expect(kill(pid, 0) != 0 && errno == ESRCH, "a zombie")
    }

    // MARK: Input and output

    @Test func moreInputAndOutputThanAPipeHolds() throws {
        let input = (0..<300_000).map { UInt8(truncatingIfNeeded: $0) }
        let outcome = try shell("cat").run(input: input)
        #expect(outcome.status == .exited(0) && outcome.output == input && !outcome.isTooLong)
    }

    @Test func aProgramThatReadsNothing() throws {
        let outcome = try shell("exit 3").run(input: [UInt8](repeating: 1, count: 1 << 20))
        #expect(outcome.status == .exited(3))
    }

    @Test func errorsApartOrWithTheOutput() throws {
        let script = "echo one; echo two >&2; echo three"
        let apart = try shell(script).run()
        #expect(text(apart.output) == "one\nthree\n" && text(apart.errors) == "two\n")
        let together = try shell(script, errors: .withOutput).run()
        #expect(text(together.output) == "one\ntwo\nthree\n" && together.errors.isEmpty)
        let tail = try shell("seq 1 1000 >&2", errors: .tail(9)).run()
        #expect(text(tail.errors) == "999\n1000\n")
    }

    @Test func aLimitOfTheOutput() throws {
        var run = shell("head -c 100000 /dev/zero; echo end >&2")
        run.outputLimit = 100_000
        #expect(try !run.run().isTooLong)
        run.outputLimit = 99_999
        let dropped = try run.run()
        #expect(dropped.isTooLong && dropped.output.count == 99_999 && text(dropped.errors) == "end\n")
        run = shell("exec yes")
        run.overflow = .close
        let closed = try run.run()
        #expect(closed.isTooLong && closed.status == .signalled(SIGPIPE))
    }

    @Test func onAThreadOfItsOwn() async throws {
        let outcome = try await shell("cat").onThread(input: Array("through".utf8))
        #expect(text(outcome.output) == "through")
    }

    @Test func aPipeThatWasBrokenEndsNobody() throws {
        // Not even where the signal is not ignored.
        var (pending, before) = (sigset_t(), sigset_t())
        pthread_sigmask(SIG_BLOCK, nil, &before)
        _ = try shell("exit 0").run(input: [UInt8](repeating: 1, count: 1 << 20))
        sigpending(&pending)
        #expect(sigismember(&pending, SIGPIPE) == 0)
        var after = sigset_t()
        pthread_sigmask(SIG_BLOCK, nil, &after)
        #expect(sigismember(&after, SIGPIPE) == sigismember(&before, SIGPIPE))
    }

    // MARK: -

    private func contents(_ path: String) -> [UInt8] { (try? LocalFile.read(path)) ?? [] }

    private func withTemporaryFile(_ body: (String) throws -> Void) throws {
        var name = Array("/tmp/child-XXXXXX".utf8CString)
        let file = mkstemp(&name)
        #expect(file >= 0)
        close(file)
        let path = name.withUnsafeBufferPointer { $0.baseAddress.map { String(cString: $0) } ?? "" }
        defer { unlink(path) }
        try body(path)
    }

    /// It was killed, and its new parent reaps it soon.
    private func eventuallyGone(_ pid: pid_t) -> Bool {
        let deadline = ContinuousClock.now + .seconds(30)
        while ContinuousClock.now < deadline {
            if kill(pid, 0) != 0 { return true }
            // A zombie of a parent that does not reap is dead, too.
            let stat = text((try? LocalFile.read("/proc/\(pid)/stat")) ?? [])
            if stat.contains(") Z ") { return true }
            sched_yield()
        }
        return false
    }
}

import Foundation
import Streams

/// Starts every child from one thread that lives as long as the process.
///
/// `setpriv --pdeathsig` has the kernel kill the child when the thread that started it ends. Threads of the concurrency
/// pool come and go, so this one exists for nothing else: the children go when the test process goes, even by SIGKILL.
final class Spawner: Sendable {
    static let shared = Spawner()

    struct Started {
        var pid: pid_t
        var input: Int32?
        var output: Int32
        var error: Int32
    }

    private let work = Lock<[@Sendable () -> Void]>([])
    private let wakeUp = DispatchSemaphore(value: 0)

    private init() {
        // A child that is gone makes writing to its standard input an error, not the end of the tests.
        Glibc.signal(SIGPIPE, SIG_IGN)
        let thread = Thread { [self] in
            while true {
                wakeUp.wait()
                let next = work.withLock { $0.isEmpty ? nil : $0.removeFirst() }
                next?()
            }
        }
        thread.name = "test spawner"
        thread.start()
    }

    func start(
        command: String,
        arguments: [String],
        environment: [String],
        directory: String?,
        keepsInputOpen: Bool
    ) throws -> Started {
        let inDirectory = directory.map { ["env", "--chdir", $0] } ?? []
        let done = DispatchSemaphore(value: 0)
        let result = Lock<Result<Started, any Error>?>(nil)
        work.withLock {
            $0.append {
                let outcome = Result {
                    try Self.spawn(
                        ["setpriv", "--pdeathsig", "KILL", "--"] + inDirectory + [command] + arguments,
                        environment: environment,
                        keepsInputOpen: keepsInputOpen
                    )
                }
                result.withLock { $0 = outcome }
                done.signal()
            }
        }
        wakeUp.signal()
        done.wait()
        guard let outcome = result.withLock({ $0 }) else { preconditionFailure("the spawner gave no result") }
        return try outcome.get()
    }

    private static func spawn(
        _ arguments: [String],
        environment: [String],
        keepsInputOpen: Bool
    ) throws -> Started {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // Children start as from a shell: no signal ignored (the tests ignore SIGPIPE), none blocked (this thread's
        // are).
        var all = sigset_t()
        sigfillset(&all)
        posix_spawnattr_setsigdefault(&attributes, &all)
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK))

        let input = keepsInputOpen ? try makePipe() : nil
        let output = try makePipe()
        let error = try makePipe()
        if let input {
            posix_spawn_file_actions_adddup2(&actions, input.readEnd, 0)
        } else {
            posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        }
        posix_spawn_file_actions_adddup2(&actions, output.writeEnd, 1)
        posix_spawn_file_actions_adddup2(&actions, error.writeEnd, 2)

        var pid: pid_t = 0
        let failure = withCStrings(arguments) { argv in
            withCStrings(environment) { envp in
                posix_spawnp(&pid, arguments[0], &actions, &attributes, argv, envp)
            }
        }
        input.map { _ = close($0.readEnd) }
        close(output.writeEnd)
        close(error.writeEnd)
        guard failure == 0 else {
            input.map { _ = close($0.writeEnd) }
            close(output.readEnd)
            close(error.readEnd)
            throw DeadlineExceeded("cannot start \(arguments): \(String(cString: strerror(failure)))")
        }
        return Started(pid: pid, input: input?.writeEnd, output: output.readEnd, error: error.readEnd)
    }

    private static func makePipe() throws -> (readEnd: Int32, writeEnd: Int32) {
        let (reader, writer) = try CloseOnExec.pipe()
        return (reader, writer)
    }
}

private func withCStrings<Result>(
    _ strings: [String],
    _ body: ([UnsafeMutablePointer<CChar>?]) -> Result
) -> Result {
    let copies = strings.map { strdup($0) } + [nil]
    defer {
        for copy in copies {
            free(copy)
        }
    }
    return body(copies)
}

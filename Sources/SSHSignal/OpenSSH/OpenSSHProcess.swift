import CLinux
import Glibc
import Streams

/// A program that runs beside the loop: its standard output and errors are read as they come, its end is noticed and reaped.
/// Confined to its loop.
///
/// Its standard input is empty. It keeps the terminal, so that `ssh` can ask there. It is ended when this object is released,
/// and when the loop's thread ends, however that happens.
final class OpenSSHProcess: StreamObserver {
    /// Sees its output and its errors as they arrive.
    var onOutput: ((UnsafeRawBufferPointer) -> Void)?
    var onErrors: ((UnsafeRawBufferPointer) -> Void)?
    /// Called once, on the loop, with the status of `waitpid(2)`, after all its output that was there.
    var onExit: ((Int32) -> Void)?

    let pid: pid_t
    private let loop: EventLoop
    private let output: Socket
    private let errors: Socket
    /// Whether ``onExit`` was told.
    private(set) var isOver = false
    /// Whether it is reaped.
    private var hasEnded = false
    private var reaper: LoopTimer?
    private var killer: LoopTimer?

    /// Between two looks whether a process that has closed its output has ended: it mostly has.
    private static let reapInterval = Duration.milliseconds(5)
    /// For tidying up after SIGTERM.
    private static let endTimeout = Duration.seconds(5)

    /// - Parameters:
    ///   - program: An absolute path.
    ///   - arguments: Without the program's name.
    init(_ program: String, _ arguments: [String], on loop: EventLoop) throws(SSHError) {
        self.loop = loop
        let empty = open("/dev/null", O_RDONLY | O_CLOEXEC)
        guard empty >= 0 else { throw Self.failure(program, errno) }
        var theirs: [Int32] = [empty]
        var ours: [Socket] = []
        defer { for descriptor in theirs { Glibc.close(descriptor) } }
        do {
            for _ in 0..<2 {
                let pair = try Socket.pairWithDescriptor(on: loop)
                ours.append(pair.socket)
                theirs.append(pair.descriptor)
                // Programs expect a write to wait.
                _ = fcntl(pair.descriptor, F_SETFL, 0)
            }
        } catch {
            for socket in ours { socket.close() }
            throw SSHError(.system, error.message)
        }
        // Where a daemon has closed its first three descriptors, ours could be among them.
        for index in theirs.indices where theirs[index] <= 2 {
            let moved = fcntl(theirs[index], F_DUPFD_CLOEXEC, 3)
            Glibc.close(theirs[index])
            theirs[index] = moved
        }
        let words = ([program] + arguments).map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        let child = clinux_spawn(program, words, environ, theirs[0], theirs[1], theirs[2])
        guard child > 0 else {
            let number = errno
            for socket in ours { socket.close() }
            throw Self.failure(program, number)
        }
        pid = child
        output = ours[0]
        errors = ours[1]
        output.observer = self
        errors.observer = self
        reaper = LoopTimer(on: loop) { [weak self] in self?.reap() }
        // Data may have arrived before there was an observer.
        LoopTimer(on: loop) { [weak self] in
            self?.read(self?.output)
            self?.read(self?.errors)
        }.schedule(after: .zero)
    }

    deinit {
        output.close()
        errors.close()
        guard !hasEnded else { return }
        kill(pid, SIGKILL)
        while waitpid(pid, nil, 0) < 0, errno == EINTR {}
    }

    private static func failure(_ program: String, _ number: Int32) -> SSHError {
        SSHError(.system, "cannot start \(program): \(StreamError.describe(errno: number))")
    }

    /// Asks it to end, and ends it by force when it takes too long. ``onExit`` follows.
    func terminate() {
        guard !hasEnded, killer == nil else { return }
        kill(pid, SIGTERM)
        let killer = LoopTimer(on: loop) { [weak self] in
            guard let self, !hasEnded else { return }
            kill(pid, SIGKILL)
        }
        self.killer = killer
        killer.schedule(after: Self.endTimeout)
        reaper?.schedule(after: .zero)
    }

    func streamReadable(_ stream: ByteStream) { read(stream as? Socket) }
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) { read(stream as? Socket) }

    private func read(_ socket: Socket?) {
        guard let socket else { return }
        let buffer = loop.buffers.take(.medium)
        defer { loop.buffers.give(buffer) }
        while true {
            switch socket.read(into: buffer.writable) {
            case .bytes(let count):
                let bytes = UnsafeRawBufferPointer(start: buffer.base, count: count)
                if socket === output { onOutput?(bytes) } else { onErrors?(bytes) }
            case .wouldBlock: return
            case .end, .failed:
                // The errors may be held open by what it has started; the output ends with itself.
                if socket === output { reap() }
                return
            }
        }
    }

    private func reap() {
        guard !hasEnded else { return }
        var status: Int32 = 0
        let result = waitpid(pid, &status, WNOHANG)
        if result == 0 || (result < 0 && errno == EINTR) {
            reaper?.schedule(after: Self.reapInterval)
            return
        }
        hasEnded = true
        killer?.cancel()
        reaper?.cancel()
        // What it has written is in the kernel by now, and the loop is told of it in its next turn at the latest.
        LoopTimer(on: loop) { self.ended(result < 0 ? 0 : status) }.schedule(after: .zero)
    }

    private func ended(_ status: Int32) {
        read(output)
        read(errors)
        // Here, on the loop: the last release may happen elsewhere.
        output.close()
        errors.close()
        isOver = true
        let onExit = onExit
        self.onExit = nil
        onExit?(status)
    }
}

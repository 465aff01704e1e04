import CLinux
import Glibc
import Platform
import Streams

/// A program that runs beside the loop: its standard output and errors are read as they come, its end is noticed.
/// Confined to its loop.
///
/// Its standard input is empty. It keeps the terminal, so that `ssh` can ask there. It is ended when this object is
/// released, and when the loop's thread ends, however that happens.
final class OpenSSHProcess: StreamObserver {
    /// Sees its output and its errors as they arrive.
    var onOutput: ((UnsafeRawBufferPointer) -> Void)?
    var onErrors: ((UnsafeRawBufferPointer) -> Void)?
    /// Called once, on the loop, after all its output that was there.
    var onExit: ((ProgramEnd) -> Void)?

    let pid: pid_t
    private let loop: EventLoop
    private let output: Socket
    private let errors: Socket
    /// Whether ``onExit`` was told.
    private(set) var isOver = false
    private var watch: ChildWatch?
    private var killer: LoopTimer?

    /// For tidying up after SIGTERM.
    private static let endTimeout = Duration.seconds(5)

    /// - Parameters:
    ///   - program: An absolute path.
    ///   - arguments: Without the program's name.
    ///   - environment: By name.
    init(
        _ program: String,
        _ arguments: [String],
        environment: [String: String] = Program.currentEnvironment,
        on loop: EventLoop
    ) throws(SSHError) {
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
        // In our group, so that it may ask at the terminal.
        var start = Program(
            program,
            [program] + arguments,
            environment: environment,
            group: .callers
        )
        start.endsWithThread = true
        let child: StartedProgram
        do throws(SystemError) {
            child = try start.start(input: theirs[0], output: theirs[1], errors: theirs[2])
        } catch {
            for socket in ours { socket.close() }
            throw Self.failure(program, error.number)
        }
        pid = child.pid
        output = ours[0]
        errors = ours[1]
        output.observer = self
        errors.observer = self
        watch = ChildWatch(child, on: loop) { [weak self] in self?.exited($0) }
        // Data may have arrived before there was an observer.
        loop.later { [weak self] in
            self?.read(self?.output)
            self?.read(self?.errors)
        }
    }

    deinit {
        output.close()
        errors.close()
        watch?.signal(SIGKILL)
    }

    private static func failure(_ program: String, _ number: Int32) -> SSHError {
        SSHError(.system, "cannot start \(program): \(StreamError.describe(errno: number))")
    }

    /// Asks it to end, and ends it by force when it takes too long. ``onExit`` follows.
    func terminate() {
        guard killer == nil else { return }
        watch?.signal(SIGTERM)
        let killer = LoopTimer(on: loop) { [watch] in watch?.signal(SIGKILL) }
        self.killer = killer
        killer.schedule(after: Self.endTimeout)
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
            case .end, .failed: return
            }
        }
    }

    private func exited(_ status: ProgramEnd) {
        killer?.cancel()
        // What it has written is in the kernel by now, and the loop is told of it in its next turn at the latest.
        loop.later { self.ended(status) }
    }

    private func ended(_ status: ProgramEnd) {
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

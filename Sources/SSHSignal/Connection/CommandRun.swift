import Glibc
import Streams

/// What a command left behind.
public struct SSHCommandResult: Sendable {
    /// How it ended.
    public var exit: SSHExit
    /// Its whole standard output.
    public var output: [UInt8]
    /// The end of its standard error, safe for a terminal.
    public var standardErrorText: String

    /// ``output`` as text.
    public var text: String { String(decoding: output, as: UTF8.self) }
}

/// Asks a ``CommandRun`` to end before all of its input was sent. Confined to the connection's loop.
final class Interruption {
    private(set) var isRequested = false
    fileprivate var onRequest: (() -> Void)?

    /// Idempotent.
    func request() {
        isRequested = true
        onRequest?()
    }
}

/// Runs one command to its end: feeds its standard input, collects its output, waits for its exit status. Keeps itself
/// alive through the process until then.
final class CommandRun: StreamObserver {
    private let process: SSHProcess
    private let outputLimit: Int
    private let input: UploadReader
    private let progress: ((UInt64, UInt64) -> Void)?
    private var completion: ((Result<SSHCommandResult, SSHError>) -> Void)?
    private var timer: LoopTimer?
    /// Input that was read and not taken yet.
    private var pending: Buffer?
    private var output: [UInt8] = []
    private var outputEnded = false
    private var exit: SSHExit?
    private var isInterrupted = false

    /// How long a command may take to end that gets no more input.
    private static let patience = Duration.seconds(5)

    private init(
        _ process: SSHProcess,
        input: UploadReader,
        outputLimit: Int,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<SSHCommandResult, SSHError>) -> Void
    ) {
        self.process = process
        self.input = input
        self.outputLimit = outputLimit
        self.progress = progress
        self.completion = completion
    }

    /// - Parameters:
    ///   - timeout: For the whole run; nil waits for ever.
    ///   - interruption: Ends the command's input early; the run then ends with the command.
    static func start(
        _ command: String,
        on connection: any SSHConnection,
        input: UploadReader,
        outputLimit: Int,
        timeout: Duration?,
        interruption: Interruption? = nil,
        progress: ((UInt64, UInt64) -> Void)? = nil,
        completion: @escaping (Result<SSHCommandResult, SSHError>) -> Void
    ) {
        connection.execute(command) { result in
            switch result {
            case .failure(let error): completion(.failure(error))
            case .success(let process):
                let run = CommandRun(
                    process,
                    input: input,
                    outputLimit: outputLimit,
                    progress: progress,
                    completion: completion
                )
                run.begin(timeout: timeout, interruption)
            }
        }
    }

    private func begin(timeout: Duration?, _ interruption: Interruption?) {
        process.stream.observer = self
        // Keeps this object alive; broken in end().
        process.onExit = { self.exited($0) }
        if let timeout {
            let timer = LoopTimer(on: process.stream.loop) { [weak self] in
                self?.end(.failure(SSHError(.timedOut, "the command did not end within \(timeout)")))
            }
            self.timer = timer
            timer.schedule(after: timeout)
        }
        interruption?.onRequest = { [weak self] in self?.interrupt() }
        if interruption?.isRequested == true { interrupt() }
        write()
        read()
    }

    /// The command sees its input end, and has the time to put things in order.
    private func interrupt() {
        guard completion != nil, !isInterrupted else { return }
        isInterrupted = true
        givePending()
        process.stream.finish()
        let timer = LoopTimer(on: process.stream.loop) { [weak self] in self?.end(.failure(.interrupted)) }
        self.timer?.cancel()
        self.timer = timer
        timer.schedule(after: Self.patience)
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) { write() }
    func streamFailed(_ stream: ByteStream) { streamFailed() }

    private func streamFailed() {
        let failure = process.stream.failure ?? StreamError(.truncated, "the channel failed")
        end(.failure(SSHError(.connectionLost, failure.message)))
    }

    private func write() {
        guard completion != nil, !isInterrupted else { return }
        let stream = process.stream
        while true {
            let buffer: Buffer
            if let pending {
                buffer = pending
            } else {
                guard input.offset < input.size else { return stream.finish() }
                buffer = stream.loop.buffers.take(.large)
                pending = buffer
                do {
                    buffer.writeIndex = try input.read(into: buffer.writable)
                } catch {
                    return end(.failure(error))
                }
            }
            switch stream.write(buffer.readable) {
            case .bytes(let count):
                buffer.readIndex += count
                progress?(input.offset - UInt64(buffer.readableBytes), input.size)
                if buffer.readableBytes == 0 { givePending() }
            case .wouldBlock: return
            case .failed:
                // A command that ended without reading all of its input: its exit status tells the story.
                givePending()
                return
            }
        }
    }

    private func read() {
        switch process.stream.readAll(while: { completion != nil && !outputEnded }, take) {
        case .paused: break
        case .end:
            outputEnded = true
            endIfDone()
        case .failed: streamFailed()
        }
    }

    private func take(_ bytes: UnsafeRawBufferPointer) {
        guard output.count + bytes.count <= outputLimit else {
            return end(.failure(SSHError(.limit, "the command printed more than \(outputLimit) bytes")))
        }
        output.append(contentsOf: bytes)
    }

    private func exited(_ result: Result<SSHExit, StreamError>) {
        switch result {
        case .success(let exit):
            self.exit = exit
            read()
            endIfDone()
        case .failure: streamFailed()
        }
    }

    private func endIfDone() {
        guard outputEnded, let exit else { return }
        end(.success(SSHCommandResult(exit: exit, output: output, standardErrorText: process.standardErrorText)))
    }

    private func end(_ result: Result<SSHCommandResult, SSHError>) {
        guard let completion else { return }
        self.completion = nil
        timer?.cancel()
        givePending()
        process.onExit = nil
        process.close()
        completion(result)
    }

    private func givePending() {
        if let pending { process.stream.loop.buffers.give(pending) }
        pending = nil
    }
}

import ArgumentParser
import Fleet
import Glibc
import SSHSignal
import Streams

/// One command on one machine, with this process's own standard input, output and error.
struct ForegroundCommand: Sendable {
    let target: RemoteTarget
    /// Empty: only files are copied.
    let command: String
    let transfers: FileTransfers
    let logins: LoginOptions

    /// - Throws: the exit code: the command's own, or this program's when there was no command.
    func run() async throws {
        // Whoever read our output may be gone; that is a failed write.
        signal(SIGPIPE, SIG_IGN)
        guard !transfers.isEmpty else { return try await work() }
        // Files that are on their way are taken away again.
        try await stoppable { try await work() }
    }

    private func work() async throws {
        let loop = EventLoop(name: "exec")
        let login: SSHLogin
        do throws(SSHConfigurationError) {
            login = try target.login(logins) { printNotice($0) }
        } catch {
            throw fail("\(error)", .usage)
        }
        let client: SSHClient
        let files: (any RemoteFiles)?
        do throws(SSHError) {
            client = try await login.connect(on: loop)
            printDetail("\(target.name): \(client.serverVersion), host key \(client.hostKey)")
            files = try await transfers.files(of: client)
            if let files { try await transfers.send(for: target.name, over: files) }
        } catch {
            throw failure(error)
        }
        if !command.isEmpty, let code = try await execute(client, on: loop) {
            await client.close()
            throw code
        }
        if let files {
            do throws(SSHError) {
                try await transfers.fetch(for: target.name, over: files)
            } catch {
                throw failure(error)
            }
            await files.close()
        }
        await client.close()
    }

    /// Who was stopped needs no explanation.
    private func failure(_ error: SSHError) -> any Error {
        guard !Task.isCancelled else { return CancellationError() }
        return fail("\(target.name): \(error.message)", HostError.Reason(error.code).exitCode)
    }

    /// - Returns: The exit code for it; nil: it was successful.
    private func execute(_ client: SSHClient, on loop: EventLoop) async throws -> ExitCode? {
        let process: LoopBound<SSHProcess>
        do throws(SSHError) {
            process = try await client.execute(command)
        } catch {
            throw failure(error)
        }
        let standard = try await StandardStreams(on: loop)
        let exit = await withTaskCancellationHandler {
            await finish(process, standard)
        } onCancel: {
            Task { await client.close() }
        }
        let failedWrite = await standard.written()
        switch exit {
        // The signal is what the command got for it.
        case .success(.status(0)) where failedWrite != 0, .success(.signal("PIPE")) where failedWrite != 0:
            return fail("standard output cannot be written: \(String(cString: strerror(failedWrite)))")
        case .success(.status(0)): return nil
        case .success(.status(let status)): return ExitCode(status)
        case .success(.signal(let name)):
            printError("\(target.name): the command was ended by signal \(name)")
            return ExitCode(255)
        case .failure(let error):
            return Task.isCancelled ? .interrupted : fail("\(target.name): \(error.message)")
        }
    }

    /// Joins the command to our standard streams until it has ended and its output is with us.
    private func finish(
        _ process: LoopBound<SSHProcess>,
        _ standard: StandardStreams
    ) async -> Result<SSHExit, StreamError> {
        await withCheckedContinuation { continuation in
            process.loop.submit {
                process.withValue { process in
                    standard.stream.withValue { stream in
                        let session = CommandSession(process, stream) { continuation.resume(returning: $0) }
                        session.start()
                        // A full socket pair does not tell that nobody empties it any more.
                        let bound = LoopBound(session, on: process.stream.loop)
                        Task {
                            guard await standard.written() != 0 else { return }
                            bound.loop.submit { bound.withValue { $0.outputLost() } }
                        }
                    }
                }
            }
        }
    }
}

/// The part that lives on the event loop. Keeps itself alive until the command has ended.
///
/// Not a relay: the command's end ends all, however much input there still is, and a command that reads no more of its
/// input (`head`) has not failed.
private final class CommandSession: StreamObserver {
    private let process: SSHProcess
    private let standard: ByteStream
    private var completion: ((Result<SSHExit, StreamError>) -> Void)?
    private var upward: Buffer?
    private var downward: Buffer?
    private var inputEnded = false
    private var outputEnded = false
    private var exit: SSHExit?

    init(_ process: SSHProcess, _ standard: ByteStream, completion: @escaping (Result<SSHExit, StreamError>) -> Void) {
        self.process = process
        self.standard = standard
        self.completion = completion
    }

    func start() {
        standard.observer = self
        process.stream.observer = self
        process.onStandardError = { bytes in
            var rest = bytes
            while !rest.isEmpty {
                let count = write(STDERR_FILENO, rest.baseAddress, rest.count)
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else { return }
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            }
        }
        // Keeps this object alive; broken in end().
        process.onExit = { self.exited($0) }
        moveInput()
        moveOutput()
    }

    func streamReadable(_ stream: ByteStream) { stream === standard ? moveInput() : moveOutput() }
    func streamWritable(_ stream: ByteStream) { stream === standard ? moveOutput() : moveInput() }

    func streamFailed(_ stream: ByteStream) {
        guard stream === process.stream else { return outputLost() }
        if exit == nil { end(.failure(stream.failure ?? StreamError(.truncated, "the connection was lost"))) }
    }

    /// Nobody reads the output any more; the command is let go, and sees its own output fail, as a local one would.
    func outputLost() { end(.success(exit ?? .signal("PIPE"))) }

    private func moveInput() {
        while completion != nil && !inputEnded {
            let buffer = upward ?? process.stream.loop.buffers.take(.medium)
            upward = buffer
            if buffer.readableBytes == 0 {
                buffer.readIndex = 0
                buffer.writeIndex = 0
                switch standard.read(into: buffer.writable) {
                case .bytes(let count): buffer.writeIndex = count
                case .wouldBlock: return
                case .end, .failed:
                    inputEnded = true
                    process.stream.finish()
                    return
                }
            }
            switch process.stream.write(buffer.readable) {
            case .bytes(let count): buffer.readIndex += count
            case .wouldBlock: return
            // It reads no more; its exit status tells the rest.
            case .failed: inputEnded = true
            }
        }
    }

    private func moveOutput() {
        while completion != nil && !outputEnded {
            let buffer = downward ?? process.stream.loop.buffers.take(.medium)
            downward = buffer
            if buffer.readableBytes == 0 {
                buffer.readIndex = 0
                buffer.writeIndex = 0
                switch process.stream.read(into: buffer.writable) {
                case .bytes(let count): buffer.writeIndex = count
                case .wouldBlock: return
                case .end:
                    outputEnded = true
                    return endIfDone()
                case .failed: return streamFailed(process.stream)
                }
            }
            switch standard.write(buffer.readable) {
            case .bytes(let count): buffer.readIndex += count
            case .wouldBlock: return
            case .failed: return streamFailed(standard)
            }
        }
    }

    private func exited(_ result: Result<SSHExit, StreamError>) {
        switch result {
        case .success(let exit):
            self.exit = exit
            moveOutput()
            endIfDone()
        case .failure(let error): end(.failure(error))
        }
    }

    private func endIfDone() {
        guard outputEnded, let exit else { return }
        end(.success(exit))
    }

    private func end(_ result: Result<SSHExit, StreamError>) {
        guard let completion else { return }
        self.completion = nil
        for buffer in [upward, downward].compactMap({ $0 }) { process.stream.loop.buffers.give(buffer) }
        (upward, downward) = (nil, nil)
        process.onExit = nil
        process.onStandardError = nil
        process.close()
        standard.finish()
        completion(result)
    }
}

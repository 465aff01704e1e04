import Streams

/// Runs an ``SFTPDownloadState`` over the server's `sftp` subsystem. Keeps itself alive through the process until it is over.
final class SFTPDownload: StreamObserver {
    private let process: SSHProcess
    private let file: DownloadFile
    private let progress: ((UInt64, UInt64) -> Void)?
    private var completion: ((Result<SFTPUpload.Outcome, SSHError>) -> Void)?
    private var state: SFTPDownloadState
    private var outgoing: ByteQueue
    private var answers = SFTPAnswers()

    private init(
        _ process: SSHProcess,
        _ file: DownloadFile,
        _ state: SFTPDownloadState,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<SFTPUpload.Outcome, SSHError>) -> Void
    ) {
        self.process = process
        self.file = file
        self.state = state
        self.progress = progress
        self.completion = completion
        outgoing = ByteQueue(pool: process.stream.loop.buffers)
    }

    static func start(
        on connection: SSHConnection,
        _ path: String,
        to file: DownloadFile,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<SFTPUpload.Outcome, SSHError>) -> Void
    ) {
        connection.startSubsystem("sftp") { result in
            switch result {
            case .success(let process):
                SFTPDownload(
                    process,
                    file,
                    SFTPDownloadState(path: path),
                    progress: progress,
                    completion: completion
                ).begin()
            case .failure(let error) where error.code == .requestDenied:
                completion(.success(.unavailable))
            case .failure(let error):
                completion(.failure(error))
            }
        }
    }

    private func begin() {
        process.stream.observer = self
        // Keeps this object alive; broken in end().
        process.onExit = { self.exited($0) }
        send(SFTPPacket.initialise())
        read()
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) { write() }
    func streamFailed(_ stream: ByteStream) { lost(stream.failure) }

    private func read() {
        while completion != nil {
            let buffer = process.stream.loop.buffers.take(.medium)
            defer { process.stream.loop.buffers.give(buffer) }
            switch process.stream.read(into: buffer.writable) {
            case .bytes(let count):
                answers.append(UnsafeRawBufferPointer(start: buffer.base, count: count))
                takeAnswers()
            case .wouldBlock: return
            case .end: return ended()
            case .failed: return lost(process.stream.failure)
            }
        }
    }

    private func takeAnswers() {
        while completion != nil {
            switch answers.next() {
            case nil: return
            case .tooLong(let length)?:
                perform(state.isSpeaking ? .fail("the SFTP server sent an answer of \(length) bytes") : .unavailable)
            case .answer(let answer)?:
                perform(state.received(answer))
            }
        }
    }

    private func perform(_ action: SFTPDownloadState.Action) {
        switch action {
        case .send(let bytes): send(bytes)
        case .fill: write()
        case .write(let bytes, let offset):
            do throws(SSHError) {
                try file.write(bytes, at: offset)
            } catch {
                return end(.failure(error))
            }
            progress?(state.received, max(state.size, state.received))
            perform(state.wrote())
        case .done: complete()
        case .unavailable: end(.success(.unavailable))
        case .fail(let why): end(.failure(SSHError(.transferFailed, why)))
        }
    }

    private func complete() {
        do throws(SSHError) {
            try file.complete()
            end(.success(.done))
        } catch {
            end(.failure(error))
        }
    }

    private func send(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { outgoing.append($0) }
        write()
    }

    private func write() {
        while completion != nil {
            if outgoing.isEmpty {
                guard let request = state.nextRead() else { return }
                request.withUnsafeBytes { outgoing.append($0) }
            }
            switch outgoing.withVectors({ process.stream.write($0) }) {
            case .bytes(let count): outgoing.consume(count)
            case .wouldBlock: return
            // Why is read from the other direction.
            case .failed: return
            }
        }
    }

    private func exited(_ result: Result<SSHExit, StreamError>) {
        switch result {
        case .success:
            read()
            ended()
        case .failure(let error): lost(error)
        }
    }

    /// The server's side ended before the download did.
    private func ended() {
        guard completion != nil else { return }
        guard state.isSpeaking else { return end(.success(.unavailable)) }
        let said = process.standardErrorText
        end(.failure(SSHError(.transferFailed, "the SFTP server ended\(said.isEmpty ? "" : ": \(said)")")))
    }

    private func lost(_ failure: StreamError?) {
        end(.failure(SSHError(.connectionLost, failure?.message ?? "the SSH connection was lost")))
    }

    private func end(_ result: Result<SFTPUpload.Outcome, SSHError>) {
        guard let completion else { return }
        self.completion = nil
        if case .failure = result { file.discard() }
        outgoing.removeAll()
        process.onExit = nil
        process.close()
        completion(result)
    }
}

import Streams

/// Runs an ``SFTPUploadState`` over the server's `sftp` subsystem. Keeps itself alive through the process until it is over.
final class SFTPUpload: StreamObserver {
    enum Outcome: Sendable {
        case done
        case renameOtherwise
        /// The server has no SFTP; nothing was changed there.
        case unavailable
    }

    private let process: SSHProcess
    private let reader: UploadReader
    private let progress: ((UInt64, UInt64) -> Void)?
    private var completion: ((Result<Outcome, SSHError>) -> Void)?
    private var state: SFTPUploadState
    private var outgoing: ByteQueue
    private var answers = SFTPAnswers()

    private init(
        _ process: SSHProcess,
        _ reader: UploadReader,
        _ state: SFTPUploadState,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<Outcome, SSHError>) -> Void
    ) {
        self.process = process
        self.reader = reader
        self.state = state
        self.progress = progress
        self.completion = completion
        outgoing = ByteQueue(pool: process.stream.loop.buffers)
    }

    static func start(
        on connection: SSHConnection,
        _ reader: UploadReader,
        _ state: SFTPUploadState,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<Outcome, SSHError>) -> Void
    ) {
        connection.startSubsystem("sftp") { result in
            switch result {
            case .success(let process):
                SFTPUpload(process, reader, state, progress: progress, completion: completion).begin()
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
            let buffer = process.stream.loop.buffers.take(.small)
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
                let before = state.acknowledged
                let action = state.received(answer)
                if state.acknowledged != before { progress?(state.acknowledged, state.size) }
                perform(action)
            }
        }
    }

    private func perform(_ action: SFTPUploadState.Action) {
        switch action {
        case .send(let bytes): send(bytes)
        case .fill: write()
        case .none: break
        case .done: end(.success(.done))
        case .renameOtherwise: end(.success(.renameOtherwise))
        case .unavailable: end(.success(.unavailable))
        case .fail(let why): end(.failure(SSHError(.transferFailed, why)))
        }
    }

    private func send(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { outgoing.append($0) }
        write()
    }

    /// Writes what is queued, and queues more of the file while the stream takes it.
    private func write() {
        while completion != nil {
            if outgoing.isEmpty {
                guard let (header, count) = state.nextWrite() else { return }
                header.withUnsafeBytes { outgoing.append($0) }
                do {
                    try append(count)
                } catch {
                    return end(.failure(error))
                }
            }
            switch outgoing.withVectors({ process.stream.write($0) }) {
            case .bytes(let count): outgoing.consume(count)
            case .wouldBlock: return
            // Why is read from the other direction.
            case .failed: return
            }
        }
    }

    private func append(_ count: Int) throws(SSHError) {
        let buffer = process.stream.loop.buffers.take(.medium)
        defer { process.stream.loop.buffers.give(buffer) }
        let space = UnsafeMutableRawBufferPointer(start: buffer.base, count: count)
        let read = try reader.read(into: space)
        outgoing.append(UnsafeRawBufferPointer(start: buffer.base, count: read))
    }

    private func exited(_ result: Result<SSHExit, StreamError>) {
        switch result {
        case .success:
            read()
            ended()
        case .failure(let error): lost(error)
        }
    }

    /// The server's side ended before the upload did.
    private func ended() {
        guard completion != nil else { return }
        guard state.isSpeaking else { return end(.success(.unavailable)) }
        let said = process.standardErrorText
        end(.failure(SSHError(.transferFailed, "the SFTP server ended\(said.isEmpty ? "" : ": \(said)")")))
    }

    private func lost(_ failure: StreamError?) {
        end(.failure(SSHError(.connectionLost, failure?.message ?? "the SSH connection was lost")))
    }

    private func end(_ result: Result<Outcome, SSHError>) {
        guard let completion else { return }
        self.completion = nil
        outgoing.removeAll()
        process.onExit = nil
        process.close()
        completion(result)
    }
}

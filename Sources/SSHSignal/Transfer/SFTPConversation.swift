import Streams

/// One file over the server's `sftp` subsystem: the I/O of ``SFTPUpload`` and ``SFTPDownload``, which know what to ask for. Keeps itself alive
/// through the process until it is over.
class SFTPConversation: StreamObserver {
    enum Outcome: Sendable {
        case done
        case renameOtherwise
        /// The server has no SFTP; nothing was changed there.
        case unavailable
    }

    final let process: SSHProcess
    /// What is to be sent before anything else.
    final var outgoing: ByteQueue
    final private var completion: ((Result<Outcome, SSHError>) -> Void)?
    final private var answers = SFTPAnswers()
    /// How much is read at a time: answers to an upload are small.
    final private let readSize: BufferSize

    init(_ process: SSHProcess, readSize: BufferSize, completion: @escaping (Result<Outcome, SSHError>) -> Void) {
        self.process = process
        self.readSize = readSize
        self.completion = completion
        outgoing = ByteQueue(pool: process.stream.loop.buffers)
    }

    /// Starts the subsystem and what `make` makes of it.
    static func start(
        on connection: any SSHConnection,
        completion: @escaping (Result<Outcome, SSHError>) -> Void,
        _ make: @escaping (SSHProcess) -> SFTPConversation
    ) {
        connection.startSubsystem("sftp") { result in
            switch result {
            case .success(let process): make(process).begin()
            case .failure(let error) where error.code == .requestDenied: completion(.success(.unavailable))
            case .failure(let error): completion(.failure(error))
            }
        }
    }

    final var isOver: Bool { completion == nil }

    // MARK: For those who know what to ask for

    /// Whether the server has shown that it has SFTP.
    var isSpeaking: Bool { fatalError("\(type(of: self)) does not override isSpeaking") }

    /// The server has said this; nil: something malformed.
    func received(_ answer: SFTPPacket.Answer?) {
        fatalError("\(type(of: self)) does not override received(_:)")
    }

    /// Puts the next request into ``outgoing``, which is empty. Returns false when there is none now.
    func queueNextRequest() throws(SSHError) -> Bool {
        fatalError("\(type(of: self)) does not override queueNextRequest()")
    }

    /// Called once, before the completion.
    func willEnd(_ result: Result<Outcome, SSHError>) {}

    final func send(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { outgoing.append($0) }
        write()
    }

    /// Writes what is queued, and queues more while the stream takes it.
    final func write() {
        while !isOver {
            if outgoing.isEmpty {
                do throws(SSHError) {
                    guard try queueNextRequest() else { return }
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

    final func fail(_ why: String) { end(.failure(SSHError(.transferFailed, why))) }

    final func end(_ result: Result<Outcome, SSHError>) {
        guard let completion else { return }
        self.completion = nil
        willEnd(result)
        outgoing.removeAll()
        process.onExit = nil
        process.close()
        completion(result)
    }

    // MARK: The stream

    private func begin() {
        process.stream.observer = self
        // Keeps this object alive; broken in end().
        process.onExit = { self.exited($0) }
        send(SFTPPacket.initialise())
        read()
    }

    final func streamReadable(_ stream: ByteStream) { read() }
    final func streamWritable(_ stream: ByteStream) { write() }
    final func streamFailed(_ stream: ByteStream) { lost(stream.failure) }

    private func read() {
        while !isOver {
            let buffer = process.stream.loop.buffers.take(readSize)
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
        while !isOver, let next = answers.next() {
            switch next {
            case .answer(let answer): received(answer)
            case .tooLong(let length) where isSpeaking: fail("the SFTP server sent an answer of \(length) bytes")
            case .tooLong: end(.success(.unavailable))
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

    /// The server's side ended before the file was through.
    private func ended() {
        guard !isOver else { return }
        guard isSpeaking else { return end(.success(.unavailable)) }
        let said = process.standardErrorText
        fail("the SFTP server ended\(said.isEmpty ? "" : ": \(said)")")
    }

    private func lost(_ failure: StreamError?) {
        end(.failure(SSHError(.connectionLost, failure?.message ?? "the SSH connection was lost")))
    }
}

import Streams

/// How a transfer over SFTP ended well.
enum SFTPOutcome: Sendable {
    case done
    /// The file is complete under its part name, and the server cannot rename it atomically over SFTP.
    case renameOtherwise
    /// The server has no SFTP; nothing was changed there.
    case unavailable
}

/// What follows an answer of the server.
enum SFTPStep {
    case send([UInt8])
    /// There is more to ask for: ``SFTPTransfer/queueNextRequest(into:)``.
    case fill
    case wait
    case end(SFTPOutcome)
    case fail(String)
}

/// One file on its way: knows what to ask the server for, and what its answers mean.
protocol SFTPTransfer: AnyObject {
    /// How much is read from the server at a time: answers to an upload are small.
    static var readSize: BufferSize { get }

    /// Whether the server has shown that it has SFTP.
    var isSpeaking: Bool { get }

    /// The server has said this; nil: something malformed.
    func received(_ answer: SFTPPacket.Answer?) throws(SSHError) -> SFTPStep

    /// Puts the next request into `outgoing`, which is empty. Returns false when there is none now.
    func queueNextRequest(into outgoing: inout ByteQueue) throws(SSHError) -> Bool

    /// It has come to nothing.
    func failed()
}

/// One file over the server's `sftp` subsystem: the I/O of an ``SFTPTransfer``. Keeps itself alive through the process
/// until it is over.
final class SFTPConversation<Transfer: SFTPTransfer>: StreamObserver {
    private let process: SSHProcess
    private let transfer: Transfer
    private var completion: ((Result<SFTPOutcome, SSHError>) -> Void)?
    /// What is to be sent before anything else.
    private var outgoing: ByteQueue
    private var answers = SFTPAnswers()

    private init(
        _ process: SSHProcess,
        _ transfer: Transfer,
        completion: @escaping (Result<SFTPOutcome, SSHError>) -> Void
    ) {
        self.process = process
        self.transfer = transfer
        self.completion = completion
        outgoing = ByteQueue(pool: process.stream.loop.buffers)
    }

    /// Starts the subsystem, and `transfer` over it.
    static func start(
        _ transfer: Transfer,
        on connection: any SSHConnection,
        completion: @escaping (Result<SFTPOutcome, SSHError>) -> Void
    ) {
        connection.startSubsystem("sftp") { result in
            switch result {
            case .success(let process): SFTPConversation(process, transfer, completion: completion).begin()
            case .failure(let error) where error.code == .requestDenied: completion(.success(.unavailable))
            case .failure(let error): completion(.failure(error))
            }
        }
    }

    private var isOver: Bool { completion == nil }

    private func begin() {
        process.stream.observer = self
        // Keeps this object alive; broken in end().
        process.onExit = { self.exited($0) }
        send(SFTPPacket.initialise())
        read()
    }

    // MARK: Asking

    private func send(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { outgoing.append($0) }
        write()
    }

    /// Writes what is queued, and queues more while the stream takes it.
    private func write() {
        while !isOver {
            if outgoing.isEmpty {
                do throws(SSHError) {
                    guard try transfer.queueNextRequest(into: &outgoing) else { return }
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

    // MARK: Answers

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) { write() }
    func streamFailed(_ stream: ByteStream) { lost(stream.failure) }

    private func read() {
        while !isOver {
            let buffer = process.stream.loop.buffers.take(Transfer.readSize)
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
            case .answer(let answer): take(answer)
            case .tooLong(let length) where transfer.isSpeaking:
                fail("the SFTP server sent an answer of \(length) bytes")
            case .tooLong: end(.success(.unavailable))
            }
        }
    }

    private func take(_ answer: SFTPPacket.Answer?) {
        do throws(SSHError) {
            switch try transfer.received(answer) {
            case .send(let bytes): send(bytes)
            case .fill: write()
            case .wait: break
            case .end(let outcome): end(.success(outcome))
            case .fail(let why): fail(why)
            }
        } catch {
            end(.failure(error))
        }
    }

    // MARK: Ending

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
        guard transfer.isSpeaking else { return end(.success(.unavailable)) }
        let said = process.standardErrorText
        fail("the SFTP server ended\(said.isEmpty ? "" : ": \(said)")")
    }

    private func lost(_ failure: StreamError?) {
        end(.failure(SSHError(.connectionLost, failure?.message ?? "the SSH connection was lost")))
    }

    private func fail(_ why: String) { end(.failure(SSHError(.transferFailed, why))) }

    private func end(_ result: Result<SFTPOutcome, SSHError>) {
        guard let completion else { return }
        self.completion = nil
        if case .failure = result { transfer.failed() }
        outgoing.removeAll()
        process.onExit = nil
        process.close()
        completion(result)
    }
}

import Platform
import Streams

/// Something that is asked of an SFTP server: one request, or a file's worth of them. Confined to the session's loop.
protocol SFTPExchange: AnyObject {
    /// Puts the next request, with `id`, into `outgoing`, which is empty. Returns false when there is none now.
    func queueNext(_ id: UInt32, into outgoing: inout ByteQueue) throws(SSHError) -> Bool

    /// The server has answered one of its requests.
    ///
    /// - Returns: Whether that was all.
    func received(_ answer: SFTPPacket.Answer) throws(SSHError) -> Bool

    /// It is over, once: well, or because of an error.
    func ended(_ error: SSHError?)
}

/// The server's `sftp` subsystem in use: one exchange after the other. Confined to its loop; keeps itself alive through
/// the process until it is closed.
final class SFTPSession: StreamObserver {
    private let process: SSHProcess
    private var opening: ((Result<SFTPSession?, SSHError>) -> Void)?
    private var isClosed = false
    private var failure: SSHError?
    private var running: (any SFTPExchange)?
    /// Of the running exchange; answers to earlier ones, which were given up, are of no interest.
    private var firstID: UInt32 = 1
    private var nextID: UInt32 = 1
    /// What is to be sent before anything else.
    private var outgoing: ByteQueue
    private var answers = SFTPAnswers()
    /// Whether the server replaces files atomically when they are renamed.
    private(set) var canReplace = false
    /// Runs while an answer is awaited.
    private var silence: LoopTimer?
    /// For the next answer, as long as nothing moves the other way either: a disk that has to wake up takes less.
    private let patience: Duration

    static let patience = Duration.seconds(120)

    var buffers: BufferPool { process.stream.loop.buffers }

    private init(
        _ process: SSHProcess,
        _ patience: Duration,
        _ opening: @escaping (Result<SFTPSession?, SSHError>) -> Void
    ) {
        self.process = process
        self.patience = patience
        self.opening = opening
        outgoing = ByteQueue(pool: process.stream.loop.buffers)
        silence = LoopTimer(on: process.stream.loop) { [weak self] in self?.fellSilent() }
    }

    /// Starts the subsystem; nil where the server has none.
    ///
    /// - Parameter patience: For each answer.
    static func open(
        on connection: any SSHConnection,
        patience: Duration = SFTPSession.patience,
        completion: @escaping (Result<SFTPSession?, SSHError>) -> Void
    ) {
        connection.startSubsystem("sftp") { result in
            switch result {
            case .success(let process): SFTPSession(process, patience, completion).begin()
            case .failure(let error) where error.code == .requestDenied: completion(.success(nil))
            case .failure(let error): completion(.failure(error))
            }
        }
    }

    private func begin() {
        process.stream.observer = self
        // Keeps this object alive; broken in stop().
        process.onExit = { self.exited($0) }
        SFTPPacket.initialise().withUnsafeBytes { outgoing.append($0) }
        silence?.schedule(after: patience)
        write()
        read()
    }

    /// Begins `exchange`; none may be running.
    func run(_ exchange: any SFTPExchange) {
        precondition(running == nil, "one exchange at a time")
        if let failure { return exchange.ended(failure) }
        guard !isClosed else { return exchange.ended(SSHError(.closed, "the SFTP session was closed")) }
        running = exchange
        firstID = nextID
        silence?.schedule(after: patience)
        write()
    }

    /// Gives up what is running. The session can be used further.
    func cancel() { finish(.interrupted) }

    func close() {
        guard !isClosed else { return }
        stop()
        finish(SSHError(.closed, "the SFTP session was closed"))
    }

    // MARK: Asking

    /// Writes what is queued, and queues more while the stream takes it.
    private func write() {
        while !isClosed {
            if outgoing.isEmpty {
                guard opening == nil, let running else { return }
                do throws(SSHError) {
                    guard try running.queueNext(nextID, into: &outgoing) else { return }
                    nextID &+= 1
                } catch {
                    return finish(error)
                }
            }
            switch outgoing.withVectors({ process.stream.write($0) }) {
            case .bytes(let count):
                outgoing.consume(count)
                silence?.schedule(after: patience)
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
        switch process.stream.readAll(while: { !isClosed }, take) {
        case .paused: break
        case .end: ended()
        case .failed: lost(process.stream.failure)
        }
    }

    private func take(_ bytes: UnsafeRawBufferPointer) {
        answers.append(bytes)
        takeAnswers()
    }

    private func takeAnswers() {
        while !isClosed, let next = answers.next() {
            switch next {
            case .answer(let answer?) where opening == nil: take(answer)
            case .answer(.version(_, let extensions)):
                canReplace = extensions.contains(SFTPPacket.posixRename)
                opened(.success(self))
            // Something else than an SFTP server talks (a login shell's greeting).
            case .answer where opening != nil, .tooLong where opening != nil: unavailable()
            case .answer: fail(SSHError(.transferFailed, "the SFTP server sent a malformed answer"))
            case .tooLong(let length):
                fail(SSHError(.transferFailed, "the SFTP server sent an answer of \(length) bytes"))
            }
        }
    }

    private func take(_ answer: SFTPPacket.Answer) {
        guard let id = answer.id, id &- firstID < nextID &- firstID else {
            // Of an exchange that was given up.
            if let id = answer.id, id < firstID { return }
            return fail(.unfitting)
        }
        guard let running else { return }
        silence?.schedule(after: patience)
        do throws(SSHError) {
            if try running.received(answer) { finish(nil) } else { write() }
        } catch {
            finish(error)
        }
    }

    // MARK: Ending

    private func opened(_ result: Result<SFTPSession?, SSHError>) {
        let completion = opening
        opening = nil
        silence?.cancel()
        completion?(result)
    }

    /// It runs, and says nothing.
    private func fellSilent() {
        guard opening != nil || running != nil else { return }
        fail(SSHError(.timedOut, "the SFTP server has answered nothing for \(patience)"))
    }

    private func unavailable() {
        stop()
        opened(.success(nil))
    }

    private func finish(_ error: SSHError?) {
        let exchange = running
        running = nil
        silence?.cancel()
        exchange?.ended(error)
    }

    private func exited(_ result: Result<SSHExit, StreamError>) {
        switch result {
        case .success:
            read()
            ended()
        case .failure(let error): lost(error)
        }
    }

    /// The server's side ended before ours.
    private func ended() {
        guard !isClosed else { return }
        guard opening == nil else { return unavailable() }
        let said = process.standardErrorText
        fail(SSHError(.transferFailed, "the SFTP server ended\(said.isEmpty ? "" : ": \(said)")"))
    }

    private func lost(_ failure: StreamError?) {
        fail(SSHError(.connectionLost, failure?.message ?? "the SSH connection was lost"))
    }

    private func fail(_ error: SSHError) {
        guard !isClosed else { return }
        failure = error
        stop()
        if opening != nil { return opened(.failure(error)) }
        finish(error)
    }

    private func stop() {
        isClosed = true
        silence?.cancel()
        outgoing.removeAll()
        process.onExit = nil
        process.close()
    }
}

extension SSHError {
    static var unfitting: SSHError {
        SSHError(.transferFailed, "the SFTP server gave an answer that does not fit the question")
    }
}

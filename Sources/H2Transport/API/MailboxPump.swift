import Streams

/// Moves bytes between a stream and its ``StreamMailbox``, on the stream's loop. Confined to it.
final class MailboxPump: StreamObserver {
    let stream: ByteStream
    private let mailbox: StreamMailbox
    /// How large the array for the next read is: twice what came, so that bulk comes in few arrays and keystrokes in
    /// small ones.
    private var chunkSize = 2048
    /// Larger ones would come from the kernel and go back to it each time (malloc's mmap threshold is 128 KiB).
    private static let chunkSizes = 512...65536
    private var isReading = true

    private var taken: ContiguousArray<ArraySlice<UInt8>> = []
    private var nextSlice = 0
    private var isWriting = true

    init(_ stream: ByteStream, mailbox: StreamMailbox) {
        self.stream = stream
        self.mailbox = mailbox
    }

    func start() {
        stream.observer = self
        read()
    }

    // MARK: Receiving

    func read() {
        while isReading {
            var result = ReadResult.wouldBlock
            let chunk = [UInt8](unsafeUninitializedCapacity: chunkSize) { buffer, count in
                result = stream.read(into: UnsafeMutableRawBufferPointer(buffer))
                if case .bytes(let read) = result { count = read }
            }
            switch result {
            case .bytes(let count):
                if count == chunkSize {
                    chunkSize = min(chunkSize * 2, Self.chunkSizes.upperBound)
                } else if count < chunkSize / 4 {
                    chunkSize = max(chunkSize / 2, Self.chunkSizes.lowerBound)
                }
                guard mailbox.deliver(chunk) else { return }
            case .wouldBlock: return
            case .end:
                isReading = false
                mailbox.endInbound(.success(()))
            case .failed:
                isReading = false
                mailbox.endInbound(.failure(failure))
            }
        }
    }

    // MARK: Sending

    /// Writes what tasks have left in the mailbox.
    func flush() {
        while isWriting {
            guard nextSlice < taken.count else {
                nextSlice = 0
                if mailbox.take(into: &taken) {
                    isWriting = false
                    return stream.finish()
                }
                if taken.isEmpty { return }
                continue
            }
            switch taken[nextSlice].withUnsafeBytes({ stream.write($0) }) {
            case .bytes(let count):
                if count == taken[nextSlice].count {
                    // Let go of the task's array.
                    taken[nextSlice] = []
                    nextSlice += 1
                } else {
                    taken[nextSlice].removeFirst(count)
                }
                mailbox.accepted(count)
            case .wouldBlock: return
            case .failed: return writeFailed()
            }
        }
    }

    private func writeFailed() {
        isWriting = false
        taken = []
        let failure = failure
        // The peer reads no more by its own choice: what it sends goes on (see `ByteStream.write`).
        if failure.code == .closed && isReading { mailbox.failOutbound(failure) } else { mailbox.fail(failure) }
    }

    // MARK: Ends

    /// Both directions have ended, or the writing one and nobody reads on.
    func close() {
        isReading = false
        isWriting = false
        stream.close()
    }

    func reset(_ reason: StreamError) {
        isReading = false
        isWriting = false
        taken = []
        stream.reset(reason)
    }

    private var failure: StreamError {
        stream.failure ?? StreamError(.closed, "the stream to \(stream.peerDescription) is closed")
    }

    // MARK: StreamObserver

    func streamReadable(_ stream: ByteStream) { read() }

    func streamWritable(_ stream: ByteStream) { flush() }

    func streamFailed(_ stream: ByteStream) {
        isReading = false
        isWriting = false
        taken = []
        mailbox.fail(failure)
    }
}

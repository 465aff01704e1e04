import CLinux
import MeshIdentity
import Streams
import Synchronization
import TestPeers

@testable import H2Transport

/// How a stream ended for one who read it.
enum StreamEnding: Equatable, Sendable {
    case end
    case failed(StreamError.Code, String)
}

/// What one side of a connection saw.
struct EndpointOutcome: Sendable {
    var received = 0
    var checksum = ""
    var ending = StreamEnding.end
    var bytesAccepted = 0
}

/// Sends a pattern over a byte stream, finishes, and reads to the end, as a relay would: never waiting, never polling.
final class Endpoint: StreamObserver {
    struct Job: Sendable {
        var bytesToSend = 0
        /// Offered per write, in so many vectors.
        var chunk = 256 << 10
        var vectors = 1
        var readBuffer = 128 << 10
        /// Sends only after it has read the end.
        var sendsAfterEnd = false
        /// Never finishes its direction.
        var keepsOpen = false
        /// Finishes its direction only after it has read so many bytes.
        var finishesAfterReading = 0
    }

    /// Its length is a prime, so that a shift by any buffer size shows.
    static let pattern = Pattern.bytes(1_000_003)

    static func checksum(_ count: Int) -> String {
        var checksum = Checksum()
        var left = count
        while left > 0 {
            let size = min(left, pattern.count)
            pattern.withUnsafeBytes { checksum.update(UnsafeRawBufferPointer(rebasing: $0[..<size])) }
            left -= size
        }
        return checksum.finish()
    }

    private let stream: ByteStream
    private let job: Job
    private var sent = 0
    private var writeDone = false
    private var readDone = false
    private var checksum: Checksum? = Checksum()
    private var outcome = EndpointOutcome()
    private var completion: ((EndpointOutcome) -> Void)?
    private let buffer: UnsafeMutableRawBufferPointer

    init(_ stream: ByteStream, _ job: Job, completion: @escaping (EndpointOutcome) -> Void) {
        self.stream = stream
        self.job = job
        self.completion = completion
        buffer = .allocate(byteCount: job.readBuffer, alignment: 16)
        stream.observer = self
    }

    deinit { buffer.deallocate() }

    func start() {
        read()
        if !job.sendsAfterEnd { write() }
    }

    func streamReadable(_ stream: ByteStream) { read() }

    func streamWritable(_ stream: ByteStream) { write() }

    func streamFailed(_ stream: ByteStream) { failed() }

    private func read() {
        while !readDone {
            switch stream.read(into: buffer) {
            case .bytes(let count):
                outcome.received += count
                checksum?.update(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
                if sent == job.bytesToSend && !job.sendsAfterEnd { write() }
            case .wouldBlock: return
            case .end:
                readDone = true
                if job.sendsAfterEnd { write() }
            case .failed: return failed()
            }
        }
        completeIfDone()
    }

    private func write() {
        guard !writeDone else { return }
        while sent < job.bytesToSend {
            switch stream.writeNext(
                of: Self.pattern,
                at: sent,
                limit: min(job.chunk, job.bytesToSend - sent),
                pieces: job.vectors
            ) {
            case .bytes(let count): sent += count
            case .wouldBlock: return
            case .failed: return failed()
            }
        }
        guard outcome.received >= job.finishesAfterReading else { return }
        writeDone = true
        if !job.keepsOpen { stream.finish() }
        completeIfDone()
    }

    private func failed() {
        guard let failure = stream.failure else { preconditionFailure("failed without a failure") }
        outcome.ending = .failed(failure.code, failure.message)
        complete()
    }

    private func completeIfDone() {
        if readDone && writeDone { complete() }
    }

    private func complete() {
        guard let completion else { return }
        self.completion = nil
        outcome.checksum = checksum.take()?.finish() ?? ""
        outcome.bytesAccepted = sent
        stream.close()
        completion(outcome)
    }
}

extension ByteStream {
    /// Offers up to `limit` bytes of an endless repetition of `pattern`, cut into `pieces` vectors.
    func writeNext(of pattern: [UInt8], at position: Int, limit: Int, pieces: Int) -> WriteResult {
        pattern.withUnsafeBytes { pattern in
            let start = position % pattern.count
            let length = min(limit, pattern.count - start)
            let size = max(1, length / pieces)
            var vectors: [iovec] = []
            var offset = 0
            while offset < length {
                let count = vectors.count == pieces - 1 ? length - offset : min(size, length - offset)
                vectors.append(
                    iovec(
                        iov_base: UnsafeMutableRawPointer(mutating: pattern.baseAddress! + start + offset),
                        iov_len: count
                    )
                )
                offset += count
            }
            return vectors.withUnsafeBufferPointer { write($0) }
        }
    }

    /// Writes a short text, which must be accepted at once.
    func say(_ text: String) -> WriteResult {
        Array(text.utf8).withUnsafeBytes { write($0) }
    }

    /// Reads what there is, up to 64 KiB, as text; the result where that is not bytes.
    func hear() -> (text: String, result: ReadResult) {
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        let result = buffer.withUnsafeMutableBytes { read(into: $0) }
        guard case .bytes(let count) = result else { return ("", result) }
        return (String(decoding: buffer[..<count], as: UTF8.self), result)
    }
}

/// Wakes an async test from a callback of a stream.
final class Signals: StreamObserver, Sendable {
    let readable = Atomic<Int>(0)
    let writable = Atomic<Int>(0)
    let failed = Atomic<Int>(0)

    func streamReadable(_ stream: ByteStream) { readable.add(1, ordering: .relaxed) }
    func streamWritable(_ stream: ByteStream) { writable.add(1, ordering: .relaxed) }
    func streamFailed(_ stream: ByteStream) { failed.add(1, ordering: .relaxed) }
}

import Streams

/// One request and its answer.
final class SFTPQuestion: SFTPExchange {
    private let request: (UInt32) -> [UInt8]
    private let completion: (Result<SFTPPacket.Answer, SSHError>) -> Void
    private var wasAsked = false
    private var answer: SFTPPacket.Answer?

    init(
        _ request: @escaping (UInt32) -> [UInt8],
        completion: @escaping (Result<SFTPPacket.Answer, SSHError>) -> Void
    ) {
        self.request = request
        self.completion = completion
    }

    func queueNext(_ id: UInt32, into outgoing: inout ByteQueue) -> Bool {
        guard !wasAsked else { return false }
        wasAsked = true
        request(id).withUnsafeBytes { outgoing.append($0) }
        return true
    }

    func received(_ answer: SFTPPacket.Answer) -> Bool {
        self.answer = answer
        return true
    }

    func ended(_ error: SSHError?) { completion(answer.map { .success($0) } ?? .failure(error ?? .unfitting)) }
}

/// The bytes of a file on their way to the server: an ``SFTPWrites`` with its source.
final class SFTPWriting: SFTPExchange {
    private let reader: UploadReader
    private let buffers: BufferPool
    private let progress: ((UInt64, UInt64) -> Void)?
    private let completion: (Result<Void, SSHError>) -> Void
    private var writes: SFTPWrites

    init(
        _ reader: UploadReader,
        _ writes: SFTPWrites,
        buffers: BufferPool,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<Void, SSHError>) -> Void
    ) {
        self.reader = reader
        self.writes = writes
        self.buffers = buffers
        self.progress = progress
        self.completion = completion
    }

    func queueNext(_ id: UInt32, into outgoing: inout ByteQueue) throws(SSHError) -> Bool {
        guard let (header, count) = writes.next(id) else { return false }
        let buffer = buffers.take(.medium)
        defer { buffers.give(buffer) }
        // Before the header: the next request would become part of one that is not whole.
        let read = try reader.read(into: UnsafeMutableRawBufferPointer(start: buffer.base, count: count))
        header.withUnsafeBytes { outgoing.append($0) }
        outgoing.append(UnsafeRawBufferPointer(start: buffer.base, count: read))
        return true
    }

    func received(_ answer: SFTPPacket.Answer) throws(SSHError) -> Bool {
        let isDone = try writes.received(answer)
        progress?(writes.acknowledged, writes.size)
        return isDone
    }

    func ended(_ error: SSHError?) { completion(error.map { .failure($0) } ?? .success(())) }
}

/// The bytes of a file on their way from the server: an ``SFTPReads`` with its target.
final class SFTPReading: SFTPExchange {
    private let file: DownloadFile
    private let progress: ((UInt64, UInt64) -> Void)?
    private let completion: (Result<Void, SSHError>) -> Void
    private var reads: SFTPReads

    init(
        _ reads: SFTPReads,
        to file: DownloadFile,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<Void, SSHError>) -> Void
    ) {
        self.reads = reads
        self.file = file
        self.progress = progress
        self.completion = completion
    }

    func queueNext(_ id: UInt32, into outgoing: inout ByteQueue) -> Bool {
        guard let request = reads.next(id) else { return false }
        request.withUnsafeBytes { outgoing.append($0) }
        return true
    }

    func received(_ answer: SFTPPacket.Answer) throws(SSHError) -> Bool {
        if let (bytes, offset) = try reads.received(answer) {
            try file.write(bytes, at: offset)
            progress?(reads.received, max(reads.size, reads.received))
        }
        return reads.isDone
    }

    func ended(_ error: SSHError?) { completion(error.map { .failure($0) } ?? .success(())) }
}

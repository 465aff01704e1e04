package import SSHSignal
import Streams

/// A command of an SSH session, for async code.
package final class SSHProcessChannel: RemoteChannel {
    private let loop: EventLoop
    private let conversation: LoopBound<Conversation>

    /// Runs `command` with the login shell of `client`'s account.
    package init(_ client: SSHClient, command: String) async throws {
        loop = client.loop
        let process = try await client.execute(command)
        conversation = try await loop.execute { [loop] in
            process.withValue { LoopBound(Conversation($0), on: loop) }
        }
    }

    deinit {
        // The last reference to what lives on the loop goes there.
        let conversation = conversation
        loop.submit { conversation.withValue { $0.close() } }
    }

    package func read() async throws -> [UInt8]? {
        try await withCheckedThrowingContinuation { continuation in
            loop.submit { [conversation] in conversation.withValue { $0.read(continuation) } }
        }
    }

    package func write(_ bytes: [UInt8]) async throws {
        try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
            loop.submit { [conversation] in conversation.withValue { $0.write(bytes, continuation) } }
        }
    }

    package func finish() async {
        loop.submit { [conversation] in conversation.withValue { $0.finish() } }
    }

    package func close() {
        loop.submit { [conversation] in conversation.withValue { $0.close() } }
    }

    package func standardErrorText() async -> String {
        (try? await loop.execute { [conversation] in conversation.withValue { $0.standardErrorText } }) ?? ""
    }
}

/// The part that lives on the session's event loop.
private final class Conversation: StreamObserver {
    private let process: SSHProcess
    private let stream: ByteStream
    private var reader: CheckedContinuation<[UInt8]?, any Error>?
    private var writer: (bytes: [UInt8], offset: Int, continuation: CheckedContinuation<Void, any Error>)?
    private var isClosed = false

    init(_ process: SSHProcess) {
        self.process = process
        stream = process.stream
        stream.observer = self
    }

    var standardErrorText: String { process.standardErrorText }

    func read(_ continuation: CheckedContinuation<[UInt8]?, any Error>) {
        precondition(reader == nil, "two tasks read one channel")
        guard !isClosed else { return continuation.resume(throwing: Self.closed) }
        reader = continuation
        read()
    }

    func write(_ bytes: [UInt8], _ continuation: CheckedContinuation<Void, any Error>) {
        precondition(writer == nil, "two tasks write one channel")
        guard !isClosed else { return continuation.resume(throwing: Self.closed) }
        writer = (bytes, 0, continuation)
        write()
    }

    func finish() {
        if !isClosed { stream.finish() }
    }

    func close() {
        guard !isClosed else { return }
        isClosed = true
        process.close()
        fail(Self.closed)
    }

    func streamReadable(_ stream: ByteStream) { read() }

    func streamWritable(_ stream: ByteStream) { write() }

    func streamFailed(_ stream: ByteStream) { fail(failure) }

    private static let closed = StreamError(.closed, "the channel was closed on this side")

    private var failure: StreamError { stream.failure ?? Self.closed }

    private func fail(_ error: StreamError) {
        let (reader, writer) = (reader, writer)
        self.reader = nil
        self.writer = nil
        reader?.resume(throwing: error)
        writer?.continuation.resume(throwing: error)
    }

    private func read() {
        guard let continuation = reader else { return }
        var bytes = [UInt8](repeating: 0, count: 32 << 10)
        let result = bytes.withUnsafeMutableBytes { stream.read(into: $0) }
        switch result {
        case .bytes(let count):
            reader = nil
            continuation.resume(returning: Array(bytes[..<count]))
        case .end:
            reader = nil
            continuation.resume(returning: nil)
        case .failed:
            reader = nil
            continuation.resume(throwing: failure)
        case .wouldBlock:
            break
        }
    }

    private func write() {
        while let (bytes, offset, continuation) = writer {
            guard offset < bytes.count else {
                writer = nil
                return continuation.resume()
            }
            let result = bytes.withUnsafeBytes { stream.write(UnsafeRawBufferPointer(rebasing: $0[offset...])) }
            switch result {
            case .bytes(let count): writer?.offset += count
            case .wouldBlock: return
            case .failed:
                writer = nil
                return continuation.resume(throwing: failure)
            }
        }
    }
}

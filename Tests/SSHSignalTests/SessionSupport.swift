import Foundation
import Glibc
import SSHSignal
import Streams
import TestPeers
import Testing

/// Accepts every key; for tests that are not about host keys.
struct AnyHostKey: HostKeyVerifier {
    var preferredAlgorithms: [String] = []
    func check(_ key: HostKey) async throws {}
}

/// Event loops for all tests of the suites: they mostly wait for servers.
let testLoops = EventLoopGroup(count: 2)

extension OpenSSHServer {
    var configuration: SSHSessionConfiguration {
        SSHSessionConfiguration(user: Self.user, credentials: [.keyFile(path: userKey)])
    }

    func connect(
        _ configuration: SSHSessionConfiguration? = nil,
        verifier: any HostKeyVerifier = AnyHostKey(),
        on loop: EventLoop = testLoops.next()
    ) async throws -> SSHClient {
        try await SSHClient.connect(
            host: "127.0.0.1",
            port: port,
            configuration: configuration ?? self.configuration,
            hostKeyVerifier: verifier,
            on: loop
        )
    }

    /// The same with another key and nothing else.
    func connect(
        _ credentials: [SSHCredential],
        _ change: (inout SSHSessionConfiguration) -> Void = { _ in }
    )
        async throws -> SSHClient
    {
        var configuration = SSHSessionConfiguration(user: Self.user, credentials: credentials)
        change(&configuration)
        return try await connect(configuration)
    }
}

extension DropbearServer {
    func connect(on loop: EventLoop = testLoops.next()) async throws -> SSHClient {
        try await SSHClient.connect(
            host: "127.0.0.1",
            port: port,
            configuration: SSHSessionConfiguration(user: Self.user, credentials: [.keyFile(path: userKey)]),
            hostKeyVerifier: AnyHostKey(),
            on: loop
        )
    }
}

/// The `SSHError` that `body` throws; records an issue when it does not.
func sshFailure<Success>(_ body: () async throws -> Success) async -> SSHError? {
    do {
        _ = try await body()
        Issue.record("it should have failed")
    } catch let error as SSHError {
        return error
    } catch {
        Issue.record("not an SSHError: \(error)")
    }
    return nil
}

/// The `StreamError` that `body` throws; records an issue when it does not.
func streamFailure<Success>(_ body: () async throws -> Success) async -> StreamError? {
    do {
        _ = try await body()
        Issue.record("it should have failed")
    } catch let error as StreamError {
        return error
    } catch {
        Issue.record("not a StreamError: \(error)")
    }
    return nil
}

/// What one side of a stream saw.
struct Exchange: Sendable {
    var sent = 0
    var received = 0
    var checksum = ""
    /// nil: both directions ended cleanly.
    var failure: StreamError?
}

/// A ``Checksum`` that a class can hold.
private final class RunningChecksum {
    private var checksum: Checksum? = Checksum()
    func update(_ bytes: UnsafeRawBufferPointer) { checksum?.update(bytes) }
    func finish() -> String { checksum.take()?.finish() ?? "" }
}

/// Sends a pattern and its end into a stream while it reads to the end, checksumming what comes.
final class StreamExchange: StreamObserver {
    private let stream: ByteStream
    private let size: Int
    private var pattern: Pattern
    private let checksum = RunningChecksum()
    private var result = Exchange()
    private var pending: ArraySlice<UInt8> = []
    private var completion: ((Exchange) -> Void)?
    private var finished = false
    private let closes: Bool
    /// Told after each piece, for tests that interfere.
    var onProgress: ((Exchange) -> Void)?

    init(_ stream: ByteStream, send size: Int, seed: UInt64, closes: Bool, completion: @escaping (Exchange) -> Void) {
        self.stream = stream
        self.size = size
        self.closes = closes
        pattern = Pattern(seed: seed)
        self.completion = completion
        stream.observer = self
    }

    func start() {
        write()
        read()
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) { write() }
    func streamFailed(_ stream: ByteStream) { end(stream.failure) }

    private func write() {
        while completion != nil && !finished {
            if pending.isEmpty {
                guard result.sent < size else {
                    finished = true
                    return stream.finish()
                }
                var chunk = [UInt8](repeating: 0, count: min(64 << 10, size - result.sent))
                chunk.withUnsafeMutableBytes { pattern.fill($0) }
                pending = chunk[...]
                result.sent += chunk.count
            }
            switch pending.withUnsafeBytes({ stream.write($0) }) {
            case .bytes(let count): pending = pending.dropFirst(count)
            case .wouldBlock: return
            case .failed: return end(stream.failure)
            }
        }
    }

    private func read() {
        var buffer = [UInt8](repeating: 0, count: 100_000)
        while completion != nil {
            switch buffer.withUnsafeMutableBytes({ stream.read(into: $0) }) {
            case .bytes(let count):
                buffer.withUnsafeBytes { checksum.update(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
                result.received += count
                onProgress?(result)
            case .wouldBlock: return
            case .end: return end(nil)
            case .failed: return end(stream.failure)
            }
        }
    }

    private func end(_ failure: StreamError?) {
        guard let completion else { return }
        self.completion = nil
        result.failure = failure
        result.checksum = checksum.finish()
        if closes { stream.close() }
        completion(result)
    }
}

/// Runs a ``StreamExchange`` over a channel to its end.
func exchange(
    _ channel: LoopBound<ByteStream>,
    on loop: EventLoop,
    send size: Int,
    seed: UInt64 = 1,
    progress: (@Sendable (Exchange) -> Void)? = nil
) async throws -> Exchange {
    try await withCheckedThrowingContinuation { continuation in
        loop.submit {
            channel.withValue { channel in
                var keep: StreamExchange?
                let timer = LoopTimer(on: loop) {
                    keep = nil
                    continuation.resume(throwing: DeadlineExceeded("the exchange did not end"))
                }
                let exchange = StreamExchange(channel, send: size, seed: seed, closes: true) { result in
                    guard keep != nil else { return }
                    keep = nil
                    timer.cancel()
                    continuation.resume(returning: result)
                }
                exchange.onProgress = progress
                keep = exchange
                timer.schedule(after: .seconds(90))
                exchange.start()
            }
        }
    }
}

/// Reads a channel to its end without finishing or closing it. Returns how many bytes came.
func exchangeReading(_ channel: LoopBound<ByteStream>, on loop: EventLoop) async throws -> Int {
    try await withCheckedThrowingContinuation { continuation in
        loop.submit {
            channel.withValue { EndReader($0) { continuation.resume(with: $0) }.read() }
        }
    }
}

/// Counts what comes until the end. Keeps itself alive until then.
private final class EndReader: StreamObserver {
    private let stream: ByteStream
    private var completion: ((Result<Int, any Error>) -> Void)?
    private var count = 0
    private var keep: EndReader?

    init(_ stream: ByteStream, _ completion: @escaping (Result<Int, any Error>) -> Void) {
        self.stream = stream
        self.completion = completion
        keep = self
        stream.observer = self
    }

    func read() {
        var buffer = [UInt8](repeating: 0, count: 4096)
        while completion != nil {
            switch buffer.withUnsafeMutableBytes({ stream.read(into: $0) }) {
            case .bytes(let more): count += more
            case .wouldBlock: return
            case .end: end(.success(count))
            case .failed: end(.failure(stream.failure ?? StreamError(.closed, "closed")))
            }
        }
    }

    private func end(_ result: Result<Int, any Error>) {
        completion?(result)
        completion = nil
        keep = nil
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) { read() }
}

/// Sends a pattern and its end, then closes. Keeps itself alive until then.
final class PatternSender: StreamObserver {
    private let stream: ByteStream
    private var rest: ArraySlice<UInt8>
    private var completion: ((Result<Void, any Error>) -> Void)?
    private var keep: PatternSender?

    init(_ stream: ByteStream, size: Int, _ completion: @escaping (Result<Void, any Error>) -> Void) {
        self.stream = stream
        self.completion = completion
        rest = Pattern.bytes(size)[...]
        keep = self
        stream.observer = self
    }

    func start() {
        while !rest.isEmpty {
            switch rest.withUnsafeBytes({ stream.write($0) }) {
            case .bytes(let count): rest = rest.dropFirst(count)
            case .wouldBlock: return
            case .failed: return end(.failure(stream.failure ?? StreamError(.closed, "closed")))
            }
        }
        stream.finish()
        stream.close()
        end(.success(()))
    }

    private func end(_ result: Result<Void, any Error>) {
        completion?(result)
        completion = nil
        keep = nil
    }

    func streamReadable(_ stream: ByteStream) {}
    func streamWritable(_ stream: ByteStream) { start() }
    func streamFailed(_ stream: ByteStream) { end(.failure(stream.failure ?? StreamError(.closed, "closed"))) }
}

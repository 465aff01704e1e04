import ArgumentParser
import CLinux
import Glibc
import MeshPaths
import Platform
import Streams

/// Why a master did not do what it was asked for.
enum ControlError: Error {
    /// It says no, with the exit code for it.
    case refused(String, ExitCode)
    /// It has gone.
    case gone
}

/// One connection to a process that shares its paths.
struct ControlClient: Sendable {
    private enum Event: Sendable {
        case words([String])
        case end(StreamError?)
    }

    let loop: EventLoop
    /// The master's.
    let process: Int32
    private let lines: LoopBound<ControlLines>
    private let events: AsyncStream<Event>

    /// For the greeting, of a process that listens already.
    private static let patience = Duration.seconds(10)

    private init(_ lines: LoopBound<ControlLines>, _ events: AsyncStream<Event>, process: Int32, on loop: EventLoop) {
        self.lines = lines
        self.events = events
        self.process = process
        self.loop = loop
    }

    /// - Returns: nil where nobody listens at `path`.
    /// - Throws: ``StreamError`` where something else does, or somebody else.
    static func connect(to path: String, on loop: EventLoop) async throws -> ControlClient? {
        var status = stat()
        guard lstat(path, &status) == 0 else { return nil }
        guard status.st_mode & S_IFMT == S_IFSOCK else {
            throw StreamError(.addressInUse, "\(path): there is something that is not a socket. Choose another path")
        }
        let address = try SocketAddress(unixPath: path)
        let events = AsyncStream<Event>.makeStream()
        let connected: Result<LoopBound<ControlLines>, StreamError> = await withCheckedContinuation { continuation in
            loop.submit {
                Dialer.connect(to: .address(address), on: loop) { result in
                    let lines = result.map { ControlLines($0, longestLine: ControlMessage.longestAnswer) }
                    if case .success(let lines) = lines { begin(lines, path, events.continuation) }
                    continuation.resume(returning: lines.map { LoopBound($0, on: loop) })
                }
            }
        }
        let lines: LoopBound<ControlLines>
        switch connected {
        case .success(let made): lines = made
        // Left over from a process that has gone; or it went just now.
        case .failure(let error) where error.code == .refused || error.code == .reset: return nil
        case .failure where access(path, F_OK) != 0: return nil
        case .failure(let error): throw error
        }
        var iterator = events.stream.makeAsyncIterator()
        switch await iterator.next() {
        case .words(let words) where words.count == 3 && words[0] == ControlMessage.greeting:
            guard words[1] == ControlMessage.version else {
                throw StreamError(.protocolViolation, "\(path): another release of bootstrap listens there")
            }
            return ControlClient(lines, events.stream, process: Int32(words[2]) ?? 0, on: loop)
        case .words: throw StreamError(.protocolViolation, "\(path): it is not bootstrap that listens there")
        // It was about to go, or was killed with this connection in its queue.
        case .end(nil), nil: return nil
        case .end(let error?) where error.code == .reset: return nil
        case .end(let error?): throw StreamError(error.code, "\(path): \(error.message)")
        }
    }

    private static func begin(_ lines: ControlLines, _ path: String, _ events: AsyncStream<Event>.Continuation) {
        guard let peer = lines.socket.peerProcess, peer.isTrusted else {
            lines.close()
            events.yield(.end(StreamError(.denied, "the process that listens there is another user's")))
            return
        }
        let timer = LoopTimer(on: lines.socket.loop) { [weak lines] in
            lines?.close()
            events.yield(.end(StreamError(.timedOut, "process \(peer.process), which listens there, does not answer")))
        }
        timer.schedule(after: patience)
        lines.onLine = { line in
            timer.cancel()
            events.yield(.words(ControlMessage.words(line)))
        }
        lines.onEnd = { error in
            timer.cancel()
            events.yield(.end(error))
        }
        lines.start()
    }

    func close() { loop.submit { lines.withValue { $0.close() } } }

    /// - Parameter say: Gets what the master says meanwhile.
    /// - Returns: The words of its answer.
    /// - Throws: ``ControlError``.
    func ask(_ words: [String], say: (String) -> Void = { _ in }) async throws -> [String] {
        loop.submit { lines.withValue { _ = $0.send(words) } }
        var iterator = events.makeAsyncIterator()
        while let event = await iterator.next() {
            switch event {
            case .end(let error?) where error.code == .protocolViolation:
                throw ControlError.refused(error.message, .failed)
            case .end: throw ControlError.gone
            case .words(let answer) where answer.first == "ok": return Array(answer.dropFirst())
            case .words(let answer) where answer.first == "no": throw Self.refusal(answer)
            case .words(let answer): say(answer.dropFirst().joined(separator: " "))
            }
        }
        throw ControlError.gone
    }

    /// Ends with the master.
    func listen(say: (String) -> Void) async {
        for await event in events {
            guard case .words(let words) = event else { return }
            say(words.dropFirst().joined(separator: " "))
        }
    }

    private static func refusal(_ words: [String]) -> ControlError {
        let code = words.count > 1 ? Int32(words[1]) : nil
        return .refused(words.dropFirst(2).joined(separator: " "), code.map { ExitCode($0) } ?? .failed)
    }

    /// Has `stream` carried to `destination`. Nothing else is asked on this connection. On its loop.
    ///
    /// - Parameters:
    ///   - onFailure: Told why there is no stream, or why it was cut, before `stream` is reset.
    ///   - completion: Told the same at the end; nil: it ended in order.
    func carry(
        _ stream: ByteStream,
        to destination: Authority,
        onFailure: @escaping (ControlError) -> Void,
        completion: @escaping (ControlError?) -> Void
    ) {
        lines.withValue { lines in
            let fail = { (error: ControlError) in
                onFailure(error)
                stream.reset(StreamError(.closed, "there is no stream"))
                completion(error)
            }
            lines.onEnd = { _ in fail(.gone) }
            lines.onLine = { [weak lines] line in
                guard let lines else { return }
                let words = ControlMessage.words(line)
                guard words.first == "ok" else {
                    lines.close()
                    return fail(Self.refusal(words))
                }
                let early = lines.handOver()
                let framed = FramedStream(lines.socket, early: early)
                let relay = Relay(stream, framed) { result in
                    completion(result.failure.map { .refused($0.message, .failed) })
                }
                relay.onFailure = { onFailure(.refused($0.message, .failed)) }
                relay.start()
            }
            lines.send(["stdio", "\(destination)"])
        }
    }
}

import CLinux
import Streams

/// A connection that has come to a port of the server, as an `ssh` master hands it on: over a Unix socket of ours.
///
/// When a master dies its sockets end as if their clients had finished. So an end counts only once the master has
/// answered after it; otherwise bytes may be missing. Confined to its event loop.
final class ForwardedSocket: ByteStream {
    private enum End {
        case none
        case asked
        case confirmed
    }

    private let socket: Socket
    private let peer: String
    private let isMasterAlive: (@escaping (Bool) -> Void) -> Void
    private var end = End.none
    private var isOver = false

    /// - Parameters:
    ///   - socket: Its other end is the master.
    ///   - peer: For messages.
    ///   - isMasterAlive: Asks it; answers once, on the loop, never from inside the call.
    init(
        _ socket: Socket,
        peerDescription peer: String,
        isMasterAlive: @escaping (@escaping (Bool) -> Void) -> Void
    ) {
        self.socket = socket
        self.peer = peer
        self.isMasterAlive = isMasterAlive
        super.init(loop: socket.loop)
        socket.observer = self
    }

    override var peerDescription: String { peer }

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard failure == nil, !isOver else { return failed() }
        switch end {
        case .confirmed: return .end
        case .asked: return .wouldBlock
        case .none: break
        }
        switch socket.read(into: buffer) {
        case .end:
            end = .asked
            isMasterAlive { [weak self] isAlive in self?.masterAnswered(isAlive) }
            return .wouldBlock
        case .failed:
            fail(socket.failure ?? .closed(self))
            return .failed
        case let result: return result
        }
    }

    private func masterAnswered(_ isAlive: Bool) {
        guard !isOver, failure == nil else { return }
        guard isAlive else { return sessionEnded(StreamError(.truncated, "\(peer): the ssh program has ended")) }
        end = .confirmed
        observer?.streamReadable(self)
    }

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard failure == nil, !isOver else {
            fail(.closed(self))
            return .failed
        }
        let result = socket.write(vectors)
        if case .failed = result { fail(socket.failure ?? .closed(self)) }
        return result
    }

    override func finish() {
        if !isOver && failure == nil { socket.finish() }
    }

    override func reset(_ reason: StreamError) {
        guard !isOver else { return }
        isOver = true
        fail(reason)
        observer = nil
        socket.reset(reason)
    }

    override func close() {
        guard !isOver else { return }
        isOver = true
        observer = nil
        socket.close()
        fail(.closed(self))
    }

    /// The master is gone. What had ended both ways has lost nothing.
    func sessionEnded(_ error: StreamError) {
        guard !isOver, failure == nil, end != .confirmed else { return }
        fail(error)
        socket.reset(error)
        observer?.streamFailed(self)
    }

    private func failed() -> ReadResult {
        fail(.closed(self))
        return .failed
    }
}

extension ForwardedSocket: StreamObserver {
    func streamReadable(_ stream: ByteStream) { observer?.streamReadable(self) }

    func streamWritable(_ stream: ByteStream) { observer?.streamWritable(self) }

    func streamFailed(_ stream: ByteStream) {
        guard !isOver, failure == nil else { return }
        fail(stream.failure ?? .closed(self))
        observer?.streamFailed(self)
    }
}

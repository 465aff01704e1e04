import CLinux
import Streams

/// A connection that has come to a port of the server, as an `ssh` master hands it on: over a Unix socket of ours.
///
/// When a master dies its sockets end as if their clients had finished. So an end counts only once the master has
/// answered after it; otherwise bytes may be missing. Confined to its event loop.
final class ForwardedSocket: ByteStream {
    private let socket: Socket
    private let peer: String
    private let isMasterAlive: (@escaping (Bool) -> Void) -> Void
    private var ends = StreamEnds()
    /// The socket has ended, and the master was asked whether it lives.
    private var isAsking = false

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
        guard failure == nil, !ends.isReleased else { return refuseRead() }
        if ends.reading != .open { return ends.deliverEnd() }
        if isAsking { return .wouldBlock }
        switch socket.read(into: buffer) {
        case .end:
            isAsking = true
            isMasterAlive { [weak self] isAlive in self?.masterAnswered(isAlive) }
            return .wouldBlock
        case .failed: return refuseRead(socket.failure)
        case let result: return result
        }
    }

    private func masterAnswered(_ isAlive: Bool) {
        guard !ends.isReleased, failure == nil else { return }
        guard isAlive else { return sessionEnded(StreamError(.truncated, "\(peer): the ssh program has ended")) }
        isAsking = false
        ends.receiveEnd()
        observer?.streamReadable(self)
    }

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard failure == nil, !ends.isReleased else { return refuseWrite() }
        let result = socket.write(vectors)
        return result == .failed ? refuseWrite(socket.failure) : result
    }

    override func finish() {
        if failure == nil && ends.finish() { socket.finish() }
    }

    override func reset(_ reason: StreamError) {
        guard ends.release() else { return }
        fail(reason)
        observer = nil
        socket.reset(reason)
    }

    override func close() {
        guard ends.release() else { return }
        observer = nil
        socket.close()
        fail(.closed(self))
    }

    /// The master is gone. What had ended both ways has lost nothing.
    func sessionEnded(_ error: StreamError) {
        guard !ends.isReleased, failure == nil, ends.reading == .open else { return }
        fail(error)
        socket.reset(error)
        observer?.streamFailed(self)
    }
}

extension ForwardedSocket: StreamObserver {
    func streamReadable(_ stream: ByteStream) { observer?.streamReadable(self) }

    func streamWritable(_ stream: ByteStream) { observer?.streamWritable(self) }

    func streamFailed(_ stream: ByteStream) {
        guard !ends.isReleased, failure == nil else { return }
        fail(stream.failure ?? .closed(self))
        observer?.streamFailed(self)
    }
}

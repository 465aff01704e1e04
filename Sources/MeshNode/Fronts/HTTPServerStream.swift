import CLinux
import H2Transport
import Streams

/// A proxy's connection to a server, as its relay sees the client's side: what is read from here are requests, what is
/// written are responses. One serves as many exchanges as client and server let it. Confined to its loop.
final class HTTPServerStream: ByteStream, TurnTask {
    private var connection: HTTPConnection?
    private var isEnding = false
    private var isOver = false
    private var timer: LoopTimer?

    /// For a server that was told that nothing more is asked.
    private static let patience: Duration = .seconds(10)

    init(for connection: HTTPConnection) {
        self.connection = connection
        super.init(loop: connection.loop)
    }

    /// Of whoever asks: what the record of a stream has.
    var clientAddress: SocketAddress? { connection.flatMap { PeerFacts(of: $0.client).address } }

    override var peerDescription: String { connection?.clientDescription ?? "an HTTP client" }

    // MARK: For the connection

    /// There may be something to read, or room.
    func wake() { loop.nextTurn(self) }

    /// The client needs it no more, and everything that was asked is answered.
    func letGo() {
        guard !isEnding, !isOver else { return }
        isEnding = true
        connection = nil
        loop.nextTurn(self)
        let timer = LoopTimer(on: loop) { [weak self] in
            self?.abort(StreamError(.timedOut, "the server did not end its connection"))
        }
        self.timer = timer
        timer.schedule(after: Self.patience)
    }

    /// The client needs it no more, and something is left undone.
    func abort(_ reason: StreamError) {
        guard !isOver else { return }
        connection = nil
        fail(reason)
        loop.nextTurn(self)
    }

    func runTurn() {
        guard !isOver else { return }
        if failure != nil {
            observer?.streamFailed(self)
            return
        }
        // What the server has said comes first: it said that before it could have the next request.
        observer?.streamWritable(self)
        if !isOver, failure == nil { observer?.streamReadable(self) }
    }

    // MARK: ByteStream

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard failure == nil else { return .failed }
        guard let connection, !isEnding else { return .end }
        return connection.readRequests(into: buffer)
    }

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard failure == nil else { return .failed }
        guard let connection, !isEnding else {
            // Nobody has asked for it.
            return .bytes(vectors.reduce(0) { $0 + $1.iov_len })
        }
        return connection.writeResponses(vectors)
    }

    override func finish() { connection?.serverEnded() }

    override func reset(_ reason: StreamError) {
        guard !isOver else { return }
        let connection = release()
        fail(reason)
        connection?.serverFailed(reason)
    }

    override func close() {
        guard !isOver else { return }
        let connection = release()
        fail(.closedByOwner)
        connection?.serverFailed(StreamError(.closed, "the server closed the connection"))
    }

    private func release() -> HTTPConnection? {
        isOver = true
        timer?.cancel()
        defer { connection = nil }
        return connection
    }
}

import Glibc
import H2Transport
import NIOConcurrencyHelpers
import Streams

/// How a stream ended, if not cleanly: written by our loop before it closes the socket, read by NIO's after it saw the
/// close.
///
/// A Unix socket cannot say "reset": its peer would take an abort for a clean end (unix(7)).
final class StreamEnding: Sendable {
    private let error = NIOLockedValueBox<StreamError?>(nil)

    func failed(_ error: StreamError) { self.error.withLockedValue { $0 = $0 ?? error } }

    /// The failure, once.
    func takeFailure() -> StreamError? {
        self.error.withLockedValue { error in
            defer { error = nil }
            return error
        }
    }
}

/// Our end of the socket pair: a socket that leaves word in ``StreamEnding`` before it is reset. Confined to its loop.
final class BridgeSocket: ByteStream, StreamObserver {
    private let socket: Socket
    private let ending: StreamEnding

    init(_ socket: Socket, ending: StreamEnding) {
        self.socket = socket
        self.ending = ending
        super.init(loop: socket.loop)
        socket.observer = self
    }

    override var peerDescription: String { "a NIO channel" }

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        let result = socket.read(into: buffer)
        if result == .failed { takeFailure() }
        return result
    }

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        let result = socket.write(vectors)
        if result == .failed { takeFailure() }
        return result
    }

    override func finish() { socket.finish() }

    override func reset(_ reason: StreamError) {
        ending.failed(reason)
        fail(reason)
        socket.reset(reason)
    }

    override func close() {
        if socket.failure != nil { takeFailure() }
        socket.close()
    }

    private func takeFailure() {
        if let failure = socket.failure { fail(failure) }
    }

    func streamReadable(_ stream: ByteStream) { observer?.streamReadable(self) }
    func streamWritable(_ stream: ByteStream) { observer?.streamWritable(self) }
    func streamFailed(_ stream: ByteStream) {
        takeFailure()
        observer?.streamFailed(self)
    }
}

/// One bridged stream: HTTP/2 stream ⇄ relay ⇄ socket pair ⇄ NIO channel. Confined to our loop.
final class SocketBridge {
    private let relay: Relay
    private let linger: LoopTimer

    /// How long a stream may stay open after its channel was closed, when the peer neither sends nor ends: TCP's
    /// FIN-WAIT-2.
    private static let lingerTime = Duration.seconds(60)

    /// Joins `stream`, which it then owns, with a new socket pair.
    ///
    /// - Returns: The bridge, and the descriptor for NIO.
    static func start(_ stream: H2Stream, ending: StreamEnding) throws -> (bridge: SocketBridge, descriptor: Int32) {
        do throws(StreamError) {
            let (socket, descriptor) = try Socket.pairWithDescriptor(on: stream.loop)
            return (SocketBridge(stream, BridgeSocket(socket, ending: ending)), descriptor)
        } catch {
            stream.reset(error)
            throw error
        }
    }

    private init(_ stream: H2Stream, _ socket: BridgeSocket) {
        let timer = Reference()
        relay = Relay(stream, socket) { _ in timer.timer?.cancel() }
        linger = LoopTimer(on: stream.loop) { [relay] in
            relay.cut(StreamError(.timedOut, "the channel is closed, and the peer has not ended the stream"))
        }
        timer.timer = linger
        relay.start()
    }

    /// NIO has closed its channel in both directions.
    func channelClosed() { linger.schedule(after: Self.lingerTime) }

    private final class Reference {
        weak var timer: LoopTimer?
    }
}

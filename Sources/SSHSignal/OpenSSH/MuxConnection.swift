import Glibc
import MeshIdentity
import Streams

/// One connection to the control socket of an `ssh` master. Confined to its loop.
///
/// As a proxy it carries one channel after the other. It must not be closed while one is open or was refused: the
/// master would end itself ("no remote_id", as of OpenSSH 10).
final class MuxConnection: StreamObserver {
    /// Called on the loop for each answer of the master itself but its greeting.
    var onAnswer: ((MuxMessage.Answer) -> Void)?
    /// Called once, on the loop, when the master has closed the connection, or broke the protocol.
    var onEnd: (() -> Void)?
    /// Whose messages follow.
    weak var channel: MuxChannel?

    private let socket: Socket
    private let loop: EventLoop
    private var outgoing: ByteQueue
    /// Has the beginning of a message whose rest has not arrived; nil while there is none.
    private var incoming: Buffer?
    /// A channel was refused on it: the master would not outlive its end.
    var hasRefusal = false
    private var isProxy = false
    private var isClosed = false

    /// For the connection to the socket. The master's backlog is 64; those that come at the same time try again.
    private static let attempts = 500
    private static let pause = Duration.milliseconds(10)
    /// Messages have at most 32 KiB of data; what is much longer is no master. Less than a buffer holds.
    private static let maximumLength = 128 << 10

    private init(_ socket: Socket) {
        self.socket = socket
        loop = socket.loop
        outgoing = ByteQueue(pool: socket.loop.buffers)
        socket.observer = self
        send(MuxMessage.hello)
    }

    /// - Parameter completion: Called once, on the loop, never from inside this call.
    static func open(
        _ path: String,
        on loop: EventLoop,
        attempt: Int = 1,
        completion: @escaping (Result<MuxConnection, StreamError>) -> Void
    ) {
        let address: SocketAddress
        do {
            address = try SocketAddress(unixPath: path)
        } catch {
            return loop.later { completion(.failure(error)) }
        }
        Dialer.connect(to: .address(address), on: loop) { result in
            switch result {
            case .success(let socket): completion(.success(MuxConnection(socket)))
            case .failure(let error) where error.code == .limit && attempt < attempts:
                LoopTimer(on: loop) {
                    open(path, on: loop, attempt: attempt + 1, completion: completion)
                }.schedule(after: pause)
            case .failure(let error): completion(.failure(error))
            }
        }
    }

    /// Everything that is sent from now on are messages of channels.
    func becomeProxy(request: UInt32) {
        send(MuxMessage.proxy(id: request))
    }

    // MARK: Sending

    /// Bytes that the master has not taken yet.
    var backlog: Int { outgoing.count }

    /// Puts `bytes` into the queue; ``flush()`` sends it.
    func queue(_ bytes: UnsafeRawBufferPointer) { outgoing.append(bytes) }

    func queue(_ bytes: [UInt8]) { bytes.withUnsafeBytes { outgoing.append($0) } }

    func send(_ bytes: [UInt8]) {
        queue(bytes)
        flush()
    }

    func flush() {
        while !outgoing.isEmpty && !isClosed {
            switch outgoing.withVectors({ socket.write($0) }) {
            case .bytes(let count): outgoing.consume(count)
            case .wouldBlock: return
            // Its end is read.
            case .failed: return outgoing.removeAll()
            }
        }
    }

    func close() {
        guard !isClosed else { return }
        isClosed = true
        onAnswer = nil
        onEnd = nil
        channel = nil
        outgoing.removeAll()
        if let incoming { loop.buffers.give(incoming) }
        incoming = nil
        socket.close()
    }

    // MARK: StreamObserver

    func streamReadable(_ stream: ByteStream) { read() }

    func streamWritable(_ stream: ByteStream) {
        flush()
        channel?.connectionWritable()
    }

    func streamFailed(_ stream: ByteStream) { read() }

    // MARK: Receiving

    private func read() {
        // Taken out, so that what is called from here finds nothing half done.
        let buffer = incoming ?? loop.buffers.take(.large)
        incoming = nil
        while !isClosed {
            switch socket.read(into: buffer.writable) {
            case .bytes(let count):
                buffer.writeIndex += count
                guard take(buffer) else { return }
            case .wouldBlock:
                if buffer.readableBytes > 0 { incoming = buffer } else { loop.buffers.give(buffer) }
                channel?.connectionWasRead()
                return
            case .end, .failed:
                loop.buffers.give(buffer)
                return ended()
            }
        }
        loop.buffers.give(buffer)
    }

    /// Takes the whole messages, and moves what is left to the front. A buffer that has no room then would have been
    /// one of a message that is too long. Returns false at the end, with the buffer given back.
    private func take(_ buffer: Buffer) -> Bool {
        do throws(SSHError) {
            let used = try takeMessages(buffer.readable)
            let rest = buffer.readableBytes - used
            if rest > 0 && used > 0 { memmove(buffer.base, buffer.base + buffer.readIndex + used, rest) }
            (buffer.readIndex, buffer.writeIndex) = (0, rest)
            return true
        } catch {
            loop.buffers.give(buffer)
            ended()
            return false
        }
    }

    /// Returns how many bytes were used: whole messages.
    private func takeMessages(_ bytes: UnsafeRawBufferPointer) throws(SSHError) -> Int {
        var offset = 0
        while !isClosed && bytes.count - offset >= 4 {
            let length = Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
            guard length >= 2, length <= Self.maximumLength else { throw MuxMessage.malformed }
            guard bytes.count - offset - 4 >= length else { break }
            let body = UnsafeRawBufferPointer(rebasing: bytes[(offset + 4)..<(offset + 4 + length)])
            offset += 4 + length
            if isProxy {
                let type = body[1]
                let rest = UnsafeRawBufferPointer(rebasing: body[2...])
                try channel?.received(type, rest)
            } else {
                try takeAnswer(MuxMessage.decode(body))
            }
        }
        return offset
    }

    private func takeAnswer(_ answer: MuxMessage.Answer) throws(SSHError) {
        switch answer {
        case .hello(let version):
            if version != MuxMessage.version { throw MuxMessage.malformed }
        case .proxied: isProxy = true
        default: onAnswer?(answer)
        }
    }

    private func ended() {
        guard !isClosed else { return }
        let (onEnd, channel) = (onEnd, channel)
        close()
        channel?.connectionEnded()
        onEnd?()
    }
}

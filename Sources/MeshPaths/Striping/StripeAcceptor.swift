import Platform
package import Streams

/// Where the striped streams of a node live: their subflows are accepted on any of its loops, and belong on one. Shared
/// by all loops.
package final class StripeDirectory: Sendable {
    private let acceptors = Lock<[StripePreface: LoopBound<StripeAcceptor>]>([:])

    /// The acceptor that has the stream; `own`, if nobody had it.
    func claim(_ preface: StripePreface, for own: LoopBound<StripeAcceptor>) -> LoopBound<StripeAcceptor> {
        acceptors.withLock { acceptors in
            if let owner = acceptors[preface] { return owner }
            acceptors[preface] = own
            return own
        }
    }

    func forget(_ preface: StripePreface) { acceptors.withLock { $0[preface] = nil } }

    /// Striped streams that are open, for tests.
    package init() {}

    package var count: Int { acceptors.withLock(\.count) }
}

/// Tells striped connections to an HBONE listener from others, and puts their subflows together. Confined to its event
/// loop.
///
/// Only for connections from the machine itself, which is where sshd connects from: whoever has not authenticated must
/// not make this machine hold connections for each other from everywhere. Inside of a striped stream the same TLS
/// handshake follows, with the same verification, as on any other connection.
package final class StripeAcceptor {
    private let loop: EventLoop
    private let directory: StripeDirectory
    private let serve: (ByteStream, (any AnyObject & Sendable)?) -> Void
    private var waiting: [ObjectIdentifier: PrefaceReader] = [:]
    private var streams: [StripePreface: StripedStream] = [:]

    /// Connections whose first bytes have not come; beyond that they are taken for what they mostly are, TLS, whose
    /// server has limits of its own.
    private static let undecided = 256

    /// - Parameters:
    ///   - loop: Where it lives.
    ///   - directory: What this loop has in common with the others.
    ///   - serve: Told of each connection, and where it came in: one that is not striped with all of its bytes, and a
    ///     striped stream once, by its first subflow.
    package init(
        on loop: EventLoop,
        directory: StripeDirectory,
        serve: @escaping (ByteStream, (any AnyObject & Sendable)?) -> Void
    ) {
        self.loop = loop
        self.directory = directory
        self.serve = serve
    }

    package func accept(_ socket: Socket, from origin: (any AnyObject & Sendable)? = nil) {
        guard socket.peerAddress?.address?.isLoopback == true, waiting.count < Self.undecided else {
            return serve(socket, origin)
        }
        let reader = PrefaceReader(socket) { [weak self] reader, result in
            guard let self else { return socket.reset(.closed(socket)) }
            waiting[ObjectIdentifier(reader)] = nil
            switch result {
            case .notStriped: serve(socket, origin)
            case .striped(let preface): join(socket, preface, origin)
            case .broken: break
            }
        }
        waiting[ObjectIdentifier(reader)] = reader
        reader.start()
    }

    private func join(_ socket: Socket, _ preface: StripePreface, _ origin: (any AnyObject & Sendable)?) {
        let owner = directory.claim(preface, for: LoopBound(self, on: loop))
        if owner.loop === loop { return add(socket, preface, origin) }
        socket.move(to: owner.loop) { socket in owner.withValue { $0.add(socket, preface, origin) } }
    }

    private func add(_ socket: Socket, _ preface: StripePreface, _ origin: (any AnyObject & Sendable)?) {
        socket.apply(.multiplexed())
        if let stream = streams[preface] { return stream.add(socket) }
        let stream = StripedStream(preface, over: socket, as: .server)
        streams[preface] = stream
        stream.onEnd = { [weak self] in
            guard let self else { return }
            streams[preface] = nil
            directory.forget(preface)
        }
        serve(stream, origin)
    }
}

/// Reads what a connection begins with. The acceptor keeps it until it has called back; once, and maybe from inside
/// ``start()``.
private final class PrefaceReader: StreamObserver {
    enum Outcome {
        /// Nothing of it has been read.
        case notStriped
        case striped(StripePreface)
        /// It has been reset.
        case broken
    }

    private let socket: Socket
    private let completion: (PrefaceReader, Outcome) -> Void
    private var bytes: [UInt8] = []
    private var timer: LoopTimer?
    private var isDone = false

    /// As long as a TLS handshake may take.
    private static let timeout = Duration.seconds(10)

    init(_ socket: Socket, _ completion: @escaping (PrefaceReader, Outcome) -> Void) {
        self.socket = socket
        self.completion = completion
    }

    func start() {
        socket.observer = self
        timer = LoopTimer(on: socket.loop) { [weak self] in
            self?.end(with: StreamError(.timedOut, "the connection did not begin within \(Self.timeout)"))
        }
        timer?.schedule(after: Self.timeout)
        read()
    }

    private func read() {
        if bytes.isEmpty {
            guard let first = socket.peek() else { return }
            guard first == StripePreface.magic[0] else { return end(.notStriped) }
        }
        while bytes.count < StripePreface.length {
            let missing = StripePreface.length - bytes.count
            let result = withUnsafeTemporaryAllocation(byteCount: missing, alignment: 1) { buffer in
                let result = socket.read(into: buffer)
                if case .bytes(let count) = result { bytes += buffer[..<count] }
                return result
            }
            switch result {
            case .bytes: continue
            case .wouldBlock: return
            case .end, .failed: return end(with: StreamError(.truncated, "the connection ended in its first bytes"))
            }
        }
        guard let preface = StripePreface(bytes) else {
            return end(with: StreamError(.protocolViolation, "the connection is neither TLS nor striped"))
        }
        end(.striped(preface))
    }

    private func end(with error: StreamError) {
        guard !isDone else { return }
        socket.reset(error)
        end(.broken)
    }

    private func end(_ outcome: Outcome) {
        guard !isDone else { return }
        isDone = true
        timer?.cancel()
        socket.observer = nil
        completion(self, outcome)
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) { end(with: stream.failure ?? .closed(stream)) }
}

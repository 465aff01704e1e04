import Logging
import SSHSignal
import Streams

/// Makes path `h2-over-ssh` wide enough for a long way: its one HTTP/2 connection goes over several channels, each with
/// a window of its own. Confined to its event loop.
///
/// Whether the peer can do that is found out by trying: a server that cannot takes the preface for a broken TLS record.
/// Then, and on short ways, the channel is used as it is.
final class Striping {
    typealias Completion = (Result<ByteStream, StreamError>) -> Void

    /// The HBONE server's, on the peer's loopback address.
    var port: UInt16
    /// Whether the peer is known to be a node that understands the preface: then nobody waits for its answer.
    var knowsPeer: () -> Bool = { false }
    private let sessions: SessionPool
    private let logger: Logger
    private var isUnsupported = false
    private weak var stream: StripedStream?

    /// Of OpenSSH's 2 MiB each: more than 1 Gbit/s at 100 ms.
    static let channelsPerSession = 8
    /// For the answer to the preface, beside the time of the path itself.
    private static let answerTimeout = Duration.seconds(2)

    /// - Parameters:
    ///   - port: The HBONE server's, on the peer's loopback address.
    ///   - sessions: Where channels are opened.
    ///   - logger: Told whether it is done.
    init(port: UInt16, over sessions: SessionPool, logger: Logger) {
        self.port = port
        self.sessions = sessions
        self.logger = logger
    }

    /// Uses `first`, a new channel to the HBONE server, as the first of several where the way is long.
    ///
    /// - Parameters:
    ///   - first: Nothing has been read or written on it.
    ///   - session: Which has opened it.
    ///   - completion: Called once, on the loop: with `first` itself, or with a striped stream.
    ///   - anew: Called instead when the server did not understand: `first` is used up, and another channel must be
    ///     opened.
    func stripe(
        _ first: ByteStream,
        over session: any SSHConnection,
        _ completion: @escaping Completion,
        anew: @escaping () -> Void
    ) {
        guard !isUnsupported, let roundTrip = session.shortestRoundTrip, roundTrip >= SessionPool.longRoundTrip else {
            return completion(.success(first))
        }
        let stream = StripedStream(StripePreface(), over: first, as: .client)
        let isTrusting = knowsPeer()
        let timer = LoopTimer(on: first.loop) { [weak stream] in
            stream?.streamFailed(first)
        }
        timer.schedule(after: Self.answerTimeout + roundTrip * 4)
        stream.establish(trusting: isTrusting) { [self] result in
            timer.cancel()
            switch result {
            case .success:
                self.stream = stream
                logger.debug("striped", metadata: ["round trip": "\(roundTrip)"])
                widen(over: session, to: Self.channelsPerSession)
                if !isTrusting { completion(.success(stream)) }
            case .failure(let error):
                // A lost session says nothing about the peer.
                guard session.isOpen else { return isTrusting ? () : completion(.failure(error)) }
                isUnsupported = true
                logger.debug("not striped", metadata: ["reason": "\(error)"])
                // What was sent already is lost with it: whoever has it learns that by its failure, and dials again.
                if !isTrusting { anew() }
            }
        }
        if isTrusting { completion(.success(stream)) }
    }

    /// There is another session: the stream that is open uses it too.
    func widen() {
        guard let session = sessions.leastLoaded else { return }
        widen(over: session, to: Self.channelsPerSession + 1)
    }

    private func widen(over session: any SSHConnection, to count: Int) {
        guard stream != nil else { return }
        for _ in 1..<count {
            session.openDirectTCPIP(host: "127.0.0.1", port: port) { [weak stream, logger] result in
                switch result {
                case .success(let channel):
                    guard let stream else { return channel.reset(StreamError(.closed, "nobody waits for it")) }
                    stream.add(channel)
                case .failure(let error): logger.debug("a stripe less", metadata: ["reason": "\(error)"])
                }
            }
        }
    }
}

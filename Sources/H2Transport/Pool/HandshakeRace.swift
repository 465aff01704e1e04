import Streams

/// A TLS handshake with a peer, and where it stalls a second one beside it, over a connection whose TCP segments are
/// small. The first that is done wins. Keeps itself alive until then; confined to its event loop.
///
/// A way that loses large packets without a word (a tunnel on the way, and a firewall that drops the ICMP message that
/// says so: RFC 2923 §2.1) lets a TCP connection come up and swallows the server's certificate. To whoever waits that
/// looks like a server that hangs.
final class HandshakeRace {
    typealias Completion = H2Endpoint.Completion<ByteStream>
    typealias Dial = (@escaping Completion) -> Void

    /// How long a handshake may take before it is thought to be stalled. A device that computes for longer, or is
    /// further away, has to do the same twice; the first one still counts.
    static let patience: Duration = .seconds(2)

    private let dial: Dial
    private let dialAgain: Dial
    private let secure: (ByteStream) -> TLSStream
    private let overtaken: () -> Void
    private let patience: Duration
    private let loop: EventLoop
    private var completion: Completion?
    private var timer: LoopTimer?
    /// Attempts that have no result yet.
    private var underWay = 0
    private var handshakes: [TLSStream] = []
    private var failure: StreamError?

    /// - Parameters:
    ///   - dial: Connects to the peer.
    ///   - dialAgain: The same, with small segments.
    ///   - secure: Makes the TLS stream over what was connected.
    ///   - overtaken: The second one was faster: told before the completion.
    ///   - patience: How long the first handshake has for itself.
    ///   - loop: Where it all lives.
    ///   - completion: Called once, on the loop. When both fail, with a peer that is not who it should be, or else with
    ///     why the first one did.
    init(
        _ dial: @escaping Dial,
        again dialAgain: @escaping Dial,
        secure: @escaping (ByteStream) -> TLSStream,
        overtaken: @escaping () -> Void = {},
        patience: Duration = HandshakeRace.patience,
        on loop: EventLoop,
        completion: @escaping Completion
    ) {
        self.dial = dial
        self.dialAgain = dialAgain
        self.secure = secure
        self.overtaken = overtaken
        self.patience = patience
        self.loop = loop
        self.completion = completion
    }

    func start() {
        timer = LoopTimer(on: loop) { [self] in attempt(dialAgain, isFirst: false) }
        attempt(dial, isFirst: true)
    }

    private func attempt(_ dial: Dial, isFirst: Bool) {
        underWay += 1
        dial { [self] result in
            switch result {
            case .failure(let error): failed(error, isFirst: isFirst)
            case .success(let lower) where completion == nil:
                lower.reset(StreamError(.closed, "another connection was faster"))
            case .success(let lower):
                if isFirst { timer?.schedule(after: patience) }
                let stream = secure(lower)
                handshakes.append(stream)
                stream.startHandshake { [self] result in
                    switch result {
                    case .success:
                        if !isFirst, completion != nil { overtaken() }
                        end(.success(stream))
                    case .failure(let error): failed(error, isFirst: isFirst)
                    }
                }
            }
        }
    }

    private func failed(_ error: StreamError, isFirst: Bool) {
        underWay -= 1
        let isStranger = error.code == .authentication
        let reason = isStranger ? error : failure ?? error
        failure = reason
        // Who the peer is, is no question of packets; but the second connection may lead to another machine.
        if underWay == 0 || isStranger && isFirst { end(.failure(reason)) }
    }

    private func end(_ result: Result<ByteStream, StreamError>) {
        guard let completion else { return }
        self.completion = nil
        timer?.cancel()
        // It holds this object.
        timer = nil
        let winner = try? result.get()
        for stream in handshakes where stream !== winner {
            stream.reset(StreamError(.closed, "another connection was faster"))
        }
        handshakes = []
        completion(result)
    }
}

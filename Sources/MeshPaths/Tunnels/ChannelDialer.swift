import Logging
import SSHSignal
import Streams

/// Leads to the peer's HBONE server as its own machine reaches it: through a channel of an SSH session, through the
/// agent where the server does not forward, over several channels where the way is long. Confined to its event loop.
final class ChannelDialer {
    /// Told once for each SSH connection that does not forward, with the reason.
    var onRelay: ((String) -> Void)? {
        get { relay.onRelay }
        set { relay.onRelay = newValue }
    }

    /// The HBONE server's, on the peer's loopback address: for what is dialled from now on.
    var port: UInt16 {
        get { relay.port }
        set { (relay.port, striping.port) = (newValue, newValue) }
    }
    /// Whether the peer is known to be a node of this kind, as its own word over another path shows.
    var knowsPeer: () -> Bool {
        get { striping.knowsPeer }
        set { striping.knowsPeer = newValue }
    }

    private let sessions: SessionPool
    private let relay: AgentRelay
    private let striping: Striping

    /// - Parameters:
    ///   - port: The HBONE server's, on the peer's loopback address.
    ///   - agent: The program on the peer's machine that joins a command with that port; nil: there is none.
    ///   - sessions: Where channels are opened.
    ///   - loop: Where it lives.
    ///   - logger: Told of the agent's end, and of striping.
    init(to port: UInt16, agent: String?, over sessions: SessionPool, on loop: EventLoop, logger: Logger) {
        self.sessions = sessions
        relay = AgentRelay(port: port, agent: agent, on: loop, logger: logger)
        striping = Striping(port: port, over: sessions, logger: logger)
    }

    /// `completion` is called once, on the loop.
    func dial(_ completion: @escaping (Result<ByteStream, StreamError>) -> Void) {
        let (relay, striping) = (relay, striping)
        sessions.connect { result in
            switch result {
            case .success(let session):
                relay.open(over: session) { result in
                    guard case .success(let stream) = result, !relay.isNeeded(for: session) else {
                        return completion(result)
                    }
                    striping.stripe(stream, over: session, completion) {
                        relay.open(over: session, completion: completion)
                    }
                }
            case .failure(let error): completion(.failure(error))
            }
        }
    }

    /// There is another session: a stream that is open uses it too.
    func widen() { striping.widen() }
}

import H2Transport
import MeshIdentity
import Platform
import Streams

/// `h2` and `h2-over-ssh`: mutual TLS and HTTP/2 over whatever stream leads to the peer. Confined to its event loop.
///
/// The one place of the paths that knows ``TunnelPath``.
final class TunnelSource: PathSource {
    var events = PathEvents()

    private let dialLower: TunnelPath.LowerDialer
    private let expectation: PeerExpectation
    private let loop: EventLoop
    private var context: TLSContext
    private var settings: ConnectionSettings
    /// Made when it is wanted first, and after ``reset()``.
    private var tunnel: TunnelPath?

    init(
        over dialLower: @escaping TunnelPath.LowerDialer,
        context: TLSContext,
        expecting expectation: PeerExpectation,
        settings: ConnectionSettings,
        on loop: EventLoop
    ) {
        self.dialLower = dialLower
        self.context = context
        self.expectation = expectation
        self.settings = settings
        self.loop = loop
    }

    var peer: SPIFFEID? { tunnel?.peer }
    var streamCount: Int { tunnel?.streamCount ?? 0 }

    func establish() {
        let tunnel = tunnel ?? makeTunnel()
        self.tunnel = tunnel
        tunnel.connect()
    }

    private func makeTunnel() -> TunnelPath {
        let tunnel = TunnelPath(
            over: dialLower,
            context: context,
            expecting: expectation,
            settings: settings,
            on: loop
        )
        tunnel.onUp = { [weak self] in self?.events.up() }
        tunnel.onDown = { [weak self] error in self?.events.down(error) }
        tunnel.onIdle = { [weak self] in self?.events.idle() }
        return tunnel
    }

    func open(
        to authority: Authority,
        headers: HeaderFields,
        completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    ) {
        guard let tunnel else { return completion(.failure(.pathLost(nil))) }
        let losses = tunnel.losses
        let loop = loop
        tunnel.open(ConnectRequest(to: authority, headers: headers)) { result in
            switch result {
            case .success(let stream): completion(.success(stream))
            case .failure(let failure):
                // Whether the path died under the request is known once the connection has reported its end. Without an answer
                // none of the stream's bytes has been sent, so that another path may ask again.
                loop.later {
                    let pathWasLost = failure.response == nil && tunnel.losses != losses
                    let mayAskAgain = failure.isRetryable || pathWasLost
                    completion(.failure(mayAskAgain ? .pathLost(failure.error) : .refused(failure.error)))
                }
            }
        }
    }

    func use(_ context: TLSContext, _ settings: ConnectionSettings) {
        self.context = context
        self.settings = settings
        tunnel?.use(context, settings)
    }

    func release() { tunnel?.release() }

    func reset() {
        tunnel?.close()
        tunnel = nil
    }
}

import H2Transport
import MeshIdentity
import Platform
import SSHSignal
import Streams

/// `ssh`: a direct-tcpip channel of one of the peer's SSH sessions, without mesh identity. Confined to its event loop.
final class SSHSource: PathSource {
    var events = PathEvents()

    private let sessions: SessionPool
    /// For as long as somebody has them.
    private var channels: [WeakStream] = []

    /// - Parameter sessions: Shared with what else uses the peer's SSH server, and shut down by its owner.
    init(over sessions: SessionPool) {
        self.sessions = sessions
        // Tunnels inside of a session notice by themselves.
        sessions.onEnd = { [weak self] error in self?.down(error) }
        sessions.onTraffic = { [weak self] stream, traffic in self?.note(traffic, of: stream) }
    }

    var peer: SPIFFEID? { nil }

    var streamCount: Int {
        channels.removeAll { $0.stream == nil }
        return channels.count
    }

    func establish() {
        sessions.connect { [weak self] result in
            switch result {
            case .success: self?.events.up()
            case .failure(let error): self?.down(error)
            }
        }
    }

    private func down(_ error: StreamError) { events.down(error, streamCount > 0) }

    func open(
        to authority: Authority,
        headers: HeaderFields,
        completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    ) {
        guard let ordinary = sessions.leastLoaded else { return completion(.failure(.pathLost(nil))) }
        let session = sessions.bulk?.connection(for: authority) ?? ordinary
        session.openDirectTCPIP(host: authority.host, port: authority.port) { [weak self] result in
            switch result {
            case .success(let channel):
                self?.channels.removeAll { $0.stream == nil }
                self?.channels.append(WeakStream(channel, to: authority))
                completion(.success(channel))
            // The session for bulk has ended, and the path has not.
            case .failure where session !== ordinary && !session.isOpen && self != nil:
                self?.open(to: authority, headers: headers, completion: completion)
            case .failure(let error): completion(.failure(session.isOpen ? .refused(error) : .pathLost(error)))
            }
        }
    }

    private func note(_ traffic: StreamTraffic, of stream: ByteStream) {
        // Those of tunnels inside of SSH are not among them.
        guard let channel = channels.first(where: { $0.stream === stream }) else { return }
        sessions.bulk?.note(traffic, to: channel.destination, beside: sessions.besideBulk)
    }

    /// A session shows no mesh credential, and has timeouts of its own.
    func use(_ context: TLSContext, _ settings: ConnectionSettings) {}

    func release() { sessions.disconnect() }
    func reset() { sessions.disconnect() }
}

/// A stream that somebody else keeps.
private struct WeakStream {
    private(set) weak var stream: ByteStream?
    let destination: Authority

    init(_ stream: ByteStream, to destination: Authority) {
        self.stream = stream
        self.destination = destination
    }
}

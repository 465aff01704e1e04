import H2Transport
import Logging
import MeshPolicy
import Platform
import Streams

/// A port on which the peer's node listens for this side (docs/protocol.md, 2.12): a stream to the node in which HTTP/2
/// runs the other way round, with a request for each connection that it accepts. Confined to its loop.
///
/// ```
///   this side ── CONNECT listen.bootstrap:8080 ──→ the peer's node: listens
///   this side ←── HTTP/2: CONNECT, one for each connection ── the peer's node
/// ```
///
/// It goes on as long as that stream does, which outlives its path where both sides can do that.
final class NodeListening {
    /// Called for each connection there: connects to where it is to lead.
    typealias Dial = (@escaping (Result<Socket, StreamError>) -> Void) -> Void

    /// Where it listens, as the node says.
    let place: String
    private let logger: Logger
    private let dial: Dial
    /// nil: the other side has let go in order.
    private let onEnd: (NodeListening, StreamError?) -> Void
    private var connection: H2Connection?
    private(set) var streamCount = 0
    /// Itself, while it is let go: what was accepted goes on.
    private var parting: NodeListening?

    /// - Parameters:
    ///   - stream: What the node has answered by: nothing was read from it.
    ///   - onEnd: Called once, on the loop, when the node listens no more by itself.
    init(
        over stream: ByteStream,
        at place: String,
        settings: ConnectionSettings,
        logger: Logger,
        dial: @escaping Dial,
        onEnd: @escaping (NodeListening, StreamError?) -> Void
    ) throws(StreamError) {
        self.place = place
        self.logger = logger
        self.dial = dial
        self.onEnd = onEnd
        connection = try H2Connection(over: stream, role: .server, configuration: .inside(settings), delegate: self)
    }

    /// Has the node listen no more; what it has accepted goes on.
    func leave() {
        guard let connection, !connection.isClosed else { return }
        parting = self
        connection.drain(deadline: nil)
    }

    /// Ends it with all that it carries.
    func cut(_ reason: StreamError) {
        let connection = connection
        self.connection = nil
        connection?.delegate = nil
        connection?.abort(reason)
    }

    private func ended(_ reason: StreamError?) {
        let wasLeft = parting != nil
        connection = nil
        parting = nil
        if !wasLeft { onEnd(self, reason) }
    }
}

extension NodeListening: H2ConnectionDelegate {
    func connection(_ connection: H2Connection, received request: PendingConnect) {
        streamCount += 1
        dial { [self] result in
            switch result {
            case .success(let socket):
                guard let stream = request.accept() else {
                    streamCount -= 1
                    return socket.reset(StreamError(.closed, "the client has gone"))
                }
                Relay(stream, socket) { [self] result in
                    streamCount -= 1
                    if let failure = result.failure { logger.warning("stream from \(place) cut: \(failure)") }
                }.start()
            case .failure(let error):
                streamCount -= 1
                logger.warning("no connection for a client of \(place): \(error)")
                request.reject(ConnectRejection(error))
            }
        }
    }

    /// The node stops, and another process may have taken its place: it is asked again, while what was accepted goes
    /// on.
    func connectionIsDraining(_ connection: H2Connection) {
        guard parting == nil else { return }
        parting = self
        onEnd(self, StreamError(.draining, "the node listens no more"))
    }

    func connection(_ connection: H2Connection, closed reason: StreamError?) {
        guard self.connection === connection else { return }
        ended(reason)
    }
}

extension PeerPaths {
    /// Has the peer's node listen for this side, over whichever path of the mesh is in use.
    ///
    /// - Parameters:
    ///   - host: On which addresses: `localhost`, empty for all of them, or one.
    ///   - completion: Called once, on the loop, with a stream that nothing was read from, and where the node listens.
    func askToListen(
        host: String,
        port: UInt16,
        completion: @escaping (Result<(stream: ByteStream, place: String), StreamError>) -> Void
    ) {
        let destination: Authority
        do throws(AddressError) {
            guard port > 0 else { throw AddressError("the node of \(access.name) chooses no port: name one") }
            destination = try Authority(host: PeerListening.host, port: port)
        } catch {
            let failure = StreamError(.badRequest, error.message)
            return loop.later { completion(.failure(failure)) }
        }
        let name = access.name
        // What an SSH server leads there, if anything, is no node.
        let permits = { (path: PathID) -> StreamError? in
            path.transport == .ssh ? StreamError(.unreachable, "path ssh leads to no node of \(name)") : nil
        }
        let headers: HeaderFields = [PeerListening.field: host.isEmpty ? "*" : host]
        openStream(to: destination, headers: headers, permits: permits) { result in
            switch result {
            case .success(let opened):
                let stream = opened.stream
                let response =
                    (stream as? H2Stream)?.response ?? (stream as? ResumableStream)?.response
                    ?? BridgedFacts(of: stream)?.response
                guard let place = response?.headers[PeerListening.field] else {
                    stream.reset(StreamError(.closed, "nobody listens there"))
                    let reason = "\(name) answered for \(destination), and does not listen: \(Self.older(name))"
                    return completion(.failure(StreamError(.protocolViolation, reason)))
                }
                completion(.success((stream, Printable.clean(place, limit: 80))))
            case .failure(let error):
                guard error.isOfNode, !PeerListening.isRefusal(error.message) else {
                    return completion(.failure(error))
                }
                completion(.failure(StreamError(error.code, "\(error.message) (\(Self.older(name)))")))
            }
        }
    }

    private static func older(_ name: String) -> String {
        "a node of an earlier release does not listen for others: `bootstrap enroll \(name)` brings this one"
    }
}

extension StreamError {
    /// A node has answered: it is there, and asking again would not help.
    var isOfNode: Bool { message.contains(" answered ") }
}

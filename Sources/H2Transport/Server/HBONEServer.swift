public import Logging
import MeshIdentity
import Platform
public import Streams

/// Serves HBONE on accepted connections: mutual TLS, HTTP/2, and a call for each tunnel that a verified peer asks for.
/// Confined to its event loop; a node has one for each loop.
///
/// ```
///   accept ── TLS handshake ──→ H2Connection ── CONNECT ──→ PendingConnect ── accept() ──→ H2Stream
/// ```
///
/// It decides nothing: whoever answers the ``PendingConnect`` sees the peer's identity, the destination and the
/// metadata.
public final class HBONEServer {
    /// What the server grants its clients.
    public struct Configuration: Hashable, Sendable {
        /// The settings of each connection.
        public var http2 = H2Configuration.defaults
        /// Connections that are still in their TLS handshake. With one more the oldest of the largest source is closed,
        /// by IPv4 /24 and IPv6 /48: whoever has not proved an identity must not cost much, nor keep others out.
        public var handshakesInProgress = 256
        /// The same for one IPv4 address or IPv6 /64: with one more its own oldest is closed.
        public var handshakesPerAddress = 64
        /// Connections in all. Shortly before there are so many, clients that have shown no certificate and have no
        /// stream make room, the oldest first.
        public var connections = 10_000

        /// The defaults.
        public init() {}

        /// What is used where nothing else is asked for.
        public static var defaults: Configuration { Configuration() }
    }

    /// Where the server lives: every method is called here.
    public let loop: EventLoop
    /// What new connections get; those that stand keep theirs.
    package private(set) var configuration: Configuration
    /// The credential and the trust that new connections get; those that stand keep theirs, unless their peer's
    /// certificate is revoked in the new one, or its trust domain is gone: they are cut.
    public var context: TLSContext {
        didSet {
            guard !context.trust.hasSameObjections(as: oldValue.trust) else { return }
            forEachConnection { $0.end(ifRevokedIn: context.trust) }
        }
    }
    /// Handshakes that failed or were cut off.
    package private(set) var failedHandshakes = 0
    /// Connections closed before their handshake was over because of ``Configuration``'s limits.
    package private(set) var refusedConnections = 0
    /// Of those, the ones because of ``Configuration/handshakesPerAddress``.
    package private(set) var refusedByAddress = 0

    /// Takes over the connection of a client that asked for roles to be swapped (ALPN ``ReverseProtocol``): it serves,
    /// and this side opens the streams. nil: nobody does.
    package var onReverse: ((TLSStream) -> Void)?

    private let logger: Logger
    /// For what whoever can connect causes.
    private let peerLog: PeerLog
    private let onRequest: (PendingConnect) -> Void
    private var handshakes: [HandshakeSlots.ID: TLSStream] = [:]
    private var slots = HandshakeSlots()
    private var connections: [ObjectIdentifier: H2Connection] = [:]
    /// Of those, the ones whose clients have proved nothing, the oldest first; some of them have gone.
    private var strangers: ContiguousArray<ObjectIdentifier> = []
    private var oldestStranger = 0
    /// Of all, the ones that this side has dialled: who is told of their lives.
    private var dialled: [ObjectIdentifier: DialledHandler] = [:]
    private var isDraining = false
    private var isClosed = false
    private var drained: (() -> Void)?

    /// - Parameters:
    ///   - loop: Where it lives.
    ///   - context: A server context.
    ///   - configuration: What clients are granted.
    ///   - logger: Told of connections, and of handshakes that failed.
    ///   - onRequest: Called on the loop for each request; it answers now or later.
    /// - Throws: ``Streams/StreamError`` when the configuration is not valid.
    public init(
        on loop: EventLoop,
        context: TLSContext,
        configuration: Configuration = .defaults,
        logger: Logger,
        onRequest: @escaping (PendingConnect) -> Void
    ) throws(StreamError) {
        try configuration.http2.validate()
        self.loop = loop
        self.context = context
        self.configuration = configuration
        self.logger = logger
        peerLog = PeerLog(logger, on: loop)
        self.onRequest = onRequest
    }

    /// Takes over other settings for new connections.
    ///
    /// - Throws: ``Streams/StreamError`` when they are not valid; nothing has changed then.
    package func use(_ configuration: Configuration) throws(StreamError) {
        try configuration.http2.validate()
        self.configuration = configuration
    }

    /// Connections that have passed their handshake.
    public var connectionCount: Int { connections.count }

    /// Nobody is connected, and nobody is in a handshake.
    package var isUnused: Bool { connections.isEmpty && handshakes.isEmpty }

    /// Calls `body` with each of them.
    package func forEachConnection(_ body: (H2Connection) -> Void) {
        for connection in Array(connections.values) { body(connection) }
    }

    /// Takes over a connection on which nothing has been read or written: a socket, or any stream that leads to a
    /// client.
    public func accept(_ lower: ByteStream) { accept(lower, from: nil) }

    /// - Parameter origin: For ``H2Connection/origin``.
    package func accept(_ lower: ByteStream, from origin: (any AnyObject & Sendable)?) {
        makeRoom()
        guard !isClosed, configuration.handshakesInProgress > 0, connections.count < configuration.connections else {
            refusedConnections += 1
            return lower.reset(StreamError(.limit, "the server takes no more connections now"))
        }
        let address = (lower as? Socket)?.peerAddress?.address
        let admission = slots.admit(
            address,
            // Of the room for connections, what is left for those that have not shaken hands.
            limit: min(configuration.handshakesInProgress, configuration.connections - connections.count),
            limitEach: configuration.handshakesPerAddress
        )
        let id = admission.id
        let stream = TLSStream(over: lower, context: context, expecting: .anyTrusted)
        handshakes[id] = stream
        let began = loop.now
        switch admission {
        case .free: break
        case .insteadOfOwn(_, let oldest):
            refusedByAddress += 1
            refuse(oldest, "has too many connections in their handshake")
        case .insteadOfLargest(_, let oldest): refuse(oldest, "has made place for another's handshake")
        }
        stream.startHandshake { [weak self] result in
            guard let self else { return stream.reset(StreamError(.closed, "the server is gone")) }
            handshakes[id] = nil
            guard slots.leave(id) else { return }
            switch result {
            case .success(let peer):
                configuration.http2.metrics.countHandshake(.server, nanoseconds: loop.now &- began)
                if peer.applicationProtocol == ReverseProtocol.name {
                    reverse(stream)
                } else {
                    serve(stream, from: origin)
                }
            case .failure(let error):
                failedHandshakes += 1
                configuration.http2.metrics.countHandshake(.server, failure: error)
                // Ports tell nobody apart.
                peerLog.log(
                    .info,
                    "handshake failed",
                    of: address.map { "\($0)" } ?? lower.peerDescription,
                    ["reason": "\(error)"]
                )
                checkDrained()
            }
        }
    }

    private func refuse(_ id: HandshakeSlots.ID, _ reason: String) {
        refusedConnections += 1
        guard let stream = handshakes.removeValue(forKey: id) else { return }
        let error = StreamError(.limit, "\(stream.peerDescription) \(reason)")
        configuration.http2.metrics.countHandshake(.server, failure: error)
        stream.reset(error)
    }

    /// Takes over a connection without TLS, from a proxy that ends it for its clients: who they are, nobody here knows.
    package func acceptClear(_ lower: ByteStream) {
        makeRoom()
        guard !isClosed, connections.count < configuration.connections else {
            refusedConnections += 1
            return lower.reset(StreamError(.limit, "the server takes no more connections now"))
        }
        serve(lower, from: nil)
    }

    /// Whoever costs nothing but a place, and has not said who it is, must not keep others out: it may come again.
    private func makeRoom() {
        let reserve = min(configuration.handshakesInProgress, configuration.connections / 4)
        guard connections.count >= configuration.connections - reserve else { return }
        // Who has a stream is passed over, a few at a time.
        for _ in 0..<min(16, strangers.count - oldestStranger) {
            let id = strangers[oldestStranger]
            oldestStranger += 1
            guard let connection = connections[id], connection.peer == nil else { continue }
            guard connection.streamCount == 0 else {
                strangers.append(id)
                continue
            }
            peerLog.log(.info, "has made room", of: connection.remoteAddress?.address.map { "\($0)" } ?? "a proxy")
            connection.close()
            break
        }
        forgetStrangers()
    }

    /// Of those that have gone nothing is kept for long.
    private func forgetStrangers() {
        guard strangers.count > 64 + 2 * connections.count || oldestStranger > 64 + connections.count else { return }
        strangers.removeFirst(oldestStranger)
        oldestStranger = 0
        strangers.removeAll { connections[$0].map { $0.peer != nil } ?? true }
    }

    private func reverse(_ stream: TLSStream) {
        if !isClosed, let onReverse {
            onReverse(stream)
        } else {
            stream.reset(StreamError(.draining, "the server stops"))
        }
        checkDrained()
    }

    /// What becomes of a connection that this side has dialled.
    package enum DialledEvent {
        /// The peer speaks HTTP/2; told once or more often.
        case settled
        /// The peer opens no more streams, or must not: those that are open go on.
        case draining
        /// Another one should take its place, and this one then be retired.
        case tooOld
        /// nil: nothing was lost.
        case closed(StreamError?)
    }

    package typealias DialledHandler = (H2Connection, DialledEvent) -> Void

    /// Serves a peer that this side has dialled, because it cannot be dialled itself: after the TLS handshake (ALPN
    /// ``ReverseProtocol``) the roles are swapped. The connection counts as any other.
    ///
    /// - Parameters:
    ///   - stream: Its handshake is done, and nothing has been read or written.
    ///   - handler: Told, on the loop, what becomes of it; perhaps of its end before this returns.
    /// - Returns: nil where it has ended already.
    package func serve(dialled stream: TLSStream, _ handler: @escaping DialledHandler) -> H2Connection? {
        serve(stream, from: nil, handler)
    }

    @discardableResult
    private func serve(
        _ stream: ByteStream,
        from origin: (any AnyObject & Sendable)?,
        _ handler: DialledHandler? = nil
    ) -> H2Connection? {
        guard !isClosed else {
            stream.reset(StreamError(.draining, "the server stops"))
            return nil
        }
        do throws(StreamError) {
            let connection = try H2Connection(
                over: stream,
                role: .server,
                configuration: configuration.http2,
                delegate: self
            )
            connection.origin = origin
            connections[ObjectIdentifier(connection)] = connection
            if connection.peer == nil, handler == nil {
                strangers.append(ObjectIdentifier(connection))
                forgetStrangers()
            }
            if let handler {
                connection.isReversed = true
                dialled[ObjectIdentifier(connection)] = handler
            }
            // Revoked while the handshake ran, which had the trust of its beginning.
            if connection.end(ifRevokedIn: context.trust) { return nil }
            // Whoever came late is told to go elsewhere in order, not by a reset: what it asked for meanwhile is
            // served.
            if isDraining { connection.drain(deadline: nil) }
            logger.debug("connected", metadata: ["peer": "\(stream.peerDescription)"])
            return connection
        } catch {
            stream.reset(error)
            checkDrained()
            return nil
        }
    }

    /// Takes no more streams once every client had the time to learn of it (GOAWAY in two steps), waits for those that
    /// are open, and cuts what is left at `deadline`. Connections that are handed to it all the same are treated alike.
    /// Called again, it can only shorten the time. `completion` is called on the loop.
    ///
    /// - Parameters:
    ///   - deadline: nil: streams may go on for as long as they last.
    ///   - completion: Called once, when no connection is left.
    public func drain(deadline: Duration?, completion: @escaping () -> Void) {
        isDraining = true
        let before = drained
        drained = {
            before?()
            completion()
        }
        for connection in connections.values { connection.drain(deadline: deadline) }
        if let deadline {
            LoopTimer(on: loop) { [weak self] in self?.abort() }.schedule(after: deadline)
        }
        loop.later { self.checkDrained() }
    }

    /// Cuts every connection at once, without a word to its peer.
    public func abort() {
        close()
        for connection in connections.values { connection.abort(StreamError(.closed, "the server was closed")) }
    }

    /// Cuts every stream, and tells the peers of connections without any to go.
    public func close() {
        isDraining = true
        isClosed = true
        let reason = StreamError(.closed, "the server was closed")
        for stream in handshakes.values { stream.reset(reason) }
        handshakes = [:]
        for connection in connections.values {
            if connection.streamCount == 0 { connection.close() } else { connection.abort(reason) }
        }
    }

    private func checkDrained() {
        guard isDraining, connections.isEmpty, handshakes.isEmpty, let drained else { return }
        self.drained = nil
        drained()
    }
}

extension HBONEServer: H2ConnectionDelegate {
    package func connection(_ connection: H2Connection, received request: PendingConnect) {
        onRequest(request)
    }

    package func connectionHasCapacity(_ connection: H2Connection) { tell(connection, .settled) }

    package func connectionIsDraining(_ connection: H2Connection) { tell(connection, .draining) }

    package func connectionIsTooOld(_ connection: H2Connection) {
        if dialled[ObjectIdentifier(connection)] == nil { connection.retire() } else { tell(connection, .tooOld) }
    }

    private func tell(_ connection: H2Connection, _ event: DialledEvent) {
        dialled[ObjectIdentifier(connection)]?(connection, event)
    }

    package func connection(_ connection: H2Connection, closed reason: StreamError?) {
        connections[ObjectIdentifier(connection)] = nil
        dialled.removeValue(forKey: ObjectIdentifier(connection))?(connection, .closed(reason))
        logger.debug(
            "disconnected",
            metadata: ["peer": "\(connection.peerDescription)", "reason": "\(reason?.message ?? "clean")"]
        )
        checkDrained()
    }
}

/// Connections whose roles are swapped after the TLS handshake: the client of TLS is the server of HTTP/2. By its ALPN
/// name both sides know that they mean it.
package enum ReverseProtocol {
    package static let name = "h2r"
}

import H2Transport
import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// A port of this machine on which the node listens for a peer (docs/protocol.md, 2.12): each connection to it becomes
/// a request over HTTP/2 inside of the stream that the peer has asked by, with this side as the client. Confined to its
/// loop.
///
/// ```
///   peer ── CONNECT listen.bootstrap:8080 ─→ policy ─→ bound ─→ 200 ─→ HTTP/2, this side the client
///   a program ─→ accepted ─→ CONNECT ─→ the peer connects ─→ 200 ─→ relay
/// ```
///
/// It ends with that stream, and when policy does not allow it any more.
final class PeerListener {
    /// Where it listens.
    let place: Place
    private let carrier: StreamCarrier
    private let plan: StreamPlan
    private let peer: SPIFFEID
    private var listener: Listener?
    private var stream: ByteStream?
    private var connection: H2Connection?
    /// Accepted, and not asked for yet: the peer has not said how many it takes, or takes no more now.
    private var waiting: ArraySlice<Socket> = []
    private var ticket: StreamTicket?
    private var moved: (out: UInt64, back: UInt64) = (0, 0)
    private var isOver = false

    private typealias Known = (peer: SPIFFEID, id: ObjectIdentifier, listener: LoopBound<PeerListener>)
    /// Those of this process, on all loops: a port is there once.
    private static let all = Lock<[String: Known]>([:])
    /// Connections that may wait to be asked for.
    private static let mostWaiting = 256
    /// Ports of one event loop.
    private static let most = 256

    /// Where the node is to listen: what the peer has asked for, and what comes of it.
    struct Place: CustomStringConvertible {
        let interface: PeerListening.Interface
        let address: SocketAddress

        var description: String { address.description }
    }

    /// - Parameters:
    ///   - wanted: What the request says of the addresses.
    ///   - allowed: By the endpoint that allows it.
    /// - Throws: ``StreamError`` that the peer is told of.
    static func place(_ wanted: String?, within allowed: Authority) throws(StreamError) -> Place {
        guard let wanted, let interface = PeerListening.Interface(wanted) else {
            throw StreamError(.badRequest, "'\(PeerListening.field)' is localhost, * or an address")
        }
        guard let address = address(of: interface, within: allowed) else {
            throw StreamError(
                .denied,
                "not on \(wanted): 'address' of the endpoint for \(PeerListening.host) there says on what beside loopback"
            )
        }
        return Place(interface: interface, address: address)
    }

    /// nil: that is more than is allowed.
    private static func address(of interface: PeerListening.Interface, within allowed: Authority) -> SocketAddress? {
        interface.address(within: allowed.address ?? .loopbackIPv4).map { SocketAddress($0, port: allowed.port) }
    }

    /// Begins to listen; what comes waits for ``serve(over:_:)``.
    ///
    /// - Parameter plan: Of the request.
    /// - Throws: ``StreamError`` that the peer is told of.
    init(
        at place: Place,
        for plan: StreamPlan,
        of peer: SPIFFEID,
        _ carrier: StreamCarrier
    ) throws(StreamError) {
        guard carrier.live.connections.values.count(where: { $0 is PeerListener }) < Self.most else {
            throw StreamError(.limit, "the node listens on too many ports for its peers")
        }
        self.carrier = carrier
        self.plan = plan
        self.peer = peer
        self.place = place
        let own = LoopBound(Weak(self), on: carrier.loop)
        listener = try Listener(bind: place.address, on: carrier.loop, options: .programs) { socket in
            own.withValue { own in
                guard let listener = own.value else { return socket.reset(.closed(socket)) }
                listener.accepted(socket)
            }
        }
    }

    private final class Weak {
        weak var value: PeerListener?
        init(_ value: PeerListener) { self.value = value }
    }

    /// Goes on for as long as `stream` does, whose peer has just been answered.
    func serve(over stream: ByteStream, _ ticket: StreamTicket?) throws(StreamError) {
        self.stream = stream
        self.ticket = ticket
        do throws(StreamError) {
            let settings = carrier.snapshot.configuration.connections
            connection = try H2Connection(over: stream, role: .client, configuration: .inside(settings), delegate: self)
        } catch {
            stream.reset(error)
            close()
            throw error
        }
        ticket?.open(over: nil, dialled: nil, peer: nil)
        carrier.live.connections[ObjectIdentifier(self)] = self
        let own = LoopBound(self, on: carrier.loop)
        Self.all.withLock { $0[place.description] = (peer, ObjectIdentifier(self), own) }
        carrier.peerLog.log(.notice, "has this node listen", of: peer.description, ["on": "\(place)"])
    }

    /// Has one at `place` make room whose client is gone without a word: the same peer asks again, before the time is
    /// over in which the client could have come back.
    ///
    /// - Parameter completion: Told whether it has; not at all where there is none.
    /// - Returns: Whether there is one.
    static func makeRoom(
        at place: SocketAddress,
        for peer: SPIFFEID,
        _ completion: LoopBound<(Bool) -> Void>
    ) -> Bool {
        guard let entry = all.withLock({ $0[place.description] }), entry.peer == peer else { return false }
        return entry.listener.loop.submitIfRunning {
            let hasLeft = entry.listener.withValue { $0.makeRoom() }
            completion.loop.submit { completion.withValue { $0(hasLeft) } }
        }
    }

    private func makeRoom() -> Bool {
        if isOver { return true }
        guard let stream = stream as? ResumableStream, !stream.isAttached else { return false }
        cut(StreamError(.closed, "its client asks again"))
        return true
    }

    private func accepted(_ socket: Socket) {
        guard !isOver, connection?.isDraining != true, waiting.count < Self.mostWaiting else {
            return socket.reset(StreamError(.limit, "the peer takes no more connections"))
        }
        waiting.append(socket)
        ask()
    }

    /// For what waits, as many as the peer takes.
    private func ask() {
        guard let connection else { return }
        while connection.availableStreams > 0, let socket = waiting.popFirst() {
            let source = socket.peerAddress?.address ?? .loopbackIPv4
            let headers: HeaderFields = ["forwarded": HopTrail().field(from: source, through: plan.own)]
            connection.openStream(ConnectRequest(authority: place.description, headers: headers)) { [self] result in
                switch result {
                case .success(let stream): join(socket, stream)
                case .failure(let failure):
                    carrier.peerLog.log(
                        .info,
                        "does not take a connection",
                        of: peer.description,
                        ["on": "\(place)", "reason": "\(failure.error.message)"]
                    )
                    socket.reset(failure.error)
                }
            }
        }
    }

    private func join(_ socket: Socket, _ stream: H2Stream) {
        Relay(socket, stream) { [self] result in
            moved.out += result.bytesForward
            moved.back += result.bytesBackward
        }.start()
    }

    /// Listens no more. What was accepted goes on where the peer has been asked.
    func close() {
        listener?.close()
        listener = nil
        let left = waiting
        waiting = []
        for socket in left { socket.reset(StreamError(.closed, "nobody listens any more")) }
    }

    private func end(_ reason: StreamError?) {
        guard !isOver else { return }
        isOver = true
        close()
        carrier.live.connections[ObjectIdentifier(self)] = nil
        Self.all.withLock { if $0[place.description]?.id == ObjectIdentifier(self) { $0[place.description] = nil } }
        ticket?.end(sent: moved.back, received: moved.out, failure: reason)
        carrier.peerLog.log(
            .notice,
            "has this node listen no more",
            of: peer.description,
            ["on": "\(place)", "reason": "\(reason?.message ?? "it was let go in order")"]
        )
    }
}

extension PeerListener: H2ConnectionDelegate {
    func connectionHasCapacity(_ connection: H2Connection) { ask() }

    func connectionIsDraining(_ connection: H2Connection) { close() }

    func connection(_ connection: H2Connection, closed reason: StreamError?) { end(reason) }
}

extension PeerListener: DrainingConnection {
    func drain() {
        close()
        connection?.drain(deadline: nil)
    }

    func rulesChanged() {
        let asked = (stream as? ResumableStream)?.movedBy ?? plan.request
        let now = carrier.snapshot.planner.plan(asked.withoutHops.at(WallClock.system.seconds))
        guard let objection = objection(now.outcome) else { return }
        carrier.logger.notice(
            "policy changed: \(place) is not listened on any more",
            metadata: ["reason": "\(objection)"]
        )
        cut(StreamError(.denied, "policy changed"))
    }

    /// Why it must not go on to listen where it does; nil: it may.
    private func objection(_ outcome: StreamPlan.Outcome) -> String? {
        switch outcome {
        // That another address is allowed beside loopback is nothing to who listens there.
        case .listen(let allowed):
            Self.address(of: place.interface, within: allowed) == place.address ? nil : "another address is allowed"
        case .refused(let refusal): refusal.description
        case .dial, .peer: "no endpoint allows it"
        }
    }

    func cut(_ reason: StreamError) {
        close()
        connection?.abort(reason)
    }
}

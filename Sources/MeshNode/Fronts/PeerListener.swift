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
    /// Its number among the node's; nil: nothing is bound.
    private var port: UInt64?

    /// Connections that may wait to be asked for.
    private static let mostWaiting = 256

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
        self.carrier = carrier
        self.plan = plan
        self.peer = peer
        self.place = place
        let port = try carrier.ports.take(place.address, for: peer)
        self.port = port
        let own = LoopBound(Weak(self), on: carrier.loop)
        var options = ListenerOptions.programs
        // Every address is what was asked for, whatever the machine makes of `::`.
        if let address = place.address.address, address.isUnspecified, !address.isIPv4 { options.isIPv6Only = false }
        do throws(StreamError) {
            listener = try Listener(bind: place.address, on: carrier.loop, options: options) { socket in
                own.withValue { own in
                    guard let listener = own.value else { return socket.reset(.closed(socket)) }
                    listener.accepted(socket)
                }
            }
        } catch {
            carrier.ports.release(port)
            throw error
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
        if let port { carrier.ports.listens(LoopBound(self, on: carrier.loop), on: port) }
        carrier.peerLog.log(.notice, "has this node listen", of: peer.description, ["on": "\(place)"])
    }

    /// Has those of an identity make room for one more whose clients are gone without a word: it asks again, before the
    /// time is over in which they could have come back.
    ///
    /// - Parameters:
    ///   - reason: Why there is no room.
    ///   - completion: Told whether there may be some now; not at all where nobody was asked.
    /// - Returns: Whether there is one to ask.
    static func makeRoom(
        at place: SocketAddress,
        for peer: SPIFFEID,
        among ports: PeerPorts,
        _ reason: StreamError,
        _ completion: LoopBound<(Bool) -> Void>
    ) -> Bool {
        let listeners = ports.inTheWay(of: place, for: peer, reason)
        guard !listeners.isEmpty else { return false }
        makeRoom(listeners[...], isOneEnough: reason.code == .limit, hasRoom: false, completion)
        return true
    }

    /// Asks one after the other, each on its own loop.
    private static func makeRoom(
        _ listeners: ArraySlice<LoopBound<PeerListener>>,
        isOneEnough: Bool,
        hasRoom: Bool,
        _ completion: LoopBound<(Bool) -> Void>
    ) {
        guard let next = listeners.first, !(hasRoom && isOneEnough) else {
            return completion.loop.submit { completion.withValue { $0(hasRoom) } }
        }
        let rest = listeners.dropFirst()
        let isRunning = next.loop.submitIfRunning {
            let hasLeft = next.withValue { $0.makeRoom() }
            makeRoom(rest, isOneEnough: isOneEnough, hasRoom: hasRoom || hasLeft, completion)
        }
        if !isRunning { makeRoom(rest, isOneEnough: isOneEnough, hasRoom: hasRoom, completion) }
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
        if let port { carrier.ports.release(port) }
        port = nil
        let left = waiting
        waiting = []
        for socket in left { socket.reset(StreamError(.closed, "nobody listens any more")) }
    }

    private func end(_ reason: StreamError?) {
        guard !isOver else { return }
        isOver = true
        close()
        carrier.live.connections[ObjectIdentifier(self)] = nil
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

import H2Transport
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// `h2-reverse`: streams over connections that the peer holds to this node. It dials nothing: while the peer holds
/// none, streams fail at once. Confined to its event loop.
final class HeldSource: PathSource, HeldWatcher {
    var events = PathEvents()
    private(set) var peer: SPIFFEID?
    /// Told of a connection that does not answer: streams that can go on elsewhere need not wait for it.
    var onDoubt: ((_ connection: UInt64, _ reason: String) -> Void)?
    /// Told when connections have come or gone and there is one that takes streams: those on others, which take none
    /// any more, can go on over it.
    var onSuccession: (() -> Void)?

    private let connections: HeldConnections
    /// The peer is one of these.
    private let identities: [SPIFFEID]
    private var isUp = false
    private var isEstablishing = false
    private var opening = 0
    private var lastAuthority: (authority: Authority, text: String)?

    init(_ connections: HeldConnections, from identities: [SPIFFEID]) {
        self.connections = connections
        self.identities = identities
        connections.watch(self)
    }

    var streamCount: Int { max(opening, connections.streamCount(identities)) }
    var roundTripTime: Duration? { connections.roundTripTime(identities) }

    func establish() {
        guard !isEstablishing else { return }
        isEstablishing = true
        connections.loop.later { [weak self] in
            guard let self else { return }
            isEstablishing = false
            isUp = connections.has(identities)
            if isUp { events.up() } else { events.down(nobody, false) }
        }
    }

    /// What says that of a device, here and at a gateway that was asked.
    fileprivate static let lack = "holds no connection to this node"

    private var nobody: StreamError {
        let who = identities.map(\.description).joined(separator: " or ")
        return StreamError(
            .unreachable,
            "\(who) \(Self.lack): on the device, 'reverse' of its node's configuration must name this "
                + "node as a gateway, and its log says why it is not connected"
        )
    }

    func heldChanged(_ identity: SPIFFEID) {
        guard identities.contains(identity) else { return }
        let isHeld = connections.has(identities)
        if isHeld { onSuccession?() }
        guard isHeld != isUp, !isEstablishing else { return }
        isUp = isHeld
        if isHeld { events.up() } else { events.down(nobody, opening > 0) }
    }

    func heldDoubted(_ id: UInt64, of identity: SPIFFEID, _ reason: String) {
        if identities.contains(identity) { onDoubt?(id, reason) }
    }

    func open(
        to authority: Authority,
        headers: HeaderFields,
        completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    ) {
        open(to: authority, of: identities, headers, HeldTurn(.new), completion)
    }

    /// Any of the connections of its identity may lead to the device that has the stream.
    func resume(
        to authority: Authority,
        headers: HeaderFields,
        at place: ResumptionPlace,
        completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    ) {
        guard place.server == nil else { return refuse(place, completion) }
        let owners = place.identity.map { [$0] } ?? identities
        open(
            to: authority,
            of: owners,
            headers,
            HeldTurn(.resumed(place.certificate, process: place.process)),
            completion
        )
    }

    private func open(
        to authority: Authority,
        of owners: [SPIFFEID],
        _ headers: HeaderFields,
        _ turn: HeldTurn,
        _ completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    ) {
        // Its text is made once: most streams to a peer go to one or two places behind it.
        if lastAuthority?.authority != authority { lastAuthority = (authority, authority.description) }
        let text = lastAuthority?.text ?? authority.description
        opening += 1
        let request = ConnectRequest(authority: text, headers: headers)
        connections.open(request, to: owners, turn, nobody: self.nobody) { [self] result in
            opening -= 1
            if case .success(let stream) = result {
                peer = (stream as? H2Stream)?.peer ?? BridgedFacts(of: stream)?.peer
            }
            completion(result)
        }
    }

    /// What is held is the peer's, which knows of its credential by itself.
    func use(_ context: TLSContext, _ settings: ConnectionSettings) {}
    /// It costs this side nothing, and it is the peer's.
    func release() { isUp = false }
    func reset() { isUp = false }
}

extension StreamError {
    /// A gateway has no connection that the device holds: this node, or one that was asked and says so.
    package var isLackOfHeldConnection: Bool { message.contains(HeldSource.lack) }
}

import MeshPolicy
import Platform
import SSHSignal
import Streams

extension PeerPaths {
    /// A connection that is being made.
    struct WeakDial {
        weak var list: DialList?
        /// To the addresses of path `h2`.
        let isDirect: Bool
    }

    func began(_ dial: DialList, isDirect: Bool = false) {
        dials.removeAll { $0.list == nil }
        dials.append(WeakDial(list: dial, isDirect: isDirect))
        dial.start()
    }

    /// Dials the addresses of path `h2` as they are known then.
    func directDialer(_ recorded: [Authority], segmentLimit: Int? = nil) -> TunnelSource.LowerDialer {
        { [weak self, loop, first = settings] completion in
            let addresses = self?.addresses?.dialled ?? recorded
            let dial = Self.dialList(addresses, on: loop, self?.settings ?? first, segmentLimit, for: self, completion)
            guard let self else { return dial.start() }
            dial.check = { [weak self] in self?.addresses?.objection(to: $1, of: $0) }
            dial.onAttempt = { [weak self] in self?.attempted($0, $1, $2) }
            began(dial, isDirect: true)
        }
    }

    private func attempted(_ address: Authority, _ time: Duration, _ error: StreamError?) {
        guard let error else {
            addresses?.connected(address, after: time)
            // No more than are raced: connections that replace others are of no matter here.
            connected = connected.suffix(3) + [(address, loop.now &- time.nanoseconds)]
            return
        }
        addresses?.failed(address, error.message)
    }

    /// A path is up: the peer has proven who it is.
    func proven(_ path: PathID) {
        if let entry = offered.entry(of: path) {
            offered.answered(path)
            if !entry.isProven { onProvenGateway?(entry.told) }
        }
        guard path.transport == .h2, addresses != nil else { return }
        let attempts = connected
        connected = []
        let remote = (source(of: path) as? TunnelSource)?.remoteAddress
        // Of two that were raced, one is the winner.
        guard
            let (address, since) = attempts.first(where: { attempt in
                attempt.address.address == remote?.address && attempt.address.port == remote?.port
            }) ?? attempts.last
        else { return }
        let isNew = addresses?.told.contains { $0.address == address && !$0.isProven } == true
        addresses?.answered(address, after: .nanoseconds(Int64(clamping: loop.now &- since)))
        if isNew { onProven?(address) }
    }

    /// A path could not be established, or was lost.
    ///
    /// - Returns: What that is for the choice among the paths.
    func explained(_ error: StreamError, of path: PathID) -> StreamError {
        if isOffered(path) { return explained(error, ofGateway: path) }
        guard path.transport == .h2, addresses != nil else { return error }
        let attempts = connected.map(\.address)
        connected = []
        var strangers: [Authority] = []
        let isPeer = (source(of: path) as? TunnelSource)?.hadProved == true
        for address in attempts {
            if error.code == .authentication, !isPeer, addresses?.wasAnother(address) == true {
                strangers.append(address)
            } else {
                addresses?.failed(address, error.message)
            }
        }
        guard !strangers.isEmpty else { return error }
        let places = strangers.map(\.description).joined(separator: ", ")
        return StreamError(.unreachable, "another machine answers at \(places), named by the peer: \(error.message)")
    }

    /// Who is not who it was said to be, at a gateway that the peer has named or behind it, refuses nobody: it was the
    /// peer's word only.
    private func explained(_ error: StreamError, ofGateway path: PathID) -> StreamError {
        let isStranger = error.code == .authentication
        if isStranger { offered.wasAnother(path, error.message) } else { offered.failed(path, error.message) }
        // Not while it tells of its end.
        if offered.entry(of: path) == nil { loop.later { [weak self] in self?.remove([path]) } }
        guard isStranger else { return error }
        return StreamError(.unreachable, "\(path), named by the peer: \(error.message)")
    }

    // MARK: Negotiation

    /// What an earlier negotiation has left, or enrolment.
    func takeRecordedGateways() {
        guard !access.gateways.isEmpty else { return }
        addresses?.own = Self.ownAddresses
        takeGateways(access.gateways)
    }

    static var ownAddresses: [IPAddress] { InterfaceAddress.all().filter(\.isOutward).map(\.address) }

    /// The peer says that it is reached through these.
    ///
    /// - Returns: Whether some of them were not known.
    @discardableResult private func takeGateways(_ told: [PeerOffer.Gateway]) -> Bool {
        guard let terms = access.gatewayTerms, let addresses else { return false }
        // One that this side has named itself is a way by its word.
        let told = told.filter { isOffered(OfferedGateways.path(through: $0.address)) }
        let (new, gone) = offered.take(told, on: terms) { addresses.objection(to: $0) }
        remove(gone.map(\.path))
        add(new.map { PathWay($0.path, .gateway($0.gateway, to: terms.home)) })
        return !new.isEmpty
    }

    /// The peer has said where it is reached.
    func take(_ offer: PeerOffer) {
        guard var addresses else { return }
        let own = Self.ownAddresses
        // Who names no transports says nothing of them.
        let isAllowed = offer.transports.isEmpty || offer.transports.contains(Transport.h2.rawValue)
        let new = addresses.take(isAllowed ? offer.candidates : [], own: own)
        self.addresses = addresses
        let hasGateways = takeGateways(isAllowed ? offer.gateways : [])
        let hasMoved = follow(offer)
        let negotiated = NegotiatedAddresses(
            generation: offer.generation,
            new: new,
            known: offer.candidates.count { address in
                !new.contains(address) && addresses.entries.contains { $0.address == address }
            },
            declined: isAllowed
                ? addresses.declined.map { "\($0.address) (\($0.reason))" } : ["any, since it does not allow h2"],
            gateways: access.gatewayTerms == nil
                ? offer.gateways.map(\.address) : offered.entries.map(\.gateway.address),
            declinedGateways: offered.declined.map { "\($0.address) (\($0.reason))" }
        )
        onNegotiated?(negotiated)
        guard !new.isEmpty || hasGateways || hasMoved else { return }
        for dial in dials where dial.isDirect { dial.list?.add(new) }
        // It waits for no pause, which was for other addresses.
        for way in access.ways where way.id.transport == .h2 { source(of: way.id)?.networkChanged(NetworkChange()) }
        tryBetter()
    }

    /// Its HBONE server listens at another port than the record says: so does what leads there over SSH.
    ///
    /// - Returns: Whether it does.
    private func follow(_ offer: PeerOffer) -> Bool {
        guard let port = offer.listenerPort, let channelDialer, channelDialer.port != port else { return false }
        channelDialer.port = port
        return true
    }

    /// What is told to the peer. Of an address that has not proven to be the peer's, nothing but that: not what answers
    /// there instead, nor how fast it is refused.
    func outcome(of offer: PeerOffer?) -> SignalMessage.Outcome {
        let roundTrip = access.ways.first { $0.id.transport == .h2 }.flatMap { source(of: $0.id)?.roundTripTime }
        let best = addresses?.dialled.first
        let tried = (addresses?.told ?? []).map { entry in
            SignalMessage.Trial(
                transport: Transport.h2.rawValue,
                address: "\(entry.address)",
                answered: entry.handshake != nil,
                handshake: entry.handshake.map { Int64($0 / .microseconds(1)) },
                roundTrip: entry.handshake != nil && entry.address == best
                    ? roundTrip.map { Int64($0 / .microseconds(1)) } : nil
            )
        }
        let gateways = offered.entries.map { entry in
            SignalMessage.Trial(
                transport: Transport.h2ViaGateway.rawValue,
                address: "\(entry.gateway.address)",
                answered: entry.isProven && entry.failure == nil
            )
        }
        let reason =
            switch pathInUse?.transport {
            case .h2?: "the best path answers"
            case nil: "no path answers"
            default: "no address has answered with the device's identity"
            }
        return SignalMessage.Outcome(
            generation: offer?.generation,
            tried: tried + gateways,
            chosen: pathInUse?.transport.rawValue,
            reason: reason
        )
    }
}

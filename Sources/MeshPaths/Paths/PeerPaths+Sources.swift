import H2Transport
import Logging
import MeshPolicy
import Platform
import SSHSignal
import Streams

/// What carries the streams of each kind of way, and how it is dialled.
extension PeerPaths {
    /// The one place that knows which kinds of way there are.
    func makeSource(_ way: PathWay, _ context: TLSContext?) -> (any PathSource)? {
        switch way.reach {
        case .ssh: return sessions.map { SSHSource(over: $0) }
        case .held(let identities):
            guard let held else { return nil }
            let source = HeldSource(held, from: identities)
            source.onDoubt = { [weak self] in self?.moveStreams(fromHeld: $0, because: $1) }
            source.onSuccession = { [weak self] in self?.moveStreamsLeftBehind() }
            return source
        case .servers(let servers):
            guard let context else { return nil }
            let transport = way.id.transport
            return ServersSource(
                name: access.name,
                to: servers,
                on: loop,
                logger: logger,
                context: context,
                settings: settings,
                outages: outages
            ) {
                [weak self, loop, expectation = access.expectation] server, context, settings in
                // Its paths are gone: nothing is dialled any more.
                let gone: TunnelSource.LowerDialer = { $0(.failure(StreamError(.closed, "shut down"))) }
                let source = TunnelSource(
                    over: self?.dialer([server]) ?? gone,
                    again: self?.dialer([server], segmentLimit: SocketOptions.smallSegment),
                    as: transport,
                    context: context,
                    expecting: expectation,
                    settings: settings,
                    on: loop
                )
                self?.watch(source)
                return source
            }
        case .proxy:
            guard let context, let proxy = access.proxy else { return nil }
            return ProxiedSource(
                proxy,
                over: dialer(proxy.addresses),
                again: dialer(proxy.addresses, segmentLimit: SocketOptions.smallSegment),
                context: context,
                expecting: access.expectation,
                settings: settings,
                on: loop,
                logger: logger
            )
        case .gateways(let gateways, let single):
            guard let context else { return nil }
            return makeGatewaySource(gateways, single, context)
        case .gateway(let gateway, let home):
            guard let context else { return nil }
            return makeGatewaySource([gateway], nil, home: home, isTold: isOffered(way.id), context)
        case .tunnel, .tunnelOverSSH:
            guard let context else { return nil }
            let source = TunnelSource(
                over: lowerDialer(way.reach),
                again: smallerDialer(way.reach),
                as: way.id.transport,
                context: context,
                expecting: access.expectation,
                settings: settings,
                on: loop
            )
            watch(source)
            watchForLogin(source, way)
            // There the peer has proven itself in the same way a moment ago, which a path on trial elsewhere has to.
            if way.id.transport == .h2OverSSH { source.knowsPeer = { [weak self] in self?.knowsPeer ?? false } }
            return source
        }
    }

    private func watch(_ source: TunnelSource) {
        source.onDoubt = { [weak self] in self?.moveStreams(from: $0, because: $1.message) }
        source.onSuccession = { [weak self] in self?.moveStreamsLeftBehind() }
    }

    /// Where the way around a path goes over SSH, the login is what takes longest; a gateway takes some time, too.
    private func watchForLogin(_ source: TunnelSource, _ way: PathWay) {
        guard sessions != nil || access.gatewayTerms != nil, way.id.transport == .h2 else { return }
        source.onSuspicion = { [weak self] in self?.suspected(way.id) }
        source.preparation = { [weak self] in self?.preparation($0) ?? .zero }
    }

    /// - Parameter isTold: By the peer's word only.
    private func makeGatewaySource(
        _ gateways: [Gateway],
        _ single: Authority?,
        home: Authority? = nil,
        isTold: Bool = false,
        _ context: TLSContext
    ) -> GatewaySource {
        let first = gateways[0].address
        return GatewaySource(
            through: gateways,
            to: single,
            home: home,
            expecting: access.expectation,
            marks: access.marks,
            over: dialer([first], isTold: isTold),
            again: dialer([first], segmentLimit: SocketOptions.smallSegment, isTold: isTold),
            context: context,
            settings: settings,
            on: loop
        ) { [weak self, loop] dial, dialAgain, expectation, context, settings in
            let source = TunnelSource(
                over: dial,
                again: dialAgain,
                as: .h2ViaGateway,
                context: context,
                expecting: expectation,
                settings: settings,
                on: loop
            )
            self?.watch(source)
            return source
        }
    }

    private func connected(_ stream: ByteStream) {
        let isMultipath = (stream as? Socket)?.isMultipath ?? false
        self.isMultipath = isMultipath
        logger.info(
            isMultipath ? "multipath TCP" : "no multipath TCP: plain TCP is used",
            metadata: ["peer": "\(access.name)", "address": "\(stream.peerDescription)"]
        )
    }

    /// - Parameter paths: Told what came of it.
    static func dialList(
        _ addresses: [Authority],
        on loop: EventLoop,
        _ settings: ConnectionSettings,
        _ segmentLimit: Int?,
        for paths: PeerPaths?,
        _ completion: @escaping (Result<ByteStream, StreamError>) -> Void
    ) -> DialList {
        DialList(
            addresses,
            on: loop,
            timeout: settings.connectTimeout,
            segmentLimit: segmentLimit,
            multipath: settings.multipath
        ) { [weak paths] result in
            if settings.multipath, case .success(let stream) = result { paths?.connected(stream) }
            completion(result)
        }
    }

    /// - Parameter isTold: The peer has named them: what a name leads to is asked about before it is dialled.
    private func dialer(
        _ addresses: [Authority],
        segmentLimit: Int? = nil,
        isTold: Bool = false
    ) -> TunnelSource.LowerDialer {
        { [weak self, loop, first = settings] completion in
            let settings = self?.settings ?? first
            let dial = Self.dialList(addresses, on: loop, settings, segmentLimit, for: self, completion)
            if isTold { dial.check = { [weak self] in self?.addresses?.objection(to: $1, of: $0) } }
            if let self { began(dial) } else { dial.start() }
        }
    }

    /// How large the packets of an SSH session are is not for what runs inside it to say.
    private func smallerDialer(_ reach: PathWay.Reach) -> TunnelSource.LowerDialer? {
        guard case .tunnel(let addresses) = reach else { return nil }
        return directDialer(addresses, segmentLimit: SocketOptions.smallSegment)
    }

    private func lowerDialer(_ reach: PathWay.Reach) -> TunnelSource.LowerDialer {
        switch reach {
        case .tunnel(let addresses): return directDialer(addresses)
        case .tunnelOverSSH(let port):
            guard let sessions else { break }
            let dialer = ChannelDialer(to: port, agent: access.agent, over: sessions, on: loop, logger: logger)
            dialer.knowsPeer = { [weak self] in self?.knowsPeer ?? false }
            channelDialer = dialer
            dialer.onRelay = { [weak self] reason in self?.onChange(.relaying(reason: reason)) }
            sessions.onGrowth = { [weak dialer] in dialer?.widen() }
            return { dialer.dial($0) }
        case .ssh, .servers, .proxy, .gateways, .gateway, .held: break
        }
        return { [loop] completion in
            loop.later { completion(.failure(StreamError(.unreachable, "there is no SSH login"))) }
        }
    }
}

package import Platform
package import Streams

/// Finds the way to a destination, for streams that peers ask for and for those of local listeners.
///
/// In this order: addresses that lead nowhere good are refused; the first endpoint that matches says how; a peer's
/// stream to this node's own address goes to loopback, if the configuration names the port; the rest is up to
/// `default`. Routing does not decide who may: ask ``PolicyEngine`` first. Immutable, as the configuration it is made
/// of.
package struct Router: Sendable {
    /// Who wants the stream.
    package enum Origin: Hashable, Sendable {
        /// A node, by CONNECT or the SSH fallback.
        case peer
        /// A local listener, for a program of this machine.
        case local
        /// A local listener, for somebody on another machine. Goes wherever this node goes but to the machine itself:
        /// services that listen there for its own programs are guarded as they are for a peer.
        case remoteUser
    }

    /// Those of the node's own file, which win.
    private let endpoints: EndpointTable
    /// Those of a directory.
    private let shared: EndpointTable
    private let unmatched: MeshRules.Unmatched
    private let policy: PolicyEngine
    private let ownAddresses: Set<IPAddress>
    private let ownNames: Set<String>
    private let forwards: [Authority]
    private let sockets: [MeshRules.OwnSocket]

    /// - Parameters:
    ///   - rules: Endpoints, and the node's own sockets: where its listeners really listen, if `bind` has port 0.
    ///   - policy: Names the ports that peers may be led to on this node.
    ///   - ownAddresses: The addresses of this machine; loopback is known without.
    ///   - ownNames: Normalised host names that mean this machine.
    package init(
        _ rules: MeshRules,
        policy: PolicyEngine,
        ownAddresses: Set<IPAddress>,
        ownNames: Set<String> = ["localhost"]
    ) {
        endpoints = EndpointTable([EndpointBlock(rules.endpoints, ownNames: ownNames)])
        shared = rules.shared
        unmatched = rules.unmatched
        forwards = rules.forwards
        sockets = rules.sockets
        self.policy = policy
        self.ownAddresses = ownAddresses
        self.ownNames = ownNames
    }

    package func route(_ destination: Authority, from origin: Origin) -> Route {
        if destination.host == PeerListening.host { return listening(destination, from: origin) }
        let found = endpoints.firstMatch(destination)
        let match = found ?? shared.firstMatch(destination)
        if let address = destination.address,
            let refusal = Self.refusal(of: address, isNamed: match?.named.has(address) ?? false)
        {
            return refused(refusal, "guard")
        }
        if let match {
            let index = found == nil ? endpoints.count + match.number : match.number
            return route(destination, by: match, index, from: origin)
        }
        if origin == .peer, isOwn(destination) {
            return loopback(destination, why: .thisNode(host: destination.host), endpoint: nil)
        }
        switch unmatched {
        case .deny:
            return refused(
                "no endpoint matches \(destination), and 'default' is deny: add '- match: \"\(destination)\"' with 'hbone' or "
                    + "'direct: true' under 'endpoints'",
                "no endpoint matches; default: deny"
            )
        case .direct:
            if origin == .peer, !policy.names(port: destination.port) {
                return refused(
                    "no endpoint matches \(destination), and for peers 'default: direct' holds only for ports that an ALLOW "
                        + "policy, a listener or an endpoint names: add \(destination.port) to the 'ports' of a policy",
                    "no endpoint matches; port not named"
                )
            }
            if origin == .remoteUser, isOwn(destination), !policy.names(port: destination.port) {
                let why = Route.Cause.thisNode(host: destination.host)
                return refused(Self.portNotNamed(destination.port, why: why), "\(why.description); port not named")
            }
            return direct(
                destination,
                tls: nil,
                why: .words("no endpoint matches; default: direct"),
                endpoint: nil,
                naming: forwards.contains(destination) ? NamedHost(destination, ownNames: ownNames) : NamedHost(),
                from: origin
            )
        }
    }

    /// Whether `address`, which a name of a ``Route/Action/direct(_:tls:)`` resolved to, must not be dialled, and why.
    ///
    /// A name can be made to resolve to anything; this holds what ``route(_:from:)`` guards for addresses against it.
    /// Dial the very address that was asked about.
    ///
    /// - Parameter route: What led to it; nil: nothing that names an address.
    package func refusal(
        dialing address: IPAddress,
        port: UInt16,
        from origin: Origin,
        by route: Route? = nil
    ) -> StreamError? {
        let isNamed = route?.named.has(address) ?? false
        if let refusal = Self.refusal(of: address, isNamed: isNamed) { return StreamError(.denied, refusal) }
        if let refusal = ownRefusal(dialing: address, port: port, from: origin) { return refusal }
        guard address.isLoopback, origin == .local, !isNamed, let route, !route.isThisMachine,
            !route.named.isThisMachine
        else { return nil }
        return StreamError(.denied, Self.loopback(Authority(address: address, port: port), route.reason))
    }

    /// Whether nothing at all must be dialled of what the name of a ``Route/Action/direct(_:tls:)`` resolved to.
    ///
    /// An answer with an address of the internet and one of a network inside is how somebody outside makes a client
    /// reach inside. Where the operator has written the name down, it is the operator's word.
    package func refusal(ofAnswer addresses: [IPAddress], for name: String, by route: Route) -> StreamError? {
        guard addresses.count > 1, !route.named.isExact,
            let inside = addresses.first(where: AddressGuard.isInternal),
            let outside = addresses.first(where: { !AddressGuard.isInternal($0) })
        else { return nil }
        return StreamError(
            .denied,
            "'\(name)' resolves to \(outside) and to \(inside), an address inside, at once: that is refused for a name that "
                + "no endpoint has as it is [\(route.reason)]; add an endpoint with 'match: \(name)' if it is right"
        )
    }

    private func ownRefusal(dialing address: IPAddress, port: UInt16, from origin: Origin) -> StreamError? {
        guard let address = isOwn(address) ? address : address.embeddedIPv4.first(where: isOwn) else { return nil }
        if let what = guarded(address, port) {
            return StreamError(
                .denied,
                "\(Authority(address: address, port: port)) is this node's own \(what): that would be a loop"
            )
        }
        if origin != .local, !policy.names(port: port) {
            return StreamError(.denied, Self.portNotNamed(port, why: .thisNode(host: address.description)))
        }
        return nil
    }

    private func route(
        _ destination: Authority,
        by match: EndpointTable.Found,
        _ index: Int,
        from origin: Origin
    ) -> Route {
        let endpoint = match.endpoint
        let target = endpoint.target(for: destination)
        let why = match.description
        let named = match.named
        if let address = target.address, let refusal = Self.refusal(of: address, isNamed: named.has(address)) {
            return refused("\(why): its address \(refusal)", why, endpoint: index)
        }
        switch endpoint.way {
        case .direct(let tls):
            var route = direct(target, tls: tls, why: .endpoint(why), endpoint: index, naming: named, from: origin)
            route.announces = endpoint.announces
            return route
        case .peer(let peer):
            // One list of endpoints may serve a whole fleet: the one that is this node leads home, not through its own
            // server.
            let isThisNode = peer.servers.contains { server in
                server.address.map { isOwn(server) && guarded($0, server.port) != nil } ?? false
            }
            if isThisNode { return loopback(target, why: .endpointIsThisNode(why), endpoint: index) }
            let route = MeshRoute(peer: peer, authority: target)
            return Route(action: .mesh(route), cause: .endpoint(why), endpoint: index)
        }
    }

    /// Only an endpoint of the node's own file, and none of a pattern, opens a port of its machine.
    private func listening(_ destination: Authority, from origin: Origin) -> Route {
        guard origin == .peer else {
            return refused("a peer has this node listen by \(destination): it leads nowhere", "listening guard")
        }
        guard let match = endpoints.firstMatch(destination), match.endpoint.isForListening,
            case .direct(nil) = match.endpoint.way
        else {
            return refused(
                "no endpoint lets peers have this node listen on port \(destination.port): add '- {match: \"\(destination)\", "
                    + "direct: true}' under 'endpoints'",
                "no endpoint allows listening"
            )
        }
        let address = match.endpoint.target(for: destination).address ?? .loopbackIPv4
        if let what = sockets.first(where: { $0.port == destination.port })?.what {
            return refused(
                "port \(destination.port) is that of this node's own \(what)",
                "loop guard",
                endpoint: match.number
            )
        }
        return Route(
            action: .listen(Authority(address: address, port: destination.port)),
            cause: .endpoint(match.description),
            endpoint: match.number
        )
    }

    private func loopback(_ target: Authority, why: Route.Cause, endpoint: Int?) -> Route {
        let port = target.port
        guard policy.names(port: port) else {
            return refused(Self.portNotNamed(port, why: why), "\(why.description); port not named", endpoint: endpoint)
        }
        var route = direct(
            Authority(address: .loopbackIPv4, port: port),
            tls: nil,
            why: why,
            endpoint: endpoint,
            naming: NamedHost(isThisMachine: true),
            from: .peer
        )
        route.isThisMachine = true
        // An endpoint that is this node may stand for addresses of others, which must not be dialled.
        if let address = target.address, isOwn(target) { route.ownAddress = address }
        return route
    }

    private func direct(
        _ target: Authority,
        tls: DirectTLS?,
        why: Route.Cause,
        endpoint: Int?,
        naming named: NamedHost,
        from origin: Origin
    ) -> Route {
        let address = target.address ?? (ownNames.contains(target.host) ? .loopbackIPv4 : nil)
        if let address, isOwn(target), let what = guarded(address, target.port) {
            return refused(
                "\(target) is this node's own \(what): that would be a loop",
                "loop guard",
                endpoint: endpoint
            )
        }
        // What listens there is for programs that ask for it themselves.
        if let address, address.isLoopback, origin == .local, !named.isThisMachine, !named.has(address) {
            return refused(Self.loopback(target, why.description), "loopback guard", endpoint: endpoint)
        }
        var route = Route(action: .direct(target, tls: tls), cause: why, endpoint: endpoint)
        route.named = named
        return route
    }

    private func refused(_ message: String, _ reason: String, endpoint: Int? = nil) -> Route {
        Route(action: .refused(StreamError(.denied, message)), cause: .words(reason), endpoint: endpoint)
    }

    private static func portNotNamed(_ port: UInt16, why: Route.Cause) -> String {
        "\(why.description), and nothing in its configuration names port \(port): add an ALLOW policy with 'ports: [\(port)]'"
    }

    private func isOwn(_ authority: Authority) -> Bool {
        guard let address = authority.address else { return ownNames.contains(authority.host) }
        return isOwn(address)
    }

    /// Whether this machine has the address.
    func isOwn(_ address: IPAddress) -> Bool { address.isLoopback || ownAddresses.contains(address) }

    /// What of this node listens at an own `address` and `port`.
    private func guarded(_ address: IPAddress, _ port: UInt16) -> String? {
        sockets.first { $0.port == port && ($0.address == address || $0.address.isUnspecified) }?.what
    }

    private static func refusal(of address: IPAddress, isNamed: Bool) -> String? {
        if let problem = AddressGuard.impossible(address) {
            return "\(address) is \(problem), which is never a destination"
        }
        guard !isNamed, let problem = AddressGuard.restricted(address) else { return nil }
        return "\(address) is \(problem), which is a destination only where an endpoint names that very address"
    }

    private static func loopback(_ target: Authority, _ reason: String) -> String {
        "\(target) is loopback, which is dialled only where an endpoint or a 'forwardTo' names it [\(reason)]: add an "
            + "endpoint with 'address: \"\(target)\"' if it is meant"
    }
}

package import MeshIdentity
package import MeshPaths
package import MeshPolicy
package import Platform
package import SSHSignal

extension NodeConfiguration {
    /// How a destination is reached: one element of `endpoints`.
    package struct Endpoint: Hashable, Sendable {
        package var match: EndpointMatch
        /// What `:authority` (or `x-tun`) carries; `nil`: the destination itself.
        package var address: Authority?
        /// Where its HBONE servers listen, any of which will do; empty: only ``direct`` or ``ssh`` lead there.
        package var hbone: [Authority]
        /// The peer is one of these; empty: any of the node's own trust domain and namespace.
        package var identities: [SPIFFEID]
        /// The label `tun`: an inner mTLS connection through an untrusted proxy; `nil`: plain CONNECT.
        package var tunnel: TunnelMethod?
        /// How the proxy of ``tunnel`` is verified; nil: by the first host of ``hbone`` and the system's roots.
        package var proxy: DirectTLS?
        /// Bearer tokens for the proxy; nil: it asks for none.
        package var token: ProxyTokenSource?
        /// Gateways on the way, nearest first.
        package var via: [Authority]
        /// Who the gateways are: each one of these, or in the order of several; empty: any of the node's own trust
        /// domain and namespace.
        package var viaIdentities: [SPIFFEID] = []
        /// The peer holds connections to this node, which carry the streams.
        package var reverse = false
        /// Egress: dialled without HBONE.
        package var direct: Bool
        /// TLS added to a ``direct`` connection.
        package var tls: DirectTLS?
        /// The header of the PROXY protocol that a ``direct`` connection begins with.
        package var announces: ProxyVersion?
        /// The SSH server through which the fallback goes.
        package var ssh: SSHAccess?
        package var path: PathPreference
        /// A filter may see streams that come from one peer and go on to this one.
        package var letsFiltersSee = false
        /// Its streams outlive their path, where its node can do that.
        package var resumable = false
        package var position: SourcePosition?
        /// Only the host of ``address`` is asked for, at the destination's own port.
        package var keepsPort = false
        /// What it comes from, where that is not the node's own file.
        package var source: String?

        package init(
            match: EndpointMatch,
            address: Authority? = nil,
            hbone: [Authority] = [],
            identities: [SPIFFEID] = [],
            tunnel: TunnelMethod? = nil,
            token: ProxyTokenSource? = nil,
            via: [Authority] = [],
            direct: Bool = false,
            tls: DirectTLS? = nil,
            ssh: SSHAccess? = nil,
            path: PathPreference = .automatic,
            position: SourcePosition? = nil
        ) {
            self.match = match
            self.address = address
            self.hbone = hbone
            self.identities = identities
            self.tunnel = tunnel
            self.token = token
            self.via = via
            self.direct = direct
            self.tls = tls
            self.ssh = ssh
            self.path = path
            self.position = position
        }
    }

    /// The request that opens a stream through an untrusted proxy.
    package enum TunnelMethod: String, CaseIterable, Hashable, Sendable {
        case connect = "CONNECT"
        case post = "POST"
    }

    /// An SSH login on, or next to, the machine of an endpoint.
    package struct SSHAccess: Hashable, Sendable {
        /// `[user@]host[:port]`, or a `Host` alias of ``config``.
        package var destination: Destination
        /// Private key; `nil`: the agent, then the usual files.
        package var identityFile: String?
        /// `nil`: the user's own.
        package var knownHosts: String?
        /// ssh_config(5) file; `nil`: the user's own.
        package var config: String?
        /// SSH sessions that each event loop may have with the server at once, `1...16`; the second and later ones only
        /// where the windows of those before are the limit.
        package var sessions: Int
        /// What makes the connections.
        package var engine: SSHEngine

        package init(
            destination: Destination,
            identityFile: String? = nil,
            knownHosts: String? = nil,
            config: String? = nil,
            sessions: Int = PeerAccess.defaultSessions,
            engine: SSHEngine = .automatic
        ) {
            self.engine = engine
            self.sessions = sessions
            self.destination = destination
            self.identityFile = identityFile
            self.knownHosts = knownHosts
            self.config = config
        }
    }
}

extension NodeConfiguration.Endpoint {
    /// What is read again when it has changed.
    var watchedFiles: [String] {
        if let files = proxyTLS?.files { return files.roots.map { [$0] } ?? [] }
        guard let tls else { return [] }
        let shown = tls.credential.map { ["\($0)/key.pem", "\($0)/cert-chain.pem"] } ?? []
        return (tls.roots.map { [$0] } ?? []) + shown
    }

    /// Who gateway `index` of ``via`` must be.
    func gatewayPeer(_ index: Int) -> Peer {
        let isOneEach = via.count > 1 && viaIdentities.count == via.count
        return Peer(
            id: PeerID("\(via[index])"),
            candidates: [],
            identities: isOneEach ? [viaIdentities[index]] : viaIdentities
        )
    }

    /// The only destination that it is for, as the next node is asked for it; nil: there may be many.
    var single: Authority? {
        if let address, !keepsPort { return address }
        guard case .exact(let host) = match.host, let port = match.port else { return nil }
        return try? Authority(host: address?.host ?? host, port: port)
    }

    /// The transports to this endpoint, best first: what ``path`` allows and ``hbone``, ``reverse``, ``via`` and
    /// ``ssh`` make possible. With ``via``, `h2` is what goes through the gateways.
    ///
    /// Empty for a ``direct`` endpoint.
    package var transports: [Transport] {
        if direct { return [] }
        let all = path.transports.flatMap { transport -> [Transport] in
            guard transport == .h2 else { return [transport] }
            return via.isEmpty ? [.h2] + (reverse ? [.h2Reverse] : []) : [.h2ViaGateway]
        }
        return all.filter { transport in
            switch transport {
            case .h2: !hbone.isEmpty
            case .h2ViaGateway, .h2Reverse: true
            // Behind a proxy nobody says where the peer's own server listens.
            case .h2OverSSH: !hbone.isEmpty && ssh != nil && tunnel == nil
            case .ssh: ssh != nil
            }
        }
    }
}

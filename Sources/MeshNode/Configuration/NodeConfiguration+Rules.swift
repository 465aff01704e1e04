import MeshIdentity
import MeshPaths
package import MeshPolicy
import Platform
import SSHSignal

extension NodeConfiguration {
    /// What the node decides by, without the shape of the file.
    ///
    /// - Parameters:
    ///   - listenerAddresses: Where listeners really listen, by name, for those whose `bind` has port 0.
    ///   - serviceAddresses: The same for `admin` and `metrics`.
    package func rules(
        listenerAddresses: [String: BindAddress] = [:],
        serviceAddresses: [String: BindAddress] = [:]
    ) -> MeshRules {
        var sockets = listeners.flatMap { listener in
            let bind = listenerAddresses[listener.name] ?? listener.bind
            return [bind.address, listener.twin?.bind.address].compactMap { $0 }.map {
                MeshRules.OwnSocket(what: "listener '\(listener.name)'", address: $0, port: bind.port)
            }
        }
        for (name, written) in [("admin", admin), ("metrics", metrics)] {
            guard let bind = serviceAddresses[name] ?? written else { continue }
            sockets.append(.init(what: "'\(name)'", address: bind.address, port: bind.port))
        }
        return MeshRules(
            source: file,
            policies: policy ?? [],
            aliases: aliases.map(\.description),
            endpoints: endpoints.map(\.rule),
            unmatched: unmatched,
            // Who comes in by an ingress reaches what a policy names: its ports need no other mention.
            forwards: listeners.filter { $0.protocol == .tcp }.compactMap(\.forwardTo),
            sockets: sockets
        )
    }
}

extension NodeConfiguration.Endpoint {
    /// What routing knows of it.
    var rule: MeshPolicy.Endpoint {
        var rule = MeshPolicy.Endpoint(
            match: match,
            address: address,
            way: direct ? .direct(tls: tls) : .peer(peer),
            announces: announces,
            position: position
        )
        (rule.keepsPort, rule.source) = (keepsPort, source)
        return rule
    }

    /// The node that it leads to, unless it is ``direct``.
    package var peer: Peer {
        Peer(id: peerID, candidates: candidates, servers: hbone, identities: identities)
    }

    /// The ways to it, best first: what ``path`` allows and ``hbone`` and ``ssh`` make possible.
    private var candidates: [PathCandidate] {
        transports.map { transport in
            let place =
                switch transport {
                case .h2:
                    (tunnel == nil ? "to " : "through the proxy at ")
                        + hbone.map(\.description).joined(separator: " or ")
                case .h2Reverse: "over what \(identities.map(\.description).joined(separator: " or ")) holds"
                case .h2ViaGateway: "through \(via.map(\.description).joined(separator: " and "))"
                case .h2OverSSH, .ssh: "by \(ssh?.destination.description ?? "?")"
                }
            return PathCandidate(PathID(transport), place: place)
        }
    }

    /// Everything that says how the peer is reached and whom it must be; nothing of where it stands in the file, or of
    /// how it is written there. ``address`` is for each stream, and concerns no connection but those through gateways,
    /// which are asked for it.
    private var peerID: PeerID {
        // Several servers can change, and the streams at those that stay go on.
        let servers = hbone.count > 1 ? "several" : hbone.first?.description ?? ""
        // The SSH server leads to its own machine, by the port of the first.
        let port = ssh == nil ? 0 : hbone.first?.port ?? 0
        let names = identities.count > 1 ? identities.map(\.description).sorted() : identities.map(\.description)
        var facts = ["path \(path.rawValue)", "hbone \(servers) \(port)", "identity \(names.joined(separator: " "))"]
        if !via.isEmpty {
            let gateways = via.map(\.description).joined(separator: " ")
            let holders = viaIdentities.map(\.description).joined(separator: " ")
            facts.append("via \(gateways), \(holders), \(single?.description ?? "")")
        }
        facts += tunnelFacts
        if reverse { facts.append("reverse") }
        if let ssh {
            facts += [
                "ssh \(ssh.destination)", "identityFile \(ssh.identityFile ?? "")",
                "knownHosts \(ssh.knownHosts ?? "")",
                "config \(ssh.config ?? "")", "sessions \(ssh.sessions)", "engine \(ssh.engine.rawValue)",
            ]
        }
        return PeerID(match.description, facts: facts.joined(separator: "\n"))
    }
}

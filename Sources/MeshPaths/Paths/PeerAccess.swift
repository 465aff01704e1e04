package import MeshIdentity
package import MeshPolicy
package import Platform
package import SSHSignal

/// What is known of a peer: where it listens, who it must be, how to log in to its machine.
package struct PeerAccess: Sendable {
    /// For messages.
    package var name: String
    /// In order of preference; at least one.
    package var ways: [PathWay]
    /// Who its certificate must name.
    package var expectation: PeerExpectation
    /// nil: there is no SSH login, and neither `h2-over-ssh` nor `ssh`.
    package var login: SSHLogin?
    /// The agent's program on its machine, which joins a command with its HBONE server where the SSH server does not
    /// forward; nil: there is no agent.
    package var agent: String?
    /// What to run on its machine to be told where it is reached (`bootstrap signal`); nil: nobody is there to ask.
    package var signalCommand: String?
    /// SSH sessions with it at once, for each ``PeerPaths``; at least 1.
    package var sessions: Int
    /// The proxy that leads to it, where that is not trusted.
    package var proxy: ProxyAccess?
    /// What this side says on a way through gateways.
    package var marks = GatewayMarks()
    /// How it is reached through gateways that it names itself; nil: through none.
    package var gatewayTerms: GatewayTerms?
    /// Those that it has named before.
    package var gateways: [PeerOffer.Gateway] = []
    /// Streams to it outlive their path, where its node can do that and ``ConnectionSettings/resumable`` says so.
    package var resumable = true

    package static let defaultSessions = 4

    package init(
        name: String,
        ways: [PathWay],
        expectation: PeerExpectation,
        login: SSHLogin?,
        agent: String? = nil,
        sessions: Int = Self.defaultSessions
    ) {
        precondition(!ways.isEmpty, "a peer needs at least one way")
        self.name = name
        self.ways = ways
        self.expectation = expectation
        self.login = login
        self.agent = agent
        self.sessions = sessions
    }

    /// One way of each kind.
    ///
    /// - Parameters:
    ///   - transports: In order of preference; at least one.
    ///   - hbone: Where its HBONE server listens. Empty: nowhere.
    ///   - holders: Who may hold connections to this node for `h2-reverse`.
    ///   - areServers: They are servers of their own, of which any will do; else one server's addresses, tried in
    ///     order.
    ///   - gateways: The way of `h2-via-gateway`, nearest first.
    ///   - single: The only destination behind it; nil: there may be many.
    package init(
        name: String,
        transports: [Transport],
        hbone: [Authority],
        holders: [SPIFFEID] = [],
        areServers: Bool = false,
        gateways: [Gateway] = [],
        single: Authority? = nil,
        expectation: PeerExpectation,
        login: SSHLogin?,
        agent: String? = nil,
        sessions: Int = Self.defaultSessions
    ) {
        let ways = transports.map { transport in
            let reach: PathWay.Reach =
                switch transport {
                case .h2ViaGateway: .gateways(gateways, to: single)
                case .h2Reverse: .held(by: holders)
                case .h2: areServers && hbone.count > 1 ? .servers(hbone) : .tunnel(to: hbone)
                case .h2OverSSH: .tunnelOverSSH(port: hbone.first?.port ?? 15008)
                case .ssh: .ssh
                }
            return PathWay(PathID(transport), reach)
        }
        self.init(
            name: name,
            ways: ways,
            expectation: expectation,
            login: login,
            agent: agent,
            sessions: sessions
        )
    }

    /// Has `gateways` tried behind what leads to the peer directly, and before what goes over SSH.
    package mutating func add(_ gateways: [PathWay]) {
        let place = ways.lastIndex { $0.id.transport == .h2 || $0.id.transport == .h2ViaGateway }.map { $0 + 1 } ?? 0
        ways.insert(contentsOf: gateways, at: place)
    }

    /// The command for ``signalCommand``, whatever the account's shell is.
    ///
    /// - Parameters:
    ///   - programs: Where the agent may be: the first that is there.
    ///   - state: Where its node's files are.
    package static func signalCommand(programs: [String], state: String) -> String {
        let quoted = programs.map(ShellScript.quote).joined(separator: " ")
        let start = "exec \"$agent\" signal --state \(ShellScript.quote(state))"
        let script = "for agent in \(quoted); do [ -x \"$agent\" ] && \(start); done"
        return "exec sh -c \(ShellScript.quote(script))"
    }
}

/// A way to a peer: its name, and how it is gone.
package struct PathWay: Hashable, Sendable {
    package enum Reach: Hashable, Sendable {
        /// Mutual TLS and HTTP/2 to the first of these addresses that answers.
        case tunnel(to: [Authority])
        /// The same to each of these servers, of which any will do.
        case servers([Authority])
        /// Through ``PeerAccess/proxy``, which sees nothing but ciphertext.
        case proxy
        /// The same over a connection that one of these holds to this node.
        case held(by: [SPIFFEID])
        /// The same inside of a stream through these gateways, nearest first, to the only destination, or to many.
        case gateways([Gateway], to: Authority?)
        /// The same through a gateway that this side or the peer has named, which calls the peer's HBONE server so.
        case gateway(Gateway, to: Authority)
        /// The same through the peer's SSH server, to this port of its loopback address.
        case tunnelOverSSH(port: UInt16)
        /// A direct-tcpip channel of the peer's SSH server.
        case ssh
    }

    package var id: PathID
    package var reach: Reach

    package init(_ id: PathID, _ reach: Reach) {
        self.id = id
        self.reach = reach
    }

    /// Whether a mesh credential is shown on it.
    var needsCredential: Bool { if case .held = reach { false } else { reach != .ssh } }
}

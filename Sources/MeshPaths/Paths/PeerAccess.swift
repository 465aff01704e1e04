public import MeshIdentity
public import MeshPolicy
public import Platform
public import SSHSignal

/// What is known of a peer: where it listens, who it must be, how to log in to its machine.
public struct PeerAccess: Sendable {
    /// For messages.
    public var name: String
    /// In order of preference; at least one.
    public var transports: [Transport]
    /// Where its HBONE server listens; tried in order. Empty: there is none.
    public var hbone: [Authority]
    /// Who its certificate must name.
    public var expectation: PeerExpectation
    /// nil: there is no SSH login, and neither `h2-over-ssh` nor `ssh`.
    public var login: SSHLogin?
    /// What to run on its machine to be joined to its HBONE server, where the SSH server does not forward; nil: there is no
    /// agent.
    public var relayCommand: String?
    /// SSH sessions with it at once, for each ``PeerPaths``; at least 1.
    public var sessions: Int

    public static let defaultSessions = 4

    public init(
        name: String,
        transports: [Transport],
        hbone: [Authority],
        expectation: PeerExpectation,
        login: SSHLogin?,
        relayCommand: String? = nil,
        sessions: Int = Self.defaultSessions
    ) {
        precondition(!transports.isEmpty, "a peer needs at least one transport")
        self.sessions = sessions
        self.name = name
        self.transports = transports
        self.hbone = hbone
        self.expectation = expectation
        self.login = login
        self.relayCommand = relayCommand
    }

    /// The command for ``relayCommand`` where the agent's program is at `program`, and its node's HBONE server at `port`.
    public static func relayCommand(program: String, port: UInt16) -> String {
        "\(ShellScript.quote(program)) relay 127.0.0.1:\(port)"
    }
}

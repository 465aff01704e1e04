/// What a new host key does to a connection: `StrictHostKeyChecking` of `ssh_config(5)`. A changed or revoked key is refused in
/// every mode.
public enum StrictHostKeyChecking: String, Hashable, Sendable, CaseIterable {
    /// Only hosts that known_hosts names.
    case yes
    /// Asks on a terminal; refuses where there is none. The default.
    case ask
    /// Records the key of a host seen for the first time.
    case acceptNew = "accept-new"
    /// As ``acceptNew``, with a warning: unlike `ssh`, a changed key is refused all the same.
    case no
}

/// What the SSH flags of the command line ask for, with OpenSSH's letters and meaning.
public struct SSHArguments: Hashable, Sendable {
    /// `-F`: read instead of the user's and the system's file; `none` reads no file.
    public var configurationFile: String?
    /// `-o Keyword=value`, each as a line of `ssh_config(5)`, `=` or space.
    public var options: [String]
    /// `-i`, in order; tried before those of the files.
    public var identityFiles: [String]
    /// `-p`: for destinations that name no port of their own.
    public var port: UInt16?
    /// `-J`: comma list of destinations, or `none`.
    public var jump: String?

    public init(
        configurationFile: String? = nil,
        options: [String] = [],
        identityFiles: [String] = [],
        port: UInt16? = nil,
        jump: String? = nil
    ) {
        self.configurationFile = configurationFile
        self.options = options
        self.identityFiles = identityFiles
        self.port = port
        self.jump = jump
    }

    /// What a jump host on the way is resolved with: as in `ssh`, the same files, but neither `-i` nor `-o` nor `-p`.
    public var forJumpHosts: SSHArguments { SSHArguments(configurationFile: configurationFile) }
}

/// Everything that is to be known about an SSH connection before it is dialled: the command line, the user's and the system's
/// `ssh_config(5)` and the defaults, in this order; the first value wins.
///
/// The subset in effect: `Host` (with `*`, `?`, `!`), `Match` with `host`, `originalhost`, `user`, `localuser` and `all`,
/// `Include`, `HostName`, `Port`, `User`, `IdentityFile`, `IdentitiesOnly`, `UserKnownHostsFile`, `GlobalKnownHostsFile`,
/// `HostKeyAlias`, `HashKnownHosts`, `StrictHostKeyChecking`, `ProxyJump`, `ConnectTimeout`; the tokens
/// `%% %d %h %i %k %n %p %r %u`, `~` and `${NAME}`. Whatever else stands in the files is listed in ``notes``.
public struct SSHClientConfiguration: Hashable, Sendable {
    /// As the user wrote it.
    public var destination: Destination
    /// The name or numeric address to dial.
    public var hostName: String
    public var port: UInt16
    public var user: String
    /// Absolute paths where they began with `~`; in the order to be tried. Without any in the configuration, `ssh`'s
    /// default names: some of the files may not exist.
    public var identityFiles: [String]
    /// Whether ``identityFiles`` were named by the user (a missing one is then worth a word).
    public var identityFilesAreExplicit: Bool
    /// Of the keys in an agent, only those that ``identityFiles`` name are offered.
    public var identitiesOnly: Bool
    /// The first one takes new entries.
    public var userKnownHostsFiles: [String]
    public var globalKnownHostsFiles: [String]
    /// Looked up in known_hosts instead of the host name, without a port.
    public var hostKeyAlias: String?
    public var hashKnownHosts: Bool
    public var strictHostKeyChecking: StrictHostKeyChecking
    /// The hops on the way, nearest first; empty: dialled directly.
    public var proxyJump: [Destination]
    /// For TCP and the SSH handshake together; nil leaves it to the caller.
    public var connectTimeout: Duration?
    /// Lines in effect for this host that have none here.
    public var notes: [Note]

    /// A line of the configuration that is valid for `ssh` and has no effect here.
    public struct Note: Hashable, Sendable, CustomStringConvertible {
        /// As it was written.
        public var keyword: String
        public var file: String?
        public var line: Int?
        /// Whether `ssh` would, because of it, reach another machine, trust other keys or offer other ones: worth telling
        /// the user at every connection.
        public var changesConnection: Bool

        public var description: String {
            let place = file.map { file in line.map { "\(file):\($0): " } ?? "\(file): " } ?? ""
            return "\(place)\(keyword) is not supported and has no effect"
        }
    }

    /// Reads the files and resolves `destination`.
    ///
    /// - Throws: an error that names file and line, for a value that does not parse, a file that cannot be read or that
    ///   others can write to.
    public init(
        resolving destination: Destination,
        arguments: SSHArguments = SSHArguments(),
        account: LocalAccount = .current()
    ) throws(SSHConfigurationError) {
        var evaluation = ConfigurationEvaluation(destination: destination, account: account)
        try evaluation.apply(arguments)
        try self.init(evaluation)
    }
}

extension SSHClientConfiguration {
    private init(_ evaluation: ConfigurationEvaluation) throws(SSHConfigurationError) {
        let options = evaluation.options
        let account = evaluation.account
        destination = evaluation.destination
        hostName = try evaluation.hostName()
        try Destination.check(host: hostName, in: hostName)
        port = options.port ?? 22
        user = options.user ?? account.user
        hostKeyAlias = options.hostKeyAlias
        let expansion = TokenExpansion(
            account: account,
            hostName: hostName,
            originalHost: evaluation.destination.host,
            port: port,
            user: user,
            hostKeyAlias: options.hostKeyAlias
        )
        var files: [String] = []
        for path in options.identityFiles where path.text.lowercased() != "none" {
            let expanded = try expansion.path(path)
            if !files.contains(expanded) { files.append(expanded) }
        }
        identityFilesAreExplicit = !options.identityFiles.isEmpty
        identityFiles =
            identityFilesAreExplicit
            ? files : ["id_ed25519", "id_ecdsa", "id_rsa"].map { account.home + "/.ssh/" + $0 }
        identitiesOnly = options.identitiesOnly ?? false
        userKnownHostsFiles = try Self.paths(
            options.userKnownHostsFiles,
            expansion,
            default: [account.home + "/.ssh/known_hosts", account.home + "/.ssh/known_hosts2"]
        )
        globalKnownHostsFiles = try Self.paths(
            options.globalKnownHostsFiles,
            expansion,
            default: ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]
        )
        hashKnownHosts = options.hashKnownHosts ?? false
        strictHostKeyChecking = options.strictHostKeyChecking ?? .ask
        proxyJump = []
        if let jump = options.proxyJump, jump.text.lowercased() != "none" {
            let text = try expansion.tokens(jump, allowed: "hnpr")
            for hop in text.split(separator: ",", omittingEmptySubsequences: false) {
                do {
                    proxyJump.append(try Destination(parsing: String(hop)))
                } catch {
                    throw SSHConfigurationError(file: jump.file, line: jump.line, "ProxyJump: \(error.message)")
                }
            }
        }
        connectTimeout = options.connectTimeout.flatMap { $0.map { .seconds($0) } }
        notes = evaluation.notes
    }

    private static func paths(
        _ values: [ConfigurationValue]?,
        _ expansion: TokenExpansion,
        default defaults: [String]
    ) throws(SSHConfigurationError) -> [String] {
        guard let values else { return defaults }
        var result: [String] = []
        for value in values where value.text.lowercased() != "none" { result.append(try expansion.path(value)) }
        return result
    }
}

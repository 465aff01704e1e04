import Glibc
import MeshIdentity
package import Platform

/// Everything that is to be known about an SSH connection before it is dialled: the command line, the user's and the
/// system's `ssh_config(5)` and the defaults, in this order; the first value wins.
///
/// What is in effect stands in `docs/ssh.md`. Whatever else is in the files is listed in ``notes``, and what only `ssh`
/// itself can do in ``limits``.
package struct SSHClientConfiguration: Hashable, Sendable {
    /// As the user wrote it.
    package var destination: Destination
    /// The name or numeric address to dial.
    package var hostName: String
    package var port: UInt16
    package var user: String
    /// Absolute paths where they began with `~`; in the order to be tried. Without any in the configuration, `ssh`'s
    /// default names: some of the files may not exist.
    package var identityFiles: [String]
    /// Whether ``identityFiles`` were named by the user (a missing one is then worth a word).
    package var identityFilesAreExplicit: Bool
    /// Of the keys in an agent, only those that ``identityFiles`` name are offered.
    package var identitiesOnly: Bool
    /// The first one takes new entries.
    package var userKnownHostsFiles: [String]
    package var globalKnownHostsFiles: [String]
    /// Looked up in known_hosts instead of the host name, without a port.
    package var hostKeyAlias: String?
    package var hashKnownHosts: Bool
    /// The one key to be accepted, as `ssh-keygen -l` prints it (`SHA256:…`); nil: known_hosts decides.
    package var pinnedHostKey: String?
    package var strictHostKeyChecking: StrictHostKeyChecking
    /// The hops on the way, nearest first; empty: dialled directly.
    package var proxyJump: [Destination]
    /// For TCP and the SSH handshake together; nil leaves it to the caller.
    package var connectTimeout: Duration?
    /// Lines in effect for this host that have none here.
    package var notes: [Note]
    /// `CertificateFile`: certificates to log in with besides those beside the keys (`id-cert.pub`).
    package var certificateFiles: [String]
    package var authentication: AuthenticationPreferences
    /// After this long without a byte the server is asked for a sign of life (`ServerAliveInterval`): zero never, nil
    /// leaves it to the caller.
    package var serverAliveInterval: Duration?
    /// How many intervals the sign of life may take (`ServerAliveCountMax`).
    package var serverAliveCountMax: Int
    package var addressFamily: AddressFamily
    /// The local address to dial from.
    package var bindAddress: String?
    /// The socket of the ssh-agent whose keys are offered; nil: none.
    package var agentSocket: String?
    /// What in the files needs `ssh` itself.
    package var limits: [EngineLimit]
    /// What the server says before the login is shown (`LogLevel`).
    package var showsBanner: Bool
    /// A host on the loopback interface need not prove who it is (`NoHostAuthenticationForLocalhost`).
    package var trustsLoopback: Bool
    /// What takes the place of the defaults; nil: nothing.
    package var ciphers: AlgorithmList?
    package var macs: AlgorithmList?
    package var keyExchanges: AlgorithmList?
    package var hostKeyAlgorithms: AlgorithmList?
    package var acceptedKeys: AlgorithmList?
    /// `ControlPath`, its tokens replaced; nil: there is none. Beginning with another character than `/` where it was
    /// written so.
    package var controlPath: String?
    /// It was given with this command, and does not stand in a file that `ssh` reads, too.
    package var controlPathIsTyped: Bool
    /// nil: nothing was said.
    package var controlMaster: ControlMaster?
    package var controlPersist: ControlPersist
    package var exitOnForwardFailure: Bool

    package typealias Note = ConfigurationNote

    /// Reads the files and resolves `destination`.
    ///
    /// - Throws: an error that names file and line, for a value that does not parse, a file that cannot be read or that
    ///   others can write to.
    package init(
        resolving destination: Destination,
        arguments: SSHArguments = SSHArguments(),
        account: LocalAccount = .current()
    ) throws(SSHConfigurationError) {
        var evaluation = ConfigurationEvaluation(destination: destination, account: account)
        try evaluation.apply(arguments)
        try self.init(evaluation, named: arguments.identityFiles)
        if let fingerprint = arguments.hostKey {
            guard fingerprint.hasPrefix("SHA256:"), let digest = Base64.decode(fingerprint.dropFirst(7) + "="),
                digest.count == 32
            else {
                throw SSHConfigurationError(
                    "--host-key '\(fingerprint)' is not a fingerprint as `ssh-keygen -l` prints it: SHA256: and 43 characters"
                )
            }
            pinnedHostKey = fingerprint
        }
    }
}

extension SSHClientConfiguration {
    /// - Parameter named: What `-i` has.
    private init(_ evaluation: ConfigurationEvaluation, named: [String]) throws(SSHConfigurationError) {
        let options = evaluation.options
        let account = evaluation.account
        destination = evaluation.destination
        hostName = try evaluation.dialledName()
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
            hostKeyAlias: options.hostKeyAlias,
            proxyJump: options.jumpHosts
        )
        var files: [String] = []
        for path in options.identityFiles where path.text.lowercased() != "none" {
            let expanded = try expansion.path(path)
            if !files.contains(expanded) { files.append(expanded) }
        }
        identityFilesAreExplicit = !options.identityFiles.isEmpty
        identityFiles = files
        // As in ssh, one of -i that is not there names nothing.
        let missing = Set(named.filter { Self.inaccessibility(of: $0, account) != nil })
        if options.identityFiles.allSatisfy({ missing.contains($0.text) }) {
            let usual = ["id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk"].map {
                account.home + "/.ssh/" + $0
            }
            identityFiles += identityFilesAreExplicit ? usual.filter(Self.exists) : usual
        }
        identitiesOnly = options.identitiesOnly ?? false
        userKnownHostsFiles = try Self.paths(
            options.userKnownHostsFiles,
            expansion,
            default: [account.home + "/.ssh/known_hosts", account.home + "/.ssh/known_hosts2"]
        )
        // No tokens here.
        globalKnownHostsFiles =
            options.globalKnownHostsFiles?.map(\.text).filter { $0.lowercased() != "none" }
            ?? ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]
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
        connectTimeout = options.connectTimeout.flatMap { $0 > 0 ? .seconds($0) : nil }
        notes = evaluation.notes
        limits = evaluation.limits
        certificateFiles = try Self.paths(options.certificateFiles, expansion, default: [])
        authentication = AuthenticationPreferences(options)
        serverAliveInterval = options.serverAliveInterval.map { .seconds($0) }
        serverAliveCountMax = options.serverAliveCountMax ?? 3
        addressFamily = options.addressFamily ?? .any
        bindAddress = options.bindAddress
        agentSocket = try Self.agentSocket(options.identityAgent, expansion)
        showsBanner = !["quiet", "silent", "fatal", "error"].contains(options.logLevel)
        trustsLoopback = options.trustsLoopback ?? false
        ciphers = options.ciphers
        macs = options.macs
        keyExchanges = options.keyExchanges
        hostKeyAlgorithms = options.hostKeyAlgorithms
        acceptedKeys = options.acceptedKeys
        controlPath = try options.controlPath.flatMap { value throws(SSHConfigurationError) in
            guard value.text.lowercased() != "none" else { return nil }
            // One of a file may have tokens that only ssh knows; most commands have no use for it anyway.
            return value.file == nil ? try expansion.path(value) : try? expansion.path(value)
        }
        controlPathIsTyped = options.controlPath.map { $0.file == nil } ?? false
        controlMaster = options.controlMaster
        controlPersist = options.controlPersist ?? .no
        exitOnForwardFailure = options.exitOnForwardFailure ?? false
    }

    /// ``identityFiles`` without the default ones that do not exist: one that the user named is worth an error.
    var existingIdentityFiles: [String] {
        identityFiles.filter { identityFilesAreExplicit || Self.exists($0) }
    }

    /// Why a file of `-i` cannot be looked at; nil: it can.
    package static func inaccessibility(of file: String, _ account: LocalAccount = .current()) -> String? {
        access(account.expandingHome(file) ?? file, F_OK) == 0 ? nil : String(cString: strerror(errno))
    }

    /// The destination as the user wrote it, with its port where that is not 22: `[host]:port`.
    package var namedHost: String { Self.withPort(destination.host, port) }

    /// A host as ssh writes it: `[host]:port`, and the host alone on port 22.
    static func withPort(_ host: String, _ port: UInt16) -> String { port == 22 ? host : "[\(host)]:\(port)" }

    /// Whether there is a key, or the public half of one that an agent may have.
    private static func exists(_ path: String) -> Bool {
        access(path, F_OK) == 0 || access(path + ".pub", F_OK) == 0
    }

    /// `IdentityAgent`: a path, `none`, `SSH_AUTH_SOCK` or `$VARIABLE`; without it, what `SSH_AUTH_SOCK` says.
    private static func agentSocket(
        _ value: ConfigurationValue?,
        _ expansion: TokenExpansion
    ) throws(SSHConfigurationError) -> String? {
        let environment = expansion.account.environment
        guard let value, value.text != "SSH_AUTH_SOCK" else { return environment["SSH_AUTH_SOCK"].flatMap(nonEmpty) }
        if value.text.lowercased() == "none" { return nil }
        if value.text.hasPrefix("$"), !value.text.hasPrefix("${") {
            return environment[String(value.text.dropFirst())].flatMap(nonEmpty)
        }
        return try expansion.path(value)
    }

    private static func nonEmpty(_ text: String) -> String? { text.isEmpty ? nil : text }

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

import Platform

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
    /// What logs in.
    public var engine: SSHEngine
    /// `--host-key`: the fingerprint of the one host key to be accepted, whatever known_hosts says; not for jump hosts.
    public var hostKey: String?

    /// - Parameters:
    ///   - configurationFile: `-F`.
    ///   - options: `-o`, each as a line of `ssh_config(5)`.
    ///   - identityFiles: `-i`.
    ///   - port: `-p`.
    ///   - jump: `-J`.
    ///   - engine: What logs in.
    ///   - hostKey: The fingerprint of the one host key to be accepted.
    public init(
        configurationFile: String? = nil,
        options: [String] = [],
        identityFiles: [String] = [],
        port: UInt16? = nil,
        jump: String? = nil,
        engine: SSHEngine = .automatic,
        hostKey: String? = nil
    ) {
        self.configurationFile = configurationFile
        self.options = options
        self.identityFiles = identityFiles
        self.port = port
        self.jump = jump
        self.engine = engine
        self.hostKey = hostKey
    }

    /// - Throws: what is wrong with ``options``, whatever the destination is.
    package func checkOptions() throws(SSHConfigurationError) {
        guard !options.isEmpty else { return }
        var evaluation = ConfigurationEvaluation(destination: Destination(host: "localhost"), account: .current())
        try evaluation.apply(options: options)
    }

    /// What a jump host on the way is resolved with: as in `ssh`, the same files, but neither `-i` nor `-o` nor `-p`.
    package var forJumpHosts: SSHArguments { SSHArguments(configurationFile: configurationFile) }
}

/// How a session authenticates, how long it waits, and how much it buffers.
public struct SSHSessionConfiguration: Sendable {
    /// The account on the server.
    public var user: String

    /// Offered in the order of `ssh`: named certificates, the agent's keys that a file names, its other ones, and the
    /// files' keys that the agent does not have, in the order of this list. A key that both a file and the agent hold
    /// is used through the agent: no passphrase is needed.
    public var credentials: [SSHCredential] = []

    /// Of the agent's keys offer only those that a credential file names (`IdentitiesOnly` of ssh_config).
    public var identitiesOnly = false

    /// How many keys are offered at most: as with `ssh`, all of them. OpenSSH disconnects after 6 attempts
    /// (MaxAuthTries), and newer servers punish the address for a while.
    public var maximumKeyOffers = Int.max

    /// Which algorithms user keys may sign with (`PubkeyAcceptedAlgorithms`); nil: all.
    package var acceptedKeys: AlgorithmList?

    /// Told what the server says before the login (RFC 4252 §5.4), cleaned of what a terminal would take for a
    /// command; from the session's loop. It may have several lines.
    public var banner: (@Sendable (String) -> Void)?

    /// Told why a key that the server would take is not used; from the session's loop.
    package var warn: (@Sendable (String) -> Void)?

    /// Told how far the session has come; from any thread.
    package var onStep: (@Sendable (LoginStep) -> Void)?

    /// Asked for the passphrase of an encrypted key file, and only once the server has said that it would take the key.
    /// nil where nobody can be asked.
    public var passphrase: PassphrasePrompt?

    /// Asked for passwords and whatever else the server wants to know, at most as often as ``authentication`` says. nil
    /// where nobody can be asked.
    public var authenticationPrompt: AuthenticationPrompt?

    /// Which ways to authenticate, in which order.
    public var authentication = AuthenticationPreferences()

    /// Keys are offered without asking first what the server takes, where public keys are the first of the user's ways,
    /// and without waiting for its word that it has authentication at all: that is two round trips less. A server that
    /// takes none of them is asked after all.
    package var offersKeysAtOnce = false

    /// From the first byte to the host key; the verifier's own time does not count.
    public var handshakeTimeout: Duration = .seconds(10)

    /// For the server's answers during authentication; the time of a prompt does not count.
    public var authenticationTimeout: Duration = .seconds(10)

    /// For opening a channel and for starting a command.
    public var requestTimeout: Duration = .seconds(10)

    /// When a server that says nothing is asked for a sign of life, and when it counts as lost.
    public var keepAlive = KeepAlive()

    /// Durations are counted from the last byte that came from the server; any byte is a sign of life.
    public struct KeepAlive: Hashable, Sendable {
        /// After this long without a byte from the server it is asked; nil: never. `ServerAliveInterval` of
        /// ssh_config(5).
        public var interval: Duration? = .seconds(15)

        /// How long the server may take for that sign of life before the connection counts as lost:
        /// `ServerAliveInterval` times `ServerAliveCountMax`.
        public var timeout: Duration = .seconds(10)

        /// The same while streams are open and something was sent since the server was last heard; nil: as ever. The
        /// server may be busy connecting somewhere, and the path long: four round trips are waited at least.
        public var whileWaiting: Waiting? = Waiting()

        /// The times while something is awaited from the server.
        public struct Waiting: Hashable, Sendable {
            /// After this long without a byte from the server it is asked.
            public var interval: Duration = .seconds(3)
            /// How long the server may take for that sign of life.
            public var timeout: Duration = .milliseconds(3500)

            /// The defaults.
            public init() {}
        }

        /// The defaults.
        public init() {}

        /// As `ServerAliveInterval` and `ServerAliveCountMax` say: an interval of zero asks never.
        public init(interval: Duration, count: Int) {
            self.interval = interval > .zero ? interval : nil
            timeout = interval * max(1, count)
            whileWaiting = nil
        }
    }

    /// The sum of all receive windows in bytes: what the server may send beyond what has been read. Each channel begins
    /// with 256 KiB and gets what its reader and the round trip need. Above about 6 MiB OpenSSH's server spends its
    /// time copying its queue: at 16 MiB a sixth of the throughput is left.
    public var totalWindow = 6 << 20

    /// Writes wait when this many bytes are queued for the network: a keystroke waits behind them.
    public var maximumBacklog = 256 << 10

    /// In the order of preference. aes128-ctr is the fastest of what libssh2 1.10 has. No CBC mode, and no GCM or
    /// ChaCha20, whose implementations in libssh2 1.11.1 have known memory errors.
    public var ciphers = ["aes128-ctr", "aes256-ctr", "aes192-ctr"]

    /// In the order of preference; the "etm" variants need libssh2 1.11.
    public var macs = [
        "hmac-sha2-256", "hmac-sha2-512", "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com",
    ]

    /// In the order of preference; nothing with SHA-1.
    public var keyExchanges = [
        "curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp521", "diffie-hellman-group16-sha512", "diffie-hellman-group18-sha512",
        "diffie-hellman-group14-sha256", "diffie-hellman-group-exchange-sha256",
    ]

    /// What is acceptable; the order is the verifier's first. No ssh-rsa (SHA-1); the RSA ones need libssh2 1.11.
    public var hostKeyAlgorithms = [
        "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512",
        "rsa-sha2-256",
    ]

    /// - Parameters:
    ///   - user: The account on the server.
    ///   - credentials: What may be offered; none: only what a person is asked.
    public init(user: String, credentials: [SSHCredential] = []) {
        self.user = user
        self.credentials = credentials
    }

    private typealias Algorithms = (
        keyword: String, own: WritableKeyPath<Self, [String]>, named: KeyPath<SSHClientConfiguration, AlgorithmList?>
    )

    private static var algorithmLists: [Algorithms] {
        [
            ("Ciphers", \.ciphers, \.ciphers), ("MACs", \.macs, \.macs),
            ("KexAlgorithms", \.keyExchanges, \.keyExchanges),
            ("HostKeyAlgorithms", \.hostKeyAlgorithms, \.hostKeyAlgorithms),
        ]
    }

    /// Takes the algorithms that ssh_config names, as far as they are among those of this configuration.
    mutating func use(_ configuration: SSHClientConfiguration) {
        for (_, own, named) in Self.algorithmLists {
            if let list = configuration[keyPath: named] { self[keyPath: own] = list.applied(to: self[keyPath: own]) }
        }
    }

    /// Where ssh_config wants none of the algorithms that there are.
    static func algorithmLimits(
        _ configuration: SSHClientConfiguration,
        _ capabilities: EngineCapabilities
    ) -> [EngineLimit] {
        var session = SSHSessionConfiguration(user: "")
        session.use(configuration)
        return algorithmLists.compactMap { keyword, own, _ in
            let usable = session[keyPath: own].contains {
                own != \.hostKeyAlgorithms || !$0.hasPrefix("rsa-") || capabilities.signsRSAWithSHA2
            }
            guard !usable else { return nil }
            let reason =
                "\(capabilities.name) has no algorithm that \(keyword) allows for \(configuration.destination.host)"
            return EngineLimit(.algorithms, reason, isDecisive: true)
        }
    }

    /// ``hostKeyAlgorithms`` with those of `keyTypes` first: a host recorded with an ed25519 key must be asked for that
    /// one, or it shows another and looks changed.
    func hostKeyAlgorithms(preferring keyTypes: [String]) -> [String] {
        var preferred: [String] = []
        for type in keyTypes {
            // One key type, two signature algorithms (RFC 8332).
            preferred += type == "ssh-rsa" ? ["rsa-sha2-512", "rsa-sha2-256"] : [type]
        }
        preferred = preferred.filter(hostKeyAlgorithms.contains)
        return preferred + hostKeyAlgorithms.filter { !preferred.contains($0) }
    }
}

import Platform

/// The keywords of `ssh_config(5)`, those that only older releases know included: `ssh` takes them and does nothing.
enum KnownKeywords {
    static let all: [String] = """
        AddKeysToAgent AddressFamily AFSTokenPassing BatchMode BindAddress BindInterface CanonicalDomains
        CanonicalizeFallbackLocal CanonicalizeHostname CanonicalizeMaxDots CanonicalizePermittedCNAMEs CASignatureAlgorithms
        CertificateFile ChallengeResponseAuthentication ChannelTimeout CheckHostIP Cipher Ciphers ClearAllForwardings
        Compression CompressionLevel ConnectionAttempts ConnectTimeout ControlMaster ControlPath ControlPersist
        DSAAuthentication DynamicForward EnableEscapeCommandline EnableSSHKeysign EscapeChar ExitOnForwardFailure
        FallBackToRsh FingerprintHash ForkAfterAuthentication ForwardAgent ForwardX11 ForwardX11Timeout ForwardX11Trusted
        GatewayPorts GlobalKnownHostsFile GlobalKnownHostsFile2 GSSAPIAuthentication GSSAPIClientIdentity
        GSSAPIDelegateCredentials GSSAPIKexAlgorithms GSSAPIKeyExchange GSSAPIRenewalForcesRekey GSSAPIServerIdentity
        GSSAPITrustDns HashKnownHosts Host HostbasedAcceptedAlgorithms HostbasedAuthentication HostbasedKeyTypes
        HostKeyAlgorithms HostKeyAlias HostName IdentitiesOnly IdentityAgent IdentityFile IdentityFile2 IgnoreUnknown Include
        IPQoS KbdInteractiveAuthentication KbdInteractiveDevices KeepAlive KerberosAuthentication KerberosTgtPassing
        KexAlgorithms KnownHostsCommand LocalCommand LocalForward LogLevel LogVerbose MACs Match
        NoHostAuthenticationForLocalhost NumberOfPasswordPrompts ObscureKeystrokeTiming PasswordAuthentication
        PermitLocalCommand PermitRemoteOpen PKCS11Provider Port PreferredAuthentications Protocol ProtocolKeepAlives
        ProxyCommand ProxyJump ProxyUseFdpass PubkeyAcceptedAlgorithms PubkeyAcceptedKeyTypes PubkeyAuthentication
        RefuseConnection RekeyLimit RemoteCommand RemoteForward RequestTTY RequiredRSASize RevokedHostKeys
        RhostsAuthentication RhostsRSAAuthentication RSAAuthentication SecurityKeyProvider SendEnv ServerAliveCountMax
        ServerAliveInterval SessionType SetEnv SetupTimeOut SkeyAuthentication SmartcardDevice StdinNull StreamLocalBindMask
        StreamLocalBindUnlink StrictHostKeyChecking SyslogFacility Tag TCPKeepAlive TISAuthentication Tunnel TunnelDevice
        UpdateHostKeys UseBlacklistedKeys UsePrivilegedPort User UserKnownHostsFile UserKnownHostsFile2 UseRoaming UseRsh
        VerifyHostKeyDNS VersionAddendum VisualHostKey WarnWeakCrypto XAuthLocation
        """.split(whereSeparator: \.isWhitespace).map(String.init)

    private static let lowercased = Set(all.map { $0.lowercased() })

    /// Nothing for a keyword that there is, or that is not to matter.
    ///
    /// - Parameter ignored: The patterns of `IgnoreUnknown`.
    static func check(_ keyword: String, ignoring ignored: [String]) throws(SSHConfigurationError) {
        let name = keyword.lowercased()
        guard !lowercased.contains(name), !HostPattern.matches(name, list: ignored) else { return }
        let meant = Spelling.nearest(to: name, among: lowercased.sorted()).flatMap { near in
            all.first { $0.lowercased() == near }
        }
        let hint = meant.map { "; did you mean \($0)?" } ?? ""
        throw SSHConfigurationError("bad configuration option '\(Printable.clean(keyword, limit: 80))'\(hint)")
    }
}

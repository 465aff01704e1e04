/// What `enroll` has set up in a device's sshd: enough to renew it and to take it away. No secret is in it.
public struct SSHServerRecord: Hashable, Sendable, Codable {
    /// sshd_config, absolute.
    public var configuration: String
    /// Our file among those that the configuration includes; nil: marked lines in ``configuration`` itself.
    public var dropIn: String?
    public var hostCertificates: [HostCertificate]
    /// Fingerprint of the CA whose user certificates log in there; nil: that was not asked for.
    public var userAuthority: String?
    /// The file with its key, which `TrustedUserCAKeys` names.
    public var userAuthorityFile: String?

    /// A certificate beside a host key.
    public struct HostCertificate: Hashable, Sendable, Codable {
        /// `KEY-cert.pub`, absolute.
        public var path: String
        /// Of the key: its type and `SHA256:…`.
        public var algorithm: String
        public var fingerprint: String
        /// Decimal, as `ssh-keygen -L` prints it.
        public var serial: String
        public var principals: [String]
        /// Seconds since 1970.
        public var notBefore: Int64
        /// Seconds since 1970.
        public var notAfter: Int64
        /// Whether the device has proven to have the key: the key exchange of the session that asked for it used it.
        public var isProven: Bool
    }

    /// When the first of the certificates ends, in seconds since 1970; nil: there is none.
    public var notAfter: Int64? { hostCertificates.map(\.notAfter).min() }

    /// Whether the host's certificates are past half of their time, or have ended.
    ///
    /// - Parameter now: seconds since 1970.
    public func isDue(at now: Int64) -> Bool {
        hostCertificates.contains { now >= $0.notBefore + ($0.notAfter - $0.notBefore) / 2 }
    }
}

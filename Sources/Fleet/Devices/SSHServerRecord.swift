import MeshIdentity
import Platform

/// What `enroll` has set up in a device's sshd: enough to renew it and to take it away. No secret is in it.
package struct SSHServerRecord: Hashable, Sendable, Codable {
    /// sshd_config, absolute.
    package var configuration: String
    /// Our file among those that the configuration includes; nil: marked lines in ``configuration`` itself.
    package var dropIn: String?
    package var hostCertificates: [HostCertificate]
    /// Fingerprint of the CA whose user certificates log in there; nil: that was not asked for.
    package var userAuthority: String?
    /// The file with its key, which `TrustedUserCAKeys` names.
    package var userAuthorityFile: String?

    /// A certificate beside a host key.
    package struct HostCertificate: Hashable, Sendable, Codable {
        /// `KEY-cert.pub`, absolute.
        package var path: String
        /// Of the key: its type and `SHA256:…`.
        package var algorithm: String
        package var fingerprint: String
        /// Decimal, as `ssh-keygen -L` prints it.
        package var serial: String
        package var principals: [String]
        /// Seconds since 1970.
        package var notBefore: Int64
        /// Seconds since 1970.
        package var notAfter: Int64
        /// Whether the device has proven to have the key: the key exchange of the session that asked for it used it.
        package var isProven: Bool

        /// What was asked for, in seconds: its beginning is some minutes before it was signed.
        package var lifetime: Int64 {
            notAfter.subtractingSaturating(notBefore).subtractingSaturating(SSHCertificateAuthority.backdating)
        }
    }

    /// When the first of the certificates ends, in seconds since 1970; nil: there is none.
    package var notAfter: Int64? { hostCertificates.map(\.notAfter).min() }

    /// Whether the host's certificates are past half of their time, or have ended.
    ///
    /// - Parameter now: seconds since 1970.
    package func isDue(at now: Int64) -> Bool {
        hostCertificates.contains {
            now >= $0.notBefore.addingSaturating($0.notAfter.subtractingSaturating($0.notBefore) / 2)
        }
    }
}

/// Something that a login needs, that `ssh` can do and libssh2 cannot: a reason to leave the login to the user's `ssh`.
///
/// ``SSHLogin`` looks for them before it dials: with one of these libssh2 is sure, or as good as sure, to fail.
/// ``SSHError/limits`` has what may have made a login fail that was tried.
public struct EngineLimit: Hashable, Sendable, CustomStringConvertible {
    /// What it is about; new kinds may be added.
    package struct Kind: Hashable, Sendable, CustomStringConvertible {
        package enum Name: String {
            case proxyCommand, match, keyword, smartCard, singleSignOn, rsaUserKey, securityKey, userCertificate
            case rsaHostKey, hostCertificate, algorithms
        }
        package let name: Name
        package var description: String { name.rawValue }

        /// A program makes the connection (`ProxyCommand`).
        package static let proxyCommand = Kind(name: .proxyCommand)
        /// A `Match` of ssh_config that only `ssh` can decide (`sessiontype`, `command`, `version`).
        package static let match = Kind(name: .match)
        /// Another keyword of ssh_config that decides which machine is reached, or whom to trust.
        package static let keyword = Kind(name: .keyword)
        /// Keys on a smart card (`PKCS11Provider`).
        package static let smartCard = Kind(name: .smartCard)
        /// GSSAPI (Kerberos) or host-based authentication.
        package static let singleSignOn = Kind(name: .singleSignOn)
        /// RSA user keys with SHA-2 signatures need libssh2 1.11.
        package static let rsaUserKey = Kind(name: .rsaUserKey)
        /// FIDO keys (`sk-…`).
        package static let securityKey = Kind(name: .securityKey)
        /// User certificates of another key type than ECDSA.
        package static let userCertificate = Kind(name: .userCertificate)
        /// RSA host keys with SHA-2 signatures need libssh2 1.11.
        package static let rsaHostKey = Kind(name: .rsaHostKey)
        /// A host that is known by its certificate only (`@cert-authority`).
        package static let hostCertificate = Kind(name: .hostCertificate)
        /// A server that shares no other algorithm with libssh2.
        package static let algorithms = Kind(name: .algorithms)
    }

    package var kind: Kind
    /// What libssh2 cannot do and for what, with file and line where there is one; no full stop at the end.
    public var reason: String
    /// libssh2 must not even try: it would reach another machine, or trust a key that `ssh` refuses.
    package var isDecisive: Bool

    package init(_ kind: Kind, _ reason: String, isDecisive: Bool = false) {
        self.kind = kind
        self.reason = reason
        self.isDecisive = isDecisive
    }

    public var description: String { reason }
}

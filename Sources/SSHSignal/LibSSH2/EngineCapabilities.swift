/// What the libssh2 of this process can do.
struct EngineCapabilities: Hashable, Sendable {
    /// For messages: "libssh2 1.10.0".
    var name: String
    /// RSA with SHA-2 (RFC 8332), for user and host keys; OpenSSH has refused SHA-1 since 8.8.
    var signsRSAWithSHA2: Bool
    /// Host certificates of ed25519 keys: negotiated, but for the application to verify.
    var negotiatesHostCertificates: Bool

    /// - Parameter version: such as "1.10.0" or "1.11.2_DEV".
    init(version: String) {
        name = "libssh2 \(version)"
        let numbers = version.split { !$0.isASCII || !$0.isNumber }.compactMap { Int($0) }
        let isAtLeast = { (wanted: [Int]) in !numbers.lexicographicallyPrecedes(wanted) }
        signsRSAWithSHA2 = isAtLeast([1, 11, 0])
        // Negotiated first by what comes after 1.11.1, and for ed25519 keys only.
        negotiatesHostCertificates = false
    }

    static let current = EngineCapabilities(version: LibSSH2.version)

    func canVerify(hostKey type: String) -> Bool { type != "ssh-rsa" || signsRSAWithSHA2 }

    /// Why a user key or certificate of this type cannot be offered; nil when it can.
    ///
    /// - Parameter algorithm: the first string of the public key; nil where it is not known yet.
    func limit(forUserKey algorithm: String?, name key: String) -> EngineLimit? {
        switch algorithm {
        case nil, "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
            "ecdsa-sha2-nistp256-cert-v01@openssh.com", "ecdsa-sha2-nistp384-cert-v01@openssh.com",
            "ecdsa-sha2-nistp521-cert-v01@openssh.com":
            return nil
        case "ssh-rsa":
            guard !signsRSAWithSHA2 else { return nil }
            return EngineLimit(
                .rsaUserKey,
                "\(name) signs with the RSA key \(key) only in ways that servers refuse (it needs libssh2 >= 1.11, or an "
                    + "ed25519 or ECDSA key: ssh-keygen -t ed25519)"
            )
        case let type? where type.hasPrefix("sk-"):
            return EngineLimit(.securityKey, "\(name) cannot sign with the security key \(key) (\(type))")
        case let type? where type.contains("-cert-v0"):
            return EngineLimit(
                .userCertificate,
                "\(name) can log in with certificates of ECDSA keys only, not with \(key) (\(type))"
            )
        case let type?:
            return EngineLimit(
                .algorithms,
                "\(name) cannot use \(key): keys of type \(type) are not supported (ed25519 and ECDSA ones are)"
            )
        }
    }
}

/// Decides about the host key before anything secret, or even the user name, is sent.
///
/// There is no default: a session cannot be made without one.
public protocol HostKeyVerifier: Sendable {
    /// Key types that the host is known with, best first; the server is asked for one of them.
    var preferredAlgorithms: [String] { get }

    /// What libssh2 cannot do that keeps the key from being verified; told with a refusal.
    var limits: [EngineLimit] { get }

    /// Returns when the key is accepted; throws to refuse it, with an error whose description says why. May take its
    /// time to ask a person.
    func check(_ key: HostKey) async throws
}

extension HostKeyVerifier {
    public var limits: [EngineLimit] { [] }
}

/// Accepts one key, known by its fingerprint.
public struct PinnedHostKey: HostKeyVerifier {
    /// `SHA256:` and base 64 without padding, as `ssh-keygen -l` prints it.
    public let fingerprint: String
    public let preferredAlgorithms: [String]

    /// - Parameters:
    ///   - fingerprint: `SHA256:` and base 64 without padding.
    ///   - preferredAlgorithms: The key's type, where it is known; without it the server chooses which of its keys it
    ///     shows.
    public init(fingerprint: String, preferredAlgorithms: [String] = []) {
        self.fingerprint = fingerprint
        self.preferredAlgorithms = preferredAlgorithms
    }

    public func check(_ key: HostKey) async throws {
        guard key.fingerprint == fingerprint else {
            throw SSHError(.hostKeyRefused, "the host key is \(key), expected \(fingerprint)")
        }
    }
}

extension HostKeyPolicy: HostKeyVerifier {
    package var limits: [EngineLimit] { limits(.current) }

    /// Returns when `key` is accepted (recorded, if it was new).
    ///
    /// - Throws: ``HostKeyError``.
    package func check(_ key: HostKey) async throws {
        try await check(key, engine: EngineCapabilities.current.name)
    }

    /// Why the host's key cannot be verified though known_hosts has what it takes; empty: nothing speaks against it.
    func limits(_ capabilities: EngineCapabilities) -> [EngineLimit] {
        guard pinned == nil else { return [] }
        let algorithms = preferredAlgorithms
        if algorithms == ["ssh-rsa"], !capabilities.signsRSAWithSHA2 {
            return [
                EngineLimit(
                    .rsaHostKey,
                    "\(host) is known by its RSA host key, which \(capabilities.name) cannot verify"
                )
            ]
        }
        if algorithms.isEmpty, hasCertificateAuthority, !capabilities.negotiatesHostCertificates {
            return [
                EngineLimit(
                    .hostCertificate,
                    "\(host) is known by a @cert-authority line, and \(capabilities.name) cannot ask for host certificates"
                )
            ]
        }
        return []
    }
}

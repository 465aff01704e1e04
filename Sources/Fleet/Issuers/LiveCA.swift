package import MeshIdentity
import Streams

/// The CA of a directory, as it is at each moment: opened again when another process has put another key in its place
/// (`bootstrap ca rotate`), so that a daemon need not be started again.
package final class LiveCA: CertificateIssuer {
    package let trustDomain: TrustDomain
    package let directory: String
    private let passphrase: Passphrase?
    private let opened: Lock<EmbeddedCA>

    /// - Parameters:
    ///   - authority: As it was opened.
    ///   - directory: Where.
    ///   - passphrase: Of its key, and so of the next one; nil where that is not encrypted. It stays in memory.
    package init(_ authority: EmbeddedCA, directory: String, passphrase: Passphrase?) {
        trustDomain = authority.trustDomain
        self.directory = directory
        self.passphrase = passphrase
        opened = Lock(authority)
    }

    /// The one that signs now.
    package func present() throws(IdentityError) -> EmbeddedCA {
        let authority = opened.withLock { $0 }
        if try authority.isPresent() { return authority }
        let next = try EmbeddedCA.load(directory: directory, passphrase: passphrase)
        opened.withLock { $0 = next }
        return next
    }

    /// The one that signs now, and the one before it while a root is replaced: whoever may have something to revoke.
    package func authorities() throws(IdentityError) -> [EmbeddedCA] {
        let present = try present()
        return try [present] + [present.previous(passphrase: passphrase)].compactMap { $0 }
    }

    /// The roots that are given out now.
    package func roots() throws(IdentityError) -> [Certificate] { try EmbeddedCA.bundle(directory: directory).roots }

    package func issue(
        _ request: CertificateRequest,
        id: SPIFFEID,
        options: IssuanceOptions
    ) async throws(IdentityError) -> IssuedCertificate {
        try sign(request, id: id, options: options)
    }

    package func sign(
        _ request: CertificateRequest,
        id: SPIFFEID,
        options: IssuanceOptions = IssuanceOptions()
    ) throws(IdentityError) -> IssuedCertificate {
        let authority = try present()
        do throws(IdentityError) {
            return try authority.issue(request, id: id, options: options)
        } catch {
            // It was replaced between the look and the signature.
            guard error.code == .refused, try !authority.isPresent() else { throw error }
            return try present().issue(request, id: id, options: options)
        }
    }
}

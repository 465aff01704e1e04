package import MeshIdentity

/// A device's word that a certificate request is its own, signed with its SSH host key: evidence that can be kept and
/// verified by anybody, as the key exchange of a session cannot.
///
/// The host key is root's, so this is root's word: an account that merely logs in cannot give it.
package struct HostKeyAttestation: Hashable, Sendable, Codable {
    /// The certificate request, PEM: the bytes that are signed.
    package var request: String
    /// What `ssh-keygen -Y sign` made of it.
    package var signature: String
    /// `mesh-enrollment@TRUST-DOMAIN`.
    package var namespace: String
    /// The host key, as in a `.pub` file.
    package var hostKey: String
    /// When it was verified, in seconds since 1970.
    package var verifiedAt: Int64
    /// The serial number of the certificate that was signed for it, in lower-case hexadecimal.
    package var serial: String?

    /// What signatures of this kind are for: one of another mesh, or for something else, is none.
    package static func namespace(_ domain: TrustDomain) -> String { "mesh-enrollment@\(domain)" }

    /// Verifies what is kept, without the device.
    ///
    /// - Returns: Why it proves nothing; nil when the host key has signed this request.
    package var refusal: String? {
        do throws(IdentityError) {
            return try SSHSignature(armored: Array(signature.utf8)).refusal(
                of: Array(request.utf8),
                namespace: namespace,
                by: SSHPublicKey(line: Array(hostKey.utf8))
            )
        } catch {
            return error.message
        }
    }

    /// `SHA256:…` of the host key; nil where it is damaged.
    package var fingerprint: String? { (try? SSHPublicKey(line: Array(hostKey.utf8)))?.fingerprint }
}

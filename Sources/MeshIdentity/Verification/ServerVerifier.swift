import COpenSSL
import Platform

/// Verifies the certificate of a server that is no member of a mesh, by its name, as web clients do (RFC 9525): a chain
/// to one of the roots given, and the name among those that the certificate is for.
package struct ServerVerifier: Sendable {
    /// A DNS name, or an IP address in text form.
    package let name: String
    private let store: RootStore

    /// - Parameters:
    ///   - name: A DNS name, or an IP address in text form.
    ///   - roots: Who may vouch for the server; at least one.
    /// - Throws: ``IdentityError`` when there is no root.
    package init(name: String, roots: [Certificate]) throws(IdentityError) {
        guard !roots.isEmpty else {
            throw IdentityError(.invalidCertificate, "there is no root certificate to verify \(name) with")
        }
        self.name = name
        store = try RootStore(roots)
    }

    private init(name: String, store: RootStore) { (self.name, self.store) = (name, store) }

    /// The same roots for another server.
    package func named(_ name: String) -> ServerVerifier { ServerVerifier(name: name, store: store) }

    /// - Parameters:
    ///   - leaf: What the server proved to have the key of.
    ///   - intermediates: What it sent with that, in any order; trusted in nothing.
    ///   - now: Seconds since 1970; nil is the clock.
    /// - Throws: when the certificate is not this server's, or nobody who is trusted vouches for it now.
    package func verify(leaf: Certificate, intermediates: [Certificate] = [], at now: Int64? = nil) throws(SVIDError) {
        let now = now ?? WallClock.system.seconds
        let validation = try PathValidation(
            of: leaf,
            intermediates: intermediates,
            store: store,
            purpose: X509_PURPOSE_SSL_SERVER,
            at: now
        )
        let parameters = validation.parameters
        // The subject's common name is no name of a server any more (RFC 9525 §2).
        X509_VERIFY_PARAM_set_hostflags(
            parameters,
            UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT)
        )
        let isSet =
            if SubjectAlternativeNames.bytes(ofIPAddress: name) != nil {
                X509_VERIFY_PARAM_set1_ip_asc(parameters, name)
            } else {
                X509_VERIFY_PARAM_set1_host(parameters, name, 0)
            }
        guard isSet == 1 else { throw SVIDError(.malformed, "'\(name)' is no name of a server") }
        if let failure = validation.failure() { throw error(failure, leaf, now) }
    }

    private func error(_ failure: PathValidation.Failure, _ leaf: Certificate, _ now: Int64) -> SVIDError {
        let culprit = failure.culprit ?? leaf
        if failure.isOutOfTime {
            do {
                try SVIDRules.checkValidity(of: culprit, name: "the certificate \"\(culprit.subject)\"", at: now)
            } catch {
                return error
            }
        }
        if failure.code == X509_V_ERR_HOSTNAME_MISMATCH || failure.code == X509_V_ERR_IP_ADDRESS_MISMATCH {
            let names = (leaf.dnsNames + leaf.ipAddresses).joined(separator: ", ")
            let whose = names.isEmpty ? "nobody's name" : names
            return SVIDError(.wrongID, "its certificate is for \(whose), not for \(name)")
        }
        if failure.isUnknownIssuer {
            let issuer = culprit.issuer
            return SVIDError(
                .untrusted,
                "its certificate is not signed by a root that is trusted for it: the issuer \"\(issuer)\" is unknown"
            )
        }
        return SVIDError(.untrusted, "its certificate cannot be verified: \(failure.reason)")
    }
}

import COpenSSL

/// Roots in the form that OpenSSL looks them up in.
// Sendable: the X509_STORE is filled in init and only read afterwards; OpenSSL locks it while looking up.
final class RootStore: @unchecked Sendable {
    let pointer: OpaquePointer

    init(_ roots: [Certificate]) throws(IdentityError) {
        OpenSSLErrors.clear()
        guard let pointer = X509_STORE_new() else { throw OpenSSLErrors.failure("make a certificate store") }
        self.pointer = pointer
        for root in roots {
            guard X509_STORE_add_cert(pointer, root.pointer) == 1 else {
                throw OpenSSLErrors.failure("add a root to a certificate store")
            }
        }
    }

    deinit { X509_STORE_free(pointer) }
}

/// Finds and checks a chain from a leaf to a root (RFC 5280 §6).
struct ChainVerifier {
    let id: SPIFFEID
    /// Seconds since 1970.
    let now: Int64

    func verify(leaf: Certificate, intermediates: [Certificate], store: RootStore) throws(SVIDError) {
        let validation = try PathValidation(
            of: leaf,
            intermediates: intermediates,
            store: store,
            purpose: X509_PURPOSE_SSL_CLIENT,
            at: now
        )
        if let failure = validation.failure() { throw error(failure) }
        try checkIssuers(validation.path.dropFirst())
    }

    /// What OpenSSL does not know: no CA of another trust domain, and each may vouch for servers too.
    private func checkIssuers(_ issuers: ArraySlice<Certificate>) throws(SVIDError) {
        for issuer in issuers {
            if let stranger = TrustBundle.foreignTrustDomain(of: issuer, in: id.trustDomain) {
                throw SVIDError(
                    .untrusted,
                    "the certificate of \(id) is signed by a CA that is bound to \(stranger): \"\(issuer.subject)\""
                )
            }
            guard X509_check_purpose(issuer.pointer, X509_PURPOSE_SSL_SERVER, 1) != 0 else {
                throw SVIDError(.untrusted, "the CA \"\(issuer.subject)\" may not vouch for servers")
            }
        }
    }

    private func error(_ failure: PathValidation.Failure) -> SVIDError {
        if failure.isOutOfTime, let culprit = failure.culprit {
            do {
                try SVIDRules.checkValidity(of: culprit, name: "the CA certificate \"\(culprit.subject)\"", at: now)
            } catch {
                return error
            }
        }
        if failure.isUnknownIssuer {
            return SVIDError(
                .untrusted,
                "the certificate of \(id) is not signed by a root of \(id.trustDomain): "
                    + "the issuer \"\(failure.culprit?.issuer ?? "")\" is unknown or not trusted"
            )
        }
        if failure.code == X509_V_ERR_CERT_SIGNATURE_FAILURE {
            return SVIDError(
                .untrusted,
                "a signature in the certificate chain of \(id) is wrong: it was not made by the CA it names"
            )
        }
        return SVIDError(.untrusted, "the certificate chain of \(id) cannot be verified: \(failure.reason)")
    }
}

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

    /// Certificates between leaf and root. Real chains have one or two; each costs a signature check.
    static let maximumDepth: Int32 = 6

    func verify(leaf: Certificate, intermediates: [Certificate], store: RootStore) throws(SVIDError) {
        OpenSSLErrors.clear()
        defer { OpenSSLErrors.clear() }
        guard let context = X509_STORE_CTX_new(), let untrusted = copenssl_sk_X509_new() else {
            fatalError("out of memory")
        }
        defer {
            X509_STORE_CTX_free(context)
            copenssl_sk_X509_free(untrusted)
        }
        for certificate in intermediates { _ = copenssl_sk_X509_push(untrusted, certificate.pointer) }
        guard X509_STORE_CTX_init(context, store.pointer, leaf.pointer, untrusted) == 1,
            let parameters = X509_STORE_CTX_get0_param(context)
        else { throw SVIDError(.malformed, "OpenSSL could not start to verify: \(OpenSSLErrors.drain())") }
        X509_VERIFY_PARAM_set_time(parameters, time_t(now))
        X509_VERIFY_PARAM_set_depth(parameters, Self.maximumDepth)
        // Level 2 refuses keys and signature digests under 112 bits: RSA 1024, SHA-1.
        X509_VERIFY_PARAM_set_auth_level(parameters, 2)
        X509_VERIFY_PARAM_set_purpose(parameters, X509_PURPOSE_SSL_CLIENT)
        // A root of the bundle is trusted because the operator said so, even one that another CA signed.
        X509_VERIFY_PARAM_set_flags(parameters, UInt(X509_V_FLAG_PARTIAL_CHAIN))
        guard X509_verify_cert(context) == 1 else { throw failure(context) }
        try checkIssuers(Certificate.all(in: X509_STORE_CTX_get0_chain(context)).dropFirst())
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

    private func failure(_ context: OpaquePointer) -> SVIDError {
        let code = X509_STORE_CTX_get_error(context)
        let culprit = X509_STORE_CTX_get_current_cert(context).map { Certificate(retaining: $0) }
        switch code {
        case X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID:
            guard let culprit else { break }
            do {
                try SVIDRules.checkValidity(of: culprit, name: "the CA certificate \"\(culprit.subject)\"", at: now)
            } catch {
                return error
            }
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT,
            X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN,
            X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
            return SVIDError(
                .untrusted,
                "the certificate of \(id) is not signed by a root of \(id.trustDomain): "
                    + "the issuer \"\(culprit?.issuer ?? "")\" is unknown or not trusted"
            )
        case X509_V_ERR_CERT_SIGNATURE_FAILURE:
            return SVIDError(
                .untrusted,
                "a signature in the certificate chain of \(id) is wrong: it was not made by the CA it names"
            )
        default:
            break
        }
        let reason = String(cString: X509_verify_cert_error_string(Int(code)))
        return SVIDError(.untrusted, "the certificate chain of \(id) cannot be verified: \(reason)")
    }
}

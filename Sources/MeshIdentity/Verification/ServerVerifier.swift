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
        let now = now ?? WallClock.system.seconds
        X509_VERIFY_PARAM_set_time(parameters, time_t(now))
        X509_VERIFY_PARAM_set_depth(parameters, ChainVerifier.maximumDepth)
        X509_VERIFY_PARAM_set_auth_level(parameters, 2)
        X509_VERIFY_PARAM_set_purpose(parameters, X509_PURPOSE_SSL_SERVER)
        // A root is trusted because the operator said so, even one that another CA signed.
        X509_VERIFY_PARAM_set_flags(parameters, UInt(X509_V_FLAG_PARTIAL_CHAIN))
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
        guard X509_verify_cert(context) == 1 else { throw failure(context, leaf, now) }
    }

    private func failure(_ context: OpaquePointer, _ leaf: Certificate, _ now: Int64) -> SVIDError {
        let code = X509_STORE_CTX_get_error(context)
        let culprit = X509_STORE_CTX_get_current_cert(context).map { Certificate(retaining: $0) } ?? leaf
        switch code {
        case X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID:
            do {
                try SVIDRules.checkValidity(of: culprit, name: "the certificate \"\(culprit.subject)\"", at: now)
            } catch {
                return error
            }
        case X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH:
            let names = (leaf.dnsNames + leaf.ipAddresses).joined(separator: ", ")
            let whose = names.isEmpty ? "nobody's name" : names
            return SVIDError(.wrongID, "its certificate is for \(whose), not for \(name)")
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT,
            X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN,
            X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
            return SVIDError(
                .untrusted,
                "its certificate is not signed by a root that is trusted for it: the issuer \"\(culprit.issuer)\" is unknown"
            )
        default: break
        }
        let reason = String(cString: X509_verify_cert_error_string(Int(code)))
        return SVIDError(.untrusted, "its certificate cannot be verified: \(reason)")
    }
}

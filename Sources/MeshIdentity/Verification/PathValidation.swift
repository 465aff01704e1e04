import COpenSSL

/// OpenSSL's validation of one certification path (RFC 5280 §6), with the rules that every path has to keep here: its
/// depth, the strength of its keys and signatures, and that a root of the operator's choice is one, whoever signed it.
struct PathValidation: ~Copyable {
    /// Why a path was not found or is not good.
    struct Failure {
        /// An X509_V_ERR value.
        let code: Int32
        /// The certificate at which it failed; nil where OpenSSL names none.
        let culprit: Certificate?

        /// In OpenSSL's words.
        var reason: String { String(cString: X509_verify_cert_error_string(Int(code))) }

        var isOutOfTime: Bool { code == X509_V_ERR_CERT_HAS_EXPIRED || code == X509_V_ERR_CERT_NOT_YET_VALID }

        /// No path ends at a root that is trusted.
        var isUnknownIssuer: Bool {
            switch code {
            case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT,
                X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN,
                X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
                true
            default: false
            }
        }
    }

    /// Certificates between leaf and root. Real chains have one or two; each costs a signature check.
    static let maximumDepth: Int32 = 6

    private let context: OpaquePointer
    private let untrusted: OpaquePointer
    /// For what only one kind of peer has to keep.
    let parameters: OpaquePointer

    /// - Parameters:
    ///   - leaf: What the peer proved to have the key of.
    ///   - intermediates: What it sent with that, in any order; trusted in nothing.
    ///   - purpose: An X509_PURPOSE value.
    ///   - now: Seconds since 1970.
    init(
        of leaf: Certificate,
        intermediates: [Certificate],
        store: RootStore,
        purpose: Int32,
        at now: Int64
    ) throws(SVIDError) {
        OpenSSLErrors.clear()
        guard let context = X509_STORE_CTX_new(), let untrusted = copenssl_sk_X509_new() else {
            fatalError("out of memory")
        }
        for certificate in intermediates { _ = copenssl_sk_X509_push(untrusted, certificate.pointer) }
        guard X509_STORE_CTX_init(context, store.pointer, leaf.pointer, untrusted) == 1,
            let parameters = X509_STORE_CTX_get0_param(context)
        else {
            X509_STORE_CTX_free(context)
            copenssl_sk_X509_free(untrusted)
            throw SVIDError(.malformed, "OpenSSL could not start to verify: \(OpenSSLErrors.drain())")
        }
        self.context = context
        self.untrusted = untrusted
        self.parameters = parameters
        X509_VERIFY_PARAM_set_time(parameters, time_t(now))
        X509_VERIFY_PARAM_set_depth(parameters, Self.maximumDepth)
        // Level 2 refuses keys and signature digests under 112 bits: RSA 1024, SHA-1.
        X509_VERIFY_PARAM_set_auth_level(parameters, 2)
        X509_VERIFY_PARAM_set_purpose(parameters, purpose)
        // A root is trusted because the operator said so, even one that another CA signed.
        X509_VERIFY_PARAM_set_flags(parameters, UInt(X509_V_FLAG_PARTIAL_CHAIN))
    }

    deinit {
        X509_STORE_CTX_free(context)
        copenssl_sk_X509_free(untrusted)
        OpenSSLErrors.clear()
    }

    /// Returns why the path is not good; nil where it is.
    func failure() -> Failure? {
        guard X509_verify_cert(context) != 1 else { return nil }
        return Failure(
            code: X509_STORE_CTX_get_error(context),
            culprit: X509_STORE_CTX_get_current_cert(context).map { Certificate(retaining: $0) }
        )
    }

    /// The path that was found, from the leaf to the root.
    var path: [Certificate] { Certificate.all(in: X509_STORE_CTX_get0_chain(context)) }
}

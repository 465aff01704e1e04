internal import COpenSSL
internal import MeshIdentity

/// What OpenSSL calls to move ciphertext and to have a certificate verified: trampolines into the ``TLSEngine``.
enum EngineBIO {
    // nonisolated(unsafe): filled in once, by the lazy initialiser, and only read afterwards.
    nonisolated(unsafe) static let method: OpaquePointer = {
        guard let method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "byte stream") else {
            fatalError("out of memory")
        }
        BIO_meth_set_create(method) { bio in
            BIO_set_init(bio, 1)
            return 1
        }
        BIO_meth_set_destroy(method) { _ in 1 }
        BIO_meth_set_ctrl(method) { _, command, _, _ in command == BIO_CTRL_FLUSH ? 1 : 0 }
        BIO_meth_set_read(method) { bio, destination, length in
            BIO_clear_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_WRITE | BIO_FLAGS_SHOULD_RETRY)
            guard let engine = engine(of: bio), let destination, length > 0 else { return 0 }
            let count = engine._withUnsafeGuaranteedRef { $0.bioRead(destination, Int(length)) }
            if count == 0 {
                // Never an end of file: whether the end of the transport is clean is not for OpenSSL to say.
                BIO_set_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY)
                return -1
            }
            return Int32(count)
        }
        BIO_meth_set_write(method) { bio, source, length in
            BIO_clear_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_WRITE | BIO_FLAGS_SHOULD_RETRY)
            guard let engine = engine(of: bio), let source, length > 0 else { return 0 }
            let bytes = UnsafeRawBufferPointer(start: source, count: Int(length))
            let count = engine._withUnsafeGuaranteedRef { $0.bioWrite(bytes) }
            if count == 0 {
                BIO_set_flags(bio, BIO_FLAGS_WRITE | BIO_FLAGS_SHOULD_RETRY)
                return -1
            }
            return Int32(count)
        }
        return method
    }()

    /// Not retained: OpenSSL calls from inside of a call of the engine.
    private static func engine(of bio: OpaquePointer?) -> Unmanaged<TLSEngine>? {
        BIO_get_data(bio).map { Unmanaged<TLSEngine>.fromOpaque($0) }
    }

    /// For `SSL_CTX_set_tlsext_servername_callback`: the certificate for the name that the client asks for; without one
    /// of that name the first stays.
    static let chooseCertificate:
        @convention(c) (OpaquePointer?, UnsafeMutablePointer<Int32>?, UnsafeMutableRawPointer?) -> Int32 = {
            ssl,
            _,
            _ in
            guard let ssl, let reference = SSL_get_ex_data(ssl, 0),
                let name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)
            else { return SSL_TLSEXT_ERR_NOACK }
            let engine = Unmanaged<TLSEngine>.fromOpaque(reference).takeUnretainedValue()
            guard let context = engine.context.named?.context(for: String(cString: name)) else {
                return SSL_TLSEXT_ERR_NOACK
            }
            // What the clients must show, and ALPN, is the same in all of them.
            SSL_set_SSL_CTX(ssl, context.pointer)
            return SSL_TLSEXT_ERR_OK
        }

    /// For `SSL_CTX_set_cert_verify_callback`: our rules instead of OpenSSL's.
    static let verifyPeer: @convention(c) (OpaquePointer?, UnsafeMutableRawPointer?) -> Int32 = { store, _ in
        guard let store, let ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()),
            let reference = SSL_get_ex_data(OpaquePointer(ssl), 0), let leaf = X509_STORE_CTX_get0_cert(store)
        else { return 0 }
        let engine = Unmanaged<TLSEngine>.fromOpaque(reference).takeUnretainedValue()
        let error = engine.verifyPeer(
            leaf: Certificate(retaining: leaf),
            presented: Certificate.all(in: X509_STORE_CTX_get0_untrusted(store))
        )
        X509_STORE_CTX_set_error(store, error)
        return error == X509_V_OK ? 1 : 0
    }
}

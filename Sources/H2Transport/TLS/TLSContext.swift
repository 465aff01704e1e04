internal import COpenSSL
public import MeshIdentity
public import Streams

/// Everything that the TLS connections of one role share: our credential, whom we trust, protocols and time limits.
///
/// TLS 1.3 only (RFC 8446), and mutual: a server refuses a client without a certificate. The exceptions are a server
/// for clients, and a client of servers, that are no members of a mesh; such a client verifies them by their names, and
/// may speak 1.2. No tickets, no resumption, so that each connection verifies its peer anew. Immutable: for a renewed
/// credential make a new context; connections that stand keep the old one.
// Sendable: the SSL_CTX is configured in init and never changed afterwards. SSL_new only reads it, and counts
// references atomically; with the session cache off it has no other shared state.
public final class TLSContext: @unchecked Sendable {
    /// Which side of the handshake this is.
    public enum Role: Hashable, Sendable {
        /// The side that connects.
        case client
        /// The side that accepts.
        case server
    }

    /// Protocols and time limits.
    public struct Options: Hashable, Sendable {
        /// ALPN (RFC 7301). A client offers these, most wanted first; a server picks its first that the client offers,
        /// and refuses a client that offers only others. A peer without ALPN is accepted either way.
        public var applicationProtocols: [String]
        /// From the start of the handshake to its end.
        public var handshakeTimeout: Duration = .seconds(10)
        /// How long a closed stream may take to deliver what it had accepted.
        public var closeTimeout: Duration = .seconds(30)
        /// How long a peer that is refused may take to read why and leave.
        public var refusalTimeout: Duration = .seconds(2)

        /// - Parameter applicationProtocols: For ALPN; most wanted first.
        public init(applicationProtocols: [String]) {
            self.applicationProtocols = applicationProtocols
        }

        /// `h2`; a server also accepts `istio`.
        public static func defaults(for role: Role) -> Options {
            Options(applicationProtocols: role == .client ? ["h2"] : ["h2", "istio"])
        }
    }

    package let role: Role
    package let options: Options
    /// Who may vouch for peers.
    package let trust: TrustBundleSet
    /// What a server asks of its clients.
    package enum Clients: Hashable, Sendable {
        /// A certificate that ``trust`` verifies.
        case required
        /// Such a certificate, or none.
        case optional
        /// Nothing.
        case none
    }

    /// A client's, for a server that is no member of a mesh; nil everywhere else.
    let server: ServerVerifier?
    let versions: Versions
    /// A server's.
    package let clients: Clients
    /// The certificates of a server that has several, by name; in each of them the rest is as it is here.
    let named: ServerNames?
    /// When the certificate that this side shows expires, in seconds since 1970; nil when it shows none.
    package let notAfter: Int64?

    let pointer: OpaquePointer

    /// - Throws: ``Streams/StreamError`` with code ``Streams/StreamError/Code/authentication`` when certificate and key
    ///   are unusable.
    public convenience init(
        role: Role,
        credential: Credential,
        trust: TrustBundleSet,
        options: Options? = nil
    ) throws(StreamError) {
        try self.init(role: role, key: credential.key, chain: credential.chain, trust: trust, options: options)
    }

    /// What versions of TLS are spoken.
    package enum Versions: Hashable, Sendable {
        case only13
        /// For servers that nobody can make speak 1.3. Of 1.2 only what has forward secrecy and AEAD (RFC 9325 §4.2).
        case from12

        var description: String { self == .only13 ? "TLS 1.3, the only version accepted" : "TLS 1.2 or 1.3" }
    }

    /// For a client of a server that is no member of a mesh, and is verified by its name, as web clients do.
    ///
    /// - Parameters:
    ///   - server: Who vouches for it. A stream can have a name of its own:
    ///     ``TLSStream/init(over:context:verifying:)``.
    ///   - versions: What is spoken.
    ///   - key: Of the certificate that this side shows when the server asks for one; nil: it shows none.
    ///   - chain: That certificate, and its issuers'.
    ///   - options: Protocols and time limits.
    package convenience init(
        server: ServerVerifier,
        versions: Versions = .only13,
        key: PrivateKey? = nil,
        chain: [Certificate] = [],
        options: Options
    ) throws(StreamError) {
        try self.init(
            role: .client,
            key: key,
            chain: chain,
            trust: TrustBundleSet(),
            server: server,
            versions: versions,
            options: options
        )
    }

    /// For a server that clients know by its names: the first certificate is shown where none has the name (SNI) that
    /// the client asks for.
    ///
    /// - Parameters:
    ///   - credentials: At least one.
    ///   - clients: What clients must show.
    ///   - trust: Who may vouch for them.
    package convenience init(
        serving credentials: [ServerCredential],
        to clients: Clients,
        trust: TrustBundleSet,
        options: Options
    ) throws(StreamError) {
        guard let first = credentials.first else { throw StreamError(.badRequest, "a server needs a certificate") }
        var names = ServerNames()
        for credential in credentials {
            let context = try TLSContext(
                role: .server,
                key: credential.key,
                chain: credential.chain,
                trust: trust,
                clients: clients,
                options: options
            )
            names.add(context, for: credential.leaf.dnsNames)
        }
        try self.init(
            role: .server,
            key: first.key,
            chain: first.chain,
            trust: trust,
            clients: clients,
            named: names,
            options: options
        )
    }

    /// A credential in parts, not held to any rule. `chain` has the leaf first; empty, no certificate is sent.
    init(
        role: Role,
        key: PrivateKey?,
        chain: [Certificate],
        trust: TrustBundleSet,
        server: ServerVerifier? = nil,
        versions: Versions = .only13,
        clients: Clients = .required,
        named: ServerNames? = nil,
        options: Options?,
        aes: AESGCM = .ofThisProcess
    ) throws(StreamError) {
        let options = options ?? .defaults(for: role)
        TLSErrorQueue.clear()
        let method = role == .client ? TLS_client_method() : TLS_server_method()
        guard let pointer = SSL_CTX_new_ex(aes.library, nil, method) else {
            throw StreamError(.system, "cannot set up TLS: \(TLSErrorQueue.drainText())")
        }
        self.role = role
        self.options = options
        self.trust = trust
        self.server = server
        self.versions = versions
        self.clients = clients
        self.named = named
        notAfter = chain.first?.notAfter
        self.pointer = pointer
        try configure(options)
        if let key, !chain.isEmpty { try use(key, chain) }
    }

    deinit { SSL_CTX_free(pointer) }

    // MARK: -

    private func configure(_ options: Options) throws(StreamError) {
        let oldest = versions == .only13 ? TLS1_3_VERSION : TLS1_2_VERSION
        try require(copenssl_SSL_CTX_set_min_proto_version(pointer, oldest), "its oldest version")
        try require(copenssl_SSL_CTX_set_max_proto_version(pointer, TLS1_3_VERSION), "TLS 1.3")
        try require(
            SSL_CTX_set_ciphersuites(pointer, Self.ciphersuites(hasAES: copenssl_cpu_has_aes() != 0)),
            "ciphers"
        )
        if versions == .from12 {
            try require(SSL_CTX_set_cipher_list(pointer, "ECDHE+AESGCM:ECDHE+CHACHA20"), "ciphers of TLS 1.2")
        }
        try require(copenssl_SSL_CTX_set1_groups_list(pointer, "X25519:P-256:P-384"), "groups")
        SSL_CTX_set_options(pointer, copenssl_SSL_options())
        copenssl_SSL_CTX_set_session_cache_mode(pointer, Int(SSL_SESS_CACHE_OFF))
        try require(SSL_CTX_set_num_tickets(pointer, 0), "no tickets")
        copenssl_SSL_CTX_set_mode(pointer, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
        let verification =
            switch clients {
            case .required: SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
            case .optional: SSL_VERIFY_PEER
            case .none: SSL_VERIFY_NONE
            }
        SSL_CTX_set_verify(pointer, verification, nil)
        SSL_CTX_set_cert_verify_callback(pointer, EngineBIO.verifyPeer, nil)
        if named != nil { copenssl_SSL_CTX_set_tlsext_servername_callback(pointer, EngineBIO.chooseCertificate) }
        guard !options.applicationProtocols.isEmpty else { return }
        switch role {
        case .client:
            let list = try Self.wireFormat(options.applicationProtocols)
            guard SSL_CTX_set_alpn_protos(pointer, list, UInt32(list.count)) == 0 else {
                throw StreamError(.system, "cannot set up TLS (ALPN): \(TLSErrorQueue.drainText())")
            }
        case .server:
            // The context outlives each of its connections, which retain it.
            SSL_CTX_set_alpn_select_cb(pointer, Self.selectProtocol, Unmanaged.passUnretained(self).toOpaque())
        }
    }

    private func use(_ key: PrivateKey, _ chain: [Certificate]) throws(StreamError) {
        TLSErrorQueue.clear()
        guard SSL_CTX_use_certificate(pointer, chain[0].pointer) == 1,
            chain.dropFirst().allSatisfy({ copenssl_SSL_CTX_add1_chain_cert(pointer, $0.pointer) == 1 }),
            SSL_CTX_use_PrivateKey(pointer, key.pointer) == 1,
            SSL_CTX_check_private_key(pointer) == 1
        else {
            throw StreamError(
                .authentication,
                "the certificate \"\(chain[0].subject)\" and its key cannot be used for TLS: \(TLSErrorQueue.drainText())"
            )
        }
    }

    private func require(_ result: Int32, _ what: String) throws(StreamError) {
        guard result == 1 else {
            throw StreamError(.system, "cannot set up TLS (\(what)): \(TLSErrorQueue.drainText())")
        }
    }

    /// AES-128-GCM is the fastest where the processor has AES instructions, and strong enough; ChaCha20 is where it has
    /// not. HBONE peers need not know ChaCha20, so AES is always offered.
    static func ciphersuites(hasAES: Bool) -> String {
        let aes = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
        let chacha = "TLS_CHACHA20_POLY1305_SHA256"
        return hasAES ? "\(aes):\(chacha)" : "\(chacha):\(aes)"
    }

    /// RFC 7301 §3.1: each name with its length in front.
    static func wireFormat(_ protocols: [String]) throws(StreamError) -> [UInt8] {
        var list: [UInt8] = []
        for name in protocols {
            guard let length = UInt8(exactly: name.utf8.count), length > 0 else {
                throw StreamError(.badRequest, "'\(name)': the name of an application protocol has 1 to 255 bytes")
            }
            list.append(length)
            list += name.utf8
        }
        return list
    }

    private static let selectProtocol:
        @convention(c) (
            OpaquePointer?, UnsafeMutablePointer<UnsafePointer<UInt8>?>?, UnsafeMutablePointer<UInt8>?,
            UnsafePointer<UInt8>?, UInt32, UnsafeMutableRawPointer?
        ) -> Int32 = { _, selected, selectedLength, offered, offeredLength, context in
            guard let context, let selected, let selectedLength else { return SSL_TLSEXT_ERR_ALERT_FATAL }
            let options = Unmanaged<TLSContext>.fromOpaque(context).takeUnretainedValue().options
            let offers = UnsafeBufferPointer(start: offered, count: Int(offeredLength))
            for name in options.applicationProtocols {
                var index = 0
                while index < offers.count {
                    let end = min(index + 1 + Int(offers[index]), offers.count)
                    let offer = offers[(index + 1)..<end]
                    if offer.elementsEqual(name.utf8) {
                        // The answer points into the offer, which lives as long as OpenSSL needs it.
                        selected.pointee = offered.map { $0 + index + 1 }
                        selectedLength.pointee = UInt8(offer.count)
                        return SSL_TLSEXT_ERR_OK
                    }
                    index = end
                }
            }
            return SSL_TLSEXT_ERR_ALERT_FATAL
        }
}

internal import CLinux
internal import COpenSSL
internal import MeshIdentity
internal import Streams

/// OpenSSL as a machine that turns bytes into bytes: plaintext on one side, records on the other, no socket.
///
///     write ──▶ SSL_write ──▶ BIO ──▶ output ──▶ transport
///     read  ◀── SSL_read  ◀── BIO ◀── input  ◀── transport
///
/// Both buffers come from the loop's pool when there are bytes for them and go back when they are empty. OpenSSL reads
/// from `input` exactly what it needs (a header of 5 bytes, then the record): that costs one copy of each record into
/// OpenSSL's own buffer, where it is decrypted in place. Read-ahead would save the copy and then move what is left
/// behind each record: with 128 KiB, four bytes moved for each byte read.
///
/// Confined to its event loop. Its methods never call out, so nothing can re-enter OpenSSL or free it on the way.
final class TLSEngine {
    /// Ciphertext per read of the transport. OpenSSL's own work is by record; more only spoils the cache.
    static let readSize = 131_072

    /// Plaintext per batch of records; as much ciphertext, plus 22 bytes for each record, is pending at most.
    static let batchSize = 262_144

    /// The largest plaintext of a record (RFC 8446 §5.1). Anything but a multiple of it leaves a runt.
    static let recordSize = 16_384

    /// AES-GCM is safe for 2^24.5 records under one key (RFC 8446 §5.5); OpenSSL does not count.
    static let recordsPerKey = 1 << 24

    private let ssl: OpaquePointer
    let context: TLSContext
    private let verifier: PeerVerifier
    private let peerDescription: String
    private let pool: BufferPool
    private let recordsPerKey: Int

    private var input: Buffer?
    private(set) var output: RecordOutput

    private var verdict: PeerVerifier.Verdict?
    private var refusal: StreamError?
    /// The peer sent the alert that ended the connection; otherwise one of ours is in ``output`` after a failure.
    private(set) var failedByAlert = false
    private var recordsUnderKey = 0

    init(
        context: TLSContext,
        expecting expectation: PeerExpectation,
        server: ServerVerifier? = nil,
        serverName: String?,
        offersProtocols: Bool = true,
        peerDescription: String,
        pool: BufferPool,
        recordsPerKey: Int = TLSEngine.recordsPerKey
    ) {
        guard let ssl = SSL_new(context.pointer), let bio = BIO_new(EngineBIO.method) else {
            fatalError("out of memory")
        }
        self.ssl = ssl
        self.context = context
        verifier = PeerVerifier(trust: context.trust, expectation: expectation, server: server ?? context.server)
        self.peerDescription = peerDescription
        self.pool = pool
        self.recordsPerKey = recordsPerKey
        output = RecordOutput(pool: pool)
        let reference = Unmanaged.passUnretained(self).toOpaque()
        BIO_set_data(bio, reference)
        SSL_set_ex_data(ssl, 0, reference)
        SSL_set_bio(ssl, bio, bio)  // takes over the one reference
        switch context.role {
        case .client: SSL_set_connect_state(ssl)
        case .server: SSL_set_accept_state(ssl)
        }
        if let serverName { _ = copenssl_SSL_set_tlsext_host_name(ssl, serverName) }
        if !offersProtocols { _ = SSL_set_alpn_protos(ssl, nil, 0) }
    }

    deinit {
        releaseBuffers()
        SSL_free(ssl)
    }

    /// Gives both buffers back, with what is in them.
    func releaseBuffers() {
        releaseInput()
        output.removeAll()
    }

    // MARK: Ciphertext

    /// Whether OpenSSL has nothing left to work on.
    var needsInput: Bool { input == nil && SSL_pending(ssl) == 0 }

    /// Calls `body` with room for ciphertext; it returns how many bytes it put there. Only where `needsInput`.
    func receive<Result>(_ body: (UnsafeMutableRawBufferPointer) -> (count: Int, result: Result)) -> Result {
        let buffer = input ?? pool.take(.large)
        let room = UnsafeMutableRawBufferPointer(rebasing: buffer.writable.prefix(Self.readSize))
        let (count, result) = body(room)
        buffer.writeIndex += count
        input = buffer
        if buffer.readableBytes == 0 { releaseInput() }
        return result
    }

    /// Tells the engine that the transport has taken `count` bytes of ``output``.
    func sent(_ count: Int) { output.consume(count) }

    /// Drops what has not been decrypted.
    func releaseInput() {
        if let input { pool.give(input) }
        input = nil
    }

    /// Sixteen bytes that both ends of this connection make the same of it, and nobody else (RFC 8446 §7.5). nil before
    /// the handshake is done.
    func exported(_ label: StaticString) -> (UInt64, UInt64)? {
        TLSErrorQueue.clear()
        var bytes: (UInt64, UInt64) = (0, 0)
        let isDone = withUnsafeMutableBytes(of: &bytes) { bytes in
            label.withUTF8Buffer { label in
                label.withMemoryRebound(to: CChar.self) { label in
                    SSL_export_keying_material(
                        ssl,
                        bytes.baseAddress?.assumingMemoryBound(to: UInt8.self),
                        bytes.count,
                        label.baseAddress,
                        label.count,
                        nil,
                        0,
                        0
                    )
                }
            }
        }
        guard isDone == 1 else { return nil }
        return (UInt64(bigEndian: bytes.0), UInt64(bigEndian: bytes.1))
    }

    // For `EngineBIO`, from inside OpenSSL.
    func bioRead(_ destination: UnsafeMutableRawPointer, _ length: Int) -> Int {
        guard let input else { return 0 }
        let count = min(length, input.readableBytes)
        destination.copyMemory(from: input.base + input.readIndex, byteCount: count)
        input.readIndex += count
        if input.readableBytes == 0 { releaseInput() }
        return count
    }

    func bioWrite(_ bytes: UnsafeRawBufferPointer) -> Int {
        recordsUnderKey &+= 1
        return output.append(bytes)
    }

    // MARK: Handshake

    enum Step {
        case done
        case needsInput
        /// An alert may be in ``output``.
        case failed(StreamError)
    }

    func handshake() -> Step {
        TLSErrorQueue.clear()
        let result = SSL_do_handshake(ssl)
        if result == 1 {
            recordsUnderKey = 0
            return .done
        }
        switch SSL_get_error(ssl, result) {
        case SSL_ERROR_WANT_READ: return .needsInput
        default: return .failed(drainErrors())
        }
    }

    /// After ``handshake()`` was done: who is there. Fails where the peer chose a protocol that was not offered.
    func peer() throws(StreamError) -> TLSPeer {
        if verdict == nil, context.clients == .required || context.role == .client {
            throw StreamError(.authentication, "\(peerDescription) was not verified")
        }
        var start: UnsafePointer<UInt8>?
        var length: UInt32 = 0
        SSL_get0_alpn_selected(ssl, &start, &length)
        var selected: String?
        if let start, length > 0 {
            selected = String(decoding: UnsafeBufferPointer(start: start, count: Int(length)), as: UTF8.self)
        }
        if let selected, !context.options.applicationProtocols.contains(selected) {
            throw StreamError(
                .protocolViolation,
                "\(peerDescription) chose the application protocol '\(selected)', which was not offered"
            )
        }
        return TLSPeer(
            identity: verdict?.identity,
            applicationProtocol: selected,
            cipher: String(cString: SSL_CIPHER_get_name(SSL_get_current_cipher(ssl))),
            notAfter: verdict?.notAfter ?? .max,
            certificate: verdict?.certificate
        )
    }

    /// What a client has asked for by SNI; nil: nothing.
    var askedName: String? { SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name).map { String(cString: $0) } }

    /// The peer's certificate, from inside OpenSSL. Returns an X.509 error number, or X509_V_OK.
    func verifyPeer(leaf: Certificate, presented: [Certificate]) -> Int32 {
        do {
            verdict = try verifier.verify(leaf: leaf, intermediates: presented)
            return X509_V_OK
        } catch {
            refusal = StreamError(.authentication, "refused \(peerDescription): \(error.message)")
            return PeerVerifier.verificationError(for: error)
        }
    }

    // MARK: Plaintext

    enum Read {
        case bytes(Int)
        case needsInput
        /// The answer to a KeyUpdate finds no room behind a batch that the transport does not take.
        case needsOutput
        /// A close_notify: the peer has finished.
        case end
        /// An alert may be in ``output``.
        case failed(StreamError)
    }

    /// Decrypts at most one record into `buffer`, which is not empty.
    func read(into buffer: UnsafeMutableRawBufferPointer) -> Read {
        TLSErrorQueue.clear()
        var count = 0
        let result = SSL_read_ex(ssl, buffer.baseAddress, buffer.count, &count)
        if result == 1 { return .bytes(count) }
        switch SSL_get_error(ssl, result) {
        case SSL_ERROR_WANT_READ: return .needsInput
        case SSL_ERROR_WANT_WRITE: return .needsOutput
        case SSL_ERROR_ZERO_RETURN: return .end
        default: return .failed(drainErrors())
        }
    }

    /// Encrypts up to ``batchSize`` bytes into ``output``, which is empty, and returns how many.
    func write(
        _ vectors: UnsafeBufferPointer<iovec>,
        from position: inout VectorPosition,
        length: Int
    ) throws(StreamError) {
        output.prepare(forPlaintext: length)
        var rest = length
        while rest > 0 {
            let piece = position.contiguous(in: vectors)
            let isLast = piece.count >= rest
            if isLast || piece.count >= Self.recordSize {
                let size = isLast ? rest : piece.count - piece.count % Self.recordSize
                try write(UnsafeRawBufferPointer(rebasing: piece[..<size]))
                position.advance(size)
                rest -= size
            } else {
                // Small pieces make small records: a full one is gathered first.
                let size = min(rest, Self.recordSize)
                let scratch = pool.take(.medium)
                defer { pool.give(scratch) }
                position.copy(size, from: vectors, to: scratch.base)
                try write(UnsafeRawBufferPointer(start: scratch.base, count: size))
                rest -= size
            }
        }
    }

    private func write(_ bytes: UnsafeRawBufferPointer) throws(StreamError) {
        if recordsUnderKey >= recordsPerKey { updateKey() }
        var rest = bytes
        while !rest.isEmpty {
            TLSErrorQueue.clear()
            var count = 0
            let result = SSL_write_ex(ssl, rest.baseAddress, rest.count, &count)
            guard result == 1 else {
                _ = SSL_get_error(ssl, result)
                throw drainErrors()
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
    }

    /// New keys for what this side writes (RFC 8446 §4.6.3); the message goes out with the next record.
    private func updateKey() {
        recordsUnderKey = -1  // the message itself is still sealed under the old key
        TLSErrorQueue.clear()
        // Refused only while another KeyUpdate is under way, which then serves as well.
        if SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1 { TLSErrorQueue.clear() }
    }

    /// Puts a close_notify into ``output``. Reading goes on.
    func closeNotify() {
        TLSErrorQueue.clear()
        if SSL_shutdown(ssl) < 0 { TLSErrorQueue.clear() }
    }

    /// Whether the input holds the alert that explains why the transport died: a peer that refuses our certificate
    /// closes at once, and our write may notice that before our read has come to the alert.
    func pendingAlert() -> StreamError? {
        guard !needsInput else { return nil }
        TLSErrorQueue.clear()
        var byte: UInt8 = 0
        var count = 0
        let result = SSL_peek_ex(ssl, &byte, 1, &count)
        guard result != 1, SSL_get_error(ssl, result) == SSL_ERROR_SSL else { return nil }
        return drainErrors()
    }

    /// Frees OpenSSL's record buffers, 34 KiB, which it makes again when it needs them. Each record could have its own
    /// (SSL_MODE_RELEASE_BUFFERS), but with every block of that size malloc tidies up what it keeps at hand for small
    /// ones.
    ///
    /// Not while a record is there in part: OpenSSL before 3.0.14 frees the header of one whose body has yet to come
    /// (CVE-2024-4741).
    func releaseRecordBuffers() {
        guard needsInput, let state = SSL_rstate_string(ssl), strcmp(state, "RH") == 0 else { return }
        _ = SSL_free_buffers(ssl)
    }

    private func drainErrors() -> StreamError {
        let (error, isAlert) = TLSErrorQueue.drain(
            peer: peerDescription,
            refusal: refusal,
            versions: context.versions
        )
        failedByAlert = isAlert
        return error
    }
}

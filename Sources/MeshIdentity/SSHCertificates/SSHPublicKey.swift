import COpenSSL

/// A public key in SSH's wire format (RFC 4253 §6.6, RFC 5656 §3.1, RFC 8709 §4): ed25519, ECDSA or RSA.
///
/// What it can check are signatures. Keys of another type, of a wrong length, or with anything behind their last field
/// are no keys.
package struct SSHPublicKey: Hashable, Sendable, CustomStringConvertible {
    /// `ssh-ed25519`, `ecdsa-sha2-nistp256` (384, 521) or `ssh-rsa`.
    package let algorithm: String
    /// The wire format, algorithm first.
    package let blob: [UInt8]

    /// RSA keys below this are not taken: OpenSSH's own limit is 1024 for signatures, the web's 2048.
    static let minimumRSABits = 2048

    /// - Throws: ``IdentityError`` with code `invalidKey`.
    package init(blob: [UInt8]) throws(IdentityError) {
        var reader = SSHWireReader(blob)
        guard let algorithm = reader.name() else { throw Self.invalid("it has no algorithm") }
        let key = try SSHKeyFields(algorithm, &reader)
        guard reader.rest.isEmpty else { throw Self.invalid("\(reader.rest.count) bytes follow it") }
        guard key.subjectPublicKeyInfo != nil else { throw Self.invalid("keys of type \(algorithm) are not supported") }
        self.algorithm = algorithm
        self.blob = blob
    }

    /// `type base64 comment`, as in a `.pub` file; options before the type are not taken.
    package init(line: [UInt8]) throws(IdentityError) {
        let words = String(decoding: line, as: UTF8.self).split(maxSplits: 2, whereSeparator: \.isWhitespace)
        guard words.count >= 2, let blob = Base64.decode(words[1]) else {
            throw Self.invalid("a line 'TYPE BASE64 COMMENT' is needed, as in a .pub file")
        }
        try self.init(blob: blob)
        guard words[0] == algorithm else { throw Self.invalid("the line says \(words[0]), the key \(algorithm)") }
    }

    /// The type of a private key in PEM that is not encrypted; nil where it cannot be told.
    package static func algorithm(ofPrivateKey pem: [UInt8]) -> String? {
        OpenSSLErrors.clear()
        defer { OpenSSLErrors.clear() }
        let refuse: @convention(c) (UnsafeMutablePointer<CChar>?, Int32, Int32, UnsafeMutableRawPointer?) -> Int32 = {
            _,
            _,
            _,
            _ in -1
        }
        guard let key = MemoryBIO.reading(pem, { PEM_read_bio_PrivateKey($0, nil, refuse, nil) }) else { return nil }
        defer { EVP_PKEY_free(key) }
        if EVP_PKEY_is_a(key, "RSA") == 1 { return "ssh-rsa" }
        if EVP_PKEY_is_a(key, "DSA") == 1 { return "ssh-dss" }
        if EVP_PKEY_is_a(key, "ED25519") == 1 { return "ssh-ed25519" }
        let curves = [256: "ecdsa-sha2-nistp256", 384: "ecdsa-sha2-nistp384", 521: "ecdsa-sha2-nistp521"]
        return EVP_PKEY_is_a(key, "EC") == 1 ? curves[Int(EVP_PKEY_get_bits(key))] : nil
    }

    /// The public half of an ECDSA key on P-256.
    init(_ key: PrivateKey) throws(IdentityError) {
        OpenSSLErrors.clear()
        var point: UnsafeMutablePointer<UInt8>?
        let length = EVP_PKEY_get1_encoded_public_key(key.pointer, &point)
        defer { CRYPTO_free(point, #fileID, #line) }
        guard let point, length == 65 else { throw Self.invalid("only ECDSA keys on P-256 sign SSH certificates") }
        algorithm = "ecdsa-sha2-nistp256"
        var writer = SSHWireWriter()
        writer.string(algorithm)
        writer.string("nistp256")
        writer.string(UnsafeBufferPointer(start: point, count: length))
        blob = writer.bytes
    }

    /// As in a `.pub` file, without a comment and the end of the line.
    package var line: String { "\(algorithm) \(Base64.encode(blob))" }

    /// As `ssh-keygen -l` prints it.
    package var fingerprint: String {
        "SHA256:" + Base64.encode(Digest.sha256(blob), padded: false)
    }

    package var description: String { "\(fingerprint) (\(algorithm))" }

    /// Whether `signature`, in the wire format of RFC 4253 §6.6, is this key's over `message`. SHA-1 never is.
    package func verifies(_ signature: [UInt8], of message: [UInt8]) -> Bool {
        var reader = SSHWireReader(signature)
        guard let scheme = reader.name(), let value = reader.string(), reader.rest.isEmpty else { return false }
        var keyReader = SSHWireReader(blob)
        guard keyReader.string() != nil, let fields = try? SSHKeyFields(algorithm, &keyReader),
            let information = fields.subjectPublicKeyInfo
        else { return false }
        let digest: OpaquePointer?
        var bytes = Array(value)
        switch (algorithm, scheme) {
        case ("ssh-ed25519", "ssh-ed25519"):
            digest = nil
        case ("ssh-rsa", "rsa-sha2-256"): digest = EVP_sha256()
        case ("ssh-rsa", "rsa-sha2-512"): digest = EVP_sha512()
        case ("ecdsa-sha2-nistp256", algorithm), ("ecdsa-sha2-nistp384", algorithm), ("ecdsa-sha2-nistp521", algorithm):
            // RFC 5656 §3.1.2: two mpints.
            var parts = SSHWireReader(value)
            guard let r = parts.mpint(), let s = parts.mpint(), parts.rest.isEmpty else { return false }
            bytes = DEREncoding.sequence(DEREncoding.integer(r), DEREncoding.integer(s))
            digest =
                algorithm.hasSuffix("256") ? EVP_sha256() : algorithm.hasSuffix("384") ? EVP_sha384() : EVP_sha512()
        default: return false
        }
        return Self.verify(bytes, of: message, information, digest)
    }

    private static func verify(
        _ signature: [UInt8],
        of message: [UInt8],
        _ information: [UInt8],
        _ digest: OpaquePointer?
    ) -> Bool {
        OpenSSLErrors.clear()
        // Whatever OpenSSL thinks of a bad signature must not be found by the next caller.
        defer { OpenSSLErrors.clear() }
        let key = information.withUnsafeBufferPointer { bytes in
            var cursor = bytes.baseAddress
            return d2i_PUBKEY(nil, &cursor, bytes.count)
        }
        guard let key, let context = EVP_MD_CTX_new() else { return false }
        defer {
            EVP_MD_CTX_free(context)
            EVP_PKEY_free(key)
        }
        if EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA, EVP_PKEY_get_bits(key) < minimumRSABits { return false }
        guard EVP_DigestVerifyInit(context, nil, digest, nil, key) == 1 else { return false }
        return EVP_DigestVerify(context, signature, signature.count, message, message.count) == 1
    }

    private static func invalid(_ why: String) -> IdentityError {
        IdentityError(.invalidKey, "this is no SSH public key that can be used: \(why)")
    }
}

/// The fields of a public key, as they stand in a key and, behind the nonce, in a certificate.
struct SSHKeyFields {
    /// The key's own wire format, algorithm first.
    let blob: [UInt8]
    /// For OpenSSL; nil for key types that it does not verify (FIDO keys, DSA).
    let subjectPublicKeyInfo: [UInt8]?

    /// Reads the fields that belong to `algorithm`, which has been read.
    init(_ algorithm: String, _ reader: inout SSHWireReader) throws(IdentityError) {
        var writer = SSHWireWriter()
        writer.string(algorithm)
        var fields: [ArraySlice<UInt8>] = []
        let count =
            switch algorithm {
            case "ssh-ed25519": 1
            case "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa",
                "sk-ssh-ed25519@openssh.com":
                2
            case "sk-ecdsa-sha2-nistp256@openssh.com": 3
            case "ssh-dss": 4
            default:
                throw IdentityError(.invalidKey, "keys of type \(algorithm) are not supported")
            }
        for _ in 0..<count {
            guard let field = reader.string() else {
                throw IdentityError(.invalidKey, "the SSH public key ends early")
            }
            writer.string(field)
            fields.append(field)
        }
        blob = writer.bytes
        subjectPublicKeyInfo = try Self.information(algorithm, fields)
    }

    private static func information(
        _ algorithm: String,
        _ fields: [ArraySlice<UInt8>]
    ) throws(IdentityError) -> [UInt8]? {
        func invalid(_ why: String) -> IdentityError { IdentityError(.invalidKey, "the \(algorithm) key \(why)") }
        switch algorithm {
        case "ssh-ed25519":
            guard fields[0].count == 32 else { throw invalid("is not 32 bytes long") }
            return DEREncoding.sequence(
                DEREncoding.sequence(DEREncoding.objectIdentifier([0x2B, 0x65, 0x70])),
                DEREncoding.bitString(Array(fields[0]))
            )
        case "ssh-rsa":
            guard let exponent = SSHWireReader.magnitude(fields[0]), let modulus = SSHWireReader.magnitude(fields[1]),
                (1...8).contains(exponent.count), modulus.count <= 2048
            else { throw invalid("has no usable numbers") }
            return DEREncoding.sequence(
                DEREncoding.sequence(
                    DEREncoding.objectIdentifier([0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01]),
                    DEREncoding.null
                ),
                DEREncoding.bitString(DEREncoding.sequence(DEREncoding.integer(modulus), DEREncoding.integer(exponent)))
            )
        case "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521":
            let curve = String(algorithm.dropFirst("ecdsa-sha2-".count))
            let (identifier, length): ([UInt8], Int) =
                switch curve {
                case "nistp256": ([0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07], 65)
                case "nistp384": ([0x2B, 0x81, 0x04, 0x00, 0x22], 97)
                default: ([0x2B, 0x81, 0x04, 0x00, 0x23], 133)
                }
            guard fields[0].elementsEqual(curve.utf8) else { throw invalid("names another curve") }
            // 4: an uncompressed point, which is what every implementation sends.
            guard fields[1].count == length, fields[1].first == 4 else { throw invalid("has a malformed point") }
            return DEREncoding.sequence(
                DEREncoding.sequence(
                    DEREncoding.objectIdentifier([0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01]),
                    DEREncoding.objectIdentifier(identifier)
                ),
                DEREncoding.bitString(Array(fields[1]))
            )
        default: return nil
        }
    }
}

extension SSHWireReader {
    /// A string that is the name of an algorithm: printable ASCII, 1–64 bytes (RFC 4251 §6).
    mutating func name() -> String? {
        guard let bytes = string(), (1...64).contains(bytes.count), bytes.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            return nil
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The magnitude of a number that is not negative.
    mutating func mpint() -> ArraySlice<UInt8>? { string().flatMap { Self.magnitude($0) } }

    /// An mpint's magnitude without leading zeros; nil for zero and for a negative number.
    static func magnitude(_ bytes: ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
        guard let first = bytes.first, first & 0x80 == 0 else { return nil }
        let digits = bytes.drop { $0 == 0 }
        return digits.isEmpty ? nil : digits
    }
}

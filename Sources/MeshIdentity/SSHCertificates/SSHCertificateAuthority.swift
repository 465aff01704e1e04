import COpenSSL
import Glibc
import Platform

/// Issues OpenSSH certificates for hosts and for users: two ECDSA keys of their own, in the directory of the X.509 CA.
///
/// Separate keys, because a host's CA must not be able to let users in, nor the other way round. ECDSA, because libssh2
/// 1.10 can use no other certificates. Signing touches no file.
package struct SSHCertificateAuthority: Sendable {
    private let userKey: PrivateKey
    private let hostKey: PrivateKey
    private let userPublicKey: SSHPublicKey
    private let hostPublicKey: SSHPublicKey

    package static func keyFile(_ kind: SSHCertificate.Kind) -> String { "ssh-\(kind.name)-ca-key.pem" }
    package static func publicFile(_ kind: SSHCertificate.Kind) -> String { "ssh-\(kind.name)-ca.pub" }

    /// The most a certificate may be valid: ten years, like the CA.
    package static let maximumLifetime = Duration.seconds(10 * 365 * 24 * 60 * 60)

    /// How far back a certificate's validity begins, in seconds: clocks of devices differ.
    package static let backdating: Int64 = 300

    /// Opens the SSH CA in a CA's directory, and makes its keys where there are none yet.
    ///
    /// - Parameters:
    ///   - directory: has an X.509 CA already.
    ///   - passphrase: the one of the X.509 CA's key; nil where that is not encrypted.
    package static func open(
        directory: String,
        passphrase: Passphrase? = nil
    ) throws(IdentityError) -> SSHCertificateAuthority {
        // Two operators who begin at once must not each make keys.
        let lock = try fileWork(FileLock(directory: directory, patience: .seconds(30)))
        defer { lock.unlock() }
        return SSHCertificateAuthority(
            user: try key(.user, directory, passphrase),
            host: try key(.host, directory, passphrase)
        )
    }

    /// A CA in memory only.
    package init() throws(IdentityError) {
        let (user, host) = (try PrivateKey.generate(), try PrivateKey.generate())
        self.init(user: (user, try SSHPublicKey(user)), host: (host, try SSHPublicKey(host)))
    }

    private init(user: (PrivateKey, SSHPublicKey), host: (PrivateKey, SSHPublicKey)) {
        (userKey, userPublicKey) = user
        (hostKey, hostPublicKey) = host
    }

    /// The public key of the CA in a directory. Its private key is not touched, so no passphrase is needed.
    package static func publicKey(
        _ kind: SSHCertificate.Kind,
        directory: String
    ) throws(IdentityError) -> SSHPublicKey {
        try SSHPublicKey(line: fileWork(AtomicFile.read("\(directory)/\(publicFile(kind))", limit: 16 << 10)))
    }

    package func publicKey(_ kind: SSHCertificate.Kind) -> SSHPublicKey {
        kind == .user ? userPublicKey : hostPublicKey
    }

    private static func key(
        _ kind: SSHCertificate.Kind,
        _ directory: String,
        _ passphrase: Passphrase?
    ) throws(IdentityError) -> (PrivateKey, SSHPublicKey) {
        let path = "\(directory)/\(keyFile(kind))"
        let key: PrivateKey
        do throws(IdentityError) {
            let (pem, access) = try fileWork(AtomicFile.readWithAccess(path))
            try CredentialFiles.requirePrivate(access, path: path)
            do throws(IdentityError) {
                key = try PrivateKey(pem: pem, passphrase: passphrase)
            } catch {
                throw IdentityError(error.code, "\(path): \(error.message)")
            }
        } catch {
            guard error.code == .notFound else { throw error }
            key = try PrivateKey.generate()
            let pem = if let passphrase { try key.pem(encryptedWith: passphrase) } else { try key.pem() }
            try fileWork(AtomicFile.write(pem, to: path, mode: 0o600, overwrite: false))
        }
        let publicKey = try SSHPublicKey(key)
        let line = Array("\(publicKey.line) bootstrap SSH \(kind.name) CA\n".utf8)
        let publicPath = "\(directory)/\(publicFile(kind))"
        // Also after a crash between the two files.
        if (try? fileWork(AtomicFile.read(publicPath, limit: 16 << 10))) != line {
            try fileWork(AtomicFile.write(line, to: publicPath, mode: 0o644))
        }
        return (key, publicKey)
    }

    // MARK: Issuing

    /// What a certificate says.
    package struct Request: Hashable, Sendable {
        package var kind: SSHCertificate.Kind
        package var key: SSHPublicKey
        /// Host names and addresses, or the names that a user may log in as. At least one: a certificate without any
        /// would be taken for every host or user by older servers.
        package var principals: [String]
        /// For the server's log.
        package var keyID: String
        package var lifetime: Duration

        package init(
            kind: SSHCertificate.Kind,
            key: SSHPublicKey,
            principals: [String],
            keyID: String,
            lifetime: Duration
        ) {
            self.kind = kind
            self.key = key
            self.principals = principals
            self.keyID = keyID
            self.lifetime = lifetime
        }
    }

    /// What `ssh-keygen` gives a user, too; hosts get none.
    private static let userExtensions = [
        "permit-X11-forwarding", "permit-agent-forwarding", "permit-port-forwarding", "permit-pty", "permit-user-rc",
    ]

    /// - Throws: ``IdentityError`` with code `refused` for a request that makes no sense.
    package func issue(_ request: Request) throws(IdentityError) -> SSHCertificate {
        try issue(request, now: WallClock.system.seconds)
    }

    package func issue(_ request: Request, now: Int64) throws(IdentityError) -> SSHCertificate {
        let lifetime = request.lifetime.components.seconds
        guard lifetime > 0, request.lifetime <= Self.maximumLifetime else {
            throw IdentityError(.refused, "a lifetime of \(request.lifetime) is not from a second to ten years")
        }
        guard !request.principals.isEmpty else {
            throw IdentityError(
                .refused,
                "an SSH certificate needs at least one principal: the names and addresses of the host, or of the users"
            )
        }
        for principal in request.principals { try Self.check(principal, request.kind) }
        guard request.keyID.utf8.count <= 256, request.keyID.unicodeScalars.allSatisfy({ $0.value >= 0x20 }) else {
            throw IdentityError(.refused, "the key ID is too long, or has control characters")
        }
        guard request.key != userPublicKey, request.key != hostPublicKey else {
            throw IdentityError(.refused, "the key to be certified is the CA's own")
        }
        let authority = publicKey(request.kind)
        var writer = SSHWireWriter()
        writer.string(request.key.algorithm + SSHCertificate.suffix)
        var random = SystemRandomNumberGenerator()
        writer.string((0..<32).map { _ in UInt8.random(in: .min ... .max, using: &random) })
        // The fields of the key without its algorithm.
        writer.raw(request.key.blob[(4 + request.key.algorithm.utf8.count)...])
        writer.uint64(UInt64.random(in: 1...UInt64(Int64.max), using: &random))
        writer.uint32(request.kind.rawValue)
        writer.string(request.keyID)
        writer.string(Self.pack(request.principals))
        writer.uint64(UInt64(max(0, now - Self.backdating)))
        writer.uint64(UInt64(max(0, now + lifetime)))
        writer.string([])
        var extensions = SSHWireWriter()
        for name in request.kind == .user ? Self.userExtensions : [] {
            extensions.string(name)
            extensions.string([])
        }
        writer.string(extensions.bytes)
        writer.string([])
        writer.string(authority.blob)
        writer.string(try Self.sign(writer.bytes, with: request.kind == .user ? userKey : hostKey))
        let certificate = try SSHCertificate(blob: writer.bytes)
        guard certificate.isSigned else {
            throw IdentityError(.crypto, "the SSH certificate's own signature does not verify")
        }
        return certificate
    }

    /// What `sshd` and `ssh` could misread in a list or a line.
    private static func check(_ principal: String, _ kind: SSHCertificate.Kind) throws(IdentityError) {
        let isPlain =
            (1...255).contains(principal.utf8.count)
            && principal.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: ",") }
        guard isPlain else {
            throw IdentityError(.refused, "the principal '\(principal)' is empty, too long, or has spaces or commas")
        }
        guard kind == .user || !principal.contains(where: { "*?!".contains($0) }) else {
            throw IdentityError(.refused, "the principal '\(principal)' has a wildcard: name the host itself")
        }
    }

    private static func pack(_ names: [String]) -> [UInt8] {
        var writer = SSHWireWriter()
        for name in names { writer.string(name) }
        return writer.bytes
    }

    /// An ECDSA signature in SSH's format (RFC 5656 §3.1.2).
    private static func sign(_ message: [UInt8], with key: PrivateKey) throws(IdentityError) -> [UInt8] {
        OpenSSLErrors.clear()
        guard let context = EVP_MD_CTX_new() else { throw OpenSSLErrors.failure("make a digest") }
        defer { EVP_MD_CTX_free(context) }
        var der = [UInt8](repeating: 0, count: 128)
        var length = der.count
        guard EVP_DigestSignInit(context, nil, EVP_sha256(), nil, key.pointer) == 1,
            EVP_DigestSign(context, &der, &length, message, message.count) == 1
        else { throw OpenSSLErrors.failure("sign an SSH certificate") }
        guard let (r, s) = DEREncoding.twoIntegers(der[..<length]) else {
            throw IdentityError(.crypto, "OpenSSL made a signature of an unknown form")
        }
        var numbers = SSHWireWriter()
        numbers.string(r)
        numbers.string(s)
        var signature = SSHWireWriter()
        signature.string("ecdsa-sha2-nistp256")
        signature.string(numbers.bytes)
        return signature.bytes
    }
}

extension SSHCertificate.Kind {
    /// `user` or `host`.
    package var name: String { self == .user ? "user" : "host" }
}

extension DEREncoding {
    /// The contents of `SEQUENCE { INTEGER, INTEGER }` with short lengths, which an ECDSA signature on P-256 has. A DER
    /// integer's content is an SSH mpint's.
    static func twoIntegers(_ bytes: ArraySlice<UInt8>) -> ([UInt8], [UInt8])? {
        var rest = bytes
        func take(_ tag: UInt8) -> ArraySlice<UInt8>? {
            guard rest.popFirst() == tag, let length = rest.popFirst(), length < 0x80, rest.count >= Int(length) else {
                return nil
            }
            defer { rest = rest.dropFirst(Int(length)) }
            return rest.prefix(Int(length))
        }
        guard let content = take(0x30), rest.isEmpty else { return nil }
        rest = content
        guard let r = take(0x02), let s = take(0x02), rest.isEmpty else { return nil }
        return (Array(r), Array(s))
    }
}

/// A signature that `ssh-keygen -Y sign` makes over a file (`PROTOCOL.sshsig`): with the key, what it is for, and
/// nothing of the file.
///
/// Parsing says nothing about trust: that is ``refusal(of:namespace:by:)``. Every length is checked, and nothing may
/// follow the last field.
package struct SSHSignature: Hashable, Sendable {
    /// The whole signature in the wire format.
    package let blob: [UInt8]
    /// The key that it claims to be of.
    package let key: SSHPublicKey
    /// What it was made for, so that a signature for one purpose is none for another.
    package let namespace: String
    /// How the message was hashed: `sha256` or `sha512`.
    package let hashAlgorithm: String
    private let signature: [UInt8]

    private static let magic = Array("SSHSIG".utf8)
    private static let begin = "-----BEGIN SSH SIGNATURE-----"
    private static let end = "-----END SSH SIGNATURE-----"
    /// One of an RSA key of 16,384 bits has below 6 KiB.
    private static let maximumLength = 16 << 10

    /// - Throws: ``IdentityError`` with code `invalidKey`.
    package init(blob: [UInt8]) throws(IdentityError) {
        guard blob.count <= Self.maximumLength else { throw Self.invalid("it is too long") }
        guard blob.starts(with: Self.magic) else { throw Self.invalid("it does not begin with SSHSIG") }
        var reader = SSHWireReader(blob.dropFirst(Self.magic.count))
        guard let version = reader.uint32() else { throw Self.invalid("it ends early") }
        guard version == 1 else { throw Self.invalid("it is of version \(version)") }
        guard let key = reader.string(), let namespace = reader.string(), let reserved = reader.string(),
            let hash = reader.string(), let signature = reader.string()
        else { throw Self.invalid("it ends early") }
        guard reader.rest.isEmpty else { throw Self.invalid("\(reader.rest.count) bytes follow it") }
        guard !namespace.isEmpty, namespace.count <= 255, namespace.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            throw Self.invalid("it has no namespace, or a malformed one")
        }
        // Nothing is defined for it; OpenSSH signs and verifies with an empty one.
        guard reserved.isEmpty else { throw Self.invalid("its reserved field is not empty") }
        let name = String(decoding: hash, as: UTF8.self)
        guard ["sha256", "sha512"].contains(name) else { throw Self.invalid("its hash is neither SHA-256 nor SHA-512") }
        self.blob = blob
        self.key = try SSHPublicKey(blob: Array(key))
        self.namespace = String(decoding: namespace, as: UTF8.self)
        hashAlgorithm = name
        self.signature = Array(signature)
    }

    /// As `ssh-keygen` writes it: base 64 between two lines. White space around it does not matter, anything else does.
    package init(armored: [UInt8]) throws(IdentityError) {
        guard armored.count <= 2 * Self.maximumLength else { throw Self.invalid("it is too long") }
        let lines = String(decoding: armored, as: UTF8.self).split(whereSeparator: \.isWhitespace)
        // The two marks have spaces themselves.
        let (begin, end) = (Self.begin.split(separator: " "), Self.end.split(separator: " "))
        guard lines.count > begin.count + end.count, Array(lines.prefix(begin.count)) == begin,
            Array(lines.suffix(end.count)) == end
        else { throw Self.invalid("it does not stand between '\(Self.begin)' and '\(Self.end)'") }
        guard let blob = Base64.decode(lines.dropFirst(begin.count).dropLast(end.count).joined()) else {
            throw Self.invalid("its base 64 is damaged")
        }
        try self.init(blob: blob)
    }

    /// As `ssh-keygen -Y verify` takes it, with the end of the last line.
    package var armored: String {
        var lines = [Self.begin]
        var rest = Base64.encode(blob)[...]
        while !rest.isEmpty {
            lines.append(String(rest.prefix(70)))
            rest = rest.dropFirst(70)
        }
        return (lines + [Self.end]).map { $0 + "\n" }.joined()
    }

    /// Why it is not `key`'s signature over `message` for `namespace`; nil when it is.
    package func refusal(of message: [UInt8], namespace: String, by key: SSHPublicKey) -> String? {
        guard self.namespace == namespace else { return "it was made for '\(self.namespace)', not for '\(namespace)'" }
        guard self.key == key else { return "it is of the key \(self.key), not of \(key)" }
        var signed = SSHWireWriter()
        signed.raw(Self.magic)
        signed.string(self.namespace)
        signed.string([])
        signed.string(hashAlgorithm)
        signed.string(hashAlgorithm == "sha512" ? Digest.sha512(message) : Digest.sha256(message))
        return key.verifies(signature, of: signed.bytes) ? nil : "it does not verify"
    }

    private static func invalid(_ why: String) -> IdentityError {
        IdentityError(.invalidKey, "this is no SSH signature that can be used: \(why)")
    }
}

import MeshIdentity

/// A host's public key in the wire format of RFC 4253 §6.6.
public struct HostKey: Hashable, Sendable, CustomStringConvertible {
    /// The key's own name for its type: `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa`.
    public let algorithm: String
    /// The wire format, algorithm first.
    public let blob: [UInt8]

    /// nil when `blob` does not begin with the name of an algorithm.
    public init?(blob: [UInt8]) {
        guard blob.count > 4 else { return nil }
        let length = blob[0..<4].reduce(0) { $0 << 8 | Int($1) }
        guard length > 0, length <= 64, blob.count > 4 + length else { return nil }
        let name = blob[4..<4 + length]
        guard name.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else { return nil }
        algorithm = String(decoding: name, as: UTF8.self)
        self.blob = blob
    }

    /// Whether it is an OpenSSH certificate rather than a plain key.
    public var isCertificate: Bool { algorithm.hasSuffix("-cert-v01@openssh.com") }

    /// As `ssh-keygen -l` prints it: `SHA256:` and base 64 without padding.
    public var fingerprint: String { "SHA256:" + Base64.encode(Digest.sha256(blob), padded: false) }

    public var description: String { "\(fingerprint) (\(algorithm))" }
}

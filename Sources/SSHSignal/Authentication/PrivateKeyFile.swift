import Glibc
import MeshIdentity
import Platform

/// A private key file, understood as far as needed without its passphrase: whether it is encrypted, and its public
/// half.
struct PrivateKeyFile {
    /// For messages: the path.
    let name: String
    let contents: [UInt8]
    let isEncrypted: Bool
    /// The public key in the wire format, where the file shows it: in OpenSSH's format always.
    var publicKey: HostKey?

    enum Failure: Error {
        case unreadable(String)
        case notAKey(String)
    }

    /// Key files are a few kilobytes; anything larger is a mistake.
    private static let maximumSize = 128 << 10

    /// Reads the file, and where it hides its public half, the `.pub` file beside it.
    init(path: String) throws(Failure) {
        try self.init(contents: Self.read(path), name: path)
        if publicKey == nil, let line = try? Self.read(path + ".pub") { publicKey = Self.publicKey(line) }
    }

    init(contents: [UInt8], name: String) throws(Failure) {
        self.name = name
        self.contents = contents
        let text = String(decoding: contents, as: UTF8.self)
        guard let begin = text.firstRange(of: "-----BEGIN "),
            let end = text[begin.upperBound...].firstRange(of: "-----")
        else { throw .notAKey("\(name) is not a private key in OpenSSH's or PEM format") }
        switch text[begin.upperBound..<end.lowerBound] {
        case "OPENSSH PRIVATE KEY":
            let body = text[end.upperBound...].prefix { $0 != "-" }.filter { !$0.isWhitespace }
            (isEncrypted, publicKey) = try Self.parseOpenSSH(body, name)
        case "ENCRYPTED PRIVATE KEY":
            isEncrypted = true
        case "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "DSA PRIVATE KEY":
            isEncrypted = text.contains("Proc-Type: 4,ENCRYPTED")
        case let other:
            throw .notAKey("\(name) holds a \(Printable.clean(String(other))), not a private key")
        }
    }

    /// The key's type where it is known without decrypting: RSA is to be refused with a reason.
    var isRSA: Bool {
        publicKey?.algorithm == "ssh-rsa" || String(decoding: contents.prefix(64), as: UTF8.self).contains("BEGIN RSA")
    }

    /// openssh-key-v1 (OpenSSH's PROTOCOL.key): magic, cipher, KDF, options, number of keys, public key, private part.
    private static func parseOpenSSH(_ base64: String, _ name: String) throws(Failure) -> (Bool, HostKey?) {
        let magic = Array("openssh-key-v1\0".utf8)
        guard let bytes = Base64.decode(base64), bytes.starts(with: magic) else {
            throw .notAKey("\(name) is damaged: its base 64 part cannot be read")
        }
        var reader = SSHWireReader(bytes[magic.count...])
        guard let cipher = reader.text(), reader.string() != nil, reader.string() != nil, reader.uint32() == 1,
            let blob = reader.string()
        else { throw .notAKey("\(name) is damaged: it ends early") }
        return (cipher != "none", HostKey(blob: Array(blob)))
    }

    /// `type base64 comment`, as in a `.pub` file.
    private static func publicKey(_ line: [UInt8]) -> HostKey? {
        let words = String(decoding: line, as: UTF8.self).split(maxSplits: 2, whereSeparator: \.isWhitespace)
        guard words.count >= 2, let blob = Base64.decode(words[1]) else { return nil }
        return HostKey(blob: blob)
    }

    static func read(_ path: String) throws(Failure) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .unreadable("\(path): \(String(cString: strerror(errno)))") }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: maximumSize)
        var length = 0
        while length < bytes.count {
            let count = bytes.withUnsafeMutableBytes {
                Glibc.read(descriptor, $0.baseAddress! + length, $0.count - length)
            }
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw .unreadable("\(path): \(String(cString: strerror(errno)))") }
            if count == 0 { break }
            length += count
        }
        guard length < maximumSize else { throw .notAKey("\(path) is too large for a private key") }
        return Array(bytes[..<length])
    }
}

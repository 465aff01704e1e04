import Glibc
import MeshIdentity
import Platform

/// A private key file, understood as far as needed without its passphrase: whether it is encrypted, and its public
/// half.
///
/// Taken as `ssh` takes them: OpenSSH's own format, PKCS#8, PKCS#1 and SEC 1 as OpenSSL writes them, encrypted or not,
/// with other blocks (`EC PARAMETERS`, certificates) and text around. A file with the public half alone names a key of
/// the agent.
struct PrivateKeyFile {
    /// For messages: the path.
    let name: String
    /// The block with the private key, in lines that end with a line feed; empty where there is only the public half.
    let contents: [UInt8]
    let isEncrypted: Bool
    /// The public key in the wire format, where the file shows it: in OpenSSH's format always.
    var publicKey: HostKey?
    /// The key's type where it is known without decrypting.
    private let algorithm: String?
    /// The file's permissions where others than its owner may read or write it: then it is not used.
    private(set) var tooOpen: UInt32?

    enum Failure: Error {
        case unreadable(String)
        case notAKey(String)
    }

    /// Key files are a few kilobytes; anything larger is a mistake.
    private static let maximumSize = 128 << 10

    /// Reads the file, and where it hides its public half, the `.pub` file beside it. That one is enough where the
    /// agent has the key.
    init(path: String) throws(Failure) {
        let beside = (try? Self.read(path + ".pub")).flatMap(Self.publicKey)
        do throws(Failure) {
            var status = stat()
            try self.init(contents: Self.read(path, &status), name: path)
            // As ssh has it: what belongs to somebody else is that one's matter, root's keys for a group among it.
            if status.st_uid == getuid(), status.st_mode & 0o077 != 0 { tooOpen = status.st_mode & 0o777 }
        } catch {
            guard case .unreadable = error, let beside else { throw error }
            self.init(name: path, publicKey: beside)
        }
        if publicKey == nil { publicKey = beside }
    }

    init(contents: [UInt8], name: String) throws(Failure) {
        let text = String(decoding: contents, as: UTF8.self)
        switch Self.privateKey(in: text) {
        case .found("OPENSSH PRIVATE KEY", let lines):
            let body = lines.joined(separator: "").filter { !$0.isWhitespace }
            let (isEncrypted, publicKey) = try Self.parseOpenSSH(body, name)
            self.init(
                name: name,
                contents: Self.block("OPENSSH PRIVATE KEY", Self.wrap(body)),
                isEncrypted: isEncrypted,
                publicKey: publicKey,
                algorithm: publicKey?.algorithm
            )
        case .found(let label, let lines):
            let isEncrypted =
                label == "ENCRYPTED PRIVATE KEY" || lines.contains { $0.hasPrefix("Proc-Type: 4,ENCRYPTED") }
            let block = Self.block(label, lines.map(String.init))
            let known = ["RSA PRIVATE KEY": "ssh-rsa", "DSA PRIVATE KEY": "ssh-dss"]
            let algorithm = known[label] ?? (isEncrypted ? nil : SSHPublicKey.algorithm(ofPrivateKey: block))
            self.init(name: name, contents: block, isEncrypted: isEncrypted, publicKey: nil, algorithm: algorithm)
        case .unfinished(let what): throw .notAKey("\(name) is damaged: its \(what) has no end")
        case .nothing(let other):
            if let publicKey = Self.publicKey(contents) {
                self.init(name: name, publicKey: publicKey)
                return
            }
            guard let other else { throw .notAKey("\(name) is not a private key in OpenSSH's or PEM format") }
            throw .notAKey("\(name) holds a \(Printable.clean(other)), not a private key")
        }
    }

    /// Only the public half is there.
    private init(name: String, publicKey: HostKey) {
        self.init(name: name, contents: [], isEncrypted: false, publicKey: publicKey, algorithm: publicKey.algorithm)
    }

    private init(name: String, contents: [UInt8], isEncrypted: Bool, publicKey: HostKey?, algorithm: String?) {
        self.name = name
        self.contents = contents
        self.isEncrypted = isEncrypted
        self.publicKey = publicKey
        self.algorithm = algorithm
    }

    var hasPrivateHalf: Bool { !contents.isEmpty }

    /// Why the private half is not used, and what to do; nil where it may be.
    var exposure: String? {
        tooOpen.map { mode in
            let text = "0" + String(mode, radix: 8)
            return
                "UNPROTECTED PRIVATE KEY FILE: permissions \(text) for \(name) are too open, others could read it. This "
                + "private key is ignored; make it yours alone: chmod 600 \(ShellScript.quote(name))"
        }
    }

    /// RSA is to be refused with a reason.
    var isRSA: Bool { (publicKey?.algorithm ?? algorithm) == "ssh-rsa" }

    // MARK: Blocks

    private enum Search {
        /// The lines between its first and its last one.
        case found(String, [Substring])
        case unfinished(String)
        /// The first block there is, if any.
        case nothing(other: String?)
    }

    /// The first block of PEM (RFC 7468) that is a private key. A carriage return, or space, at the end of a line does
    /// not count, nor does what is before and behind.
    private static func privateKey(in text: String) -> Search {
        var other: String?
        var open: (label: String, lines: [Substring])?
        for line in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline) {
            let line = line.suffix(from: line.firstIndex { $0 != "\u{FEFF}" } ?? line.endIndex)
            let end = line.lastIndex { !$0.isWhitespace }.map(line.index(after:)) ?? line.startIndex
            let trimmed = line[..<end]
            if let label = label(trimmed, "-----BEGIN ") {
                if label.hasSuffix("PRIVATE KEY") {
                    open = (label, [])
                } else if open == nil {
                    other = other ?? label
                }
            } else if let label = label(trimmed, "-----END "), let block = open, block.label == label {
                return .found(label, block.lines)
            } else {
                open?.lines.append(trimmed)
            }
        }
        return open.map { .unfinished($0.label) } ?? .nothing(other: other)
    }

    private static func label(_ line: Substring, _ prefix: String) -> String? {
        guard line.hasPrefix(prefix), line.hasSuffix("-----"), line.count >= prefix.count + 5 else { return nil }
        return String(line.dropFirst(prefix.count).dropLast(5))
    }

    private static func block(_ label: String, _ lines: [String]) -> [UInt8] {
        Array((["-----BEGIN \(label)-----"] + lines + ["-----END \(label)-----", ""]).joined(separator: "\n").utf8)
    }

    private static func wrap(_ base64: String) -> [String] {
        var rest = Substring(base64)
        var lines: [String] = []
        while !rest.isEmpty {
            lines.append(String(rest.prefix(70)))
            rest = rest.dropFirst(70)
        }
        return lines
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
    private static func publicKey(_ contents: [UInt8]) -> HostKey? {
        for (_, line) in LocalFile.lines(of: contents) {
            let words = line.split(maxSplits: 2, whereSeparator: \.isWhitespace)
            guard let first = words.first, !first.hasPrefix("#") else { continue }
            guard words.count >= 2, let blob = Base64.decode(words[1]), let key = HostKey(blob: blob),
                key.algorithm == first
            else { return nil }
            return key
        }
        return nil
    }

    static func read(_ path: String) throws(Failure) -> [UInt8] {
        var status = stat()
        return try read(path, &status)
    }

    private static func read(_ path: String, _ status: inout stat) throws(Failure) -> [UInt8] {
        let descriptor: Int32
        do throws(LocalFile.Failure) {
            descriptor = try LocalFile.openForReading(path)
        } catch {
            throw Failure.unreadable("\(path): \(error.reason)")
        }
        defer { close(descriptor) }
        guard fstat(descriptor, &status) == 0 else {
            throw .unreadable("\(path): \(String(cString: strerror(errno)))")
        }
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

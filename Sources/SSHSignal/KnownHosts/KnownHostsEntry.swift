import MeshIdentity

/// One line of a known_hosts file (`sshd(8)`, SSH_KNOWN_HOSTS FILE FORMAT).
struct KnownHostsEntry: Hashable, Sendable {
    enum Marker: Hashable, Sendable {
        case none
        case revoked
        case certificateAuthority
    }

    enum Hosts: Hashable, Sendable {
        /// Names, addresses and patterns, in lower case; those with `!` exclude.
        case patterns([String])
        case hashed(salt: [UInt8], hash: [UInt8])
    }

    var marker: Marker
    var hosts: Hosts
    var key: HostKey
    var file: String
    /// Counted from 1.
    var line: Int

    /// nil for a blank line or a comment.
    ///
    /// - Throws: a reason, for a line that `ssh` would skip too.
    init?(parsing text: String, file: String, line: Int) throws(SSHConfigurationError) {
        var fields = text.split { $0 == " " || $0 == "\t" }[...]
        guard let first = fields.first, !first.hasPrefix("#") else { return nil }
        func failure(_ message: String) -> SSHConfigurationError {
            SSHConfigurationError(file: file, line: line, message)
        }
        marker = .none
        if first.hasPrefix("@") {
            switch first {
            case "@revoked": marker = .revoked
            case "@cert-authority": marker = .certificateAuthority
            default: throw failure("the marker \(first) is unknown")
            }
            fields.removeFirst()
        }
        guard fields.count >= 3 else { throw failure("host names, key type and key are needed") }
        let names = fields.removeFirst()
        let algorithm = fields.removeFirst()
        guard let blob = Base64.decode(fields.removeFirst()), let key = HostKey(blob: blob) else {
            throw failure("the key is damaged")
        }
        guard key.algorithm == algorithm else {
            throw failure("the line says \(algorithm), but its key is of type \(key.algorithm)")
        }
        self.key = key
        self.file = file
        self.line = line
        if names.hasPrefix("|") {
            let parts = names.split(separator: "|", omittingEmptySubsequences: false)
            guard parts.count == 4, parts[1] == "1", let salt = Base64.decode(parts[2]),
                let hash = Base64.decode(parts[3]),
                !salt.isEmpty, hash.count == 20
            else { throw failure("the hashed host name is damaged") }
            hosts = .hashed(salt: salt, hash: hash)
        } else {
            hosts = .patterns(names.split(separator: ",").map { $0.lowercased() })
        }
    }

    /// - Parameter name: in lower case, `[host]:port` where the port is not 22.
    func matches(_ name: String) -> Bool {
        switch hosts {
        case .patterns(let patterns): HostPattern.matches(name, list: patterns)
        case .hashed(let salt, let hash): Digest.hmacSHA1(key: salt, name) == hash
        }
    }
}

import CLinux
import Glibc
import MeshIdentity

/// Adds entries to a known_hosts file without touching what it holds.
enum KnownHostsFile {
    /// Appends a line for `key` under `name`, in one write, so that readers see all of it or nothing and two writers do
    /// not mix. Creates the file (0600) and its directory (0700) where they are missing.
    static func append(_ key: HostKey, name: String, hashed: Bool, to path: String) throws(SSHConfigurationError) {
        _ = try append("\(names(name, hashed: hashed)) \(key.algorithm) \(Base64.encode(key.blob))", to: path) { _ in
            false
        }
    }

    /// Appends `line`, without its end, unless `isThere` finds in the file what it says. Whoever else appends waits
    /// meanwhile.
    ///
    /// - Returns: Whether it was appended.
    static func append(
        _ line: String,
        to path: String,
        unless isThere: (KnownHosts) -> Bool
    ) throws(SSHConfigurationError) -> Bool {
        func failure(_ action: String) -> SSHConfigurationError {
            SSHConfigurationError(
                file: path,
                "nothing can be recorded there: \(action): \(String(cString: strerror(errno)))"
            )
        }
        if let slash = path.lastIndex(of: "/"), slash != path.startIndex {
            let directory = String(path[..<slash])
            if mkdir(directory, 0o700) != 0, errno != EEXIST { throw failure("the directory \(directory)") }
        }
        let descriptor = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw failure("open") }
        defer { close(descriptor) }
        guard flock(descriptor, LOCK_EX) == 0 else { throw failure("lock") }
        if isThere(try KnownHosts(files: [path])) { return false }
        var line = Array("\(line)\n".utf8)
        // An editor may have left the last line without its end; ours must not be glued to it.
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("stat") }
        var last: UInt8 = 0
        if status.st_size > 0, pread(descriptor, &last, 1, status.st_size - 1) == 1, last != UInt8(ascii: "\n") {
            line.insert(UInt8(ascii: "\n"), at: 0)
        }
        let written = write(descriptor, line, line.count)
        guard written == line.count else {
            if written >= 0 {
                // Half a line would be read as damage; take it back.
                errno = ENOSPC
                _ = ftruncate(descriptor, status.st_size)
            }
            throw failure("write")
        }
        // A device (/dev/null) has nothing to write out.
        guard fsync(descriptor) == 0 || errno == EINVAL else { throw failure("fsync") }
        return true
    }

    private static func names(_ name: String, hashed: Bool) -> String {
        guard hashed else { return name }
        var random = SystemRandomNumberGenerator()
        let salt = (0..<20).map { _ in UInt8.random(in: .min ... .max, using: &random) }
        return "|1|\(Base64.encode(salt))|\(Base64.encode(Digest.hmacSHA1(key: salt, name)))"
    }
}

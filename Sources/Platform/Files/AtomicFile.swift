import CLinux
import Glibc

/// Files that a reader, or a crash, never sees half of: written beside their place, synced, renamed over it.
package enum AtomicFile {
    /// Replaces `path` with `bytes`, or leaves it as it was.
    ///
    /// - Parameters:
    ///   - mode: permission bits, set regardless of the umask: 0o600 for secrets.
    ///   - overwrite: if false, a file that is there stays and the error is `alreadyExists`.
    package static func write(
        _ bytes: [UInt8],
        to path: String,
        mode: UInt32 = 0o644,
        overwrite: Bool = true
    ) throws(FileError) {
        let (directory, name) = split(path)
        let temporary = "\(directory)/.\(name).\(randomName())"
        do throws(FileError) {
            try create(bytes, at: temporary, mode: mode)
            if overwrite {
                guard rename(temporary, path) == 0 else { throw failure("replace", path) }
            } else {
                guard link(temporary, path) == 0 else {
                    if errno == EEXIST {
                        throw FileError(.alreadyExists, "\(path) exists already; it is not overwritten")
                    }
                    throw failure("create", path)
                }
                unlink(temporary)
            }
        } catch {
            unlink(temporary)
            throw error
        }
        try synchronize(directory: directory)
    }

    /// Writes and syncs a new file. On failure nothing is left.
    package static func create(_ bytes: [UInt8], at path: String, mode: UInt32) throws(FileError) {
        let file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode_t(mode))
        guard file >= 0 else { throw failure("create", path) }
        do throws(FileError) {
            defer { close(file) }
            guard fchmod(file, mode_t(mode)) == 0 else { throw failure("set the permissions of", path) }
            try writeAll(bytes, to: file, path: path)
            guard fsync(file) == 0 else { throw failure("write", path) }
        } catch {
            unlink(path)
            throw error
        }
    }

    /// The whole file. Fails if it is longer than `limit`: a key or a certificate chain is not.
    ///
    /// - Parameter directory: a directory's descriptor that `path` is relative to; AT_FDCWD by default.
    package static func read(
        _ path: String,
        at directory: Int32 = AT_FDCWD,
        limit: Int = 1 << 20
    ) throws(FileError) -> [UInt8] {
        try readWithAccess(path, at: directory, limit: limit).bytes
    }

    /// As `read`, with who can read and change the very file that was read.
    package static func readWithAccess(
        _ path: String,
        at directory: Int32 = AT_FDCWD,
        limit: Int = 1 << 20
    ) throws(FileError) -> (bytes: [UInt8], access: FileAccess) {
        // Non-blocking, so that a named pipe in the file's place cannot hold us.
        let file = openat(directory, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard file >= 0 else { throw failure("read", path) }
        defer { close(file) }
        guard let access = FileAccess(of: file) else { throw failure("read", path) }
        guard access.isRegular else { throw FileError(.file, "\(path) is not a regular file") }
        do throws(LocalFile.Failure) {
            return (try LocalFile.contents(of: file, limit: limit), access)
        } catch {
            guard error.number == EFBIG else { throw failure("read", path, errno: error.number) }
            throw FileError(.file, "\(path) is longer than \(limit) bytes")
        }
    }

    /// Makes a directory and those above it that are missing. One that is there keeps its permissions.
    package static func createDirectory(_ path: String, mode: UInt32 = 0o755) throws(FileError) {
        var reason = try make(path, mode)
        if reason == ENOENT {
            let (parent, _) = split(path)
            guard parent != path else { throw failure("create", path, errno: reason) }
            try createDirectory(parent)
            reason = try make(path, mode)
        }
        switch reason {
        case 0: return
        case EEXIST:
            var status = stat()
            guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
                throw FileError(.file, "\(path) is there and is no directory")
            }
        case ENOENT:
            // The one above is there, and yet takes nothing.
            let above = split(path).directory
            let place = above == "." ? "the working directory" : above
            let cause = "\(place) takes no new entries (it is deleted, or the kernel's own); choose another place"
            throw FileError(.file, "cannot create \(path): \(cause)")
        default: throw failure("create", path, errno: reason)
        }
    }

    /// Returns why it could not be made, 0 when it was.
    private static func make(_ path: String, _ mode: UInt32) throws(FileError) -> Int32 {
        guard mkdir(path, mode_t(mode)) == 0 else { return errno }
        guard chmod(path, mode_t(mode)) == 0 else { throw failure("set the permissions of", path) }
        return 0
    }

    /// Puts a symbolic link in place of whatever file or link is at `path`.
    package static func replaceLink(at path: String, target: String) throws(FileError) {
        let (directory, name) = split(path)
        let temporary = "\(directory)/.\(name).\(randomName())"
        guard symlink(target, temporary) == 0 else { throw failure("create", temporary) }
        guard rename(temporary, path) == 0 else {
            let error = failure("replace", path)
            unlink(temporary)
            throw error
        }
    }

    /// Makes what was renamed or created in a directory last over a power failure.
    package static func synchronize(directory: String) throws(FileError) {
        let file = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard file >= 0 else { throw failure("open", directory) }
        defer { close(file) }
        guard fsync(file) == 0 else { throw failure("sync", directory) }
    }

    /// 64 random bits in hexadecimal: a name that no other writer has.
    package static func randomName() -> String { String(UInt64.random(in: .min ... .max), radix: 16) }

    /// The directory and the last component; "." where the path has no directory.
    package static func split(_ path: String) -> (directory: String, name: String) {
        var path = Substring(path)
        while path.count > 1, path.last == "/" { path.removeLast() }
        guard let slash = path.lastIndex(of: "/") else { return (".", String(path)) }
        let directory = path[..<slash]
        return (directory.isEmpty ? "/" : String(directory), String(path[path.index(after: slash)...]))
    }

    /// An error that names the operation, the path and errno's reason.
    package static func failure(_ verb: String, _ path: String, errno code: Int32 = errno) -> FileError {
        let kind: FileError.Code = code == ENOENT ? .notFound : .file
        let fix =
            switch code {
            case ENOSPC, EDQUOT: "; free some space on its file system"
            case EROFS: "; its file system is mounted read-only"
            case EACCES, EPERM: "; check the owner and permissions of it and the directories above"
            default: ""
            }
        return FileError(kind, "cannot \(verb) \(path): \(String(cString: strerror(code)))\(fix)")
    }

    private static func writeAll(_ bytes: [UInt8], to file: Int32, path: String) throws(FileError) {
        var offset = 0
        while offset < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.write(file, $0.baseAddress.map { $0 + offset }, $0.count - offset)
            }
            if count < 0 {
                if errno == EINTR { continue }
                throw failure("write", path)
            }
            offset += count
        }
    }
}

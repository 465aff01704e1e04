import CLinux
import Glibc

/// A local file that is being fetched, as scp(1) has it: what is there keeps its owner and permissions, and a link
/// stays a link.
///
/// Where that makes no difference, a new file and a regular file of this user with one name, it is written under a name
/// of its own beside the target, and renamed over it when it is complete: whoever reads the target sees the old file or
/// the new one, and what is not completed is removed. Everything else, a device or somebody else's file, is written to.
final class DownloadFile {
    private enum Place {
        /// With the permissions that it gets.
        case part(String, mode_t)
        case target
    }

    private let target: String
    private let permissions: mode_t
    private var place: Place
    /// -1 while nothing is open.
    private var descriptor: Int32 = -1
    /// There is a part that has not become the target.
    private var isPending = false
    /// A pipe or a terminal takes bytes in their order only: how many it has, and what came early.
    private var sequence: (written: UInt64, early: [UInt64: [UInt8]])?
    /// Bytes that came early.
    private var earlyBytes = 0

    /// A server that leaves the first piece of a file out could have all the others kept.
    private static let mostEarly = 64 << 20

    /// - Parameters:
    ///   - target: Where it is to be.
    ///   - permissions: Of a new file, less what the umask takes.
    /// - Throws: ``SSHError`` when the file cannot be made there.
    init(target: String, permissions: UInt32) throws(SSHError) {
        var status = stat()
        self.permissions = mode_t(permissions)
        let exists = stat(target, &status) == 0
        guard !exists || status.st_mode & S_IFMT != S_IFDIR else {
            throw SSHError(.system, "\(target) is a directory; name a file in it")
        }
        var link = stat()
        let isLink = lstat(target, &link) == 0 && link.st_mode & S_IFMT == S_IFLNK
        var path = target
        // A link stays a link: what it points to is replaced.
        if isLink, let resolved = realpath(target, nil) {
            path = String(cString: resolved)
            free(resolved)
        }
        self.target = path
        place = .target
        let part = PartName.beside(path)
        if exists {
            guard Self.isReplaceable(status, path) else { return }
            descriptor = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
            // A file may be writable in a directory that is not.
            guard descriptor >= 0 else { return }
            place = .part(part, status.st_mode & 0o777)
            isPending = true
            var made = stat()
            if fstat(descriptor, &made) != 0
                || (made.st_gid != status.st_gid && fchown(descriptor, .max, status.st_gid) != 0)
            {
                discard()
                place = .target
            }
        } else if !isLink {
            descriptor = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
            guard descriptor >= 0 else { throw SSHError(.system, "\(path): \(String(cString: strerror(errno)))") }
            let mask = umask(0o077)
            umask(mask)
            place = .part(part, self.permissions & ~mask)
            isPending = true
        }
    }

    deinit { discard() }

    /// A regular file of this user, with one name and without special bits, that its owner may write.
    private static func isReplaceable(_ status: stat, _ path: String) -> Bool {
        status.st_mode & S_IFMT == S_IFREG && status.st_uid == geteuid() && status.st_nlink == 1
            && status.st_mode & 0o7000 == 0 && status.st_mode & 0o200 != 0
    }

    /// Removes what was not completed.
    func discard() {
        if descriptor >= 0 { Glibc.close(descriptor) }
        descriptor = -1
        if isPending, case .part(let part, _) = place { unlink(part) }
        isPending = false
    }

    func write(_ bytes: [UInt8], at offset: UInt64) throws(SSHError) {
        let result = bytes.withUnsafeBytes { bytes in
            Result { () throws(SSHError) in try write(bytes, at: offset) }
        }
        try result.get()
    }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(SSHError) {
        try openTarget()
        guard sequence != nil else { return try writeAll(bytes, at: offset) }
        if sequence?.written != offset {
            earlyBytes += bytes.count
            guard earlyBytes <= Self.mostEarly else {
                let place = "byte \(sequence?.written ?? 0)"
                throw SSHError(.transferFailed, "\(target): the server sends what is behind \(place), and not that")
            }
            sequence?.early[offset] = Array(bytes)
            return
        }
        try append(bytes)
        while let next = sequence?.written, let early = sequence?.early.removeValue(forKey: next) {
            earlyBytes -= early.count
            let result = early.withUnsafeBytes { early in Result { () throws(SSHError) in try append(early) } }
            try result.get()
        }
    }

    private func append(_ bytes: UnsafeRawBufferPointer) throws(SSHError) {
        try writeAll(bytes, at: nil)
        sequence?.written += UInt64(bytes.count)
    }

    private func writeAll(_ bytes: UnsafeRawBufferPointer, at offset: UInt64?) throws(SSHError) {
        var done = 0
        while done < bytes.count, let base = bytes.baseAddress {
            let count =
                if let offset {
                    pwrite(descriptor, base + done, bytes.count - done, off_t(offset) + off_t(done))
                } else {
                    Glibc.write(descriptor, base + done, bytes.count - done)
                }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw SSHError(.transferFailed, "\(target): \(String(cString: strerror(errno)))") }
            done += count
        }
    }

    /// Not before there is something to write: what cannot be fetched leaves the target alone.
    private func openTarget() throws(SSHError) {
        guard descriptor < 0 else { return }
        descriptor = open(target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, permissions)
        guard descriptor >= 0 else { throw SSHError(.system, "\(target): \(String(cString: strerror(errno)))") }
        if lseek(descriptor, 0, SEEK_CUR) < 0 { sequence = (0, [:]) }
    }

    /// Puts it in place; removes a part that cannot be.
    func complete() throws(SSHError) {
        try openTarget()
        if case .part(_, let mode) = place, fchmod(descriptor, mode) != 0 { throw failed(errno) }
        // Before the name is given: a server's disk says only now that it is full.
        let isClosed = Glibc.close(descriptor) == 0
        descriptor = -1
        guard isClosed else { throw failed(errno) }
        if case .part(let part, _) = place {
            guard rename(part, target) == 0 else { throw failed(errno) }
            isPending = false
        }
    }

    private func failed(_ code: Int32) -> SSHError {
        discard()
        return SSHError(.transferFailed, "\(target): \(String(cString: strerror(code)))")
    }
}

import CLinux
import Glibc

/// A local file that is being fetched: written under a name of its own beside the target, and renamed over it when it
/// is complete. Whoever reads the target sees the old file or the new one. What is not completed is removed.
final class DownloadFile {
    private let target: String
    private let part: String
    private var descriptor: Int32

    /// - Throws: ``SSHError`` when the file cannot be made there.
    init(target: String) throws(SSHError) {
        var path = target
        var status = stat()
        if stat(target, &status) == 0, status.st_mode & S_IFMT == S_IFDIR {
            throw SSHError(.system, "\(target) is a directory; name a file in it")
        }
        // A link stays a link: what it points to is replaced.
        if lstat(target, &status) == 0, status.st_mode & S_IFMT == S_IFLNK, let resolved = realpath(target, nil) {
            path = String(cString: resolved)
            free(resolved)
        }
        self.target = path
        part = "\(path).part.\(getpid()).\(String(UInt32.random(in: .min ... .max), radix: 16))"
        descriptor = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw SSHError(.system, "\(part): \(String(cString: strerror(errno)))") }
    }

    deinit { discard() }

    /// Removes what was not completed.
    func discard() {
        guard descriptor >= 0 else { return }
        Glibc.close(descriptor)
        descriptor = -1
        unlink(part)
    }

    func write(_ bytes: [UInt8], at offset: UInt64) throws(SSHError) {
        let result = bytes.withUnsafeBytes { bytes in
            Result { () throws(SSHError) in try write(bytes, at: offset) }
        }
        try result.get()
    }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(SSHError) {
        var done = 0
        while done < bytes.count, let base = bytes.baseAddress {
            let count = pwrite(descriptor, base + done, bytes.count - done, off_t(offset) + off_t(done))
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw SSHError(.transferFailed, "\(part): \(String(cString: strerror(errno)))") }
            done += count
        }
    }

    /// Puts it in place, with the permissions that a new file of this process has.
    func complete() throws(SSHError) {
        let mask = umask(0o077)
        umask(mask)
        var status = stat()
        let mode = stat(target, &status) == 0 ? status.st_mode & 0o777 : 0o666 & ~mask
        guard fchmod(descriptor, mode) == 0, rename(part, target) == 0 else {
            throw SSHError(.transferFailed, "\(target): \(String(cString: strerror(errno)))")
        }
        Glibc.close(descriptor)
        descriptor = -1
    }
}

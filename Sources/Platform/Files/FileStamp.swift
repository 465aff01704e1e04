import CLinux
import Glibc

/// Tells whether files have changed since it was taken, by what the kernel says of them: inode, size, times.
///
/// The time of modification is for whoever copies a file to set (`cp -p`, `rsync -t`); the time of change is the
/// kernel's alone, and moves with the permissions and the owner as well. Symbolic links are followed, so the atomic
/// swap of a credential directory shows.
package struct FileStamp: Equatable, Sendable {
    private struct Entry: Equatable, Sendable {
        var device: UInt64 = 0
        var inode: UInt64 = 0
        var size: Int64 = 0
        var seconds: Int = 0
        var nanoseconds: Int = 0
        var changeSeconds: Int = 0
        var changeNanoseconds: Int = 0
    }

    private let entries: [Entry]

    package init(of paths: [String]) {
        entries = paths.map { path in
            var status = stat()
            guard stat(path, &status) == 0 else { return Entry() }
            return Entry(
                device: UInt64(status.st_dev),
                inode: UInt64(status.st_ino),
                size: Int64(status.st_size),
                seconds: status.st_mtim.tv_sec,
                nanoseconds: status.st_mtim.tv_nsec,
                changeSeconds: status.st_ctim.tv_sec,
                changeNanoseconds: status.st_ctim.tv_nsec
            )
        }
    }
}

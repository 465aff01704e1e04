import CLinux
import Glibc
import Synchronization

/// A log in a file that stays small, and that nobody depends on: what cannot be written, on a full disk, is dropped and
/// counted, and the count is the next line that can be.
///
/// At ``limit`` bytes the file becomes `PATH.1`, in the place of the one before. Several processes may write to it: one
/// notices that another has moved it away. Standard error follows, so that what a crash prints is in the same file.
package final class LogFile: Sendable {
    private struct State {
        var descriptor: Int32 = -1
        var dropped = 0
        var reason: Int32 = 0
        /// The last line was written in part.
        var isTorn = false
    }

    /// Of each of the two files.
    package static let limit = 1 << 20

    private let path: String
    private let limit: Int
    private let redirectsErrors: Bool
    private let state = Mutex(State())

    /// - Parameters:
    ///   - path: Made where it is missing, for this user alone.
    ///   - redirectsErrors: Whether it is standard error's file as well.
    package init(_ path: String, limit: Int = LogFile.limit, redirectsErrors: Bool = false) {
        self.path = path
        self.limit = limit
        self.redirectsErrors = redirectsErrors
    }

    deinit { state.withLock { if $0.descriptor >= 0 { _ = Glibc.close($0.descriptor) } } }

    /// Appends a line, or counts it.
    package func append(_ line: String) {
        state.withLock { state in
            follow(&state)
            guard state.descriptor >= 0 else {
                state.dropped += 1
                return
            }
            var text = state.isTorn ? "\n" : ""
            if state.dropped > 0 {
                let why = String(cString: strerror(state.reason))
                text += "\(describe(time: WallClock.system.seconds)) \(state.dropped) lines were not written: \(why)\n"
            }
            text += line + "\n"
            let bytes = Array(text.utf8)
            let count = write(state.descriptor, bytes, bytes.count)
            if count == bytes.count {
                (state.dropped, state.isTorn) = (0, false)
            } else {
                if count < 0 { state.reason = errno } else { (state.reason, state.isTorn) = (ENOSPC, true) }
                state.dropped += 1
            }
        }
    }

    /// Has the file at ``path`` open, and that file is not too long.
    private func follow(_ state: inout State) {
        var (present, own) = (stat(), stat())
        if state.descriptor >= 0 {
            let isSame =
                fstat(state.descriptor, &own) == 0 && stat(path, &present) == 0 && own.st_ino == present.st_ino
                && own.st_dev == present.st_dev
            // Something that is no file, /dev/null, has no length.
            if isSame, own.st_size < limit { return }
            if isSame, rename(path, "\(path).1") != 0 {
                // Its lines are lost; a full disk would be worse.
                _ = ftruncate(state.descriptor, 0)
                return
            }
        }
        let next = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard next >= 0 else {
            // The one that is open is better than none.
            state.reason = errno
            return
        }
        if state.descriptor >= 0 { _ = Glibc.close(state.descriptor) }
        state.descriptor = next
        if redirectsErrors { _ = dup2(next, STDERR_FILENO) }
    }
}

extension LogFile {
    /// Where a process is told that its standard error is such a file; older releases do not look.
    package static let environmentVariable = "BOOTSTRAP_LOG_FILE"

    /// The file that this process's standard error is.
    package static func ofThisProcess() -> LogFile? {
        guard let path = getenv(environmentVariable) else { return nil }
        return LogFile(String(cString: path), redirectsErrors: true)
    }
}

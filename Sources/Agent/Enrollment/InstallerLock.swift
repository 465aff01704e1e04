import Glibc
import Platform

/// The lock of whoever installs here, `ROOT/.lock/owner`, which a shell has taken before this process replaced it: it
/// holds until the conversation is over, so that no second operator gets in between.
///
/// One whose process is gone counts as stale: a process that is killed need not do anything.
struct InstallerLock {
    /// `ROOT/state`, absolute.
    let state: String

    private var path: String { AtomicFile.split(state).directory + "/.lock" }

    /// Removes it, if it is this process's.
    func release() {
        guard let owner = try? LocalFile.read("\(path)/owner"),
            String(decoding: owner, as: UTF8.self).split(separator: " ").first == "\(getpid())"
        else { return }
        unlink("\(path)/owner")
        rmdir(path)
    }
}

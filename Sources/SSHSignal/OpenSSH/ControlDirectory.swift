import CLinux
import Glibc
import Platform

/// A private directory for one `ssh` master: its control socket, and the host key that it saw.
final class ControlDirectory {
    let path: String
    private var isRemoved = false

    /// A socket's path has at most 107 bytes, and ssh first binds one with 17 more.
    private static let maximumPath = 107 - 17 - "/s".utf8.count
    private static let prefix = "bootstrap-ssh-"

    var socket: String { "\(path)/s" }
    /// Lines of a key type and base 64, that ``KnownHostsCommand`` writes.
    var hostKeys: String { "\(path)/k" }

    /// The program that answers for the password.
    var askpass: String { "\(path)/a" }

    func write(_ script: AskpassScript) throws(SSHError) {
        do throws(FileError) {
            try AtomicFile.create(Array(script.text.utf8), at: askpass, mode: 0o700)
        } catch {
            throw SSHError(.system, error.message)
        }
    }

    /// - Throws: ``SSHError/Code/system`` where no directory will do.
    init() throws(SSHError) {
        var tried: [String] = []
        for parent in Self.parents {
            Self.sweep(parent)
            // mkdtemp(3) puts something unique in the place of six X.
            let name = "\(parent)/\(Self.prefix)\(getpid())-" + String(repeating: "X", count: 6)
            guard name.utf8.count <= Self.maximumPath else {
                tried.append("\(parent) (its path is too long for a socket)")
                continue
            }
            // Mode 0700, whatever the umask.
            var template = Array(name.utf8CString)
            if mkdtemp(&template) != nil {
                path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
                return
            }
            tried.append("\(parent) (\(String(cString: strerror(errno))))")
        }
        throw SSHError(
            .system,
            "there is no directory for the control socket of ssh: tried \(tried.joined(separator: ", ")); set "
                + "XDG_RUNTIME_DIR to a directory of yours with a short path"
        )
    }

    deinit { remove() }

    /// Idempotent.
    func remove() {
        guard !isRemoved else { return }
        isRemoved = true
        unlink(socket)
        unlink(hostKeys)
        unlink(askpass)
        rmdir(path)
    }

    var hasSocket: Bool { access(socket, F_OK) == 0 }

    /// In the order of preference: the session's, the operator's own, the system's for temporary files.
    private static var parents: [String] {
        let account = LocalAccount.current()
        let home =
            account.environment["BOOTSTRAP_HOME"].flatMap { $0.isEmpty ? nil : $0 } ?? account.home + "/.bootstrap"
        return [account.environment["XDG_RUNTIME_DIR"], home, account.environment["TMPDIR"], P_tmpdir]
            .compactMap { $0 }.filter { $0.hasPrefix("/") }
    }

    /// It is this user's alone, and has no directories.
    private static func empty(_ path: String) {
        guard let directory = opendir(path) else { return }
        defer { closedir(directory) }
        while let entry = readdir(directory) {
            unlinkat(
                dirfd(directory),
                withUnsafePointer(to: &entry.pointee.d_name) { UnsafeRawPointer($0) }
                    .assumingMemoryBound(to: CChar.self),
                0
            )
        }
    }

    /// Removes what processes have left that were killed: more than an hour old, and none of them runs.
    private static func sweep(_ parent: String) {
        guard let directory = opendir(parent) else { return }
        defer { closedir(directory) }
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            guard name.hasPrefix(prefix), let owner = pid_t(name.dropFirst(prefix.count).prefix { $0.isNumber }),
                kill(owner, 0) != 0, errno == ESRCH
            else { continue }
            let path = "\(parent)/\(name)"
            var status = stat()
            guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR, status.st_uid == geteuid(),
                WallClock.system.seconds.subtractingSaturating(Int64(status.st_mtim.tv_sec)) > 3600
            else { continue }
            empty(path)
            rmdir(path)
        }
    }
}

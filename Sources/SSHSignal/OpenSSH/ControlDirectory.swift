import CLinux
import Glibc
import MeshIdentity
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

    /// The public half of a key that an agent holds.
    var publicKey: String { "\(path)/i.pub" }

    /// A configuration for `ssh -F`.
    var configuration: String { "\(path)/c" }

    func write(_ script: AskpassScript) throws(SSHError) {
        try create(Array(script.text.utf8), at: askpass, mode: 0o700)
    }

    /// Writes ``publicKey``.
    func write(_ key: HostKey) throws(SSHError) {
        try create(Array("\(key.algorithm) \(Base64.encode(key.blob))\n".utf8), at: publicKey, mode: 0o600)
    }

    /// Makes ``configuration`` of these files, in their order, as far as each exists: what `ssh` reads without `-F`,
    /// which leaves out the system's file.
    ///
    /// - Returns: Whether there is any.
    func writeConfiguration(of files: [String]) throws(SSHError) -> Bool {
        var text: [UInt8] = []
        for file in files where access(file, F_OK) == 0 {
            // Else the block that the file before has ended with would have its lines.
            if !text.isEmpty { text += Array("\nHost *\n".utf8) }
            text += try Self.configuration(of: file)
        }
        guard !text.isEmpty else { return false }
        try create(text, at: configuration, mode: 0o600)
        return true
    }

    /// A line that includes it; where `ssh` would not take that, its lines.
    private static func configuration(of file: String) throws(SSHError) -> [UInt8] {
        var status = stat()
        // Quotes, patterns, and what newer releases expand.
        let isPlain = file.utf8.allSatisfy { $0 > 0x20 && !"\"'\\*?[]{}%$~#".utf8.contains($0) }
        if isPlain, stat(file, &status) == 0, status.st_uid == 0 || status.st_uid == geteuid(),
            status.st_mode & 0o022 == 0
        {
            return Array("Include \"\(file)\"\n".utf8)
        }
        do throws(LocalFile.Failure) {
            return try LocalFile.read(file) ?? []
        } catch {
            throw SSHError(.system, "\(file) cannot be read: \(error.reason)")
        }
    }

    private func create(_ bytes: [UInt8], at path: String, mode: UInt32) throws(SSHError) {
        do throws(FileError) {
            try AtomicFile.create(bytes, at: path, mode: mode)
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
        unlink(publicKey)
        unlink(configuration)
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

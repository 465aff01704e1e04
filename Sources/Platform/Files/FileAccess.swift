import CLinux
import Glibc

/// Who can change a file that was read, and who else can read it: as the open descriptor says, so that it is said of
/// the very file whose bytes there are, whatever was put in its place since.
package struct FileAccess: Hashable, Sendable {
    /// The permission bits.
    package let mode: UInt32
    /// The user that it belongs to, who can change it whatever the permissions are.
    package let owner: UInt32
    /// false: a device or a pipe, whose permissions say nothing of what is read from it.
    package let isRegular: Bool

    package init(mode: UInt32, owner: UInt32, isRegular: Bool = true) {
        (self.mode, self.owner, self.isRegular) = (mode, owner, isRegular)
    }

    /// nil: the descriptor is not open; `errno` says so.
    init?(of descriptor: Int32) {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { return nil }
        self.init(
            mode: UInt32(status.st_mode) & 0o7777,
            owner: status.st_uid,
            isRegular: status.st_mode & S_IFMT == S_IFREG
        )
    }

    /// The permissions in octal, as `chmod` has them.
    package var modeText: String { "0" + String(mode, radix: 8) }

    /// What is to be said where the owner is a stranger: neither root nor the user that this process runs as, nor who
    /// has become root by `sudo`. nil: it is none. Of files that only a person uses: what is mounted into a container
    /// belongs to a stranger mostly.
    ///
    /// - Parameters:
    ///   - harm: What that user can do by the file.
    ///   - path: The file's, for what to do; the text goes on after its name.
    ///   - users: Whose files are taken, this process's user first.
    package func stranger(who harm: String, _ path: String, users: [UInt32] = trustedUsers) -> String? {
        guard isRegular, !users.contains(owner) else { return nil }
        let own = users.first ?? 0
        return "belongs to user \(owner), who is neither root nor the user of this process (\(own)), and \(harm). "
            + "Look at what is in it, and then: chown \(own) \(path), or run this as that user"
    }

    /// Whose files are taken: this process's user first.
    package static var trustedUsers: [UInt32] {
        let own = geteuid()
        guard own == 0 else { return [own, 0] }
        // Set by root's own `sudo`; whoever else can set it for a process of root needs no files.
        let invoker = getenv("SUDO_UID").flatMap { UInt32(String(cString: $0)) }
        return [0] + (invoker.map { [$0] } ?? [])
    }
}

import CLinux
import Glibc

/// The local facts that `ssh_config(5)` refers to: who runs this, and where their files are.
package struct LocalAccount: Hashable, Sendable {
    /// The login name: what `%u` stands for, and the remote user where none is named.
    package var user: String
    package var userID: UInt32
    /// Absolute. What `~` and `%d` stand for.
    package var home: String
    /// What `${NAME}` stands for in a path.
    package var environment: [String: String]

    package init(user: String, userID: UInt32, home: String, environment: [String: String] = [:]) {
        self.user = user
        self.userID = userID
        self.home = home
        self.environment = environment
    }

    /// The account of this process. The home directory is `$HOME`, as a shell understands `~`, when it is this user's
    /// own (after `sudo -E` it is not); else the account database's.
    package static func current() -> LocalAccount {
        let userID = getuid()
        var entry = passwd()
        var found: UnsafeMutablePointer<passwd>?
        // 16 KiB: what sysconf(_SC_GETPW_R_SIZE_MAX) suggests, with room for directory services.
        var buffer = [CChar](repeating: 0, count: 16_384)
        let environment = Program.currentEnvironment
        var user = environment["USER"] ?? "\(userID)"
        var home = environment["HOME"] ?? "/"
        var status = stat()
        let isOwn = home.hasPrefix("/") && stat(home, &status) == 0 && status.st_uid == userID
        if getpwuid_r(userID, &entry, &buffer, buffer.count, &found) == 0, found != nil {
            user = String(cString: entry.pw_name)
            if !isOwn { home = String(cString: entry.pw_dir) }
        }
        return LocalAccount(user: user, userID: userID, home: home, environment: environment)
    }
}

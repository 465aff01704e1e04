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
        let environment = Program.currentEnvironment
        let home = environment["HOME"] ?? ""
        var status = stat()
        let isOwn = home.hasPrefix("/") && stat(home, &status) == 0 && status.st_uid == userID
        return LocalAccount(
            user: Account.current?.name ?? environment["USER"] ?? "\(userID)",
            userID: userID,
            home: isOwn ? home : Account.current?.home ?? (home.hasPrefix("/") ? home : "/"),
            environment: environment
        )
    }

    /// Where this user's own files are: `$HOME`, whoever owns it; where it is empty or no absolute path, the account
    /// database's. `/` for who has neither.
    package static var homeDirectory: String {
        let home = getenv("HOME").map { String(cString: $0) } ?? ""
        return home.hasPrefix("/") ? home : Account.current?.home ?? "/"
    }
}

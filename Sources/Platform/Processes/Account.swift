import Glibc

/// An entry of the account database: that of /etc/passwd, or of whatever else nsswitch.conf(5) names (LDAP, sssd,
/// systemd), which the program getent(1) asks. Not the C library: in a statically linked program it loads modules that
/// crash it.
package struct Account: Hashable, Sendable {
    package var name: String
    package var userID: UInt32
    package var home: String

    package init(name: String, userID: UInt32, home: String) {
        self.name = name
        self.userID = userID
        self.home = home
    }

    /// The account of this process; nil: it has none. Looked up once.
    package static let current = find(userID: getuid())

    /// Blocks, for as long as getent(1) takes where /etc/passwd does not have it.
    ///
    /// - Parameters:
    ///   - userID: Whose.
    ///   - file: In the format of passwd(5).
    ///   - getent: The program that asks the other sources; nil: they are not asked.
    package static func find(
        userID: UInt32,
        in file: String = "/etc/passwd",
        getent: String? = Program.find("getent")
    ) -> Account? {
        let contents = (try? LocalFile.read(file)) ?? nil
        if let account = LocalFile.lines(of: contents ?? []).lazy.compactMap({ Account(line: $0.text) })
            .first(where: { $0.userID == userID })
        {
            return account
        }
        guard let getent else { return nil }
        let run = ProgramRun(
            Program(
                getent,
                [getent, "passwd", "\(userID)"],
                environment: Program.currentEnvironment,
                group: .own
            ),
            timeout: .seconds(20),
            errors: .tail(1 << 10)
        )
        guard let outcome = try? run.run(), outcome.status == .exited(0) else { return nil }
        return LocalFile.lines(of: outcome.output).lazy.compactMap { Account(line: $0.text) }
            .first { $0.userID == userID }
    }

    /// A line of passwd(5); nil for a comment, one that is damaged, or one of NIS (`+`).
    init?(line: String) {
        let fields = line.split(separator: ":", omittingEmptySubsequences: false)
        guard fields.count >= 7, let first = fields[0].first, !"#+-".contains(first), let userID = UInt32(fields[2])
        else { return nil }
        self.init(name: String(fields[0]), userID: userID, home: String(fields[5]))
    }
}

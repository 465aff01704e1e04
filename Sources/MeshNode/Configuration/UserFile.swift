import MeshIdentity
import Platform

/// Who may use a listener, and by which password: the file of a listener's key `users`.
///
///     # a comment
///     ann:$pbkdf2-sha256$i=600000$…$…
///
/// One user a line, at most 10,000.
struct UserFile: Hashable, Sendable {
    private(set) var users: [String: PasswordHash] = [:]

    private static let limit = 10_000

    /// - Throws: Everything that is wrong, each with its place.
    init(loading path: String) throws(ConfigurationError) {
        let (text, access) = try NodeConfiguration.readText(path)
        // Whoever can write a line into it can come in.
        if access.isRegular, access.mode & 0o022 != 0 {
            let mode = String(access.mode & 0o777, radix: 8)
            let message = "others than its owner can write to it (mode \(mode)): chmod go-w \(path)"
            throw ConfigurationError(issues: [.init(file: path, position: nil, message: message)])
        }
        try self.init(parsing: text, file: path)
    }

    init(parsing text: String, file: String) throws(ConfigurationError) {
        var issues: [ConfigurationError.Issue] = []
        // A carriage return and its line feed are one character.
        let lines = text.split(omittingEmptySubsequences: false) { $0 == "\n" || $0 == "\r\n" }
        for (index, line) in lines.enumerated() {
            if line.isEmpty || line.first == "#" { continue }
            func report(_ message: String) {
                let position = SourcePosition(line: index + 1, column: 1)
                issues.append(.init(file: file, position: position, message: message))
            }
            guard let colon = line.firstIndex(of: ":") else {
                report("has no ':' between the user's name and the hash of the password")
                continue
            }
            let name = String(line[..<colon])
            guard (1...255).contains(name.utf8.count), name.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F }) else {
                report("the user's name must be 1 to 255 bytes without spaces")
                continue
            }
            guard users[name] == nil else {
                report("user '\(name)' is there twice: names must be unique")
                continue
            }
            do throws(AddressError) {
                users[name] = try PasswordHash(parsing: line[line.index(after: colon)...])
            } catch {
                report("user '\(name)': \(error.message)")
            }
        }
        if issues.isEmpty, users.isEmpty || users.count > Self.limit {
            let message =
                users.isEmpty ? "has no users, so that nobody could come in" : "has more than \(Self.limit) users"
            issues.append(.init(file: file, position: nil, message: message))
        }
        guard issues.isEmpty else { throw ConfigurationError(issues: issues) }
    }
}

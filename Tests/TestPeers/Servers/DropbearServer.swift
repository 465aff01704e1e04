import Foundation

/// A dropbear server on 127.0.0.1 with its own host keys and authorized keys, as small devices have: no sftp-server.
///
/// dropbear looks for `authorized_keys` in the account's home only. It therefore runs in a mount namespace of its own,
/// whose `/etc/passwd` gives the account a home in the server's directory. Needs root, like the rest of what mounts.
public final class DropbearServer: Sendable {
    public let port: UInt16
    public let directory: TemporaryDirectory
    public let process: ChildProcess
    /// A private key file that may log in.
    public let userKey: String

    /// Who may log in: the account the tests run under.
    public static let user = NSUserName()

    public init(arguments: [String] = [], hostKeys: [String] = ["ed25519", "ecdsa"]) async throws {
        let directory = TemporaryDirectory()
        self.directory = directory
        port = FreePort.next()
        userKey = directory.path("id_ed25519")
        try await OpenSSHServer.makeKey("ed25519", userKey)
        let home = try directory.makeDirectory("home", permissions: 0o700)
        try directory.makeDirectory("home/.ssh", permissions: 0o700)
        try directory.write("home/.ssh/authorized_keys", directory.read("id_ed25519.pub"), permissions: 0o600)
        let accounts = try String(contentsOfFile: "/etc/passwd", encoding: .utf8).split(separator: "\n").map { line in
            var fields = line.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
            if fields.count == 7 && fields[0] == Self.user { fields[5] = home }
            return fields.joined(separator: ":")
        }
        let passwd = try directory.write("passwd", accounts.joined(separator: "\n") + "\n")
        var command = ["dropbear", "-F", "-E", "-p", "127.0.0.1:\(port)", "-s"] + arguments
        for type in hostKeys {
            let file = directory.path("host_\(type)")
            let made = try await ChildProcess.run("dropbearkey", ["-t", type, "-f", file])
            guard made.succeeded else { throw DeadlineExceeded("dropbearkey: \(made.standardError)") }
            command += ["-r", file]
        }
        process = try ChildProcess(
            "unshare",
            ["--mount", "sh", "-c", "mount --bind \"$0\" /etc/passwd && exec \"$@\"", passwd] + command
        )
        _ = try await process.standardError.line(containing: "Not backgrounding")
    }

    public func stop() async { await process.stop() }
}

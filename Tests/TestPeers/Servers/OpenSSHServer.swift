import Foundation

/// An unmodified OpenSSH server on 127.0.0.1 with its own configuration, host keys and authorized keys, run in the
/// foreground.
///
/// `authorizedKeys` may be rewritten at any time; the log is sshd's own at level VERBOSE.
public final class OpenSSHServer: Sendable {
    public let port: UInt16
    /// Everything the server has: keys, configuration, and room for what a test makes.
    public let directory: TemporaryDirectory
    public let process: ChildProcess
    /// Private key files that may log in: `id_ed25519`, `id_ecdsa`, `id_rsa`.
    public let userKey: String

    /// Who may log in: the account the tests run under.
    public static let user = NSUserName()

    /// - Parameters:
    ///   - configuration: Lines of sshd_config, before the defaults, so that they win.
    ///   - hostKeys: Key types for `ssh-keygen -t`.
    ///   - authorizedKeyOptions: What is put before the key in authorized_keys.
    ///   - password: The account's password, in a mount namespace of the server's own: its `/etc/shadow` and its PAM
    ///     service, which has pam_unix of the system. Needs root.
    ///   - address: Where it listens.
    ///   - pam: The modules of `auth` in that service.
    ///   - launcher: A command that runs the server, such as `nsenter`.
    public init(
        configuration: [String] = [],
        hostKeys: [String] = ["ed25519", "ecdsa"],
        authorizedKeyOptions: String = "",
        sftp: Bool = true,
        password: String? = nil,
        pam: [String] = ["required pam_unix.so nodelay"],
        address: String = "127.0.0.1",
        launcher: [String] = []
    ) async throws {
        let directory = TemporaryDirectory()
        self.directory = directory
        port = FreePort.next()
        userKey = directory.path("id_ed25519")
        for type in hostKeys { try await Self.makeKey(type, directory.path("host_\(type)")) }
        try await Self.makeKey("ed25519", userKey)
        let key = try directory.read("id_ed25519.pub")
        let options = authorizedKeyOptions.isEmpty ? "" : authorizedKeyOptions + " "
        try directory.write("authorized_keys", options + key, permissions: 0o600)
        // A clean home: a login shell that reads the tester's own rc files takes a third of a second.
        try directory.makeDirectory("home", permissions: 0o700)
        var lines = configuration
        let socket = address.contains(":") ? "[\(address)]:\(port)" : "\(address):\(port)"
        lines += ["ListenAddress \(socket)", "PidFile none", "LogLevel VERBOSE", "UsePAM no", "StrictModes no"]
        lines += hostKeys.map { "HostKey \(directory.path("host_\($0)"))" }
        lines += [
            "AuthorizedKeysFile \(directory.path("authorized_keys"))", "PasswordAuthentication no",
            "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password", "AllowTcpForwarding yes",
            "SetEnv HOME=\(directory.path("home"))",
        ]
        // The one keyword whose last line wins.
        if !configuration.contains(where: { $0.hasPrefix("MaxStartups") }) { lines.append("MaxStartups 100:30:200") }
        if sftp { lines.append("Subsystem sftp internal-sftp") }
        let file = try directory.write("sshd_config", lines.joined(separator: "\n") + "\n")
        // Debian's sshd wants its privilege separation directory, which the service would make.
        if getuid() == 0 { mkdir("/run/sshd", 0o755) }
        var command = ["/usr/sbin/sshd", "-D", "-e", "-f", file]
        if let password { command = try await Self.namespace(directory, password: password, pam: pam) + command }
        command = launcher + command
        process = try ChildProcess(command[0], Array(command.dropFirst()))
        _ = try await process.standardError.line(containing: "Server listening on")
    }

    /// The command that runs another one where the account has `password`.
    private static func namespace(
        _ directory: TemporaryDirectory,
        password: String,
        pam: [String]
    ) async throws -> [String] {
        let hash = try await ChildProcess.run("openssl", ["passwd", "-6", password]).standardOutput
        let accounts = try String(contentsOfFile: "/etc/shadow", encoding: .utf8).split(separator: "\n").map { line in
            line.hasPrefix(user + ":") ? "\(user):\(hash.filter { $0 != "\n" }):19000:0:99999:7:::" : String(line)
        }
        let shadow = try directory.write("shadow", accounts.joined(separator: "\n") + "\n", permissions: 0o600)
        let lines = pam.map { "auth \($0)" } + ["account required pam_permit.so", "session required pam_permit.so"]
        let service = try directory.write("pam", lines.joined(separator: "\n") + "\n")
        let script = "mount --bind \"$0\" /etc/shadow && mount --bind \"$1\" /etc/pam.d/sshd && shift && exec \"$@\""
        return ["unshare", "--mount", "sh", "-c", script, shadow, service]
    }

    /// Makes a key pair with ssh-keygen.
    public static func makeKey(
        _ type: String,
        _ path: String,
        passphrase: String = "",
        format: String? = nil,
        comment: String = "test"
    ) async throws {
        var arguments = ["-q", "-t", type, "-N", passphrase, "-C", comment, "-f", path]
        if let format { arguments += ["-m", format] }
        let result = try await ChildProcess.run("ssh-keygen", arguments)
        guard result.succeeded else { throw DeadlineExceeded("ssh-keygen: \(result.standardError)") }
    }

    /// The fingerprint of a key file as `ssh-keygen -l` prints it.
    public static func fingerprint(_ path: String) async throws -> String {
        let result = try await ChildProcess.run("ssh-keygen", ["-l", "-f", path])
        return result.standardOutput.split(separator: " ").dropFirst().first.map(String.init) ?? ""
    }

    /// The fingerprint of one of the server's host keys.
    public func hostKeyFingerprint(_ type: String = "ed25519") async throws -> String {
        try await Self.fingerprint(directory.path("host_\(type).pub"))
    }

    /// Lets another key log in.
    public func authorize(_ publicKeyFile: String) throws {
        let text = try directory.read("authorized_keys") + String(contentsOfFile: publicKeyFile, encoding: .utf8)
        try directory.write("authorized_keys", text, permissions: 0o600)
    }

    /// sshd's log so far.
    public var log: String { process.standardError.text }

    /// Waits until sshd has logged `text`, `count` times at least. Its log comes through a pipe: what the client knows
    /// already may be on its way still.
    public func logged(_ text: String, count: Int = 1) async throws {
        try await eventually("sshd logs '\(text)' \(count) times, not only\n\(log)") {
            log.components(separatedBy: text).count - 1 >= count
        }
    }

    /// The processes that serve connections: sshd's children and theirs.
    public var sessionProcesses: [Int32] {
        var found: [Int32] = []
        var parents = [process.pid]
        while let parent = parents.popLast() {
            let children = try? String(contentsOfFile: "/proc/\(parent)/task/\(parent)/children", encoding: .utf8)
            for child in children?.split(separator: " ").compactMap({ Int32($0) }) ?? [] {
                found.append(child)
                parents.append(child)
            }
        }
        return found
    }

    /// Kills the processes that serve connections, as a crash of the machine would: no word to the client but the
    /// kernel's.
    public func killSessions() {
        for pid in sessionProcesses { kill(pid, SIGKILL) }
    }

    /// Kills sshd's own processes only: commands lose their connection and run on.
    public func killConnections() {
        for pid in sessionProcesses {
            let name = try? String(contentsOfFile: "/proc/\(pid)/comm", encoding: .utf8)
            if name == "sshd\n" { kill(pid, SIGKILL) }
        }
    }

    public func stop() async {
        killSessions()
        await process.stop()
    }

    deinit { killSessions() }
}

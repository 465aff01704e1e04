import Glibc
import Platform
import Streams

/// A login by the user's own `ssh` program, with everything that it reads and can do: what works with `ssh HOST` works
/// here.
struct OpenSSHLogin: Sendable {
    let destination: Destination
    let arguments: SSHArguments
    /// The fingerprint (`SHA256:…`) of the only host key to accept, whatever known_hosts has.
    let pinnedHostKey: String?
    /// Whether ssh may ask at the terminal.
    let isInteractive: Bool
    /// Told what ssh says while it logs in: a host key that it has recorded, a security key that waits for a touch.
    let warn: @Sendable (String) -> Void
    /// A file with the destination's password; nil: there is none.
    var passwordFile: String?
    /// What to ask the server for; nil leaves it to ssh and its configuration.
    var hostKeyAlgorithms: [String]?
    /// The key to log in with, and nothing else.
    var key: SilentKey?

    /// For a login that asks nobody, beyond the time to connect.
    private static let loginTimeout = Duration.seconds(30)
    /// For one that may ask: sshd itself gives two minutes.
    private static let interactiveTimeout = Duration.seconds(180)
    private static let connectTimeout = 10
    private static let keepAliveInterval = 15
    /// Faster than ssh's own first choice where the processor has AES instructions.
    private static let preferredCiphers = ["aes128-gcm@openssh.com", "aes128-ctr"]

    /// Logs in, and returns when ssh has.
    ///
    /// - Throws: ``SSHError/Code/unsupported`` where there is no `ssh`.
    func connect(on loop: EventLoop) async throws(SSHError) -> SSHClient {
        guard let path = OpenSSHProgram.find() else {
            throw SSHError(.unsupported, "\(destination): there is no ssh program in PATH (apt install openssh-client)")
        }
        let program = try await OpenSSHProgram.load(path, on: loop)
        guard pinnedHostKey == nil || program.hasKnownHostsCommand else {
            throw SSHError(
                .unsupported,
                "\(destination): \(path) (\(program.name)) cannot be held to one host key by its fingerprint: OpenSSH 8.5 or newer "
                    + "can; or put the key into known_hosts"
            )
        }
        let settings = try await program.settings(userArguments, on: loop)
        let result: Result<Established, SSHError> = await withCheckedContinuation { continuation in
            loop.submit {
                do throws(SSHError) {
                    try start(program, settings, on: loop) { continuation.resume(returning: $0) }
                } catch {
                    continuation.resume(returning: .failure(error))
                }
            }
        }
        let established = try result.get()
        return SSHClient(
            established.connection,
            hostKey: established.hostKey,
            serverVersion: "by way of \(path) (\(program.name))",
            on: loop
        )
    }

    private struct Established: Sendable {
        let connection: LoopBound<any SSHConnection>
        let hostKey: HostKey
    }

    private func start(
        _ program: OpenSSHProgram,
        _ settings: OpenSSHSettings,
        on loop: EventLoop,
        _ completion: @escaping (Result<Established, SSHError>) -> Void
    ) throws(SSHError) {
        let directory = try ControlDirectory()
        if case .agent(let key) = key { try directory.write(key) }
        let words = masterArguments(program, settings, directory) + userArguments
        let user = destination.user ?? settings["user"] ?? "?"
        let peer = "\(user)@\(settings["hostname"] ?? destination.host):\(settings["port"] ?? "22")"
        let environment = Program.currentEnvironment
        guard !OwnProxyCommand.isUnderWay(to: peer, in: environment) else {
            directory.remove()
            throw SSHError(
                .connectionFailed,
                "\(destination): this is the ProxyCommand of a connection to \(peer) that bootstrap itself makes by ssh: "
                    + "another one inside it would go in a circle"
            )
        }
        let process: OpenSSHProcess
        do {
            var variables = OwnProxyCommand.environment(connectingTo: peer, environment)
            if passwordFile != nil, !isDirect(settings), !program.namesAccountInQuestions {
                warn(
                    "\(destination): the password of the file is not given: \(program.path) (\(program.name)) does not tell "
                        + "the questions of hosts on the way from those of the last one; OpenSSH 8.5 does"
                )
            } else if let passwordFile {
                let script = AskpassScript(
                    file: absolutePath(passwordFile),
                    user: user,
                    host: settings["hostkeyalias"] ?? settings["hostname"] ?? destination.host,
                    isDirect: isDirect(settings)
                )
                try directory.write(script)
                variables = AskpassScript.environment(directory.askpass, variables)
            }
            process = try OpenSSHProcess(
                program.path,
                words,
                environment: variables,
                on: loop
            )
        } catch {
            directory.remove()
            throw error
        }
        let start = MasterStart(
            process,
            directory: directory,
            knownHosts: Self.knownHosts(settings),
            timeout: isInteractive ? Self.interactiveTimeout : Self.loginTimeout,
            warn: warn,
            on: loop
        )
        start.begin { outcome in
            switch outcome {
            case .ready(let ready):
                let session = OpenSSHSession(
                    process,
                    directory: directory,
                    control: ready.control,
                    log: ready.log,
                    hostKey: ready.hostKey,
                    peer: peer,
                    version: "by way of \(program.path) (\(program.name))",
                    on: loop
                )
                let connection = LoopBound<any SSHConnection>(session, on: loop)
                completion(.success(Established(connection: connection, hostKey: ready.hostKey)))
            case .ended(let log):
                let error = log.loginFailure(
                    of: "\(destination)",
                    isDirect: isDirect(settings),
                    program: program.path
                )
                completion(.failure(error))
            case .failed(let error):
                completion(.failure(error))
            }
        }
    }

    /// Whether no other program, and no other host, is on the way.
    private func isDirect(_ settings: OpenSSHSettings) -> Bool {
        (settings["proxycommand"] == nil || hasOwnProxyCommand(settings)) && settings["proxyjump"] == nil
    }

    /// Whether the `ProxyCommand` is this program, on its way to the same host.
    private func hasOwnProxyCommand(_ settings: OpenSSHSettings) -> Bool {
        guard let command = settings["proxycommand"] else { return false }
        let hosts = [destination.host] + (settings["hostname"].map { [$0] } ?? [])
        return OwnProxyCommand.isThisProgram(command, to: hosts)
    }

    private static func knownHosts(_ settings: OpenSSHSettings) -> [String] {
        ["userknownhostsfile", "globalknownhostsfile"].compactMap { settings[$0] }.flatMap { files in
            // Neither quoted nor escaped: the whole may be one path with spaces.
            [files] + files.split(separator: " ").map(String.init)
        }
    }

    // MARK: Arguments

    /// What the user gave, as ssh takes it. No secret is among it.
    private var userArguments: [String] { Self.words(to: destination, arguments) }

    /// The words that lead to a destination, for any use of `ssh`.
    static func words(to destination: Destination, _ arguments: SSHArguments) -> [String] {
        var words: [String] = []
        if let file = arguments.configurationFile { words += ["-F", file] }
        for option in arguments.options { words += ["-o", option] }
        for file in arguments.identityFiles { words += ["-i", file] }
        if let jump = arguments.jump { words += ["-J", jump] }
        if let port = destination.port ?? arguments.port { words += ["-p", "\(port)"] }
        if let user = destination.user { words += ["-l", user] }
        return words + ["--", destination.host]
    }

    /// Before the user's own: the first key is the one that the server takes.
    private func keyArguments(_ directory: ControlDirectory) -> [String] {
        let file: String
        switch key {
        case nil: return []
        case .file(let path): file = path
        case .agent: file = directory.publicKey
        }
        // A login that nobody has asked for leaves nothing in an agent.
        let options = ["IdentitiesOnly=yes", "PreferredAuthentications=publickey", "AddKeysToAgent=no"]
        return ["-i", file] + options.flatMap { ["-o", $0] }
    }

    /// What makes it a master, before the user's own: the first value of an option counts.
    func masterArguments(
        _ program: OpenSSHProgram,
        _ settings: OpenSSHSettings,
        _ directory: ControlDirectory
    ) -> [String] {
        // No terminal, no X11, and no access to the operator's agent for the device.
        let words = ["-M", "-N", "-T", "-x", "-a", "-S", directory.socket]
        var options = [
            // One that stays in the foreground, and nothing of what the user's files have for a terminal session.
            "ControlPersist=no", "ClearAllForwardings=yes", "RemoteCommand=none", "PermitLocalCommand=no", "Tunnel=no",
        ]
        if program.hasForkAfterAuthentication { options.append("ForkAfterAuthentication=no") }
        // The same wrong password is not sent twice.
        if passwordFile != nil { options.append("NumberOfPasswordPrompts=1") }
        if !isInteractive { options.append("BatchMode=yes") }
        if pinnedHostKey != nil {
            options += ["StrictHostKeyChecking=yes", "UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null"]
        }
        if let hostKeyAlgorithms { options.append("HostKeyAlgorithms=\(hostKeyAlgorithms.joined(separator: ","))") }
        // With `no` ssh goes on with a changed key; here that is refused in every mode.
        if ["no", "off", "false"].contains(settings["stricthostkeychecking"]) {
            options.append("StrictHostKeyChecking=accept-new")
        }
        if hasOwnProxyCommand(settings) { options.append("ProxyCommand=none") }
        if settings["connecttimeout"] == nil { options.append("ConnectTimeout=\(Self.connectTimeout)") }
        if (settings["serveraliveinterval"] ?? "0") == "0" {
            options += ["ServerAliveInterval=\(Self.keepAliveInterval)", "ServerAliveCountMax=2"]
        }
        let defaults = program.defaultCiphers
        if settings["ciphers"] == defaults.joined(separator: ","), !defaults.isEmpty {
            let first = Self.preferredCiphers.filter(defaults.contains)
            let ciphers = first + defaults.filter { !first.contains($0) }
            options.append("Ciphers=\(ciphers.joined(separator: ","))")
        }
        if program.hasKnownHostsCommand && (settings["knownhostscommand"] == nil || pinnedHostKey != nil) {
            options += ["LogLevel=INFO", directory.knownHostsCommand(pinned: pinnedHostKey)]
        } else {
            options.append("LogLevel=DEBUG1")
        }
        return words + keyArguments(directory) + options.flatMap { ["-o", $0] }
    }
}

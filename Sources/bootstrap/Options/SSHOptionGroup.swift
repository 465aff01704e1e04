import ArgumentParser
import Fleet
import Glibc
import MeshIdentity
import SSHSignal

/// The options that every command with an SSH login has, with OpenSSH's letters and meaning.
struct SSHOptionGroup: ParsableArguments {
    @Option(
        name: [.customShort("i")],
        help: ArgumentHelp("A private key to log in with; may be given several times.", valueName: "KEY")
    )
    var identityFiles: [String] = []

    @Option(
        name: [.customShort("J")],
        help: ArgumentHelp("Go through these hosts: [user@]host[:port], separated by commas.", valueName: "JUMP")
    )
    var jump: String?

    @Option(name: [.customShort("p")], help: ArgumentHelp("The SSH port.", valueName: "PORT"))
    var port: UInt16?

    @Option(
        name: [.customShort("o")],
        help: ArgumentHelp(
            "An option as in ssh_config(5): StrictHostKeyChecking=…, UserKnownHostsFile=…, …",
            valueName: "KEY=VALUE"
        )
    )
    var options: [String] = []

    @Option(
        name: [.customShort("F")],
        help: ArgumentHelp("Read this file instead of ~/.ssh/config and the system's.", valueName: "FILE")
    )
    var configurationFile: String?

    @Option(
        name: [.customLong("ssh-engine")],
        help: ArgumentHelp(
            "What logs in: libssh2, openssh (your own ssh program), or auto: libssh2, and ssh for what it cannot do and bulk.",
            valueName: "ENGINE"
        ),
        transform: { text in
            guard let engine = SSHEngine(rawValue: text) else {
                throw ValidationError(
                    "the engine is one of \(SSHEngine.allCases.map(\.rawValue).joined(separator: ", "))"
                )
            }
            return engine
        }
    )
    var engine: SSHEngine = .automatic

    @Option(
        help: ArgumentHelp(
            "Log in with the password in the first line of FILE, which only you may read; otherwise the terminal is asked.",
            valueName: "FILE"
        )
    )
    var passwordFile: String?

    @Option(
        help: ArgumentHelp(
            "Accept this host key and no other, whatever known_hosts says.",
            valueName: "SHA256:…"
        )
    )
    var hostKey: String?

    @OptionGroup var messages: MessageOptions

    /// What was given on the command line.
    var arguments: SSHArguments {
        SSHArguments(
            configurationFile: configurationFile,
            options: options,
            identityFiles: identityFiles,
            port: port,
            jump: jump,
            engine: engine,
            hostKey: hostKey
        )
    }

    /// Before the command looks at what else was given: a misspelt option is not found out by fixing something else.
    func validate() throws {
        do throws(SSHConfigurationError) {
            try arguments.checkOptions()
        } catch {
            throw ValidationError("\(error)")
        }
    }

    /// With who answers what a login asks.
    ///
    /// - Throws: the exit code, for a password file that is not to be used; why was printed.
    func logins() throws -> LoginOptions {
        var prompts = SSHLogin.Prompts.terminal()
        do throws(SSHConfigurationError) {
            if let passwordFile {
                prompts.authentication = try PasswordFile(passwordFile).prompt(else: prompts.authentication)
                prompts.passwordFile = passwordFile
            }
        } catch {
            throw fail("\(error)", .usage)
        }
        var logins = LoginOptions(arguments, prompts: prompts)
        logins.note = { printDetail($0) }
        logins.suggest = { DeviceDirectory(Home.devices).suggestion(for: $0) }
        return logins
    }

    /// Nothing was given: what is recorded of a device holds.
    var isEmpty: Bool { arguments == SSHArguments() }
}

extension SSHLogin.Prompts {
    /// Asks the person at the terminal, if there is one, or by `SSH_ASKPASS`; warnings go to stderr.
    static func terminal() -> SSHLogin.Prompts {
        var prompts = SSHLogin.Prompts(warn: { printNotice($0) })
        if Verbosity.current >= .normal { prompts.banner = { printError($0) } }
        let terminal = TerminalPrompt.isAvailable
        let askPass = AskPass.wanted(hasTerminal: terminal)
        let ask: Ask = { text, isSecret in
            guard let askPass else { return await TerminalPrompt.answer(text, isSecret: isSecret) }
            return await askPass.answer(text)
        }
        if terminal || askPass != nil {
            prompts.hostKey = { question in await askHostKey(question, ask) }
            prompts.passphrase = { request in await askPassphrase(request, ask) }
            prompts.authentication = { question in await askAuthentication(question, ask) }
        }
        return prompts
    }

    private typealias Ask = @Sendable (_ text: String, _ isSecret: Bool) async -> Passphrase?

    private static func askHostKey(_ question: HostKeyQuestion, _ ask: Ask) async -> Bool {
        for _ in 0..<3 {
            guard
                let answer = await ask(question.text, false)?
                    .withBytes({ String(decoding: $0, as: UTF8.self) })
            else { return false }
            if let accepts = question.accepts(answer) { return accepts }
            printError("Type 'yes', 'no' or the fingerprint.")
        }
        return false
    }

    private static func askPassphrase(_ request: PassphraseRequest, _ ask: Ask) async -> [UInt8]? {
        let again = request.attempt > 1 ? "Wrong passphrase. " : ""
        let key = request.fingerprint.map { "\(request.name) (\($0))" } ?? request.name
        return await ask("\(again)Passphrase for \(key): ", true)?.withBytes { Array($0) }
    }

    private static func askAuthentication(_ question: AuthenticationQuestion, _ ask: Ask) async -> [UInt8]? {
        let again = question.attempt > 1 ? "Permission denied, please try again.\n" : ""
        let instruction = question.instruction.isEmpty ? "" : question.instruction + "\n"
        // The server chooses the words; whose they are must be plain.
        let text = question.method == "password" ? question.text : "(\(question.destination)) \(question.text)"
        return await ask(again + instruction + text, question.isSecret)?
            .withBytes { Array($0) }
    }
}

import CLibSSH2
import Glibc
import Platform
import Streams

/// Authenticates a session: asks what the server takes, and goes through the ways that both sides have, in the user's
/// order, until the server has what it wants. Lives on the session's loop until it is done.
///
/// ```
///  list ─▶ publickey ─▶ keyboard-interactive ─▶ password ─▶ refused
///              │ partial success: what the server wants next replaces the list, and every way may be used again
///              ▼
///          accepted
/// ```
final class Authenticator {
    private unowned let session: any AuthenticatingSession
    private let completion: (SSHError?) -> Void
    private let preferences: AuthenticationPreferences
    private let record = AuthenticationRecord()
    private let publicKeys: PublicKeyAuthentication
    private var interactive: KeyboardInteractive?
    /// What the server takes now.
    private var methods: [String] = []
    /// The server has not been asked what it takes.
    private var isAssuming = false
    private var exhausted: Set<String> = []
    private var steps = 0
    /// How often a person was asked for a password or the like.
    private var attempts = 0
    /// Set by ``stop()``: the session may be gone.
    private var isStopped = false
    /// Set when the user was accepted for one key, and nobody had been asked.
    private(set) var silentKey: SilentKey?

    /// sshd itself takes chains of a few methods; a server that is never content is cut off.
    private static let maximumSteps = 8

    /// - Parameter completion: Called once: nil when the server has accepted the user. Not called after ``stop()``.
    init(_ session: any AuthenticatingSession, completion: @escaping (SSHError?) -> Void) {
        self.session = session
        self.completion = completion
        preferences = session.configuration.authentication
        publicKeys = PublicKeyAuthentication(session, record: record)
    }

    func start() {
        session.startAuthenticationTimer()
        session.library.watchesAuthentication = true
        if session.configuration.offersKeysAtOnce, preferences.methods.first == "publickey" {
            isAssuming = true
            methods = ["publickey"]
            return next()
        }
        ask()
    }

    /// Asks the server what it takes.
    private func ask() {
        session.startAuthenticationTimer()
        let raw = session.library.raw
        let user = session.configuration.user
        let list = { [unowned self] () -> Int32 in
            if let list = libssh2_userauth_list(raw, user, UInt32(user.utf8.count)) {
                methods = String(cString: list).split(separator: ",").map { Printable.clean(String($0)) }
                return 0
            }
            // A server that takes anyone.
            return libssh2_userauth_authenticated(raw) == 1 ? 1 : session.library.lastError
        }
        session.perform(
            list,
            then: { [unowned self] result in
                switch result {
                case 1: completion(nil)
                case 0: next()
                default: completion(session.error(result))
                }
            }
        )
    }

    func stop() {
        isStopped = true
        session.library.watchesAuthentication = false
        publicKeys.stop()
        interactive?.stop()
        interactive = nil
    }

    /// The server hung up, which it does after too many attempts.
    func connectionEnded(_ why: String) -> SSHError {
        let tooMany = why.contains("Too many authentication failures")
        var tried = record.notes.isEmpty ? "" : " Tried so far: \(record.notes.joined(separator: "; "))."
        if tooMany { tried += " Offer fewer keys: name the right one with -i, and add -o IdentitiesOnly=yes." }
        return SSHError(
            tooMany ? .authenticationRefused : .connectionLost,
            "\(session.peerDescription) ended the connection during authentication: \(why).\(tried)",
            limits: record.limits
        )
    }

    // MARK: One way after the other

    private func next() {
        guard let method = preferences.methods.first(where: { methods.contains($0) && !exhausted.contains($0) }) else {
            return refuse()
        }
        switch method {
        case "publickey": publicKeys.run { [unowned self] in ended(method, $0) }
        case "keyboard-interactive": askInteractively()
        default: askForPassword()
        }
    }

    private func ended(_ method: String, _ outcome: AuthenticationOutcome) {
        switch outcome {
        case .accepted:
            if method == "publickey", steps == 0, attempts == 0 { silentKey = publicKeys.silentKey }
            completion(nil)
        case .exhausted:
            exhausted.insert(method)
            guard isAssuming else { return next() }
            isAssuming = false
            ask()
        case .partial(let methods):
            steps += 1
            guard steps < Self.maximumSteps else {
                record.notes.append("the server wanted more than \(Self.maximumSteps) steps")
                return refuse()
            }
            isAssuming = false
            self.methods = methods
            exhausted = []
            next()
        case .failed(let error): completion(error)
        }
    }

    /// The prompt, where one more attempt is allowed; else why not is noted.
    private func prompt(for method: String) -> AuthenticationPrompt? {
        guard let prompt = session.configuration.authenticationPrompt else {
            record.notes.append("\(method): there is nobody to ask (no terminal, BatchMode, or no password file)")
            return nil
        }
        guard attempts < preferences.passwordPrompts else { return nil }
        attempts += 1
        return prompt
    }

    private func refuse() {
        let offered = methods.isEmpty ? "nothing" : methods.joined(separator: ", ")
        if preferences.wantsSingleSignOn, methods.contains(where: { $0.hasPrefix("gssapi") || $0 == "hostbased" }) {
            record.limits.append(
                EngineLimit(
                    .singleSignOn,
                    "\(EngineCapabilities.current.name) has no GSSAPI or host-based authentication"
                )
            )
        }
        for method in methods where ["publickey", "keyboard-interactive", "password"].contains(method) {
            if !preferences.methods.contains(method) { record.notes.append("\(method): switched off in ssh_config") }
        }
        if !methods.contains("publickey") && steps == 0 { record.notes.append("the server does not take public keys") }
        let tried = record.notes.isEmpty ? "nothing" : record.notes.joined(separator: "; ")
        completion(
            SSHError(
                .authenticationRefused,
                "\(session.peerDescription) refused the login. It offers: \(offered). Tried: \(tried)",
                limits: record.limits
            )
        )
    }

    // MARK: Keyboard-interactive

    private func askInteractively() {
        let method = "keyboard-interactive"
        guard let prompt = prompt(for: method) else { return ended(method, .exhausted) }
        let attempt = attempts
        session.startAuthenticationTimer()
        let interactive = KeyboardInteractive(session, record: record, attempt: attempt, prompt: prompt) {
            [unowned self] result in
            switch result {
            case .accepted: ended(method, .accepted)
            case .partial(let methods):
                record.notes.append("\(method): accepted as one of several steps")
                ended(method, .partial(methods))
            case .refused(let asked):
                record.notes.append("\(method): refused (attempt \(attempt), \(asked) questions)")
                // Nothing a person could do better next time.
                asked == 0 ? ended(method, .exhausted) : askInteractively()
            case .abandoned:
                record.notes.append("\(method): no answer was given")
                refuse()
            case .failed(let error): ended(method, .failed(error))
            }
        }
        self.interactive = interactive
        interactive.start()
    }

    // MARK: Password

    private func askForPassword() {
        guard let prompt = prompt(for: "password") else { return ended("password", .exhausted) }
        session.stopPhaseTimer()
        let question = AuthenticationQuestion(
            method: "password",
            destination: session.peerDescription,
            text: "\(session.peerDescription)'s password: ",
            attempt: attempts
        )
        let loop = session.loop
        let authenticator = LoopBound(self, on: loop)
        Task {
            let answer = await prompt(question)
            loop.submit { authenticator.withValue { $0.answered(answer) } }
        }
    }

    private func answered(_ password: [UInt8]?) {
        guard !isStopped else { return }
        session.startAuthenticationTimer()
        guard var password else {
            record.notes.append("password: no answer was given")
            return refuse()
        }
        let raw = session.library.raw
        let user = session.configuration.user
        session.library.authenticationFailure = nil
        let authenticate = { () -> Int32 in
            password.withUnsafeBytes { bytes in
                libssh2_userauth_password_ex(
                    raw,
                    user,
                    UInt32(user.utf8.count),
                    bytes.bindMemory(to: CChar.self).baseAddress,
                    UInt32(bytes.count),
                    nil
                )
            }
        }
        session.perform(
            authenticate,
            then: { [unowned self] result in
                password.withUnsafeMutableBytes { if let base = $0.baseAddress { explicit_bzero(base, $0.count) } }
                passwordEnded(result)
            }
        )
    }

    private func passwordEnded(_ result: Int32) {
        switch (result, session.library.authenticationFailure) {
        case (0, _): completion(nil)
        case (LIBSSH2_ERROR_AUTHENTICATION_FAILED, let failure?) where failure.isPartialSuccess:
            record.notes.append("password: accepted as one of several steps")
            ended("password", .partial(failure.methods))
        case (LIBSSH2_ERROR_AUTHENTICATION_FAILED, _):
            record.notes.append("password: refused (attempt \(attempts))")
            askForPassword()
        case (LIBSSH2_ERROR_PASSWORD_EXPIRED, _):
            record.notes.append("password: it has expired; set a new one with ssh")
            ended("password", .exhausted)
        default: completion(session.error(result))
        }
    }
}

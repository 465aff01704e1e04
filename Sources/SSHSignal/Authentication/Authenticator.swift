import CLibSSH2
import Glibc
import Streams

/// Authenticates a session with public keys (RFC 4252 §7): asks what the server takes, then offers keys one at a time, the
/// agent's and those of files, at most as many as configured. Lives on the session's loop until it is done.
///
/// ```
///  list methods ─▶ list the agent's keys ─▶ for each key: offer ─▶ (server agrees: sign, or ask the passphrase and sign)
/// ```
final class Authenticator {
    private enum Candidate {
        case agent(AgentClient.Identity)
        case file(PrivateKeyFile)
    }

    /// Where the signature is that libssh2's callback asks for.
    private enum Signature {
        /// The server would take the key, which is all that is wanted: say no to signing.
        case notWanted(accepted: Bool)
        case none
        case asked(data: [UInt8])
        case underWay
        case made([UInt8])
        case refused
    }

    private unowned let session: SSHSession
    private let completion: (SSHError?) -> Void
    private let raw: OpaquePointer
    private let user: String
    private var methods: [String] = []
    private var agent: AgentClient?
    private var candidates: ArraySlice<Candidate> = []
    private var offers = 0
    private var signature = Signature.none
    /// What was tried and what came of it, for the error.
    private var notes: [String] = []
    /// Keys that could not be offered.
    private var limits: [EngineLimit] = []
    /// Set by ``stop()``: the session may be gone.
    private var isStopped = false
    /// What libssh2's signing callback gets; points to this object.
    private let abstract = UnsafeMutablePointer<UnsafeMutableRawPointer?>.allocate(capacity: 1)

    /// An agent may ask its user to confirm; sshd itself gives up after 120 seconds (LoginGraceTime).
    private static let agentTimeout: Duration = .seconds(100)

    /// - Parameter completion: Called once: nil when the server has accepted the user. Not called after ``stop()``.
    init(_ session: SSHSession, completion: @escaping (SSHError?) -> Void) {
        self.session = session
        self.completion = completion
        raw = session.library.raw
        user = session.configuration.user
        abstract.initialize(to: Unmanaged.passUnretained(self).toOpaque())
    }

    deinit { abstract.deallocate() }

    func start() {
        startTimer()
        let length = UInt32(user.utf8.count)
        let list = { [unowned self] () -> Int32 in
            if let list = libssh2_userauth_list(raw, user, length) {
                methods = String(cString: list).split(separator: ",").map { Printable.clean(String($0)) }
                return 0
            }
            // A server that takes anyone.
            return libssh2_userauth_authenticated(raw) == 1 ? 1 : session.library.lastError
        }
        session.perform(list, then: { [unowned self] in listed($0) })
    }

    private func listed(_ result: Int32) {
        switch result {
        case 1: completion(nil)
        case 0 where methods.contains("publickey"): listAgent()
        case 0:
            notes.append("the server does not take public keys")
            refuse()
        default: completion(session.error(result))
        }
    }

    func stop() {
        isStopped = true
        agent?.close()
        agent = nil
    }

    /// The server hung up, which it does after too many keys.
    func connectionEnded(_ why: String) -> SSHError {
        let tooMany = why.contains("Too many authentication failures")
        let tried = notes.isEmpty ? "" : " Tried so far: \(notes.joined(separator: "; "))."
        return SSHError(
            tooMany ? .authenticationRefused : .connectionLost,
            "\(session.peerDescription) ended the connection during authentication: \(why).\(tried)"
        )
    }

    // MARK: Candidates

    private func listAgent() {
        var path: String?
        for case .agent(let socketPath) in session.configuration.credentials where path == nil { path = socketPath }
        guard let path else { return collect([]) }
        startTimer()
        AgentClient.connect(socketPath: path, on: session.loop) { [weak self] result in
            guard let self, !isStopped else { return }
            switch result {
            case .failure(let error):
                notes.append(error.message)
                collect([])
            case .success(let agent):
                self.agent = agent
                agent.identities { [weak self] result in
                    guard let self, !isStopped else { return }
                    if case .failure(let error) = result { notes.append(error.message) }
                    collect((try? result.get()) ?? [])
                }
            }
        }
    }

    private func collect(_ identities: [AgentClient.Identity]) {
        var candidates: [Candidate] = []
        var files: [PrivateKeyFile] = []
        for credential in session.configuration.credentials {
            do throws(PrivateKeyFile.Failure) {
                switch credential {
                case .keyFile(let path): files.append(try PrivateKeyFile(path: path))
                case .key(let contents, let name): files.append(try PrivateKeyFile(contents: contents, name: name))
                case .agent:
                    candidates += identities.map(Candidate.agent)
                    continue
                }
            } catch {
                switch error {
                case .unreadable(let message), .notAKey(let message): notes.append(message)
                }
                continue
            }
            if let file = files.last {
                let identity = identities.first { $0.key == file.publicKey }
                candidates.append(identity.map(Candidate.agent) ?? .file(file))
            }
        }
        let named = Set(files.compactMap(\.publicKey))
        var seen: Set<HostKey> = []
        self.candidates =
            candidates.filter { candidate in
                switch candidate {
                case .agent(let identity):
                    guard !session.configuration.identitiesOnly || named.contains(identity.key) else { return false }
                    return seen.insert(identity.key).inserted
                case .file(let file):
                    return file.publicKey.map { seen.insert($0).inserted } ?? true
                }
            }[...]
        if self.candidates.isEmpty && notes.isEmpty { notes.append("there was no key to offer") }
        offerNext()
    }

    // MARK: Offering

    private func offerNext() {
        while let candidate = candidates.popFirst() {
            let name = describe(candidate)
            if let limit = Self.limit(candidate, name) {
                notes.append("\(name): not offered, \(limit.reason)")
                limits.append(limit)
                continue
            }
            guard offers < session.configuration.maximumKeyOffers else {
                notes.append(
                    "\(name): not offered, \(offers) keys are enough for one connection (name the right one with -i)"
                )
                continue
            }
            offers += 1
            startTimer()
            switch candidate {
            case .agent(let identity): offer(identity, name)
            case .file(let file) where !file.isEncrypted: use(file, name, passphrase: [], attempt: 1)
            case .file(let file):
                if let key = file.publicKey { probe(key, file, name) } else { ask(file, name, attempt: 1) }
            }
            return
        }
        refuse()
    }

    /// Why a key cannot work with this libssh2; nil when it can.
    private static func limit(_ candidate: Candidate, _ name: String) -> EngineLimit? {
        let algorithm: String?
        switch candidate {
        case .agent(let identity): algorithm = identity.key.algorithm
        case .file(let file): algorithm = file.isRSA ? "ssh-rsa" : file.publicKey?.algorithm
        }
        return EngineCapabilities.current.limit(forUserKey: algorithm, name: name)
    }

    private func offer(_ identity: AgentClient.Identity, _ name: String) {
        signature = .none
        authenticate(with: identity.key) { [unowned self] result in
            switch result {
            case LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED:
                if case .refused = signature {} else { notes.append("\(name): its signature was not accepted") }
                offerNext()
            default: decide(result, name)
            }
        }
    }

    /// Finds out whether an encrypted key is worth a passphrase.
    private func probe(_ key: HostKey, _ file: PrivateKeyFile, _ name: String) {
        signature = .notWanted(accepted: false)
        authenticate(with: key) { [unowned self] result in
            if case .notWanted(accepted: true) = signature { return ask(file, name, attempt: 1) }
            decide(result, name)
        }
    }

    private func authenticate(with key: HostKey, then: @escaping (Int32) -> Void) {
        let call = { [unowned self] () -> Int32 in
            let result = key.blob.withUnsafeBufferPointer {
                libssh2_userauth_publickey(raw, user, $0.baseAddress, $0.count, signCallback, abstract)
            }
            if case .asked(let data) = signature { sign(data, with: key) }
            return result
        }
        session.perform(call, then: then)
    }

    private func ask(_ file: PrivateKeyFile, _ name: String, attempt: Int) {
        guard let prompt = session.configuration.passphrase else {
            notes.append(
                "\(name): encrypted, and there is no terminal to ask for its passphrase (or add it to an ssh-agent)"
            )
            return offerNext()
        }
        session.phaseTimer?.cancel()
        let request = PassphraseRequest(name: file.name, fingerprint: file.publicKey?.fingerprint, attempt: attempt)
        let loop = session.loop
        let authenticator = LoopBound(self, on: loop)
        Task {
            let answer = await prompt(request)
            loop.submit {
                authenticator.withValue { $0.answered(answer, file, name, attempt: attempt) }
            }
        }
    }

    private func answered(_ passphrase: [UInt8]?, _ file: PrivateKeyFile, _ name: String, attempt: Int) {
        guard !isStopped else { return }
        startTimer()
        guard let passphrase else {
            notes.append("\(name): no passphrase was given")
            return offerNext()
        }
        use(file, name, passphrase: passphrase, attempt: attempt)
    }

    private func use(_ file: PrivateKeyFile, _ name: String, passphrase: [UInt8], attempt: Int) {
        var passphrase = passphrase + [0]
        let length = user.utf8.count
        let authenticate = { [unowned self] () -> Int32 in
            file.contents.withUnsafeBytes { key in
                passphrase.withUnsafeBytes { passphrase in
                    libssh2_userauth_publickey_frommemory(
                        raw,
                        user,
                        length,
                        nil,
                        0,
                        key.bindMemory(to: CChar.self).baseAddress,
                        key.count,
                        passphrase.bindMemory(to: CChar.self).baseAddress
                    )
                }
            }
        }
        session.perform(
            authenticate,
            then: { [unowned self] result in
                passphrase.withUnsafeMutableBytes { if let base = $0.baseAddress { explicit_bzero(base, $0.count) } }
                used(file, name, attempt: attempt, result)
            }
        )
    }

    private func used(_ file: PrivateKeyFile, _ name: String, attempt: Int, _ result: Int32) {
        switch result {
        case LIBSSH2_ERROR_FILE, LIBSSH2_ERROR_PROTO, LIBSSH2_ERROR_DECRYPT, LIBSSH2_ERROR_KEYFILE_AUTH_FAILED,
            LIBSSH2_ERROR_METHOD_NONE:
            guard file.isEncrypted else {
                notes.append("\(name): cannot be used: \(session.library.lastErrorMessage)")
                return offerNext()
            }
            if attempt < 3 { return ask(file, name, attempt: attempt + 1) }
            notes.append("\(name): wrong passphrase")
            offerNext()
        case LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED:
            notes.append("\(name): its signature was not accepted (\(session.library.lastErrorMessage))")
            offerNext()
        default: decide(result, name)
        }
    }

    /// What every way of offering a key ends with.
    private func decide(_ result: Int32, _ name: String) {
        switch result {
        case 0: completion(nil)
        case LIBSSH2_ERROR_AUTHENTICATION_FAILED:
            notes.append("\(name): refused by the server")
            offerNext()
        default:
            completion(session.error(result))
        }
    }

    private func refuse() {
        let offered = methods.isEmpty ? "nothing" : methods.joined(separator: ", ")
        completion(
            SSHError(
                .authenticationRefused,
                "\(session.peerDescription) refused the login. It offers: \(offered). Keys: \(notes.joined(separator: "; "))",
                limits: limits
            )
        )
    }

    private func describe(_ candidate: Candidate) -> String {
        switch candidate {
        case .agent(let identity): "\(identity.key.fingerprint) (agent, \(identity.comment))"
        case .file(let file): file.publicKey.map { "\($0.fingerprint) (\(file.name))" } ?? file.name
        }
    }

    private func startTimer() {
        session.startPhaseTimer(session.configuration.authenticationTimeout, "SSH authentication")
    }

    // MARK: Signing

    private func sign(_ data: [UInt8], with key: HostKey) {
        signature = .underWay
        session.startPhaseTimer(Self.agentTimeout, "the ssh-agent's signature for SSH authentication")
        guard let agent else { return signed(.refused) }
        agent.sign(data, with: key) { [weak self] result in
            switch result {
            case .success(let value): self?.signed(.made(value))
            case .failure(let error):
                self?.notes.append(error.message)
                self?.signed(.refused)
            }
        }
    }

    private func signed(_ signature: Signature) {
        self.signature = signature
        startTimer()
        session.scheduleDrive()
    }

    /// libssh2 wants `data` signed. Runs inside libssh2: it only notes the wish.
    fileprivate func signatureWanted(_ data: UnsafeRawBufferPointer) -> Result<[UInt8], SignatureError> {
        switch signature {
        case .notWanted:
            signature = .notWanted(accepted: true)
            return .failure(.no)
        case .none:
            signature = .asked(data: Array(data))
            return .failure(.later)
        case .asked, .underWay: return .failure(.later)
        case .made(let value): return .success(value)
        case .refused: return .failure(.no)
        }
    }

    fileprivate enum SignatureError: Error {
        case later
        case no
    }
}

private let signCallback:
    @convention(c) (
        OpaquePointer?, UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>?, UnsafeMutablePointer<Int>?,
        UnsafePointer<UInt8>?, Int, UnsafeMutablePointer<UnsafeMutableRawPointer?>?
    ) -> Int32 = { _, signature, signatureLength, data, length, abstract in
        guard let object = abstract?.pointee, let signature, let signatureLength else { return LIBSSH2_ERROR_BAD_USE }
        let authenticator = Unmanaged<Authenticator>.fromOpaque(object).takeUnretainedValue()
        switch authenticator.signatureWanted(UnsafeRawBufferPointer(start: data, count: length)) {
        case .success(let value):
            // libssh2 frees it with the session's allocator, which is malloc's.
            guard let copy = malloc(max(1, value.count)) else { return LIBSSH2_ERROR_ALLOC }
            value.withUnsafeBytes { UnsafeMutableRawBufferPointer(start: copy, count: $0.count).copyMemory(from: $0) }
            signature.pointee = copy.assumingMemoryBound(to: UInt8.self)
            signatureLength.pointee = value.count
            return 0
        case .failure(.later): return LIBSSH2_ERROR_EAGAIN
        case .failure(.no): return -1
        }
    }

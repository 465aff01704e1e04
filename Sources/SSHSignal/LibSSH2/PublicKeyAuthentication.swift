import CLibSSH2
import Glibc
import MeshIdentity
import Platform
import Streams

/// Public keys (RFC 4252 §7): offers keys one at a time, the agent's and those of files, in the order of
/// ``KeyCandidates``. Lives on the session's loop.
///
/// ```
///  list the agent's keys ─▶ for each key: offer ─▶ (server agrees: sign, or ask the passphrase and sign)
/// ```
final class PublicKeyAuthentication {
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

    private unowned let session: any AuthenticatingSession
    private let record: AuthenticationRecord
    private var completion: (AuthenticationOutcome) -> Void = { _ in }
    private let raw: OpaquePointer
    private let user: String
    private var agent: AgentClient?
    /// nil until the agent was asked.
    private var candidates: ArraySlice<KeyCandidate>?
    private var offers = 0
    /// The last one that was offered.
    private var offered: KeyCandidate?
    /// For a passphrase.
    private var hasAsked = false
    private var signature = Signature.none
    /// Set by ``stop()``: the session may be gone.
    private var isStopped = false
    /// What libssh2's signing callback gets; points to this object.
    private let abstract = UnsafeMutablePointer<UnsafeMutableRawPointer?>.allocate(capacity: 1)

    /// An agent may ask its user to confirm; sshd itself gives up after 120 seconds (LoginGraceTime).
    private static let agentTimeout: Duration = .seconds(100)

    init(_ session: any AuthenticatingSession, record: AuthenticationRecord) {
        self.session = session
        self.record = record
        raw = session.library.raw
        user = session.configuration.user
        abstract.initialize(to: Unmanaged.passUnretained(self).toOpaque())
    }

    deinit { abstract.deallocate() }

    /// Offers what has not been offered yet.
    ///
    /// - Parameter completion: Called once. Not called after ``stop()``.
    func run(_ completion: @escaping (AuthenticationOutcome) -> Void) {
        self.completion = completion
        session.startAuthenticationTimer()
        if candidates == nil { listAgent() } else { offerNext() }
    }

    /// The key that was accepted, where no passphrase was asked for, and no certificate stood in its place.
    var silentKey: SilentKey? {
        guard !hasAsked, let offered, offered.certificate == nil else { return nil }
        switch offered.signer {
        case .agent(let identity): return .agent(identity.key)
        case .file(let file): return file.name.hasPrefix("/") ? .file(file.name) : nil
        }
    }

    func stop() {
        isStopped = true
        agent?.close()
        agent = nil
    }

    // MARK: Candidates

    private func listAgent() {
        var path: String?
        for case .agent(let socketPath) in session.configuration.credentials where path == nil { path = socketPath }
        guard let path else { return collect([]) }
        session.startAuthenticationTimer()
        AgentClient.connect(socketPath: path, on: session.loop) { [weak self] result in
            guard let self, !isStopped else { return }
            switch result {
            case .failure(let error):
                record.notes.append(error.message)
                collect([])
            case .success(let agent):
                self.agent = agent
                agent.identities { [weak self] result in
                    guard let self, !isStopped else { return }
                    switch result {
                    case .failure(let error): record.notes.append(error.message)
                    case .success(let keys) where keys.isEmpty:
                        record.notes.append("the ssh-agent at \(path) holds no keys (ssh-add adds one)")
                    case .success: break
                    }
                    collect((try? result.get()) ?? [])
                }
            }
        }
    }

    private func collect(_ identities: [AgentClient.Identity]) {
        let configuration = session.configuration
        let found = KeyCandidates(
            configuration.credentials,
            identities: identities,
            identitiesOnly: configuration.identitiesOnly,
            accepted: configuration.acceptedKeys
        )
        record.notes += found.notes
        candidates = found.list[...]
        if found.list.isEmpty && record.notes.isEmpty { record.notes.append("there was no key to offer") }
        offerNext()
    }

    // MARK: Offering

    private func offerNext() {
        while let candidate = candidates?.popFirst() {
            let name = candidate.description
            if let limit = Self.limit(candidate, name) {
                record.notes.append("\(name): not offered, \(limit.reason)")
                record.limits.append(limit)
                continue
            }
            if let expiry = candidate.certificate?.certificate.expiry(at: WallClock.system.seconds) {
                record.notes.append("\(name): not offered, it \(expiry)")
                continue
            }
            guard offers < session.configuration.maximumKeyOffers else {
                record.notes.append(
                    "\(name): not offered, \(offers) keys are enough for one connection (name the right one with -i)"
                )
                continue
            }
            offers += 1
            offered = candidate
            session.startAuthenticationTimer()
            switch candidate.signer {
            case .agent(let identity): offer(candidate, identity, name)
            case .file(let file) where !file.isEncrypted && file.exposure == nil:
                use(candidate, file, name, passphrase: [], attempt: 1)
            case .file(let file):
                if let key = candidate.offered {
                    probe(key, candidate, file, name)
                } else {
                    unlock(candidate, file, name)
                }
            }
            return
        }
        completion(.exhausted)
    }

    /// Why a key cannot work with this libssh2; nil when it can.
    private static func limit(_ candidate: KeyCandidate, _ name: String) -> EngineLimit? {
        var algorithm = candidate.offered?.algorithm
        if candidate.certificate == nil, case .file(let file) = candidate.signer, file.isRSA { algorithm = "ssh-rsa" }
        return EngineCapabilities.current.limit(forUserKey: algorithm, name: name)
    }

    private func offer(_ candidate: KeyCandidate, _ identity: AgentClient.Identity, _ name: String) {
        signature = .none
        authenticate(with: candidate.offered ?? identity.key, signing: identity.key) { [unowned self] result in
            if result == LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED, case .refused = signature { return offerNext() }
            decide(result, name)
        }
    }

    /// Finds out whether an encrypted key is worth a passphrase, and one that others may read worth a warning.
    private func probe(_ key: HostKey, _ candidate: KeyCandidate, _ file: PrivateKeyFile, _ name: String) {
        signature = .notWanted(accepted: false)
        authenticate(with: key, signing: key) { [unowned self] result in
            if case .notWanted(accepted: true) = signature { return unlock(candidate, file, name) }
            decide(result, name)
        }
    }

    private func unlock(_ candidate: KeyCandidate, _ file: PrivateKeyFile, _ name: String) {
        guard let exposure = file.exposure else { return ask(candidate, file, name, attempt: 1) }
        session.configuration.warn?(exposure)
        record.notes.append(exposure)
        offerNext()
    }

    private func authenticate(with key: HostKey, signing signer: HostKey, then: @escaping (Int32) -> Void) {
        session.library.authenticationFailure = nil
        let call = { [unowned self] () -> Int32 in
            let result = key.blob.withUnsafeBufferPointer {
                libssh2_userauth_publickey(raw, user, $0.baseAddress, $0.count, signCallback, abstract)
            }
            if case .asked(let data) = signature { sign(data, with: signer) }
            return result
        }
        session.perform(call, then: then)
    }

    private func ask(_ candidate: KeyCandidate, _ file: PrivateKeyFile, _ name: String, attempt: Int) {
        guard let prompt = session.configuration.passphrase else {
            record.notes.append(
                "\(name): encrypted, and there is no terminal to ask for its passphrase (or add it to an ssh-agent)"
            )
            return offerNext()
        }
        session.stopPhaseTimer()
        hasAsked = true
        let request = PassphraseRequest(name: file.name, fingerprint: file.publicKey?.fingerprint, attempt: attempt)
        let loop = session.loop
        let authentication = LoopBound(self, on: loop)
        Task {
            let answer = await prompt(request)
            loop.submit {
                authentication.withValue { $0.answered(answer, candidate, file, name, attempt: attempt) }
            }
        }
    }

    private func answered(
        _ passphrase: [UInt8]?,
        _ candidate: KeyCandidate,
        _ file: PrivateKeyFile,
        _ name: String,
        attempt: Int
    ) {
        guard !isStopped else { return }
        session.startAuthenticationTimer()
        guard let passphrase else {
            record.notes.append("\(name): no passphrase was given")
            return offerNext()
        }
        use(candidate, file, name, passphrase: passphrase, attempt: attempt)
    }

    private func use(
        _ candidate: KeyCandidate,
        _ file: PrivateKeyFile,
        _ name: String,
        passphrase: [UInt8],
        attempt: Int
    ) {
        var passphrase = passphrase + [0]
        let length = user.utf8.count
        // Without a public key libssh2 makes it of the private one.
        let line = candidate.certificate.map { Array($0.certificate.line.utf8) } ?? []
        session.library.authenticationFailure = nil
        let authenticate = { [unowned self] () -> Int32 in
            file.contents.withUnsafeBytes { key in
                passphrase.withUnsafeBytes { passphrase in
                    line.withUnsafeBytes { line in
                        libssh2_userauth_publickey_frommemory(
                            raw,
                            user,
                            length,
                            line.isEmpty ? nil : line.bindMemory(to: CChar.self).baseAddress,
                            line.count,
                            key.bindMemory(to: CChar.self).baseAddress,
                            key.count,
                            passphrase.bindMemory(to: CChar.self).baseAddress
                        )
                    }
                }
            }
        }
        session.perform(
            authenticate,
            then: { [unowned self] result in
                passphrase.withUnsafeMutableBytes { if let base = $0.baseAddress { explicit_bzero(base, $0.count) } }
                used(candidate, file, name, attempt: attempt, result)
            }
        )
    }

    private func used(
        _ candidate: KeyCandidate,
        _ file: PrivateKeyFile,
        _ name: String,
        attempt: Int,
        _ result: Int32
    ) {
        switch result {
        case LIBSSH2_ERROR_FILE, LIBSSH2_ERROR_PROTO, LIBSSH2_ERROR_DECRYPT, LIBSSH2_ERROR_KEYFILE_AUTH_FAILED,
            LIBSSH2_ERROR_METHOD_NONE:
            guard file.isEncrypted else {
                record.notes.append("\(name): cannot be used: \(session.library.lastErrorMessage)")
                return offerNext()
            }
            if attempt < 3 { return ask(candidate, file, name, attempt: attempt + 1) }
            record.notes.append("\(name): wrong passphrase")
            offerNext()
        default: decide(result, name)
        }
    }

    /// What every way of offering a key ends with.
    private func decide(_ result: Int32, _ name: String) {
        switch (result, session.library.authenticationFailure) {
        case (0, _): completion(.accepted)
        case (LIBSSH2_ERROR_AUTHENTICATION_FAILED, let failure?) where failure.isPartialSuccess,
            (LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED, let failure?) where failure.isPartialSuccess:
            record.notes.append("\(name): accepted as one of several steps")
            completion(.partial(failure.methods))
        case (LIBSSH2_ERROR_AUTHENTICATION_FAILED, _):
            record.notes.append("\(name): refused by the server")
            offerNext()
        case (LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED, nil) where session.isCut:
            completion(.failed(session.error(result)))
        case (LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED, _):
            record.notes.append("\(name): its signature was not accepted (\(session.library.lastErrorMessage))")
            offerNext()
        default:
            completion(.failed(session.error(result)))
        }
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
                self?.record.notes.append(error.message)
                self?.signed(.refused)
            }
        }
    }

    private func signed(_ signature: Signature) {
        self.signature = signature
        session.startAuthenticationTimer()
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
        let authenticator = Unmanaged<PublicKeyAuthentication>.fromOpaque(object).takeUnretainedValue()
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

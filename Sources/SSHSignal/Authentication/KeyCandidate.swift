import MeshIdentity

/// A key to log in with, and who signs with it.
struct KeyCandidate {
    enum Signer {
        case agent(AgentClient.Identity)
        case file(PrivateKeyFile)
    }

    var signer: Signer
    /// Offered in the key's place.
    var certificate: UserCertificate?

    var key: HostKey? {
        switch signer {
        case .agent(let identity): identity.key
        case .file(let file): file.publicKey
        }
    }

    /// What the server is shown.
    var offered: HostKey? { certificate.map { HostKey(blob: $0.certificate.blob) } ?? key }

    /// For messages.
    var description: String {
        let key =
            switch signer {
            case .agent(let identity): "\(identity.key.fingerprint) (agent, \(identity.comment))"
            case .file(let file): file.publicKey.map { "\($0.fingerprint) (\(file.name))" } ?? file.name
            }
        return certificate.map { "\($0.description) of the key \(key)" } ?? key
    }
}

/// A key that a server has accepted without anybody having been asked.
enum SilentKey: Hashable, Sendable {
    /// Of an agent, which has the private half.
    case agent(HostKey)
    /// The path of an unencrypted file.
    case file(String)
}

/// The keys to offer, none of them twice, in the order in which `ssh` offers them; and what came of the other
/// credentials.
///
/// 1. Certificates that are named (`CertificateFile`).
/// 2. Of the agent's keys and certificates those that a file names, in the agent's order.
/// 3. The agent's other ones, unless only named ones are wanted (`IdentitiesOnly`).
/// 4. The files' keys that the agent does not have, in the files' order, each before the certificate beside it.
///
/// The certificate beside a key (`id-cert.pub`) counts only where no certificate is named.
struct KeyCandidates {
    private(set) var list: [KeyCandidate] = []
    /// Credentials that cannot be used, and why; for the error.
    private(set) var notes: [String] = []

    /// A key file as it is named, with the certificate beside it.
    private struct Named {
        var file: PrivateKeyFile
        var beside: UserCertificate?
    }

    private var files: [Named] = []
    private var certificates: [UserCertificate] = []
    private var seen: Set<HostKey> = []

    /// Reads the files that `credentials` name.
    ///
    /// - Parameters:
    ///   - identities: The agent's keys. One that a file holds, too, is used through the agent: no passphrase is
    ///     needed.
    ///   - identitiesOnly: Of the agent's keys only those that a file names; the others sign for named certificates
    ///     only.
    ///   - accepted: Which algorithms may be used (`PubkeyAcceptedAlgorithms`); nil: all.
    init(
        _ credentials: [SSHCredential],
        identities: [AgentClient.Identity],
        identitiesOnly: Bool,
        accepted: AlgorithmList? = nil
    ) {
        let namesCertificates = credentials.contains { if case .certificateFile = $0 { true } else { false } }
        for credential in credentials {
            do throws(PrivateKeyFile.Failure) {
                try read(credential, besides: !namesCertificates)
            } catch {
                switch error {
                case .unreadable(let message), .notAKey(let message): notes.append(message)
                }
            }
        }
        for certificate in certificates {
            guard let signer = signer(of: certificate, identities) else {
                notes.append("\(certificate.name): its key is neither in the files nor in the agent")
                continue
            }
            add(KeyCandidate(signer: signer, certificate: certificate))
        }
        let named = Set(
            files.flatMap { [$0.file.publicKey, $0.beside.flatMap { HostKey(blob: $0.certificate.blob) }] }
        )
        for isNamed in identitiesOnly ? [true] : [true, false] {
            for identity in identities where named.contains(identity.key) == isNamed { add(Self.candidate(identity)) }
        }
        for named in files { add(named, identities) }
        guard let accepted else { return }
        list.removeAll { candidate in
            guard let algorithm = candidate.offered?.algorithm, !accepted.allows(key: algorithm) else { return false }
            notes.append("\(candidate.description): not offered, PubkeyAcceptedAlgorithms leaves \(algorithm) out")
            return true
        }
    }

    private mutating func read(
        _ credential: SSHCredential,
        besides: Bool
    ) throws(PrivateKeyFile.Failure) {
        switch credential {
        case .keyFile(let path):
            let file = try PrivateKeyFile(path: path)
            do throws(PrivateKeyFile.Failure) {
                files.append(Named(file: file, beside: besides ? try UserCertificate(beside: path) : nil))
            } catch {
                files.append(Named(file: file))
                throw error
            }
        case .key(let contents, let name):
            files.append(Named(file: try PrivateKeyFile(contents: contents, name: name)))
        case .certificateFile(let path): certificates.append(try UserCertificate(path: path))
        case .agent: break
        }
    }

    private mutating func add(_ candidate: KeyCandidate) {
        if let offered = candidate.offered, !seen.insert(offered).inserted { return }
        list.append(candidate)
    }

    private mutating func add(_ named: Named, _ identities: [AgentClient.Identity]) {
        if named.file.hasPrivateHalf {
            add(KeyCandidate(signer: .file(named.file)))
        } else if let key = named.file.publicKey, let certificate = try? SSHCertificate(blob: key.blob) {
            // The file is a certificate.
            let certificate = UserCertificate(certificate, name: named.file.name)
            if let signer = signer(of: certificate, identities) {
                add(KeyCandidate(signer: signer, certificate: certificate))
            }
        } else if let key = named.file.publicKey, !identities.contains(where: { $0.key == key }) {
            notes.append("\(named.file.name): only the public half is there, and no agent has the other one")
        }
        if let certificate = named.beside {
            let own = KeyCandidate.Signer.file(named.file)
            guard let signer = signer(of: certificate, identities) ?? (named.file.publicKey == nil ? own : nil) else {
                notes.append("\(certificate.name): its key is neither in the files nor in the agent")
                return
            }
            add(KeyCandidate(signer: signer, certificate: certificate))
        }
    }

    /// An agent may hold a certificate as a key of its own.
    private static func candidate(_ identity: AgentClient.Identity) -> KeyCandidate {
        let held = try? SSHCertificate(blob: identity.key.blob)
        return KeyCandidate(
            signer: .agent(identity),
            certificate: held.map { UserCertificate($0, name: "agent, \(identity.comment)") }
        )
    }

    /// Who has the key that a certificate is for.
    private func signer(
        of certificate: UserCertificate,
        _ identities: [AgentClient.Identity]
    ) -> KeyCandidate.Signer? {
        let key = certificate.certificate.keyBlob
        if let identity = identities.first(where: { $0.key.blob == key }) { return .agent(identity) }
        let file = files.first { $0.file.hasPrivateHalf && $0.file.publicKey?.blob == key }
        if let file { return .file(file.file) }
        // The agent has it with the certificate only.
        return identities.first { $0.key.blob == certificate.certificate.blob }.map { .agent($0) }
    }
}

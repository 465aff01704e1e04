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

/// The keys to offer, in order, each with its certificates first and none of them twice; and what came of the other
/// credentials.
struct KeyCandidates {
    private(set) var list: [KeyCandidate] = []
    /// Credentials that cannot be used, and why; for the error.
    private(set) var notes: [String] = []

    private var files: [PrivateKeyFile] = []
    private var certificates: [UserCertificate] = []

    /// Reads the files that `credentials` name.
    ///
    /// - Parameters:
    ///   - identities: The agent's keys. One that a file holds, too, is used through the agent: no passphrase is
    ///     needed.
    ///   - identitiesOnly: Of the agent's keys only those that a file or a certificate names.
    init(_ credentials: [SSHCredential], identities: [AgentClient.Identity], identitiesOnly: Bool) {
        var keys: [KeyCandidate] = []
        for credential in credentials {
            do throws(PrivateKeyFile.Failure) {
                keys += try read(credential, identities)
            } catch {
                switch error {
                case .unreadable(let message), .notAKey(let message): notes.append(message)
                }
            }
        }
        let named = Set(
            files.compactMap(\.publicKey) + certificates.compactMap { HostKey(blob: $0.certificate.keyBlob) }
        )
        var seen: Set<HostKey> = []
        for var candidate in keys {
            guard let key = candidate.key else {
                list.append(candidate)
                continue
            }
            if case .agent(let identity) = candidate.signer {
                // An agent may hold a certificate as a key of its own.
                if let held = try? SSHCertificate(blob: key.blob) {
                    candidate.certificate = UserCertificate(held, name: "agent, \(identity.comment)")
                }
                let certified = candidate.certificate.flatMap { HostKey(blob: $0.certificate.keyBlob) }
                guard !identitiesOnly || named.contains(certified ?? key) else { continue }
            }
            for certificate in certificates where certificate.certificate.keyBlob == key.blob {
                var certified = candidate
                certified.certificate = certificate
                if let offered = certified.offered, seen.insert(offered).inserted { list.append(certified) }
            }
            if seen.insert(key).inserted { list.append(candidate) }
        }
        for certificate in certificates where !keys.contains(where: { $0.key?.blob == certificate.certificate.keyBlob })
        {
            notes.append("\(certificate.name): its key is neither in the files nor in the agent")
        }
    }

    private mutating func read(
        _ credential: SSHCredential,
        _ identities: [AgentClient.Identity]
    ) throws(PrivateKeyFile.Failure) -> [KeyCandidate] {
        let file: PrivateKeyFile
        switch credential {
        case .keyFile(let path):
            if let beside = try UserCertificate(beside: path) { certificates.append(beside) }
            file = try PrivateKeyFile(path: path)
        case .key(let contents, let name): file = try PrivateKeyFile(contents: contents, name: name)
        case .certificateFile(let path):
            certificates.append(try UserCertificate(path: path))
            return []
        case .agent: return identities.map { KeyCandidate(signer: .agent($0)) }
        }
        files.append(file)
        let identity = identities.first { $0.key == file.publicKey }
        return [KeyCandidate(signer: identity.map(KeyCandidate.Signer.agent) ?? .file(file))]
    }
}

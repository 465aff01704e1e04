import MeshIdentity
import Platform
import Streams

/// A host key that was not accepted. Nothing had been sent but the key exchange.
public struct HostKeyError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Why the key was not accepted.
    public enum Reason: Hashable, Sendable {
        /// known_hosts has another key for the host: it was installed anew, or somebody is in between.
        case changed
        /// known_hosts says that nobody may trust this key (`@revoked`).
        case revoked
        /// known_hosts does not know the host, and nobody could be asked.
        case unknown
        /// A person was asked, and said no.
        case rejected
        /// The host's certificate does not vouch for it.
        case certificate
        /// It is not the one that was named.
        case pinMismatch
    }
    /// Why, for programs.
    public var reason: Reason
    /// Why, and what to do about it, for people.
    public var message: String
    public var description: String { message }
}

/// What a person is asked about a host seen for the first time.
public struct HostKeyQuestion: Hashable, Sendable {
    /// As the user knows it; with its port where that is not 22, as ssh writes it: `[host]:port`.
    public var host: String
    /// What the host has shown and proved to have.
    public var key: HostKey
    /// Key types the host is recorded with, when it now shows another one.
    public var knownAlgorithms: [String]

    /// In OpenSSH's words.
    public var text: String {
        var text = "The authenticity of host '\(host)' can't be established.\n"
        if !knownAlgorithms.isEmpty {
            text +=
                "It is known with another type of key (\(knownAlgorithms.joined(separator: ", "))); it now shows a new one.\n"
        }
        return text + "\(key.algorithm) key fingerprint is \(key.fingerprint).\n"
            + "Are you sure you want to continue connecting (yes/no/[fingerprint])? "
    }

    /// What an answer means: "yes" or the fingerprint accepts, "no" refuses, anything else (nil) is to be asked again.
    public func accepts(_ answer: String) -> Bool? {
        let answer = answer.split { $0 == " " || $0 == "\t" || $0 == "\r" || $0 == "\n" }.joined(separator: " ")
        if answer.lowercased() == "yes" || answer == key.fingerprint { return true }
        if answer.lowercased() == "no" || answer.hasPrefix("SHA256:") { return false }
        return nil
    }
}

/// Asks a person whether an unknown host key is the right one; from any thread.
public typealias HostKeyPrompt = @Sendable (HostKeyQuestion) async -> Bool

/// Decides about the key a host has shown: known_hosts, then `StrictHostKeyChecking`, then a person.
package struct HostKeyPolicy: Sendable {
    /// Asks a person and returns whether the key is accepted. nil where nobody can be asked.

    /// For messages: as the user knows it, with its port where that is not 22.
    let host: String
    private let name: String
    /// What a certificate has to name: the host without a port.
    private let certificateName: String
    /// The fingerprint of the only key that will do.
    let pinned: String?
    /// Set when ``name`` has a port: `ssh` then also takes a key that is recorded for the host without one.
    private let nameWithoutPort: String?
    private let mode: StrictHostKeyChecking
    private let recordFile: String?
    private let hashKnownHosts: Bool
    /// `NoHostAuthenticationForLocalhost` holds for it.
    private let needsNoProof: Bool
    private let knownHosts: KnownHosts
    private var ask: HostKeyPrompt?
    /// New keys that were accepted in this login: its next session does not ask again, wherever they are recorded.
    private let accepted = Lock<Set<HostKey>>([])
    private let warn: @Sendable (String) -> Void

    /// The same, which asks nobody.
    var withoutQuestions: HostKeyPolicy {
        var policy = self
        policy.ask = nil
        return policy
    }

    /// Reads the known_hosts files of `configuration`; warns of those that cannot be read.
    package init(
        _ configuration: SSHClientConfiguration,
        ask: HostKeyPrompt? = nil,
        warn: @escaping @Sendable (String) -> Void
    ) {
        knownHosts = KnownHosts(files: configuration.userKnownHostsFiles + configuration.globalKnownHostsFiles) {
            warn("\($0): the host keys there are not known to this login")
        }
        host = configuration.namedHost
        name =
            configuration.hostKeyAlias?.lowercased()
            ?? KnownHosts.name(host: configuration.hostName, port: configuration.port)
        certificateName = configuration.hostKeyAlias?.lowercased() ?? configuration.hostName.lowercased()
        nameWithoutPort =
            configuration.hostKeyAlias == nil && configuration.port != 22 ? configuration.hostName.lowercased() : nil
        mode = configuration.strictHostKeyChecking
        pinned = configuration.pinnedHostKey
        recordFile = configuration.userKnownHostsFiles.first
        hashKnownHosts = configuration.hashKnownHosts
        let isLoopback = configuration.hostName == "localhost" || IPAddress(configuration.hostName)?.isLoopback == true
        needsNoProof =
            configuration.trustsLoopback && isLoopback && configuration.hostKeyAlias == nil
            && configuration.proxyJump.isEmpty
        self.ask = ask
        self.warn = warn
    }

    /// The key types to ask for first: see ``KnownHosts/algorithms(for:)``.
    package var preferredAlgorithms: [String] {
        let own = knownHosts.algorithms(for: name)
        return own.isEmpty ? nameWithoutPort.map { knownHosts.algorithms(for: $0) } ?? [] : own
    }

    var hasCertificateAuthority: Bool {
        !knownHosts.authorities(for: name).isEmpty
            || nameWithoutPort.map { !knownHosts.authorities(for: $0).isEmpty } ?? false
    }

    /// Set when known_hosts has the pinned key as revoked for this host.
    var pinnedRevocation: HostKeyError? {
        guard let pinned else { return nil }
        let names = [name] + (nameWithoutPort.map { [$0] } ?? [])
        let revoked = knownHosts.entries.first { entry in
            entry.marker == .revoked && entry.key.fingerprint == pinned && names.contains(where: entry.matches)
        }
        return revoked.map { Self.revoked(host, $0.key, $0.file, $0.line) }
    }

    private static func revoked(_ host: String, _ key: HostKey, _ file: String, _ line: Int) -> HostKeyError {
        HostKeyError(
            reason: .revoked,
            message: "REVOKED HOST KEY for \(host): \(key) is marked @revoked at \(file):\(line); nothing was sent"
        )
    }

    /// Returns when `key` is accepted (recorded, if it was new).
    ///
    /// - Parameter engine: Who has asked the server for the key, in messages; it cannot ask for certificates.
    /// - Throws: ``HostKeyError``.
    func check(_ key: HostKey, engine: String) async throws {
        if key.isCertificate {
            guard let plain = try checkCertificate(key, at: WallClock.system.seconds) else { return }
            // No line for its CA: as in ssh, the key in it counts like any other.
            return try await check(plain, engine: engine)
        }
        var verdict = knownHosts.verdict(for: key, of: name)
        if case .unknown = verdict, let nameWithoutPort {
            switch knownHosts.verdict(for: key, of: nameWithoutPort) {
            case let other where other.isMatchOrRevoked: verdict = other
            default: break
            }
        }
        if let pinned, key.fingerprint == pinned {
            // A pin overrides what known_hosts has, but for a revocation.
            if case .revoked = verdict {} else { return }
        } else if let pinned {
            throw HostKeyError(
                reason: .pinMismatch,
                message: """
                    HOST KEY MISMATCH for \(host): expected \(pinned) (--host-key), got \(key); nothing was sent. Compare the \
                    fingerprint with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub there)
                    """
            )
        }
        switch verdict {
        case .match:
            return
        case .unknown where needsNoProof, .changed where needsNoProof:
            return
        case .revoked(let file, let line):
            throw Self.revoked(host, key, file, line)
        case .changed(let expected, let file, let line):
            throw HostKeyError(
                reason: .changed,
                message: """
                    HOST KEY CHANGED for \(host): expected \(expected) (\(key.algorithm), \(file):\(line)), \
                    got \(key.fingerprint); nothing was sent. Somebody may be listening in. If the machine was \
                    re-installed, compare the new fingerprint on its console, then: ssh-keygen -R '\(name)' -f '\(file)'
                    """
            )
        case .unknown(let algorithms):
            guard !accepted.withLock({ $0.contains(key) }) else { return }
            try await decideUnknown(key, algorithms, engine)
        }
    }

    /// Returns nil when the host's certificate is good, and its plain key when no `@cert-authority` line covers the
    /// host.
    ///
    /// - Parameter now: seconds since 1970.
    func checkCertificate(_ key: HostKey, at now: Int64) throws -> HostKey? {
        let certificate: SSHCertificate
        do throws(IdentityError) {
            certificate = try SSHCertificate(blob: key.blob)
        } catch {
            throw HostKeyError(
                reason: .certificate,
                message: "the certificate of \(host): \(error.message); nothing was sent"
            )
        }
        guard let plain = HostKey(blob: certificate.keyBlob), let authority = HostKey(blob: certificate.authority.blob)
        else {
            throw HostKeyError(
                reason: .certificate,
                message: "the certificate of \(host) has no usable key; nothing was sent"
            )
        }
        let names = [name] + (nameWithoutPort.map { [$0] } ?? [])
        for (revocable, what) in [(plain, "its key"), (authority, "its CA")] {
            for name in names {
                guard case .revoked(let file, let line) = knownHosts.verdict(for: revocable, of: name) else { continue }
                throw HostKeyError(
                    reason: .revoked,
                    message: """
                        REVOKED HOST CERTIFICATE of \(host): \(what), \(revocable), is marked @revoked at \(file):\(line); \
                        nothing was sent
                        """
                )
            }
        }
        if let pinned { return plain.fingerprint == pinned ? nil : plain }
        let authorities = names.flatMap { knownHosts.authorities(for: $0) }
        guard !authorities.isEmpty else { return plain }
        let refusal = certificate.refusal(asHost: certificateName, authorities: authorities.map(\.blob), at: now) {
            HostPattern.matches($0, $1)
        }
        if let refusal {
            throw HostKeyError(
                reason: .certificate,
                message: "the certificate of \(host) (ID '\(Printable.clean(certificate.keyID, limit: 80))') "
                    + "\(Printable.clean(refusal)); nothing was sent"
            )
        }
        return nil
    }

    private func decideUnknown(_ key: HostKey, _ algorithms: [String], _ engine: String) async throws {
        switch mode {
        case .yes:
            throw unknown(key, algorithms, engine, why: "StrictHostKeyChecking is yes")
        case .ask:
            guard let ask else { throw unknown(key, algorithms, engine, why: "there is no terminal to ask on") }
            guard await ask(HostKeyQuestion(host: host, key: key, knownAlgorithms: algorithms)) else {
                throw HostKeyError(reason: .rejected, message: "the host key of \(host), \(key), was not accepted")
            }
        case .acceptNew, .no:
            guard algorithms.isEmpty else {
                throw unknown(key, algorithms, engine, why: "only a host without any recorded key is new")
            }
            if mode == .no {
                warn(
                    "\(host): StrictHostKeyChecking no: the new key \(key) is taken on trust; a changed one would be refused"
                )
            }
        }
        accepted.withLock { _ = $0.insert(key) }
        guard let recordFile else { return }
        // As with ssh, a key that was accepted is good for this login, recorded or not.
        do throws(SSHConfigurationError) {
            let hashed = hashKnownHosts || knownHosts.isHashed(recordFile)
            try KnownHostsFile.append(key, name: name, hashed: hashed, to: recordFile)
            warn("\(host): recorded the host key \(key) in \(recordFile)")
        } catch {
            warn("\(host): the host key \(key) is accepted for this login only: \(error)")
        }
    }

    private func unknown(_ key: HostKey, _ algorithms: [String], _ engine: String, why: String) -> HostKeyError {
        var message = "host key of \(host) is unknown: \(key), and \(why); nothing was sent. "
        if !algorithms.isEmpty {
            message += "The host is recorded with \(algorithms.joined(separator: ", ")) only. "
        }
        if hasCertificateAuthority {
            message +=
                "A @cert-authority line covers it, but \(engine) cannot ask for host certificates. "
        }
        message += """
            Compare the fingerprint with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub there), then either \
            connect once from a terminal and answer yes, or add the line of ssh-keyscan to \
            \(recordFile ?? "known_hosts"), or, on a network you trust, use -o StrictHostKeyChecking=accept-new
            """
        return HostKeyError(reason: .unknown, message: message)
    }
}

extension KnownHosts.Verdict {
    fileprivate var isMatchOrRevoked: Bool {
        switch self {
        case .match, .revoked: true
        case .unknown, .changed: false
        }
    }
}

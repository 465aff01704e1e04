import Glibc
import Platform
public import Streams

/// What makes the SSH connection.
public enum SSHEngine: String, Hashable, Sendable, Codable, CaseIterable {
    /// ``libssh2``, and ``openSSH`` for what it cannot do.
    case automatic = "auto"
    /// The library in this process: the faster one, for many connections too.
    case libssh2
    /// The user's own `ssh` program: whatever `ssh HOST` can do.
    case openSSH = "openssh"
}

extension SSHLogin {
    /// Connects, through the jump hosts, and authenticates.
    ///
    /// With ``SSHEngine/automatic`` `ssh` logs in where ``limits`` speak against libssh2, and where libssh2 has tried and the
    /// error names a limit. After any other refusal it does not: it would meet the same, and the server would count it.
    ///
    /// - Parameter loop: Where the session and its streams will live.
    public func connect(on loop: EventLoop) async throws(SSHError) -> SSHClient {
        switch arguments.engine {
        case .libssh2: return try await connectByLibSSH2(on: loop)
        case .openSSH: return try await connectByOpenSSH(on: loop)
        case .automatic: break
        }
        let limits: [EngineLimit]
        let failure: SSHError?
        if self.limits.isEmpty {
            do {
                return try await connectByLibSSH2(on: loop)
            } catch {
                limits = error.limits + (error.code == .authenticationRefused ? certificateLimits : [])
                guard !limits.isEmpty, error.code != .hostKeyRefused else { throw error }
                failure = error
            }
        } else {
            limits = self.limits
            failure = nil
        }
        guard let program = OpenSSHProgram.find() else {
            if let failure { throw failure }
            // One that is not decisive may still turn out not to matter.
            if !limits.contains(where: \.isDecisive) { return try await connectByLibSSH2(on: loop) }
            throw SSHError(
                .unsupported,
                "\(configuration.destination): \(Self.reasons(limits)); the ssh program could, and there is none in PATH "
                    + "(apt install openssh-client)",
                limits: limits
            )
        }
        prompts.warn("\(configuration.destination): by way of \(program): \(Self.reasons(limits))")
        return try await connectByOpenSSH(on: loop)
    }

    private func connectByOpenSSH(on loop: EventLoop) async throws(SSHError) -> SSHClient {
        var login = OpenSSHLogin(
            destination: configuration.destination,
            arguments: arguments,
            pinnedHostKey: configuration.pinnedHostKey,
            isInteractive: prompts.hostKey != nil || prompts.passphrase != nil
                || (prompts.authentication != nil && Self.hasTerminal),
            warn: prompts.warn
        )
        guard let pinned = configuration.pinnedHostKey else { return try await login.connect(on: loop) }
        // With a pin ssh reads no known_hosts, where a revocation would stand.
        if let revocation { throw SSHError(.hostKeyRefused, revocation.message) }
        // A fingerprint does not tell its key's type, and ssh would ask for the one it likes best.
        var refusal: SSHError?
        for types in Self.hostKeyTypes {
            login.hostKeyAlgorithms = types
            do throws(SSHError) {
                return try await login.connect(on: loop)
            } catch {
                switch error.code {
                case .hostKeyRefused: refusal = error
                // It has no key of this type.
                case .negotiationFailed: refusal = refusal ?? error
                default: throw error
                }
            }
        }
        let said = refusal?.message ?? ""
        guard refusal?.code == .hostKeyRefused else {
            throw refusal ?? SSHError(.negotiationFailed, "\(configuration.destination): no host key was shown")
        }
        throw SSHError(
            .hostKeyRefused,
            "HOST KEY MISMATCH for \(configuration.destination.host): none of its keys is \(pinned) (--host-key); nothing was sent. "
                + "Compare the fingerprint with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub there). \(said)"
        )
    }

    private static let hostKeyTypes = [
        ["ssh-ed25519"], ["ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"],
        ["rsa-sha2-512", "rsa-sha2-256"],
    ]

    /// Without one ssh would answer a question for a password with an empty one.
    private static var hasTerminal: Bool {
        let descriptor = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        close(descriptor)
        return true
    }

    /// Certificates of the destination's that only `ssh` can show: those beside its key files, and those named.
    private var certificateLimits: [EngineLimit] {
        let files = configuration.existingIdentityFiles.map { $0 + "-cert.pub" } + configuration.certificateFiles
        return files.compactMap { path in
            guard let bytes = try? LocalFile.read(path),
                let type = String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isWhitespace).first
            else { return nil }
            return EngineCapabilities.current.limit(forUserKey: String(type), name: path)
        }
    }

    private static func reasons(_ limits: [EngineLimit]) -> String {
        var seen: [String] = []
        for limit in limits where !seen.contains(limit.reason) { seen.append(limit.reason) }
        return seen.joined(separator: "; ")
    }
}

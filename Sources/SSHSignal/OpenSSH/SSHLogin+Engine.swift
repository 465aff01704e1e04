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
        // ssh would verify the host by known_hosts instead: a pin must not be lost on the way to another engine.
        if configuration.pinnedHostKey != nil {
            guard arguments.engine != .openSSH else {
                throw SSHError(
                    .unsupported,
                    "\(configuration.destination): --host-key is for libssh2; ssh goes by known_hosts alone"
                )
            }
            return try await connectByLibSSH2(on: loop)
        }
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
        try await OpenSSHLogin(
            destination: configuration.destination,
            arguments: arguments,
            pinnedHostKey: nil,
            isInteractive: prompts.hostKey != nil || prompts.passphrase != nil,
            warn: prompts.warn
        ).connect(on: loop)
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

import Platform
public import Streams

extension SSHLogin {
    /// Connects, through the jump hosts, and authenticates.
    ///
    /// With ``SSHEngine/automatic`` `ssh` logs in where the configuration asks for what libssh2 cannot do, and where
    /// libssh2 has tried and the error names a limit. After any other refusal it does not: it would meet the same, and
    /// the server would count it.
    ///
    /// - Parameter loop: Where the session and its streams will live.
    public func connect(on loop: EventLoop) async throws(SSHError) -> SSHClient {
        do throws(SSHError) {
            return try await connectByEngine(on: loop)
        } catch {
            guard error.isOfUnknownName, error.message.contains(configuration.hostName), let meant = suggestion?()
            else { throw error }
            throw SSHError(error.code, "\(error.message); did you mean '\(meant)'?", limits: error.limits)
        }
    }

    private func connectByEngine(on loop: EventLoop) async throws(SSHError) -> SSHClient {
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

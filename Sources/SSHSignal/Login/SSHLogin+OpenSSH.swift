import Glibc
import Platform
import Streams

/// The login with the user's own `ssh`, which reads the configuration itself.
extension SSHLogin {
    func connectByOpenSSH(on loop: EventLoop) async throws(SSHError) -> SSHClient {
        onProgress?(LoginProgress(.program("ssh")))
        let client = try await logInByOpenSSH(on: loop)
        guard let text = objection?(client.hostKey) else { return client }
        await client.close()
        throw SSHError(.hostKeyRefused, text)
    }

    private func logInByOpenSSH(on loop: EventLoop) async throws(SSHError) -> SSHClient {
        // ssh reads it before it has logged in, and not again.
        let directory = try needsWrittenConfiguration ? ControlDirectory() : nil
        defer { directory?.remove() }
        var login = OpenSSHLogin(
            destination: configuration.destination,
            arguments: try argumentsForSSH(directory),
            pinnedHostKey: repetition?.hostKey.fingerprint ?? configuration.pinnedHostKey,
            isInteractive: prompts.hostKey != nil || prompts.passphrase != nil
                || (prompts.authentication != nil && Self.hasTerminal) || prompts.passwordFile != nil,
            warn: { [prompts, name = configuration.namedHost] in prompts.relay($0, of: name) }
        )
        login.passwordFile = configuration.authentication.isBatch ? nil : prompts.passwordFile
        if let repetition {
            login.key = repetition.key
            login.hostKeyAlgorithms =
                Self.hostKeyTypes.first { $0.contains(repetition.hostKey.algorithm) }
                ?? Self.hostKeyTypes.last
            return try await login.connect(on: loop)
        }
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
            "HOST KEY MISMATCH for \(configuration.namedHost): none of its keys is \(pinned) (--host-key); nothing was sent. "
                + "Compare the fingerprint with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub there). \(said)"
        )
    }

    /// Whether `$HOME` is another directory than the account's.
    private var hasOtherHome: Bool {
        let account = LocalAccount.current()
        return account.recordedHome.map { $0 != account.home } ?? false
    }

    /// Whether ``argumentsForSSH(_:)`` writes a configuration.
    var needsWrittenConfiguration: Bool { hasOtherHome && arguments.configurationFile == nil }

    /// What every `ssh` that is run for this login gets. `ssh` does not look at `$HOME`: where that is another
    /// directory than the account's, it is told what was read from there, so that it decides by the same files.
    ///
    /// - Parameter directory: For the configuration, where ``needsWrittenConfiguration``.
    func argumentsForSSH(_ directory: ControlDirectory?) throws(SSHError) -> SSHArguments {
        guard hasOtherHome else { return arguments }
        var arguments = arguments
        if let directory, needsWrittenConfiguration {
            let files = [LocalAccount.current().home + "/.ssh/config", "/etc/ssh/ssh_config"]
            arguments.configurationFile = try directory.writeConfiguration(of: files) ? directory.configuration : "none"
        }
        func option(_ keyword: String, _ paths: [String]) -> String {
            let quoted = paths.map { path in
                let text = path.split(separator: "%", omittingEmptySubsequences: false).joined(separator: "%%")
                return "\"\(text)\""
            }
            return "\(keyword)=\(quoted.joined(separator: " "))"
        }
        let known = configuration.userKnownHostsFiles
        arguments.options.append(known.isEmpty ? "UserKnownHostsFile=none" : option("UserKnownHostsFile", known))
        arguments.options += configuration.existingIdentityFiles.map { option("IdentityFile", [$0]) }
        arguments.options += configuration.certificateFiles.map { option("CertificateFile", [$0]) }
        return arguments
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
}

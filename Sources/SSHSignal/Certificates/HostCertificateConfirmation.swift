import Glibc
package import MeshIdentity
import Platform
package import Streams

/// Sees by a connection of its own that a server shows a host certificate: with the user's `ssh`, which libssh2 1.10
/// cannot replace here.
///
/// Nothing is known to that `ssh` but the CA, and no other key is accepted. It offers no way to log in, so the server
/// ends the connection where the login would begin: after the host was verified.
package struct HostCertificateConfirmation: Sendable {
    let login: SSHLogin
    let authority: SSHPublicKey
    let certificate: SSHCertificate
    /// The device's, for errors.
    let name: String

    /// sshd may be starting anew.
    private static let pauses = [0, 100, 300, 1000, 2000, 4000]

    /// Whether this machine has an `ssh` to confirm with.
    package static var isPossible: Bool { OpenSSHProgram.find() != nil }

    package init(login: SSHLogin, authority: SSHPublicKey, certificate: SSHCertificate, name: String) {
        self.login = login
        self.authority = authority
        self.certificate = certificate
        self.name = name
    }

    package func run(on loop: EventLoop) async throws(SSHError) {
        guard let path = OpenSSHProgram.find() else { throw SSHError(.unsupported, "there is no ssh program in PATH") }
        let directory = try ControlDirectory()
        defer { directory.remove() }
        try directory.writeHostKeys("@cert-authority * \(authority.line)\n")
        // The host may be known by a name of that configuration only.
        let words = try OpenSSHLogin.words(to: login.configuration.destination, login.argumentsForSSH(directory))
        var said = ""
        for pause in Self.pauses {
            try? await Task.sleep(for: .milliseconds(pause))
            let answer = try await OpenSSHProgram.run(path, options(directory.hostKeys) + words + ["true"], on: loop)
            if Self.confirms(answer.errors, serial: certificate.serial) { return }
            let lines = answer.errors.split(whereSeparator: \.isNewline).filter { !$0.hasPrefix("debug1: ") }
            said = Printable.clean(lines.suffix(3).joined(separator: " "), limit: 300)
        }
        throw SSHError(
            .hostKeyRefused,
            "a new connection does not show the host certificate (serial \(certificate.serial)): ssh says: \(said)"
        )
    }

    /// Whether ssh has said that it verified the very certificate. The lines are ssh's own; what the server chose is at
    /// their end, and cleaned by ssh.
    static func confirms(_ log: String, serial: UInt64) -> Bool {
        let lines = log.split(whereSeparator: \.isNewline)
        let shown = lines.contains { line in
            line.hasPrefix("debug1: Server host certificate: ") && line.contains(", serial \(serial) ID ")
        }
        return shown
            && lines.contains { line in
                line.hasPrefix("debug1: Host '") && line.contains("' is known and matches the ")
                    && line.hasSuffix(" host certificate.")
            }
    }

    private func options(_ knownHosts: String) -> [String] {
        let options = [
            "BatchMode=yes", "StrictHostKeyChecking=yes", "UserKnownHostsFile=\"\(knownHosts)\"",
            "GlobalKnownHostsFile=/dev/null", "IgnoreUnknown=KnownHostsCommand", "KnownHostsCommand=none",
            "HostKeyAlgorithms=\(algorithms)", "PreferredAuthentications=none", "CheckHostIP=no", "ControlMaster=no",
            "ControlPath=none", "ClearAllForwardings=yes", "PermitLocalCommand=no", "RemoteCommand=none",
            "ConnectTimeout=10", "LogLevel=DEBUG1",
        ]
        return ["-T", "-x", "-a"] + options.flatMap { ["-o", $0] }
    }

    /// Of an RSA key's certificate by the signature (RFC 8332).
    private var algorithms: String {
        guard certificate.algorithm.hasPrefix("ssh-rsa-") else { return certificate.algorithm }
        return ["rsa-sha2-512", "rsa-sha2-256"].map { $0 + "-cert-v01@openssh.com" }.joined(separator: ",")
    }
}

extension ControlDirectory {
    /// Makes the file ``hostKeys`` with this content.
    func writeHostKeys(_ text: String) throws(SSHError) {
        do throws(IdentityError) {
            try fileWork(AtomicFile.write(Array(text.utf8), to: hostKeys, mode: 0o600))
        } catch {
            throw SSHError(.system, error.message)
        }
    }
}

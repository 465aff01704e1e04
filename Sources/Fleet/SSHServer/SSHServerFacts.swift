import MeshIdentity
import Platform
import SSHSignal

/// The sshd of a device: where its configuration is, and which keys it has. All of it the device's own word.
struct SSHServerFacts: Hashable, Sendable {
    struct HostKeyFile: Hashable, Sendable {
        /// Of the private key; absolute.
        var path: String
        /// nil where it cannot be read, or is of a kind that cannot be certified.
        var key: SSHPublicKey?
        /// What is in the file beside it already.
        var certificate: SSHCertificate?
        /// That file holds something, whatever it is.
        var hasCertificateFile: Bool

        var certificatePath: String { "\(path)-cert.pub" }
    }

    /// The sshd program, absolute.
    var program: String
    /// sshd_config, absolute.
    var configuration: String
    /// The process that takes connections; nil where something else starts an sshd for each.
    var listener: Int32?
    var hostKeys: [HostKeyFile]
    /// The files that `HostCertificate` names.
    var hostCertificates: [String]
    /// The file that `TrustedUserCAKeys` names.
    var userAuthorities: String?
    /// A file for us in a directory that the configuration includes; nil where it includes none.
    var dropIn: String?
    /// sshd_config has lines of ours.
    var hasBlock: Bool

    /// - Throws: ``HostError`` with ``HostError/Reason/unfit`` for a server that has no certificates.
    init(_ output: RemoteShell.Output, name: String) throws(HostError) {
        let values = output.values
        func failure(_ reason: HostError.Reason, _ text: String) -> HostError {
            HostError(reason, "\(name): \(text)")
        }
        switch values["server"] {
        case "dropbear":
            throw failure(
                .unfit,
                "its SSH server is dropbear, which has no certificates and signs nothing but logins; nothing was changed"
            )
        case "unknown":
            throw failure(
                .unfit,
                "this session does not come from an OpenSSH sshd that can be found in /proc; nothing was changed"
            )
        default: break
        }
        guard values["done"] == "1" else {
            let reason = values["error"] ?? output.lines.suffix(3).joined(separator: " ")
            throw failure(.failed, "sshd: \(Printable.clean(reason, limit: 600)); nothing was changed")
        }
        func path(_ key: String) throws(HostError) -> String? {
            guard let value = values[key], !value.isEmpty, value != "none" else { return nil }
            guard Self.isPath(value) else {
                throw failure(.failed, "sshd: '\(Printable.clean(value, limit: 80))' is no path")
            }
            return value
        }
        guard let program = try path("sshd"), let configuration = try path("config") else {
            throw failure(.failed, "sshd: it did not say where its program and configuration are")
        }
        self.program = program
        self.configuration = configuration
        listener = values["listener"].flatMap { Int32($0) }.flatMap { $0 > 1 ? $0 : nil }
        hostKeys = []
        hostCertificates = []
        // A server has three.
        for index in 0..<16 {
            guard let file = try path("key.\(index).file") else { break }
            let certificate = values["key.\(index).certificate"]
            hostKeys.append(
                HostKeyFile(
                    path: file,
                    key: values["key.\(index).public"].flatMap { try? SSHPublicKey(line: Array($0.utf8)) },
                    certificate: certificate.flatMap { try? SSHCertificate(line: Array($0.utf8)) },
                    hasCertificateFile: certificate != nil
                )
            )
        }
        for index in 0..<16 {
            guard let file = try path("certificate.\(index)") else { break }
            hostCertificates.append(file)
        }
        userAuthorities = try path("users")
        dropIn = try path("dropin")
        hasBlock = values["block"] == "1"
    }

    /// `DIR/bootstrap-user-ca.pub`, beside sshd_config.
    var userAuthorityPath: String {
        let directory = configuration.lastIndex(of: "/").map { configuration[..<$0] } ?? ""
        return "\(directory)/bootstrap-user-ca.pub"
    }

    /// Absolute, without what would break a line of sshd_config, and nothing that was replaced in cleaning.
    private static func isPath(_ path: String) -> Bool {
        path.hasPrefix("/") && path.utf8.count < 1024 && !path.contains("…")
            && path.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && !"?\"'\\#".utf8.contains($0) }
    }
}

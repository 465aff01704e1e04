import MeshIdentity
import SSHSignal

extension SSHServerSetup {
    /// What is to be changed, decided from what was found. Certificates are signed here; nothing has been changed yet.
    struct Plan {
        var changes: [SSHServerScript.Change] = []
        /// Lines of `sshd -T` afterwards.
        var effective: [String] = []
        var warnings: [String] = []
        var record: SSHServerRecord
        /// The certificate of the key that the session's key exchange has proven.
        var proven: SSHCertificate?

        /// - Throws: ``HostError`` where what is there already must not be replaced.
        init(
            _ options: Options,
            _ server: SSHServerFacts,
            _ authority: SSHCertificateAuthority,
            proven hostKey: HostKey,
            _ principals: [String]
        ) throws {
            record = SSHServerRecord(configuration: server.configuration, dropIn: nil, hostCertificates: [])
            record.dropIn = server.hasBlock ? nil : server.dropIn
            var lines: [String] = []
            if options.certifiesHost {
                try certify(options, server, authority, hostKey, principals)
                lines += record.hostCertificates.map { "HostCertificate \($0.path)" }
                effective += record.hostCertificates.map { "hostcertificate \($0.path)" }
            }
            if options.trustsUsers {
                let path = server.userAuthorityPath
                if let other = server.userAuthorities, other != path {
                    throw HostError(
                        .failed,
                        "\(options.name): its sshd trusts the user CAs in \(other) already (TrustedUserCAKeys), and takes one "
                            + "file only; add the line of `bootstrap ca ssh ca --user` to that file. Nothing was changed"
                    )
                }
                let key = authority.publicKey(.user)
                changes.append(.write(path: path, content: "\(key.line) bootstrap SSH user CA\n"))
                lines.append("TrustedUserCAKeys \(path)")
                effective.append("trustedusercakeys \(path)")
                record.userAuthority = key.fingerprint
                record.userAuthorityFile = path
            }
            let text = lines.map { $0 + "\n" }.joined()
            if let dropIn = record.dropIn {
                let head = "# Made by `bootstrap enroll`; `bootstrap unenroll` removes it.\n"
                changes.append(.write(path: dropIn, content: head + text))
            } else {
                changes.append(.block(text))
            }
        }

        private mutating func certify(
            _ options: Options,
            _ server: SSHServerFacts,
            _ authority: SSHCertificateAuthority,
            _ hostKey: HostKey,
            _ principals: [String]
        ) throws {
            let ours = authority.publicKey(.host)
            guard server.hostKeys.contains(where: { $0.key?.blob == hostKey.blob }) else {
                throw HostError(
                    .failed,
                    "\(options.name): the sshd of \(server.configuration) does not have the host key \(hostKey) that this "
                        + "session has shown; name the right file with --sshd-config. Nothing was changed"
                )
            }
            for file in server.hostKeys {
                let isProven = file.key?.blob == hostKey.blob
                guard let key = file.key else {
                    warnings.append(
                        "\(file.path) gets no certificate: its package key cannot be read, or is of a kind that is not signed"
                    )
                    continue
                }
                // A certificate of somebody else's stays: who trusts its CA would stand before the door.
                let isOthers = file.hasCertificateFile && file.certificate?.authority != ours
                guard !isOthers else {
                    let text = "\(file.certificatePath) is there already and not of this CA"
                    guard !isProven else {
                        throw HostError(
                            .failed,
                            "\(options.name): \(text); remove it, or move it away. Nothing was changed"
                        )
                    }
                    warnings.append("\(file.path) gets no certificate: \(text)")
                    continue
                }
                let certificate = try authority.issue(
                    .init(
                        kind: .host,
                        key: key,
                        principals: principals,
                        keyID: options.name,
                        lifetime: options.lifetime
                    )
                )
                if isProven { proven = certificate }
                changes.append(.write(path: file.certificatePath, content: "\(certificate.line) \(options.name)\n"))
                record.hostCertificates.append(
                    .init(
                        path: file.certificatePath,
                        algorithm: key.algorithm,
                        fingerprint: key.fingerprint,
                        serial: "\(certificate.serial)",
                        principals: principals,
                        notBefore: Int64(clamping: certificate.validAfter),
                        notAfter: Int64(clamping: certificate.validBefore),
                        isProven: isProven
                    )
                )
            }
            let others = server.hostCertificates.filter { path in
                !server.hostKeys.contains { $0.certificatePath == path }
            }
            if !others.isEmpty {
                warnings.append(
                    "its sshd has other host certificates, \(others.joined(separator: ", ")): for the same key the last line wins"
                )
            }
        }
    }
}

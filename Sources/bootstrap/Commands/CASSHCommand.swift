import ArgumentParser
import MeshIdentity

struct CASSHCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ssh",
        abstract: "OpenSSH certificates for hosts and users, from keys of their own beside the CA's.",
        discussion: """
            With a host's certificate nobody has to trust its key at first sight; with a user's, no server needs a list of keys. The \
            two keys are made at the first use, ECDSA on P-256, in the CA's directory (ssh-host-ca-key.pem, \
            ssh-user-ca-key.pem), encrypted with the CA's passphrase if it has one.

              bootstrap ca ssh ca --host >> ~/.ssh/known_hosts        trust the hosts
              bootstrap ca ssh ca --user > /etc/ssh/user-ca.pub       on a server, with TrustedUserCAKeys
              bootstrap ca ssh sign --host --principal dev7 --principal 10.0.0.7 ssh_host_ed25519_key.pub
              bootstrap ca ssh sign --user --principal root --ttl 1h ~/.ssh/id_ecdsa.pub
            """,
        subcommands: [CASSHSign.self, CASSHAuthority.self]
    )
}

/// Whose certificate it is.
enum SSHCertificateKindArgument: String, EnumerableFlag {
    case host
    case user

    var kind: SSHCertificate.Kind { self == .host ? .host : .user }

    static func help(for value: Self) -> ArgumentHelp? {
        value == .host ? "For hosts." : "For users."
    }
}

extension CAAccess {
    /// Opens the SSH CA, which has the passphrase of the X.509 CA beside it, if that has one.
    func loadSSH() throws -> SSHCertificateAuthority {
        do throws(IdentityError) {
            do throws(IdentityError) {
                _ = try EmbeddedCA.load(directory: location.path)
                return try SSHCertificateAuthority.open(directory: location.path)
            } catch {
                guard error.code == .passphraseRequired else { throw error }
                let passphrase = try passphrase(after: error)
                _ = try EmbeddedCA.load(directory: location.path, passphrase: passphrase)
                return try SSHCertificateAuthority.open(directory: location.path, passphrase: passphrase)
            }
        } catch {
            throw fail(error)
        }
    }

    private func passphrase(after error: IdentityError) throws(IdentityError) -> Passphrase {
        if let passphraseFile { return try Passphrase(file: passphraseFile) }
        if let passphrase = TerminalPrompt.passphrase("Passphrase of the CA in \(location.path): ") {
            return passphrase
        }
        throw IdentityError(
            .passphraseRequired,
            "\(error.message), and there is no terminal to ask on; give it with --passphrase-file"
        )
    }
}

import ArgumentParser
import MeshIdentity

struct CASSHAuthority: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ca",
        abstract: "Print the CA's public keys, as servers and known_hosts files take them.",
        discussion: """
            --user prints what the file named by TrustedUserCAKeys has on a server; --host prints a @cert-authority line for \
            known_hosts. Without either, both, with a comment each.
            """
    )

    @Flag(help: "Which of the two.")
    var kind: SSHCertificateKindArgument?

    @Option(
        help: ArgumentHelp("Which hosts the CA is trusted for: names and patterns, with commas.", valueName: "PATTERNS")
    )
    var hosts = "*"

    @OptionGroup var access: CAAccess

    @OptionGroup var messages: MessageOptions

    func validate() throws {
        guard !hosts.isEmpty, hosts.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            throw ValidationError("--hosts is a list of names and patterns without spaces")
        }
    }

    func run() async throws {
        let authority = try access.loadSSH()
        let user = "\(authority.publicKey(.user).line) bootstrap SSH user CA"
        let host = "@cert-authority \(hosts) \(authority.publicKey(.host).line) bootstrap SSH host CA"
        switch kind {
        case .user: print(user)
        case .host: print(host)
        case nil:
            print("# for TrustedUserCAKeys in sshd_config\n\(user)")
            print("# for known_hosts\n\(host)")
        }
    }
}

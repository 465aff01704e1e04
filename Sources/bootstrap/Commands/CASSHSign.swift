import ArgumentParser
import MeshIdentity
import Platform

struct CASSHSign: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sign",
        abstract: "Sign the public key of a host or a user.",
        discussion: """
            The certificate goes where OpenSSH looks for it: KEY.pub becomes KEY-cert.pub. For a host, name everything that it is \
            called by (names and addresses, without a port); for a user, the accounts that may be logged in to.
            """
    )

    @Flag(help: "What the key belongs to.")
    var kind: SSHCertificateKindArgument

    @Option(help: ArgumentHelp("A host name or address, or an account. May be repeated.", valueName: "NAME"))
    var principal: [String]

    @Option(
        help: ArgumentHelp(
            "How long it is valid: 90m, 24h, 30d. (default: 30d for a host, 24h for a user)",
            valueName: "TIME"
        )
    )
    var ttl: DurationArgument?

    @Option(help: ArgumentHelp("What the server's log calls it. (default: the first principal)", valueName: "TEXT"))
    var id: String?

    @Option(help: ArgumentHelp("Write the certificate there; - is stdout.", valueName: "FILE"))
    var out: String?

    @OptionGroup var access: CAAccess

    @Argument(help: ArgumentHelp("The public key.", valueName: "KEY.pub"))
    var key: String

    @OptionGroup var messages: MessageOptions

    func validate() throws {
        guard !principal.isEmpty else { throw ValidationError("name at least one --principal") }
        guard out != nil || key.hasSuffix(".pub") else {
            throw ValidationError(
                "'\(key)' does not end in .pub: is it the public key? Then say where the certificate goes with --out"
            )
        }
    }

    func run() async throws {
        let publicKey = try readKey()
        let authority = try access.loadSSH()
        let certificate: SSHCertificate
        do throws(IdentityError) {
            certificate = try authority.issue(
                .init(
                    kind: kind.kind,
                    key: publicKey,
                    principals: principal,
                    keyID: id ?? principal[0],
                    lifetime: ttl?.duration ?? (kind == .host ? .seconds(30 * 86_400) : .seconds(86_400))
                )
            )
            let line = Array("\(certificate.line) \(id ?? principal[0])\n".utf8)
            if out != "-" {
                try fileWork(AtomicFile.write(line, to: out ?? "\(key.dropLast(4))-cert.pub", mode: 0o644))
            }
        } catch {
            throw fail(error)
        }
        if out == "-", !writeStandardOutput(Array("\(certificate.line)\n".utf8)) {
            throw fail("stdout cannot be written")
        }
        printNotice(
            "Signed the \(kind.rawValue)'s key \(publicKey) for \(principal.joined(separator: ", ")), "
                + "valid \(certificate.validity), serial \(certificate.serial)"
        )
    }

    private func readKey() throws -> SSHPublicKey {
        do throws(IdentityError) {
            return try SSHPublicKey(line: fileWork(AtomicFile.read(key, limit: 64 << 10)))
        } catch {
            throw fail(IdentityError(error.code, "\(key): \(error.message)"))
        }
    }
}

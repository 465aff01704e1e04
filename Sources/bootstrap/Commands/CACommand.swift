import ArgumentParser
import Fleet
import MeshIdentity
import Platform

struct CACommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ca",
        abstract: "The certificate authority that vouches for this mesh's identities.",
        discussion: """
            A CA is a key and a certificate in a directory on the operator's machine: $BOOTSTRAP_HOME/ca, by default \
            ~/.bootstrap/ca. Its key never leaves it. Devices make their own keys, and `enroll` has them signed here; \
            `issue` and `sign` do the same by hand.

              bootstrap ca init --trust-domain mesh.example
              bootstrap ca issue --id ns/prod/sa/db --out ./db
              bootstrap ca sign --id ns/prod/sa/db < request.pem > chain.pem
            """,
        subcommands: [
            CAInit.self, CAIssue.self, CASign.self, CABundle.self, CARotate.self, CAServe.self,
            CASSHCommand.self,
        ]
    )
}

/// Where the CA is.
struct CALocation: ParsableArguments {
    @Option(
        name: .customLong("ca"),
        help: ArgumentHelp("Directory of the CA. (default: $BOOTSTRAP_HOME/ca, or ~/.bootstrap/ca)", valueName: "DIR")
    )
    var directory: String?

    var path: String { directory ?? Home.ca }
}

/// The CA whose key is needed.
struct CAAccess: ParsableArguments {
    @OptionGroup var location: CALocation

    @Option(
        help: ArgumentHelp(
            "File with the passphrase of the CA's key; otherwise the terminal is asked.",
            valueName: "FILE"
        )
    )
    var passphraseFile: String?

    /// Nothing was given.
    var isEmpty: Bool { location.directory == nil && passphraseFile == nil }

    /// Opens the CA; asks for the passphrase if its key turns out to be encrypted.
    func load() throws -> EmbeddedCA { try loadWithPassphrase().authority }

    /// The same, with the passphrase of its key; nil where that is not encrypted.
    func loadWithPassphrase() throws -> (authority: EmbeddedCA, passphrase: Passphrase?) {
        do throws(IdentityError) {
            if let passphraseFile {
                let passphrase = try Passphrase(file: passphraseFile)
                return (try EmbeddedCA.load(directory: location.path, passphrase: passphrase), passphrase)
            }
            do throws(IdentityError) {
                return (try EmbeddedCA.load(directory: location.path), nil)
            } catch {
                guard error.code == .passphraseRequired else { throw error }
                guard let passphrase = TerminalPrompt.passphrase("Passphrase of the CA in \(location.path): ") else {
                    throw IdentityError(
                        .passphraseRequired,
                        "\(error.message), and there is no terminal to ask on; give it with --passphrase-file"
                    )
                }
                return (try EmbeddedCA.load(directory: location.path, passphrase: passphrase), passphrase)
            }
        } catch {
            throw fail(error)
        }
    }
}

extension CAAccess {
    /// Opens the CA, for as long as the process runs; asks for the passphrase if its key turns out to be encrypted.
    func loadLive() throws -> LiveCA {
        let (authority, passphrase) = try loadWithPassphrase()
        return LiveCA(authority, directory: location.path, passphrase: passphrase)
    }
}

/// An identity on the command line: `ns/NAMESPACE/sa/NAME`, or the whole SPIFFE ID.
struct IdentityArgument: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The identity: ns/NAMESPACE/sa/NAME in the CA's trust domain, or a whole SPIFFE ID.",
            valueName: "ns/NS/sa/NAME"
        )
    )
    var id: String

    func spiffeID(in trustDomain: TrustDomain) throws -> SPIFFEID {
        do throws(SPIFFEIDError) {
            return try SPIFFEID(id.contains("://") ? id : "spiffe://\(trustDomain)/\(id)")
        } catch {
            throw fail("--id \(id): \(error.message). Example: --id ns/prod/sa/db", .usage)
        }
    }
}

/// What a certificate has besides its identity.
struct IssuanceArguments: ParsableArguments {
    @Option(help: ArgumentHelp("A DNS name, for clients that know no SPIFFE IDs. May be repeated.", valueName: "NAME"))
    var dns: [String] = []

    @Option(help: ArgumentHelp("An IP address, for the same clients. May be repeated.", valueName: "ADDRESS"))
    var ip: [String] = []

    @Option(help: ArgumentHelp("How long it is valid: 90m, 24h, 7d.", valueName: "TIME"))
    var ttl = DurationArgument(IssuanceOptions.defaultLifetime)

    var options: IssuanceOptions { IssuanceOptions(lifetime: ttl.duration, dnsNames: dns, ipAddresses: ip) }
}

/// Ends a command because of an identity error, with the exit code that fits.
func fail(_ error: IdentityError) -> ExitCode {
    switch error.code {
    case .passphraseRequired, .wrongPassphrase: fail(error.message, .authenticationRefused)
    default: fail(error.message)
    }
}

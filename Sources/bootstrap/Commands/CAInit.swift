import ArgumentParser
import MeshIdentity
import Platform

struct CAInit: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init",
        abstract: "Make a new CA.",
        discussion: """
            The trust domain is the name of the mesh: every identity begins with spiffe://TRUST-DOMAIN/. It cannot be \
            changed later. A CA that is there already is never overwritten.
            """
    )

    @Option(help: ArgumentHelp("The name of the mesh, such as mesh.example.", valueName: "TD"))
    var trustDomain: String

    @Flag(help: "Encrypt the CA's key; the passphrase is asked on the terminal.")
    var encrypt = false

    @Option(help: ArgumentHelp("Encrypt the CA's key; the passphrase is the first line of FILE.", valueName: "FILE"))
    var passphraseFile: String?

    @OptionGroup var location: CALocation

    @OptionGroup var messages: MessageOptions

    func validate() throws {
        guard !(encrypt && passphraseFile != nil) else {
            throw ValidationError("--encrypt asks for the passphrase, --passphrase-file reads it: give one of them")
        }
    }

    func run() async throws {
        let domain: TrustDomain
        do throws(SPIFFEIDError) {
            domain = try TrustDomain(trustDomain)
        } catch {
            throw fail("--trust-domain \(trustDomain): \(error.message)", .usage)
        }
        do throws(IdentityError) {
            let passphrase = try choosePassphrase()
            let ca = try EmbeddedCA.create(directory: location.path, trustDomain: domain, passphrase: passphrase)
            report(ca, isEncrypted: passphrase != nil)
        } catch {
            throw fail(error)
        }
    }

    private func choosePassphrase() throws(IdentityError) -> Passphrase? {
        if let passphraseFile { return try Passphrase(file: passphraseFile) }
        guard encrypt else { return nil }
        guard let first = TerminalPrompt.passphrase("New passphrase for the CA's key: "),
            let second = TerminalPrompt.passphrase("The same again: ")
        else {
            throw IdentityError(
                .passphraseRequired,
                "no passphrase was given: --encrypt needs a terminal; without one use --passphrase-file"
            )
        }
        guard !first.isEmpty else { throw IdentityError(.wrongPassphrase, "the passphrase is empty") }
        guard first == second else { throw IdentityError(.wrongPassphrase, "the two passphrases differ") }
        return first
    }

    private func report(_ ca: EmbeddedCA, isEncrypted: Bool) {
        printDone("Made the CA of \(ca.trustDomain) in \(location.path)")
        printDone(
            "  key          ca-key.pem, \(isEncrypted ? "encrypted with your passphrase" : "readable by you only")"
        )
        printDone("  certificate  ca-cert.pem, valid until \(describe(time: ca.certificate.notAfter))")
        printDone("  fingerprint  SHA256 \(ca.certificate.fingerprint)")
        printDone("Keep a copy of this directory in a safe place: without its key no identity can be renewed.")
        printDone("Next: bootstrap enroll DEST            give a machine an identity over SSH")
        printDone("      bootstrap ca issue --id ns/NS/sa/NAME --out DIR    make one by hand")
    }
}

import ArgumentParser
import Fleet
import MeshIdentity
import Platform

struct CASign: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sign",
        abstract: "Sign a certificate request from stdin; the certificate goes to stdout.",
        discussion: """
            The request is PKCS#10 in PEM form, as `openssl req -new` makes it. The identity is the one of --id; a request \
            that asks for another is refused. Stdout gets the certificate first and the root last, in PEM form.
            """
    )

    @OptionGroup var identity: IdentityArgument
    @OptionGroup var issuance: IssuanceArguments
    @OptionGroup var access: CAAccess

    @OptionGroup var messages: MessageOptions

    func run() async throws {
        let ca = try access.loadLive()
        let id = try identity.spiffeID(in: ca.trustDomain)
        guard let input = readStandardInput(limit: CertificateRequest.maximumLength) else {
            throw fail(
                "stdin cannot be read, or has more than \(CertificateRequest.maximumLength) bytes: no certificate request"
            )
        }
        try ca.reconcile(with: Ledger(Home.ledger))
        let issued: IssuedCertificate
        do throws(IdentityError) {
            let issuer = RecordingIssuer(ca, ledger: Ledger(Home.ledger), command: "ca sign")
            issued = try await issuer.issue(
                CertificateRequest(pem: input),
                id: id,
                options: identity.options(issuance.options)
            )
        } catch {
            throw fail(error)
        }
        guard writeStandardOutput(issued.pem) else { throw fail("stdout cannot be written") }
        guard let leaf = issued.leaf else { return }
        printNotice("Signed \(id), valid until \(describe(time: leaf.notAfter)), serial \(leaf.serialNumber)")
    }
}

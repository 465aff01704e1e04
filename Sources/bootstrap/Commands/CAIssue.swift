import ArgumentParser
import Fleet
import MeshIdentity
import Platform

struct CAIssue: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "issue",
        abstract: "Make a key and a certificate on this machine, in a credential directory.",
        discussion: """
            The directory gets key.pem, cert-chain.pem and root-cert.pem, the names that Istio uses; Envoy, nginx and \
            `bootstrap node` read them. One that is there is replaced in a single step, so a running node never sees half \
            of it.

            For another machine prefer `bootstrap enroll`, or `ca sign`: then the key never travels.
            """
    )

    @OptionGroup var identity: IdentityArgument
    @OptionGroup var issuance: IssuanceArguments

    @Option(help: ArgumentHelp("The credential directory to make or replace.", valueName: "DIR"))
    var out: String

    @OptionGroup var access: CAAccess

    @OptionGroup var messages: MessageOptions

    func run() async throws {
        let ca = try access.loadLive()
        let id = try identity.spiffeID(in: ca.trustDomain)
        try ca.reconcile(with: Ledger(Home.ledger))
        do throws(IdentityError) {
            let pending = try CredentialDirectory(out).prepare(id: id)
            let issuer = RecordingIssuer(ca, ledger: Ledger(Home.ledger), command: "ca issue")
            let issued = try await issuer.issue(pending.request, id: id, options: identity.options(issuance.options))
            let credential = try pending.commit(
                chain: issued.chain,
                roots: issued.roots,
                revocationLists: issued.revocationLists
            )
            report(credential)
        } catch {
            throw fail(error)
        }
    }

    private func report(_ credential: Credential) {
        printDone("Issued \(credential.id) in \(out)")
        printDone("  key.pem          the private key, readable by you only")
        printDone("  cert-chain.pem   serial \(credential.leaf.serialNumber)")
        printDone("                   valid until \(describe(time: credential.notAfter))")
        let names = credential.leaf.dnsNames + credential.leaf.ipAddresses
        if !names.isEmpty { printDone("                   also for \(names.joined(separator: ", "))") }
        printDone(
            "  root-cert.pem    who may vouch for peers: \(counted(credential.bundle.roots.count, "root")) of \(credential.id.trustDomain)"
        )
        printDone(
            "Next: name the directory as `identity: \(out)` in a node's configuration. To renew it, run the same command again."
        )
    }
}

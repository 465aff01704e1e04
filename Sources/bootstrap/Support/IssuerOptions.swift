import ArgumentParser
import MeshIdentity

/// Who signs certificates: the CA of this machine, or a program.
struct IssuerOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Have certificates signed by exec:PROGRAM, which gets the request on stdin and prints certificates (docs/identity.md). "
                + "(default: the CA)",
            valueName: "ISSUER"
        )
    )
    var issuer: String?

    @Option(
        help: ArgumentHelp(
            "The trust domain of a program's identities. (default: that of the CA, where there is one)",
            valueName: "TD"
        )
    )
    var trustDomain: String?

    func validate() throws {
        guard let issuer else {
            guard trustDomain == nil else { throw ValidationError("--trust-domain is for --issuer; a CA has its own") }
            return
        }
        guard issuer.hasPrefix("exec:"), issuer.count > 5 else {
            throw ValidationError("--issuer \(issuer): is exec:PROGRAM, such as exec:/usr/local/bin/sign")
        }
    }

    /// - Throws: the exit code; why was printed.
    func load(_ access: CAAccess) throws -> (issuer: any CertificateIssuer, trustDomain: TrustDomain) {
        guard let issuer else {
            let authority = try access.load()
            return (authority, authority.trustDomain)
        }
        return (ExecIssuer(command: [String(issuer.dropFirst(5))]), try domain(access))
    }

    private func domain(_ access: CAAccess) throws -> TrustDomain {
        if let trustDomain {
            do throws(SPIFFEIDError) {
                return try TrustDomain(trustDomain)
            } catch {
                throw fail("--trust-domain \(trustDomain): \(error.message)", .usage)
            }
        }
        guard let bundle = try? EmbeddedCA.bundle(directory: access.location.path) else {
            throw fail(
                "--issuer needs --trust-domain: there is no CA in \(access.location.path) to take it from",
                .usage
            )
        }
        return bundle.trustDomain
    }
}

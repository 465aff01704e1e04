import ArgumentParser
import Fleet
import MeshIdentity
import MeshNode
import Platform
import Streams

/// Who signs certificates: the CA of this machine, a program, or Istio's.
struct IssuerOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Have certificates signed by exec:PROGRAM, which gets the request on stdin and prints certificates, or by Istio's CA, "
                + "istiod:HOST:PORT (docs/identity.md). (default: the CA)",
            valueName: "ISSUER"
        )
    )
    var issuer: String?

    @Option(
        help: ArgumentHelp(
            "The trust domain of the identities that such an issuer signs. (default: that of the CA, where there is one)",
            valueName: "TD"
        )
    )
    var trustDomain: String?

    @Option(
        help: ArgumentHelp(
            "For istiod: the JWT that says who is asking; private to its owner, and read for each certificate.",
            valueName: "FILE"
        )
    )
    var issuerToken: String?

    @Option(help: ArgumentHelp("For istiod: the roots that vouch for its own certificate, PEM.", valueName: "FILE"))
    var issuerCa: String?

    @Option(
        help: ArgumentHelp(
            "For istiod: the name that its certificate has, such as istiod.istio-system.svc. (default: HOST)",
            valueName: "NAME"
        )
    )
    var issuerName: String?

    func validate() throws {
        guard let issuer else {
            guard trustDomain == nil else { throw ValidationError("--trust-domain is for --issuer; a CA has its own") }
            guard issuerToken == nil, issuerCa == nil, issuerName == nil else {
                throw ValidationError("--issuer-token, --issuer-ca and --issuer-name are for --issuer istiod:HOST:PORT")
            }
            return
        }
        if issuer.hasPrefix("istiod:") {
            _ = try istiod(issuer)
            return
        }
        guard issuerToken == nil, issuerCa == nil, issuerName == nil else {
            throw ValidationError("--issuer-token, --issuer-ca and --issuer-name are for --issuer istiod:HOST:PORT")
        }
        guard issuer.hasPrefix("exec:"), issuer.count > 5 else {
            throw ValidationError(
                "--issuer \(issuer): is exec:PROGRAM, such as exec:/usr/local/bin/sign, or istiod:HOST:PORT"
            )
        }
    }

    private func istiod(_ issuer: String) throws -> IstiodIssuer {
        let address: Authority
        do throws(StreamError) {
            address = try StreamError.reading(Authority(parsing: String(issuer.dropFirst(7))))
        } catch {
            throw ValidationError(
                "--issuer \(issuer): is istiod:HOST:PORT, such as istiod:istiod.istio-system.svc:15012 (\(error))"
            )
        }
        guard let issuerToken, let issuerCa else {
            throw ValidationError(
                "--issuer \(issuer) needs --issuer-token FILE, the JWT that it accepts, and --issuer-ca FILE, the roots for its certificate"
            )
        }
        return IstiodIssuer(address, serverName: issuerName, tokenFile: issuerToken, rootsFile: issuerCa)
    }

    /// - Throws: the exit code; why was printed.
    func load(_ access: CAAccess) throws -> (issuer: any CertificateIssuer, trustDomain: TrustDomain) {
        guard let issuer else {
            let authority = try access.loadLive()
            return (authority, authority.trustDomain)
        }
        if issuer.hasPrefix("istiod:") {
            if let issuerToken { try requireFile(issuerToken, "--issuer-token") }
            if let issuerCa { try requireFile(issuerCa, "--issuer-ca") }
            return (try istiod(issuer), try domain(access))
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

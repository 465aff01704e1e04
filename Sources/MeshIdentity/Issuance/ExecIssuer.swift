/// An issuer that is a program of the user's: any CA with a command line plugs in here.
///
/// The program gets the certificate request (PKCS#10, PEM) on stdin and prints certificates in PEM form on stdout: the leaf
/// first, then intermediates, and the root last unless `roots` names it. What it is to sign is in its environment:
/// `BOOTSTRAP_SPIFFE_ID`, `BOOTSTRAP_LIFETIME_SECONDS`, `BOOTSTRAP_BACKDATE_SECONDS` (how far back NotBefore is to be), and,
/// comma-separated, `BOOTSTRAP_DNS_NAMES` and `BOOTSTRAP_IP_ADDRESSES`. Exit status 0 says that it signed.
///
/// Its answer is held to the same rules as any peer's certificate.
public struct ExecIssuer: CertificateIssuer {
    /// The program, found in PATH unless it has a slash, and its arguments. No shell is involved.
    public var command: [String]
    /// How long it may take; it is killed then, with whatever it started.
    public var timeout: Duration
    /// The trust domain's roots, for a program that does not print them.
    public var roots: [Certificate]

    public init(command: [String], timeout: Duration = .seconds(30), roots: [Certificate] = []) {
        self.command = command
        self.timeout = timeout
        self.roots = roots
    }

    public func issue(
        _ request: CertificateRequest,
        id: SPIFFEID,
        options: IssuanceOptions
    ) async throws(IdentityError) -> IssuedCertificate {
        try request.verify()
        let program = ChildProgram(
            command: command,
            environment: [
                "BOOTSTRAP_SPIFFE_ID": "\(id)",
                "BOOTSTRAP_LIFETIME_SECONDS": "\(options.lifetime.components.seconds)",
                "BOOTSTRAP_BACKDATE_SECONDS": "\(options.backdating.components.seconds)",
                "BOOTSTRAP_DNS_NAMES": options.dnsNames.joined(separator: ","),
                "BOOTSTRAP_IP_ADDRESSES": options.ipAddresses.joined(separator: ","),
            ],
            timeout: timeout
        )
        let output = try await program.run(input: request.pem)
        let name = command.first ?? ""
        let certificates: [Certificate]
        do throws(IdentityError) {
            certificates = try Certificate.all(pem: output)
        } catch {
            throw IdentityError(.issuer, "the issuer \(name) printed no usable certificate: \(error.message)")
        }
        return try IssuedCertificate(answer: certificates, roots: roots, of: "the issuer \(name)", for: request, id: id)
    }
}

import Glibc
import Platform

/// An issuer that is a program of the user's: any CA with a command line plugs in here.
///
/// The program gets the certificate request (PKCS#10, PEM) on stdin and prints certificates in PEM form on stdout: the
/// leaf first, then intermediates, and the root last unless `roots` names it. What it is to sign is in its environment:
/// `BOOTSTRAP_SPIFFE_ID`, `BOOTSTRAP_LIFETIME_SECONDS`, `BOOTSTRAP_BACKDATE_SECONDS` (how far back NotBefore is to be),
/// and, comma-separated, `BOOTSTRAP_DNS_NAMES` and `BOOTSTRAP_IP_ADDRESSES`. Exit status 0 says that it signed.
///
/// Its answer is held to the same rules as any peer's certificate.
public struct ExecIssuer: CertificateIssuer {
    /// The program, found in PATH unless it has a slash, and its arguments. No shell is involved.
    public var command: [String]
    /// How long it may take; it is killed then, with whatever it started.
    public var timeout: Duration
    /// The trust domain's roots, for a program that does not print them.
    public var roots: [Certificate]

    /// - Parameters:
    ///   - command: The program, found in PATH unless it has a slash, and its arguments.
    ///   - timeout: How long it may take for one certificate.
    ///   - roots: The trust domain's, for a program that does not print them.
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
        try options.check(id)
        try request.verify()
        let environment = [
            "BOOTSTRAP_SPIFFE_ID": "\(id)",
            "BOOTSTRAP_LIFETIME_SECONDS": "\(options.lifetime.components.seconds)",
            "BOOTSTRAP_BACKDATE_SECONDS": "\(options.backdating.components.seconds)",
            "BOOTSTRAP_DNS_NAMES": options.dnsNames.joined(separator: ","),
            "BOOTSTRAP_IP_ADDRESSES": options.ipAddresses.joined(separator: ","),
        ]
        let output = try await output(of: request.pem, environment: environment)
        let name = command.first ?? ""
        let certificates: [Certificate]
        do throws(IdentityError) {
            certificates = try Certificate.all(pem: output)
        } catch {
            throw IdentityError(.issuer, "the issuer \(name) printed no usable certificate: \(error.message)")
        }
        return try IssuedCertificate(answer: certificates, roots: roots, of: "the issuer \(name)", for: request, id: id)
    }

    /// Of stderr the end is kept, so many bytes: that is where the reason is.
    private static let complaintLimit = 2048

    /// What the program prints for `input`. Fails unless it exits with status 0 in time; the error has the end of its
    /// stderr.
    ///
    /// - Parameter environment: Added to our own.
    private func output(of input: [UInt8], environment: [String: String]) async throws(IdentityError) -> [UInt8] {
        guard let name = command.first, !name.isEmpty else {
            throw IdentityError(.issuer, "the issuer's command is empty")
        }
        func cannotRun(_ number: Int32) -> IdentityError {
            IdentityError(AtomicFile.failure("run the issuer", name, errno: number))
        }
        guard let path = Program.find(name) else { throw cannotRun(ENOENT) }
        let program = Program(
            path,
            command,
            environment: Program.currentEnvironment.merging(environment) { $1 },
            group: .own
        )
        var run = ProgramRun(program, timeout: timeout, errors: .tail(Self.complaintLimit))
        run.overflow = .close
        let outcome: ProgramRun.Outcome
        do throws(SystemError) { outcome = try await run.onThread(input: input) } catch {
            throw cannotRun(error.number)
        }
        let complaint = Printable.clean(outcome.errors, limit: Self.complaintLimit)
        let said = complaint.isEmpty ? "" : ": \(complaint)"
        switch outcome.status {
        case nil: throw IdentityError(.timedOut, "the issuer \(name) did not end within \(timeout)\(said)")
        case .exited(0): break
        case .exited(let status):
            throw IdentityError(.issuer, "the issuer \(name) exited with status \(status)\(said)")
        case .signalled(let signal):
            throw IdentityError(.issuer, "the issuer \(name) was ended by signal \(signal)\(said)")
        }
        guard !outcome.isTooLong else {
            throw IdentityError(.issuer, "the issuer \(name) printed more than \(run.outputLimit) bytes")
        }
        return outcome.output
    }
}

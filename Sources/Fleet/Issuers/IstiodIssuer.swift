import H2Transport
package import MeshIdentity
package import Platform
import SSHSignal
import Streams

/// An issuer that is Istio's CA, or another that speaks its protocol: `CreateCertificate` of
/// `istio.v1.auth.IstioCertificateService`, by gRPC over TLS.
///
/// The CA decides who is asking by a token, and gives that identity a certificate: a token is good for one device. Its
/// answer is held to the same rules as any peer's certificate, and to the identity that is wanted here.
package struct IstiodIssuer: CertificateIssuer {
    /// Where it listens: port 15012 in Istio.
    package var address: Authority
    /// Whose certificate it must show: a DNS name, such as `istiod.istio-system.svc`.
    package var serverName: String
    /// A JWT that the CA accepts. Read for each certificate: such tokens are short-lived, and somebody replaces them.
    package var tokenFile: String
    /// Who vouches for the CA's own certificate, in PEM form. Read for each certificate.
    package var rootsFile: String
    /// For one certificate.
    package var timeout: Duration

    /// A JWT of some kilobytes is large, and a header block has room for 16 KiB.
    private static let tokenLimit = 12 << 10

    /// - Parameters:
    ///   - address: Where it listens.
    ///   - serverName: Whose certificate it must show; nil is the host of `address`.
    ///   - tokenFile: A JWT, which others must not be able to read.
    ///   - rootsFile: Who vouches for the CA's own certificate, in PEM form.
    ///   - timeout: For one certificate.
    package init(
        _ address: Authority,
        serverName: String? = nil,
        tokenFile: String,
        rootsFile: String,
        timeout: Duration = .seconds(15)
    ) {
        self.address = address
        self.serverName = serverName ?? address.host
        self.tokenFile = tokenFile
        self.rootsFile = rootsFile
        self.timeout = timeout
    }

    package func issue(
        _ request: CertificateRequest,
        id: SPIFFEID,
        options: IssuanceOptions
    ) async throws(IdentityError) -> IssuedCertificate {
        try options.check(id)
        try request.verify()
        guard options.dnsNames.isEmpty, options.ipAddresses.isEmpty else {
            throw IdentityError(.refused, "\(name) gives certificates for SPIFFE IDs only: leave out --dns and --ip")
        }
        let token = try token()
        let roots = try Certificate.trusted(file: rootsFile)
        let client = GRPCClient(address, server: try ServerVerifier(name: serverName, roots: roots))
        let message = IstioCertificateService.Request(
            csr: String(decoding: request.pem, as: UTF8.self),
            validityDuration: options.lifetime.components.seconds
        )
        let answer: [UInt8]
        do {
            answer = try await client.call(
                IstioCertificateService.createCertificate,
                metadata: ["authorization": "Bearer \(token)"],
                message: message.encoded,
                timeout: timeout
            )
        } catch let status as GRPCStatus {
            throw failure(status, token)
        } catch let error as StreamError {
            throw IdentityError(error.code == .timedOut ? .timedOut : .issuer, "\(name): \(explained(error))")
        } catch {
            throw IdentityError(.issuer, "\(name): \(error)")
        }
        return try issued(answer, for: request, id: id)
    }

    private var name: String { "the issuer istiod:\(address)" }

    private func token() throws(IdentityError) -> String {
        let (bytes, access) = try fileWork(AtomicFile.readWithAccess(tokenFile, limit: Self.tokenLimit))
        guard access.mode & 0o007 == 0 else {
            throw IdentityError(
                .permissions,
                "the token \(tokenFile) has permissions \(access.modeText): everybody can read or change it. Make it private "
                    + "with: chmod 600 \(tokenFile)"
            )
        }
        let isSpace: (UInt8) -> Bool = { $0 == 0x20 || (0x09...0x0D).contains($0) }
        let token = Array(bytes.drop(while: isSpace).reversed().drop(while: isSpace).reversed())
        // The characters of a bearer token, RFC 6750 §2.1.
        let isToken = token.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                true
            default: "-._~+/=".utf8.contains(byte)
            }
        }
        guard !token.isEmpty, isToken else {
            throw IdentityError(
                .file,
                "there is no token in \(tokenFile): a JWT is one line of letters, digits, '-', '_' and '.'"
            )
        }
        return String(decoding: token, as: UTF8.self)
    }

    private func failure(_ status: GRPCStatus, _ token: String) -> IdentityError {
        // A server that repeats what it was sent must not bring a secret into a log.
        let said = Printable.clean(status.message.replacing(token, with: "(the token)"), limit: 300)
        let text = said.isEmpty ? status.name : "\(status.name): \(said)"
        switch status.code {
        case GRPCStatus.unauthenticated:
            return IdentityError(
                .issuer,
                "\(name) does not accept the token in \(tokenFile) (\(text)): it may have expired, or be for another audience; get a new one"
            )
        case GRPCStatus.permissionDenied:
            return IdentityError(
                .issuer,
                "\(name) does not let the bearer of the token in \(tokenFile) have a certificate (\(text))"
            )
        case GRPCStatus.unimplemented:
            return IdentityError(.issuer, "\(name) is no Istio CA: it does not know IstioCertificateService (\(text))")
        case GRPCStatus.deadlineExceeded:
            return IdentityError(.timedOut, "\(name) did not sign in time (\(text))")
        default:
            return IdentityError(.issuer, "\(name) did not sign: \(text)")
        }
    }

    private func explained(_ error: StreamError) -> String {
        switch error.code {
        case .authentication:
            "\(error.message). It must be \(serverName) by a root in \(rootsFile): correct --issuer-ca, or --issuer-name"
        case .refused, .unreachable: "\(error.message). Istio's CA listens on port 15012"
        default: error.message
        }
    }

    private func issued(
        _ answer: [UInt8],
        for request: CertificateRequest,
        id: SPIFFEID
    ) throws(IdentityError) -> IssuedCertificate {
        let response: IstioCertificateService.Response
        do throws(StreamError) {
            response = try .init(decoding: answer)
        } catch {
            throw IdentityError(.issuer, "\(name): \(error.message)")
        }
        var certificates: [Certificate] = []
        for element in response.certificateChain {
            do throws(IdentityError) {
                certificates += try Certificate.all(pem: element)
            } catch {
                throw IdentityError(.issuer, "\(name) sent no usable certificate: \(error.message)")
            }
        }
        return try IssuedCertificate(answer: certificates, of: name, for: request, id: id)
    }
}

import Glibc
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// What the files of an endpoint's `tls` say: who may vouch for a server, and what it is shown.
struct DirectTLSFiles: Sendable {
    /// Of no server yet.
    let verifier: ServerVerifier
    /// The file that its roots come from.
    let roots: String
    let shown: ClientCertificate?

    /// Where systems keep their roots: Debian, Alpine and Arch; Fedora; SUSE; older Fedora; others.
    private static let systemRoots = [
        "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
    ]
    private static let rootsLimit = 16 << 20

    /// - Throws: What is wrong with the files.
    init(loading tls: DirectTLS) throws(StreamError) {
        guard let roots = tls.roots ?? Self.systemRoots.first(where: { access($0, R_OK) == 0 }) else {
            throw StreamError(
                .badRequest,
                "'roots': this system has none of the usual files of root certificates "
                    + "(\(Self.systemRoots.joined(separator: ", "))): install ca-certificates, or name a file"
            )
        }
        self.roots = roots
        verifier = try Self.naming("'roots': \(roots)") { () throws(IdentityError) in
            let certificates = try Certificate.all(pem: trustFile(roots, limit: Self.rootsLimit))
            return try ServerVerifier(name: "", roots: certificates)
        }
        shown = try tls.credential.map { directory throws(StreamError) in
            try Self.naming("'credential'") { () throws(IdentityError) in try ClientCertificate(directory: directory) }
        }
    }

    private static func naming<Result>(
        _ what: String,
        _ body: () throws(IdentityError) -> Result
    ) throws(StreamError) -> Result {
        do throws(IdentityError) {
            return try body()
        } catch {
            throw StreamError(.badRequest, "\(what): \(error.message)")
        }
    }
}

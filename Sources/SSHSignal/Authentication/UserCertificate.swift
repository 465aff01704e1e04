import MeshIdentity
import Platform

/// A certificate to log in with, and where it is from.
struct UserCertificate: Sendable {
    let certificate: SSHCertificate
    /// For messages: the path.
    let name: String

    init(_ certificate: SSHCertificate, name: String) {
        self.certificate = certificate
        self.name = name
    }

    init(path: String) throws(PrivateKeyFile.Failure) {
        try self.init(contents: PrivateKeyFile.read(path), name: path)
    }

    /// The certificate that `ssh` would find beside a key: `id` and `id-cert.pub`. nil when there is none.
    init?(beside key: String) throws(PrivateKeyFile.Failure) {
        let path = key + "-cert.pub"
        guard let contents = try? PrivateKeyFile.read(path) else { return nil }
        try self.init(contents: contents, name: path)
    }

    private init(contents: [UInt8], name: String) throws(PrivateKeyFile.Failure) {
        do throws(IdentityError) {
            certificate = try SSHCertificate(line: contents)
        } catch {
            throw .notAKey("\(name): \(error.message)")
        }
        guard certificate.kind == .user else { throw .notAKey("\(name) is a host's certificate, not a user's") }
        self.name = name
    }

    var description: String {
        let principals = certificate.principals.prefix(5).map { Printable.clean($0, limit: 40) }.joined(separator: ", ")
        return "certificate \(name) for \(principals.isEmpty ? "any user" : principals)"
    }
}

import Foundation

/// Keys, and tokens that somebody else's program has signed with them now.
public final class TokenIssuer: Sendable {
    private let directory = TemporaryDirectory()

    /// Who has signed them.
    public enum Signer: String, Sendable {
        /// Python's `cryptography`, with good and bad tokens by hand: `Tests/Peers/jwt/tokens.py`.
        case cryptography = "tokens.py"
        /// PyJWT, which has made the set of keys, too: `Tests/Peers/jwt/signed.py`.
        case pyJWT = "signed.py"
    }

    public init(_ signer: Signer = .cryptography) async throws {
        let output = try await ChildProcess.run(
            TestTools.python,
            [
                TestTools.repository + "/Tests/Peers/jwt/\(signer.rawValue)", directory.path,
                "\(Int(Date().timeIntervalSince1970))",
            ]
        )
        guard output.succeeded else { throw DeadlineExceeded("\(signer.rawValue): \(output.standardError)") }
    }

    /// The set of public keys.
    public func keys() throws -> String {
        try String(contentsOfFile: directory.path("good.jwks"), encoding: .utf8)
    }

    /// One of `https://id.example` for the audience `web` and the subject `ann`, if `name` says nothing else.
    public func token(_ name: String) throws -> String {
        try String(contentsOfFile: directory.path("\(name).jwt"), encoding: .utf8)
    }
}

import Foundation

/// Keys, and tokens that Python's `cryptography` has signed with them now: `Tests/Peers/jwt/tokens.py`.
public final class TokenIssuer: Sendable {
    private let directory = TemporaryDirectory()

    public init() async throws {
        let output = try await ChildProcess.run(
            TestTools.python,
            [
                TestTools.repository + "/Tests/Peers/jwt/tokens.py", directory.path,
                "\(Int(Date().timeIntervalSince1970))",
            ]
        )
        guard output.succeeded else { throw DeadlineExceeded("tokens.py: \(output.standardError)") }
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

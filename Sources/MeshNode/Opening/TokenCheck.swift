import HTTP1
import MeshIdentity
import Streams

/// Who may use a listener with `jwt`. Immutable; a reload makes a new one.
struct TokenCheck: Sendable {
    private let verifier: TokenVerifier
    /// Whether the server gets the token, too.
    let forwardsToken: Bool

    /// - Throws: What is wrong with the file of keys.
    init(_ settings: TokenSettings, of listener: String) throws(StreamError) {
        do throws(TokenError) {
            verifier = try settings.verifier()
        } catch {
            throw StreamError(.badRequest, "listener '\(listener)': 'jwt': \(error)")
        }
        forwardsToken = settings.forwardsToken
    }

    /// Who a request is from.
    ///
    /// - Parameter field: Where its token stands, in lower case. Of two, this node would read one and another reader
    ///   the other.
    /// - Returns: `ISSUER/SUBJECT`.
    func principal(of head: HTTPRequestHead, field: String) throws(TokenError) -> String {
        let values = head.fields.values(field)
        guard values.count < 2 else { throw TokenError(.malformed, "there is more than one field '\(field)'") }
        return try verifier.principal(of: values.first)
    }
}

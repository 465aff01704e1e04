import HTTP1
import MeshIdentity
import Streams

/// Who may use a listener with `jwt`. Immutable; a reload makes a new one.
struct TokenCheck: Sendable {
    private let verifiers: TokenVerifiers
    /// Whether the server gets the token, too.
    let forwardsToken: Bool

    /// - Parameter rings: The keys that are fetched.
    /// - Throws: What is wrong with the file of keys.
    init(_ settings: TokenSettings, of listener: String, _ rings: TokenKeyRings) throws(StreamError) {
        do throws(TokenError) {
            verifiers = try settings.verifiers(rings)
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
        return try principal(of: values.first)
    }

    /// - Parameter authorization: The value of the one field; nil: there is none.
    func principal(of authorization: String?) throws(TokenError) -> String {
        try verifiers.principal(of: authorization)
    }
}

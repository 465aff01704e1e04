package import Platform

/// Says who a request is from by the token that it carries: signed by a key of the issuer, for this audience, and in
/// its time. Immutable: another file of keys makes another one. Safe from any thread.
package final class TokenVerifier: Sendable {
    let issuer: String
    private let audiences: Set<String>
    private let keys: TokenKeyRing
    private let clock: WallClock

    /// How far the issuer's clock may be from ours, in seconds.
    package static let leeway = 60.0

    /// - Parameters:
    ///   - issuer: What `iss` must be, letter by letter.
    ///   - audiences: One of which `aud` must have.
    ///   - keys: The issuer's.
    package convenience init(issuer: String, audiences: [String], keys: TokenKeys, clock: WallClock = .system) {
        self.init(issuer: issuer, audiences: audiences, keys: TokenKeyRing(keys), clock: clock)
    }

    /// The same with keys that change.
    package init(issuer: String, audiences: [String], keys: TokenKeyRing, clock: WallClock = .system) {
        self.issuer = issuer
        self.audiences = Set(audiences)
        self.keys = keys
        self.clock = clock
    }

    /// Who a request is from, as rules have it in `requestPrincipals`.
    ///
    /// - Parameter authorizationHeader: The value of the request's one `Authorization` field; nil: it has none.
    /// - Returns: `ISSUER/SUBJECT`.
    package func principal(of authorizationHeader: String?) throws(TokenError) -> String {
        try principal(of: Self.token(of: authorizationHeader))
    }

    static func token(of authorizationHeader: String?) throws(TokenError) -> JSONWebToken {
        guard let authorizationHeader else { throw TokenError(.missing, "there is no token") }
        let parts = authorizationHeader.split(separator: " ", omittingEmptySubsequences: false)
        guard parts.first?.lowercased() == "bearer" else {
            throw TokenError(.missing, "there is no token: the authorization is of another kind than Bearer")
        }
        guard parts.count == 2 else { throw JSONWebToken.malformed("what follows 'Bearer ' is not one word") }
        return try JSONWebToken(parsing: parts[1])
    }

    package func principal(of token: JSONWebToken) throws(TokenError) -> String {
        // Nothing of it counts before its signature does.
        guard let key = try key(for: token), key.verifies(token.signature, of: token.signedText) else {
            throw TokenError(.signature, "the token is not signed by a key of the issuer")
        }
        guard token.claims["iss"] == .string(issuer) else {
            throw TokenError(.scope, "the token is of another issuer")
        }
        let named: [StrictJSON] =
            switch token.claims["aud"] {
            case .array(let elements): elements
            case let value?: [value]
            case nil: []
            }
        guard named.allSatisfy({ $0.text != nil }), named.contains(where: { audiences.contains($0.text ?? "") }) else {
            throw TokenError(.scope, "the token is for another audience")
        }
        let now = Double(clock.milliseconds) / 1000
        guard case .number(let end) = token.claims["exp"] else {
            throw TokenError(.time, "the token does not say until when it holds ('exp')")
        }
        guard now < end + Self.leeway else { throw TokenError(.time, "the token has ended") }
        if let begin = token.claims["nbf"] {
            guard case .number(let begin) = begin, now >= begin - Self.leeway else {
                throw TokenError(.time, "the token does not hold yet")
            }
        }
        guard let subject = token.claims["sub"]?.text, !subject.isEmpty,
            subject.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F })
        else { throw TokenError(.scope, "the token does not say who it is for ('sub')") }
        return "\(issuer)/\(subject)"
    }

    /// The key that the token names; where it names none, the only one of its kind.
    private func key(for token: JSONWebToken) throws(TokenError) -> TokenKey? {
        let fitting = try keys.keys(at: clock.seconds).filter { $0.algorithm.rawValue == token.algorithm }
        guard let id = token.keyID else { return fitting.count == 1 ? fitting[0] : nil }
        guard let key = fitting.first(where: { $0.id == id }) else {
            keys.miss()
            return nil
        }
        return key
    }
}

package import Platform
import Synchronization

/// Says who a request is from by the token that it carries: signed by a key of the issuer, for this audience, and in
/// its time. Another file of keys makes another one. Safe from any thread.
///
/// Each token costs one signature, and a hash when it comes again while the keys are the same.
package final class TokenVerifier: Sendable {
    let issuer: String
    private let audiences: Set<String>
    private let keys: TokenKeyRing
    private let clock: WallClock
    private let cache = TokenCache()
    private let signatures = Atomic<Int>(0)

    /// How many signatures were checked so far.
    package var checkedSignatures: Int { signatures.load(ordering: .relaxed) }

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
        try principal(ofText: Self.text(in: authorizationHeader))
    }

    /// The token of the field; nothing of it was read.
    static func text(in authorizationHeader: String?) throws(TokenError) -> Substring {
        guard let authorizationHeader else { throw TokenError(.missing, "there is no token") }
        let parts = authorizationHeader.split(separator: " ", omittingEmptySubsequences: false)
        guard parts.first?.lowercased() == "bearer" else {
            throw TokenError(.missing, "there is no token: the authorization is of another kind than Bearer")
        }
        guard parts.count == 2 else { throw JSONWebToken.malformed("what follows 'Bearer ' is not one word") }
        guard parts[1].utf8.count <= JSONWebToken.maximumLength else {
            throw JSONWebToken.malformed("it is longer than \(JSONWebToken.maximumLength) bytes")
        }
        return parts[1]
    }

    /// - Parameter token: The same, where it was read already.
    func principal(ofText text: Substring, _ token: JSONWebToken? = nil) throws(TokenError) -> String {
        // Where there are no keys any more, nothing that they have vouched for counts.
        let (keys, epoch) = try keys.current(at: clock.seconds)
        let hash = TokenCache.Key(of: text)
        if let known = cache.result(for: hash, epoch: epoch) { return try current(known.get()) }
        let token = if let token { token } else { try JSONWebToken(parsing: text) }
        // Costs no signature, and the next set of keys may have it.
        let key = try key(for: token, among: keys)
        let claims: TokenCache.Claims
        do throws(TokenError) {
            claims = try self.claims(of: token, by: key)
        } catch {
            cache.insert(.failure(error), for: hash, epoch: epoch)
            throw error
        }
        cache.insert(.success(claims), for: hash, epoch: epoch)
        return try current(claims)
    }

    package func principal(of token: JSONWebToken) throws(TokenError) -> String {
        let key = try key(for: token, among: keys.current(at: clock.seconds).keys)
        return try current(claims(of: token, by: key))
    }

    /// What does not depend on the time.
    private func claims(of token: JSONWebToken, by key: TokenKey) throws(TokenError) -> TokenCache.Claims {
        // Nothing of it counts before its signature does.
        signatures.add(1, ordering: .relaxed)
        guard key.verifies(token.signature, of: token.signedText) else { throw Self.isUnsigned }
        guard let name = token.claims["iss"]?.text, name.utf8.elementsEqual(issuer.utf8) else {
            throw TokenError(.scope, "the token is of another issuer")
        }
        let named: [StrictJSON] =
            switch token.claims["aud"] {
            case .array(let elements): elements
            case let value?: [value]
            case nil: []
            }
        let names = named.compactMap(\.text)
        let isForUs = names.contains { name in audiences.contains { $0.utf8.elementsEqual(name.utf8) } }
        guard names.count == named.count, isForUs else {
            throw TokenError(.scope, "the token is for another audience")
        }
        guard case .number(let end) = token.claims["exp"] else {
            throw TokenError(.time, "the token does not say until when it holds ('exp')")
        }
        var begin: Double?
        if let claim = token.claims["nbf"] {
            guard case .number(let time) = claim else {
                throw TokenError(.time, "the token does not say from when it holds: its 'nbf' is no number")
            }
            begin = time
        }
        guard let subject = token.claims["sub"]?.text, !subject.isEmpty,
            subject.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F })
        else { throw TokenError(.scope, "the token does not say who it is for ('sub')") }
        return TokenCache.Claims(principal: "\(issuer)/\(subject)", begin: begin, end: end)
    }

    private func current(_ claims: TokenCache.Claims) throws(TokenError) -> String {
        let now = Double(clock.milliseconds) / 1000
        guard now < claims.end + Self.leeway else {
            throw TokenError(.time, "the token has ended: it held until \(Self.text(claims.end)), and \(hereItIs)")
        }
        if let begin = claims.begin, now < begin - Self.leeway {
            let time = Self.text(begin)
            throw TokenError(.time, "the token does not hold yet: it holds from \(time) on, and \(hereItIs)")
        }
        return claims.principal
    }

    /// A clock that is off shows itself by it: then every token is too late, or too early.
    private var hereItIs: String { "here it is \(describe(time: clock.seconds))" }

    /// Of any number: the claim is the issuer's.
    private static func text(_ time: Double) -> String {
        describe(time: Int64(max(0, min(time, 253_402_300_799))))
    }

    /// The key that the token names; where it names none, the only one of its kind.
    private func key(for token: JSONWebToken, among keys: [TokenKey]) throws(TokenError) -> TokenKey {
        let fitting = keys.filter { $0.algorithm.rawValue == token.algorithm }
        guard let id = token.keyID else {
            guard fitting.count == 1 else { throw Self.isUnsigned }
            return fitting[0]
        }
        guard let key = fitting.first(where: { $0.id == id }) else {
            self.keys.miss()
            throw Self.isUnsigned
        }
        return key
    }

    private static var isUnsigned: TokenError {
        TokenError(.signature, "the token is not signed by a key of the issuer")
    }
}

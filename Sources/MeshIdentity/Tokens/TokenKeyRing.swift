import Platform
import Synchronization

/// The public keys of an issuer as they are now, and what becomes of them as time goes by: those of a file, which stay,
/// or those that somebody fetches again and again. Safe from any thread.
///
/// ```
///   nothing ── taken ──→ fresh ── after freshTime ──→ another set is wanted ── after staleTime ──→ nothing counts
///                          ↑            └── taken ──┐
///                          └────────────────────────┘   keys that the new set does not have count for keptTime
/// ```
package final class TokenKeyRing: Sendable {
    private struct Retired {
        let key: TokenKey
        let rest: WallPause
    }

    private struct State {
        var keys: [TokenKey] = []
        var retired: [Retired] = []
        /// How many sets were taken.
        var generation: UInt64 = 0
        /// When the keys were taken, in seconds since 1970; nil: there are none.
        var taken: Int64?
        /// Nobody looks for them before.
        var pause: WallPause?
        var failures = 0
        var isFetching = false
        var misses = false
    }

    /// After so many seconds another set is looked for.
    package static let freshTime: Int64 = 300
    /// A set that nobody could replace for so long is trusted no more: a key may have been stolen since, and whoever
    /// keeps the new set away could go on using it.
    package static let staleTime: Int64 = 24 * 3600
    /// Tokens that were signed just before the keys were changed still hold.
    package static let keptTime: Int64 = 600
    /// For a token with a key that nobody has seen, the keys are looked for at once, and no more often than this:
    /// anybody can write such a token.
    package static let pause: Int64 = 10
    private static let longestPause: Int64 = 60

    private let state: Mutex<State>
    private let isFixed: Bool

    /// Those of a file.
    package init(_ keys: TokenKeys) {
        isFixed = true
        state = Mutex(State(keys: keys.keys, taken: 0))
    }

    /// Those that are to be fetched: none yet.
    package init() {
        isFixed = false
        state = Mutex(State())
    }

    /// Those that count at `now`, in seconds since 1970, and a number that is another one once they are others.
    ///
    /// - Throws: ``TokenError`` with code `keys` where there are none.
    func current(at now: Int64) throws(TokenError) -> (keys: [TokenKey], epoch: UInt64) {
        if isFixed { return (state.withLock { $0.keys }, 0) }
        let found: ([TokenKey], UInt64)? = state.withLock { state in
            guard let taken = state.taken, now < taken + Self.staleTime else { return nil }
            // Those that have ended do not come back.
            state.retired.removeAll { $0.rest.left(at: now) == 0 }
            return (state.keys + state.retired.map(\.key), state.generation << 16 | UInt64(state.retired.count))
        }
        guard let found else {
            throw TokenError(.keys, "the keys of the issuer could not be fetched, or not for too long")
        }
        return found
    }

    /// A token names a key that is not here.
    func miss() { if !isFixed { state.withLock { $0.misses = true } } }

    // MARK: For whoever fetches

    /// Whether another set is to be fetched now. Who is told so has to call ``taken(_:at:)`` or ``failed(at:)``.
    package func beginFetch(at now: Int64) -> Bool {
        guard !isFixed else { return false }
        return state.withLock { state in
            guard !state.isFetching, state.pause?.left(at: now) ?? 0 == 0 else { return false }
            let isStale = state.taken.map { now >= $0 + Self.freshTime || now < $0 } ?? true
            guard isStale || state.misses else { return false }
            state.isFetching = true
            return true
        }
    }

    package func taken(_ keys: TokenKeys, at now: Int64) {
        state.withLock { state in
            // Keys that nobody could vouch for any more have no time left that could go on.
            let counted = state.taken.map { now < $0 + Self.staleTime } ?? false
            let before = counted ? state.keys : []
            let gone = before.filter { old in !keys.keys.contains { $0.id == old.id && $0.isSame(as: old) } }
            // One name stands for one key.
            let names = Set(keys.keys.compactMap(\.id))
            let rest = WallPause(Self.keptTime, from: now)
            let left = state.retired.filter { $0.rest.left(at: now) > 0 } + gone.map { Retired(key: $0, rest: rest) }
            state.retired = left.filter { $0.key.id.map { !names.contains($0) } ?? false }
            state.keys = keys.keys
            state.generation += 1
            state.taken = now
            state.pause = WallPause(Self.pause, from: now)
            (state.failures, state.isFetching, state.misses) = (0, false, false)
        }
    }

    package func failed(at now: Int64) {
        state.withLock { state in
            let seconds = min(Self.pause << Int64(min(state.failures, 4)), Self.longestPause)
            state.pause = WallPause(seconds, from: now)
            state.failures += 1
            (state.isFetching, state.misses) = (false, false)
        }
    }

    /// Whether keys have been taken, or it was tried in vain.
    package var isSettled: Bool { isFixed || state.withLock { $0.taken != nil || $0.failures > 0 } }
}

/// Several issuers, of which each vouches for its own tokens only. Immutable; safe from any thread.
package struct TokenVerifiers: Sendable {
    private let byIssuer: [String: TokenVerifier]

    /// - Parameter verifiers: Of different issuers.
    package init(_ verifiers: [TokenVerifier]) {
        byIssuer = Dictionary(verifiers.map { ($0.issuer, $0) }, uniquingKeysWith: { first, _ in first })
    }

    /// Who a request is from, as ``TokenVerifier/principal(of:)-(String?)`` says: whose keys are asked, the token
    /// itself says, and no others are.
    package func principal(of authorizationHeader: String?) throws(TokenError) -> String {
        let text = try TokenVerifier.text(in: authorizationHeader)
        let token = try JSONWebToken(parsing: text)
        guard let issuer = token.claims["iss"]?.text, let verifier = byIssuer[issuer] else {
            throw TokenError(.scope, "the token is of another issuer")
        }
        return try verifier.principal(ofText: text, token)
    }
}

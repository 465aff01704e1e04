import Synchronization

/// What signatures were found to say, by the hash of the token: so that a client who comes again and again costs a hash
/// each time, and no signature. Belongs to one set of keys: with another one, all is forgotten. Safe from any thread.
///
/// Holds no token. What is remembered of a token that was refused is as bounded, and apart: whoever makes up tokens
/// displaces none that is good.
final class TokenCache: Sendable {
    /// What does not depend on the time.
    struct Claims: Hashable, Sendable {
        var principal: String
        /// In seconds since 1970.
        var begin: Double?
        var end: Double
    }

    /// SHA-256.
    struct Key: Hashable {
        private let (a, b, c, d): (UInt64, UInt64, UInt64, UInt64)

        init(of token: some StringProtocol) {
            let words = Digest.sha256(Array(token.utf8)).withUnsafeBytes { bytes in
                (0..<4).map { bytes.loadUnaligned(fromByteOffset: $0 * 8, as: UInt64.self) }
            }
            (a, b, c, d) = (words[0], words[1], words[2], words[3])
        }
    }

    /// The latest, in two generations: when the young one is full, the old one is dropped, and takes its place. What is
    /// used goes on.
    private struct Latest<Value> {
        let limit: Int
        private var young: [Key: Value] = [:]
        private var old: [Key: Value] = [:]

        init(limit: Int) { self.limit = limit }

        mutating func value(of key: Key) -> Value? {
            if let value = young[key] { return value }
            guard let value = old[key] else { return nil }
            insert(value, for: key)
            return value
        }

        mutating func insert(_ value: Value, for key: Key) {
            if young.count >= limit / 2, young[key] == nil { (old, young) = (young, [:]) }
            young[key] = value
        }

        var count: Int { young.count + old.count }
    }

    private struct State {
        var epoch: UInt64 = 0
        var good = Latest<Claims>(limit: TokenCache.goodLimit)
        var bad = Latest<TokenError>(limit: TokenCache.badLimit)
    }

    static let goodLimit = 8192
    static let badLimit = 1024

    private let state = Mutex(State())

    /// - Parameter epoch: Of the keys.
    func result(for key: Key, epoch: UInt64) -> Result<Claims, TokenError>? {
        state.withLock { state in
            if state.epoch != epoch { state = State(epoch: epoch) }
            if let claims = state.good.value(of: key) { return .success(claims) }
            return state.bad.value(of: key).map { .failure($0) }
        }
    }

    func insert(_ result: Result<Claims, TokenError>, for key: Key, epoch: UInt64) {
        state.withLock { state in
            // Another set of keys has come meanwhile.
            guard state.epoch == epoch else { return }
            switch result {
            case .success(let claims): state.good.insert(claims, for: key)
            case .failure(let error): state.bad.insert(error, for: key)
            }
        }
    }

    /// Of good ones, and of others.
    var counts: (good: Int, bad: Int) { state.withLock { ($0.good.count, $0.bad.count) } }
}

import Testing

@testable import MeshIdentity

@Suite struct TokenCacheTests {
    private func key(_ number: Int) -> TokenCache.Key { TokenCache.Key(of: "token \(number)") }
    private let claims = TokenCache.Claims(principal: "i/s", begin: nil, end: 1)

    @Test func itIsBoundedAndWhatIsUsedStays() {
        let cache = TokenCache()
        for number in 0..<100_000 {
            cache.insert(.success(claims), for: key(number), epoch: 0)
            cache.insert(.failure(TokenError(.signature, "")), for: key(-1 - number), epoch: 0)
            // Used in between, all the time.
            if number > 0, number % 100 == 0 { #expect(cache.result(for: key(0), epoch: 0) == .success(claims)) }
        }
        #expect(cache.counts.good <= TokenCache.goodLimit && cache.counts.good > TokenCache.goodLimit / 2)
        #expect(cache.counts.bad <= TokenCache.badLimit && cache.counts.bad > TokenCache.badLimit / 2)
        #expect(cache.result(for: key(99_999), epoch: 0) == .success(claims))
        #expect(cache.result(for: key(1), epoch: 0) == nil)
    }
}

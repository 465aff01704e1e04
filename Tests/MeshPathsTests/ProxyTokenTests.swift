import MeshIdentity
import Platform
import TestPeers
import Testing

@testable import MeshPaths

/// Which token a proxy is shown, and when another one is looked for.
@Suite struct ProxyTokenTests {
    /// One that ends at `end`; nil: a word that says nothing of it.
    private static func token(_ name: String, end: Int64?) -> String {
        guard let end else { return name }
        return "\(name).\(Base64.encode(Array("{\"exp\":\(end)}".utf8), padded: false)).s"
    }

    @Test func aTokenIsReplacedBeforeItEnds() {
        var cache = ProxyTokenCache()
        #expect(cache.token(at: 1000) == nil && cache.wantsAnother(at: 1000))
        let first = Self.token("a", end: 1040)
        cache.loaded(first, at: 1000)
        #expect(cache.token(at: 1000) == first && !cache.wantsAnother(at: 1031))
        #expect(cache.wantsAnother(at: 1032) && cache.token(at: 1034) == first)
        // It has a way to go.
        #expect(cache.token(at: 1035) == nil)
        // Somebody may write another one before.
        cache.loaded(Self.token("b", end: 100_000), at: 1035)
        #expect(cache.wantsAnother(at: 1035 + ProxyTokenCache.longestUse))
        cache.loaded(Self.token("c", end: nil), at: 2000)
        #expect(!cache.wantsAnother(at: 2059) && cache.wantsAnother(at: 2060) && cache.token(at: 99_999) == "c")
    }

    /// "Never" of some issuers: no number that is counted with may end the process.
    @Test(arguments: [Int64.max - 1023, Int64.min, 4_000_000_000_000_000_000])
    func oneThatNeverEndsIsLookedForAgain(end: Int64) {
        var cache = ProxyTokenCache()
        let token = Self.token("a", end: end)
        cache.loaded(token, at: 1000)
        #expect(cache.token(at: 1000) == token && !cache.wantsAnother(at: 1059) && cache.wantsAnother(at: 1060))
    }

    @Test func oneThatCannotBeReplacedIsShownToItsEnd() {
        var cache = ProxyTokenCache()
        let token = Self.token("a", end: 1100)
        cache.loaded(token, at: 1000)
        #expect(cache.wantsAnother(at: 1060))
        cache.failed(at: 1060)
        #expect(!cache.wantsAnother(at: 1064) && cache.wantsAnother(at: 1065) && cache.token(at: 1094) == token)
        cache.failed(at: 1096)
        // Nobody has anything to show: it is looked for whoever asks.
        #expect(cache.token(at: 1096) == nil && cache.wantsAnother(at: 1096))
    }

    /// A machine whose clock was ahead until somebody set it.
    @Test func aClockThatIsSetBackPutsNothingOff() {
        var cache = ProxyTokenCache()
        cache.loaded("a", at: 5000)
        #expect(!cache.wantsAnother(at: 5001) && cache.wantsAnother(at: 1000))
        cache.failed(at: 5060)
        #expect(!cache.wantsAnother(at: 5061) && cache.wantsAnother(at: 1000))
    }

    @Test func aRefusedOneIsNotShownAgain() {
        var cache = ProxyTokenCache()
        cache.loaded("a", at: 1000)
        cache.refuse("a")
        #expect(cache.token(at: 1001) == nil)
        cache.loaded("a", at: 1002)
        #expect(cache.token(at: 1002) == nil)
        cache.loaded("b", at: 1003)
        #expect(cache.token(at: 1003) == "b")
        cache.loaded("a", at: 1004)
        #expect(cache.token(at: 1004) == "a")
    }

    @Test(arguments: [
        ("127.0.0.1:80", "outbound_.80_._.127-0-0-1"), ("[fd00::7]:22", "outbound_.22_._.fd00--7"),
        ("web.prod:443", "outbound_.443_._.web.prod"),
    ]) func theDestinationIsNamedInside(destination: String, name: String) throws {
        let authority = try Authority(parsing: destination)
        #expect(InnerName.of(authority) == name)
        #expect(InnerName.contradiction(name, authority) == nil)
        #expect(InnerName.contradiction(nil, authority) == nil)
        #expect(InnerName.contradiction("web.example.org", authority) == nil)
        #expect(InnerName.contradiction("outbound_.81_._.web.prod", authority) != nil)
    }
}

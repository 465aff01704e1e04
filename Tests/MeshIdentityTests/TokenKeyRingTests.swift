import Foundation
import Platform
import Synchronization
import TestPeers
import Testing

@testable import MeshIdentity

/// Keys that are fetched: what counts as time goes by, and when they are looked for.
@Suite struct TokenKeyRingTests {
    private static func keys(_ issuer: TokenIssuer, only names: [String]) throws -> TokenKeys {
        let all = try JSONSerialization.jsonObject(with: Data(issuer.keys().utf8)) as? [String: [[String: Any]]]
        let chosen = (all?["keys"] ?? []).filter { names.contains($0["kid"] as? String ?? "") }
        return try TokenKeys(parsing: Array(JSONSerialization.data(withJSONObject: ["keys": chosen])))
    }

    private static func names(_ ring: TokenKeyRing, at now: Int64) throws -> [String] {
        try ring.current(at: now).keys.compactMap(\.id).sorted()
    }

    @Test func oldKeysCountForAWhileAndStaleOnesForNothing() async throws {
        let issuer = try await TokenIssuer()
        let ring = TokenKeyRing()
        #expect(throws: TokenError.self) { try ring.current(at: 1000).keys }
        #expect(ring.beginFetch(at: 1000))
        ring.taken(try Self.keys(issuer, only: ["rsa", "ec"]), at: 1000)
        #expect(try Self.names(ring, at: 1000) == ["ec", "rsa"])
        ring.taken(try Self.keys(issuer, only: ["ec", "ed"]), at: 2000)
        #expect(try Self.names(ring, at: 2000 + TokenKeyRing.keptTime - 1) == ["ec", "ed", "rsa"])
        #expect(try Self.names(ring, at: 2000 + TokenKeyRing.keptTime) == ["ec", "ed"])
        // Nobody could fetch any since.
        #expect(try Self.names(ring, at: 2000 + TokenKeyRing.staleTime - 1) == ["ec", "ed"])
        let error = #expect(throws: TokenError.self) { try ring.current(at: 2000 + TokenKeyRing.staleTime).keys }
        #expect(error?.code == .keys)
    }

    /// A key that nobody could vouch for any more does not count again because another set has come at last.
    @Test func aStaleKeyDoesNotComeBack() async throws {
        let issuer = try await TokenIssuer()
        for (late, expected) in [(Int64(0), ["ed"]), (Int64(1), ["ec", "ed"])] {
            let ring = TokenKeyRing()
            ring.taken(try Self.keys(issuer, only: ["ec"]), at: 1000)
            let now = 1000 + TokenKeyRing.staleTime - late
            ring.taken(try Self.keys(issuer, only: ["ed"]), at: now)
            #expect(try Self.names(ring, at: now) == expected)
        }
    }

    @Test func theyAreLookedForInTimeAndNotTooOften() async throws {
        let issuer = try await TokenIssuer()
        let ring = TokenKeyRing()
        #expect(!ring.isSettled && ring.beginFetch(at: 1000))
        // One at a time.
        #expect(!ring.beginFetch(at: 1100))
        ring.failed(at: 1100)
        #expect(ring.isSettled)
        #expect(!ring.beginFetch(at: 1109) && ring.beginFetch(at: 1110))
        ring.failed(at: 1110)
        #expect(!ring.beginFetch(at: 1129) && ring.beginFetch(at: 1130))
        for _ in 0..<100 { ring.failed(at: 1130) }
        #expect(!ring.beginFetch(at: 1189) && ring.beginFetch(at: 1190))
        ring.taken(try Self.keys(issuer, only: ["ec"]), at: 1200)
        #expect(!ring.beginFetch(at: 1200 + TokenKeyRing.freshTime - 1))
        #expect(ring.beginFetch(at: 1200 + TokenKeyRing.freshTime))
        ring.taken(try Self.keys(issuer, only: ["ec"]), at: 2000)
        // A key that nobody has seen is looked for at once, once.
        ring.miss()
        #expect(!ring.beginFetch(at: 2000 + TokenKeyRing.pause - 1))
        #expect(ring.beginFetch(at: 2000 + TokenKeyRing.pause))
        ring.taken(try Self.keys(issuer, only: ["ec"]), at: 2010)
        #expect(!ring.beginFetch(at: 2100))
        #expect(!TokenKeyRing(try Self.keys(issuer, only: ["ec"])).beginFetch(at: 9999))
    }

    /// A machine whose clock was an hour ahead until somebody set it: the keys are looked for at once, and those that
    /// had ended do not go on for that hour.
    @Test func aClockThatIsSetBackPutsNothingOff() async throws {
        let issuer = try await TokenIssuer()
        for hasFailed in [false, true] {
            let ring = TokenKeyRing()
            ring.taken(try Self.keys(issuer, only: ["rsa"]), at: 4500)
            ring.taken(try Self.keys(issuer, only: ["ec"]), at: 4600)
            if hasFailed { ring.failed(at: 4610) }
            #expect(!ring.beginFetch(at: 4609))
            #expect(try Self.names(ring, at: 4610) == ["ec", "rsa"])
            #expect(ring.beginFetch(at: 1000))
            #expect(try Self.names(ring, at: 1000) == ["ec"])
        }
    }

    /// The same name for another key: the old one is gone.
    @Test func aNameStandsForOneKey() async throws {
        let (first, second) = (try await TokenIssuer(), try await TokenIssuer())
        let ring = TokenKeyRing()
        ring.taken(try Self.keys(first, only: ["ec"]), at: 1000)
        ring.taken(try Self.keys(second, only: ["ec"]), at: 1001)
        #expect(try ring.current(at: 1002).keys.count == 1)
    }

    /// Which issuer is asked, the token says; and that one has to vouch for it.
    @Test func eachIssuerHasItsKeys() async throws {
        let (own, other) = (try await TokenIssuer(), try await TokenIssuer())
        func verifier(_ name: String, _ issuer: TokenIssuer) throws -> TokenVerifier {
            TokenVerifier(issuer: name, audiences: ["web"], keys: try TokenKeys(parsing: Array(issuer.keys().utf8)))
        }
        let token = "Bearer " + (try own.token("good-ec"))
        let right = TokenVerifiers([try verifier("https://a", other), try verifier("https://id.example", own)])
        #expect(try right.principal(of: token) == "https://id.example/ann")
        // The last one's keys fit, and it is not the last one's token.
        let wrong = TokenVerifiers([try verifier("https://id.example", other), try verifier("https://a", own)])
        let error = #expect(throws: TokenError.self) { try wrong.principal(of: token) }
        #expect(error?.code == .signature)
        let stranger = #expect(throws: TokenError.self) {
            try TokenVerifiers([try verifier("https://a", own)]).principal(of: token)
        }
        #expect(stranger?.code == .scope)
    }

    /// What was found of a token goes with the keys that vouched for it: replaced, and not fetched for too long.
    @Test func aKeyThatIsGoneVouchesForNothingRemembered() async throws {
        let issuer = try await TokenIssuer()
        let ring = TokenKeyRing()
        let clock = Mutex(Int64(WallClock.system.seconds))
        let verifier = TokenVerifier(
            issuer: "https://id.example",
            audiences: ["web"],
            keys: ring,
            clock: WallClock { clock.withLock { $0 } * 1000 }
        )
        let token = "Bearer " + (try issuer.token("good-ec"))
        let start = clock.withLock { $0 }
        // Before there are keys, nothing is remembered of it either.
        #expect(throws: TokenError.self) { try verifier.principal(of: token) }
        ring.taken(try Self.keys(issuer, only: ["ed"]), at: start)
        #expect(throws: TokenError.self) { try verifier.principal(of: token) }
        ring.taken(try Self.keys(issuer, only: ["ec"]), at: start)
        for _ in 0..<3 { #expect(try verifier.principal(of: token) == "https://id.example/ann") }
        #expect(verifier.checkedSignatures == 1)
        ring.taken(try Self.keys(issuer, only: ["ed"]), at: start)
        #expect(try verifier.principal(of: token) == "https://id.example/ann")
        clock.withLock { $0 = start + TokenKeyRing.keptTime }
        let error = #expect(throws: TokenError.self) { try verifier.principal(of: token) }
        #expect(error?.code == .signature)
        ring.taken(try Self.keys(issuer, only: ["ec"]), at: start)
        #expect(try verifier.principal(of: token) == "https://id.example/ann")
        clock.withLock { $0 = start + TokenKeyRing.staleTime }
        let stale = #expect(throws: TokenError.self) { try verifier.principal(of: token) }
        #expect(stale?.code == .keys)
    }

    @Test func whatATokenSaysOfItself() {
        func token(_ claims: String) -> String { "x.\(Base64.encode(Array(claims.utf8), padded: false)).y" }
        #expect(JSONWebToken.unverifiedEnd(of: token(#"{"exp":1234.9,"aud":"a"}"#)) == 1234)
        #expect(JSONWebToken.unverifiedAudiences(of: token(#"{"aud":["a",1,"b"]}"#)) == ["a", "b"])
        #expect(JSONWebToken.unverifiedAudiences(of: token(#"{"aud":"a"}"#)) == ["a"])
        let endless = ["1e300", "9e18", "-9223372036854775808", "9223372036854774784"].map { token("{\"exp\":\($0)}") }
        for text in ["", "a.b.c", token("[]"), token(#"{"exp":"1"}"#), "opaque"] + endless {
            #expect(JSONWebToken.unverifiedEnd(of: text) == nil)
        }
    }
}

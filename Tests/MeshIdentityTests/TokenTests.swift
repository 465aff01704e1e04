import Foundation
import MeshIdentity
import Platform
import Synchronization
import TestPeers
import Testing

/// Tokens that another implementation has signed.
@Suite struct TokenTests {
    private static let now: Int64 = 1_800_000_000

    /// What `tokens.py` has made, once for all tests.
    private static let made = Task {
        let directory = TemporaryDirectory()
        let output = try await ChildProcess.run(
            TestTools.python,
            [TestTools.repository + "/Tests/Peers/jwt/tokens.py", directory.path, "\(now)"]
        )
        try #require(output.succeeded, "\(output.standardError)")
        return directory
    }

    private static func files(_ suffix: String) async throws -> [(name: String, path: String)] {
        let directory = try await made.value
        return try FileManager.default.contentsOfDirectory(atPath: directory.path).sorted().filter {
            $0.hasSuffix(suffix)
        }.map { ($0, directory.path($0)) }
    }

    private static func verifier() async throws -> TokenVerifier {
        TokenVerifier(
            issuer: "https://id.example",
            audiences: ["web", "other"],
            keys: try TokenKeys(loading: try await made.value.path("good.jwks")),
            clock: .fixed(now)
        )
    }

    /// Whoever can change it says who is let in.
    @Test func keysThatOthersCanChangeAreRefused() async throws {
        let directory = TemporaryDirectory()
        let text = try String(contentsOfFile: try await Self.made.value.path("good.jwks"), encoding: .utf8)
        let path = try directory.write("keys.jwks", text, permissions: 0o646)
        let open = #expect(throws: TokenError.self) { try TokenKeys(loading: path) }
        #expect(open?.message.contains("chmod go-w \(path)") == true, "\(open as Any)")
        chmod(path, 0o644)
        #expect(throws: Never.self) { try TokenKeys(loading: path) }
    }

    @Test func tokensHoldOrDoNot() async throws {
        let verifier = try await Self.verifier()
        var (good, bad) = (0, 0)
        for (name, path) in try await Self.files(".jwt") {
            let header = "Bearer " + (try String(contentsOfFile: path, encoding: .utf8))
            do throws(TokenError) {
                let principal = try verifier.principal(of: header)
                #expect(name.hasPrefix("good-"), "\(name) is taken for \(principal)")
                #expect(principal == "https://id.example/" + (name.contains("unicode") ? "ännchen 😀" : "ann"))
                good += 1
            } catch {
                #expect(name.hasPrefix("bad-"), "\(name): \(error)")
                #expect(error.challenge == "Bearer error=\"invalid_token\"")
                if name == "bad-not-begun.jwt" {
                    let times = "it holds from 2027-01-15T08:01:01Z on, and here it is 2027-01-15T08:00:00Z"
                    #expect(error.message == "the token does not hold yet: \(times)")
                }
                bad += 1
            }
        }
        #expect(good == 11 && bad >= 45)
    }

    /// A client that comes again and again costs one signature, whatever it shows.
    @Test func aTokenCostsOneSignature() async throws {
        let verifier = try await Self.verifier()
        let directory = try await Self.made.value
        let good = "Bearer " + (try String(contentsOfFile: directory.path("good-ec.jwt"), encoding: .utf8))
        for _ in 0..<1000 { #expect(try verifier.principal(of: good) == "https://id.example/ann") }
        #expect(verifier.checkedSignatures == 1)
        // The last character but one, so that no bit is stray.
        var other = Array(good.utf8)
        other[other.count - 3] = other[other.count - 3] == UInt8(ascii: "A") ? UInt8(ascii: "B") : UInt8(ascii: "A")
        let bad = String(decoding: other, as: UTF8.self)
        for _ in 0..<1000 {
            let error = #expect(throws: TokenError.self) { try verifier.principal(of: bad) }
            #expect(error?.code == .signature)
        }
        #expect(verifier.checkedSignatures == 2)
        // Another set of keys knows nothing of it.
        #expect(try await Self.verifier().checkedSignatures == 0)
    }

    /// What was found of a token holds for as long as the token does, and no longer.
    @Test func theTimeIsLookedAtEachTime() async throws {
        let clock = Mutex(Self.now)
        let verifier = TokenVerifier(
            issuer: "https://id.example",
            audiences: ["web", "other"],
            keys: try TokenKeys(loading: try await Self.made.value.path("good.jwks")),
            clock: WallClock { clock.withLock { $0 } * 1000 }
        )
        let token =
            "Bearer " + (try String(contentsOfFile: try await Self.made.value.path("good-ec.jwt"), encoding: .utf8))
        #expect(try verifier.principal(of: token) == "https://id.example/ann")
        clock.withLock { $0 += 10 * 365 * 86400 }
        for _ in 0..<2 {
            let error = #expect(throws: TokenError.self) { try verifier.principal(of: token) }
            #expect(error?.code == .time)
            // A clock that is off shows itself by it.
            let times = "it held until 2027-01-15T08:10:00Z, and here it is 2037-01-12T08:00:00Z"
            #expect(error?.message == "the token has ended: \(times)", "\(error as Any)")
        }
        clock.withLock { $0 = Self.now }
        #expect(try verifier.principal(of: token) == "https://id.example/ann")
        #expect(verifier.checkedSignatures == 1)
    }

    @Test func aHeaderIsReadOnce() async throws {
        let verifier = try await Self.verifier()
        let token = try String(contentsOfFile: try await Self.made.value.path("good-ec.jwt"), encoding: .utf8)
        #expect(try verifier.principal(of: "bearer \(token)") == "https://id.example/ann")
        for header in [nil, "", "Basic YTpi", "Bearer", token] as [String?] {
            let error = #expect(throws: TokenError.self) { try verifier.principal(of: header) }
            #expect(error?.code == (header == "Bearer" ? .malformed : .missing))
            if header != "Bearer" { #expect(error?.challenge == "Bearer") }
        }
        for header in ["Bearer  \(token)", "Bearer \(token), Bearer \(token)", "Bearer\t\(token)"] {
            #expect(throws: TokenError.self) { try verifier.principal(of: header) }
        }
    }

    @Test func setsOfKeysAreReadOrRefused() async throws {
        var messages: [String: String] = [:]
        for (name, path) in try await Self.files(".jwks") where name != "good.jwks" {
            let error = #expect(throws: TokenError.self, "\(name)") { _ = try TokenKeys(loading: path) }
            messages[name] = error?.message ?? ""
            #expect(error?.message.hasPrefix(path) == true)
        }
        #expect(messages.count == 18)
        #expect(messages["bad-kid-twice.jwks"]?.hasSuffix("it has a 'kid' twice") == true)
        #expect(messages["bad-secret.jwks"]?.contains("key 2: it is a secret key") == true)
        #expect(messages["bad-many.jwks"]?.hasSuffix("it has more than 64 keys") == true)
        #expect(messages["bad-large.jwks"]?.contains("too large") == true)
        #expect(throws: TokenError.self) { _ = try TokenKeys(loading: "/nowhere.jwks") }
    }

    /// With several keys of its kind, a token must name its own.
    @Test func aTokenWithoutAKeyIDNeedsTheOnlyKey() async throws {
        let text = try String(contentsOfFile: try await Self.made.value.path("good.jwks"), encoding: .utf8)
        let token = try String(contentsOfFile: try await Self.made.value.path("good-no-kid.jwt"), encoding: .utf8)
        let one = try StrictJSON(parsing: text.utf8)
        guard case .array(let keys) = one["keys"],
            case .object(let key)? = keys.first(where: { $0["crv"] == .string("Ed25519") })
        else { return #expect(Bool(false)) }
        let x = try #require(key["x"]?.text)
        func verifier(_ ids: [String]) throws -> TokenVerifier {
            let keys = ids.map { "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"\(x)\",\"kid\":\"\($0)\"}" }
            return TokenVerifier(
                issuer: "https://id.example",
                audiences: ["web"],
                keys: try TokenKeys(parsing: Array("{\"keys\":[\(keys.joined(separator: ","))]}".utf8)),
                clock: .fixed(Self.now)
            )
        }
        #expect(try verifier(["a"]).principal(of: "Bearer \(token)") == "https://id.example/ann")
        #expect(throws: TokenError.self) { try verifier(["a", "b"]).principal(of: "Bearer \(token)") }
    }

    @Test("a changed token says what was signed, or nothing")
    func changedTokens() async throws {
        var fuzzer = Fuzzer("JWT")
        let verifier = try await Self.verifier()
        let corpus = try await Self.files(".jwt").filter { $0.name.hasPrefix("good-") }.map {
            [UInt8](try Data(contentsOf: URL(fileURLWithPath: $0.path)))
        }
        let dictionary = [".", "=", "e30", "eyJhbGciOiJub25lIn0", "-", "_", "AA"].map { Array($0.utf8) }
        let signed = Set(try corpus.map { try JSONWebToken(parsing: String(decoding: $0, as: UTF8.self)) })
        var (count, parsed) = (0, 0)
        while fuzzer.goesOn(count, of: 5000) {
            count += 1
            let text = String(decoding: fuzzer.mutate(corpus, dictionary: dictionary), as: UTF8.self)
            guard let token = try? JSONWebToken(parsing: text) else { continue }
            parsed += 1
            if (try? verifier.principal(of: token)) != nil, !signed.contains(token) {
                Issue.record("\(text) was never signed")
            }
        }
        #expect(parsed > count / 100)
    }
}

@Suite struct StrictJSONTests {
    @Test(
        arguments: [
            ("{}", .object([:])), (" [ ] ", .array([])), ("\"a\"", .string("a")), ("null", .null),
            ("true", .bool(true)),
            ("-0.5e+1", .number(-5)), ("0", .number(0)), ("10", .number(10)),
            (#""\u00e4\n\/\\\"""#, .string("ä\n/\\\"")),
            (#""\ud83d\ude00""#, .string("😀")),
            (#"{"a":[1,{"b":false}]}"#, .object(["a": .array([.number(1), .object(["b": .bool(false)])])])),
        ] as [(String, StrictJSON)]
    )
    func reads(_ text: String, _ value: StrictJSON) throws {
        #expect(try StrictJSON(parsing: text.utf8) == value)
    }

    @Test(arguments: [
        "", " ", "{", "[", "[1,]", "{,}", "{\"a\":1,}", "{\"a\"}", "{a:1}", "{\"a\":1,\"a\":1}", #"{"a":1,"\u0061":1}"#,
        "01", "1.",
        ".5", "+1", "-", "1e", "1e999", "0x1", "nul", "nulll", "True", "'a'", "\"a", "\"\t\"", #""\x""#, #""\u12""#,
        #""\u12g4""#,
        #""\ud83d""#, #""\ud83d\u0041""#, #""\ude00""#, "[] []", "[]\u{0}", "\u{feff}[]", "//a\n1", "[1 2]",
        "{\"a\" 1}",
    ])
    func refuses(_ text: String) {
        #expect(throws: StrictJSON.Unreadable.self) { try StrictJSON(parsing: text.utf8) }
    }

    @Test func bytesAreUTF8AndDepthIsBounded() {
        #expect(throws: StrictJSON.Unreadable.self) { try StrictJSON(parsing: [0x22, 0xFF, 0x22]) }
        let deep = String(repeating: "[", count: 100_000)
        #expect(throws: StrictJSON.Unreadable.self) { try StrictJSON(parsing: deep.utf8) }
        #expect(throws: Never.self) { try StrictJSON(parsing: "[[[]]]".utf8, depth: 3) }
        #expect(throws: StrictJSON.Unreadable.self) { try StrictJSON(parsing: "[[[[]]]]".utf8, depth: 3) }
    }
}

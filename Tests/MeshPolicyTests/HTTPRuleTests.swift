import MeshIdentity
import MeshNode
import Platform
import Testing

@testable import MeshPolicy

/// Rules about what only HTTP has: methods, paths, and the principal of a token.
@Suite struct HTTPRuleTests {
    private static let allow = "- {name: a, action: ALLOW, rules: [{from: [{namespaces: [ops]}], to: [%]}]}"
    private static let deny = "- {name: d, action: DENY, rules: [{from: [{namespaces: [prod]}], to: [%]}]}"
    private static let get = RequestDetails(method: "GET", target: "/v1/users?x=/admin")

    private static func decide(
        _ policy: String,
        _ details: RequestDetails?,
        from: String = "mesh.example/ns/prod/sa/web"
    ) throws -> Bool {
        let plain = try PolicyTests.request(from, "db.lan:5432")
        let request = StreamRequest(
            source: plain.source,
            sourceIP: plain.sourceIP,
            transport: plain.transport,
            destination: plain.destination,
            details: details,
            now: plain.now
        )
        return try PolicyTests.engine(policy).decide(request).isAllowed
    }

    /// Each for a request that is GET /v1/users, and what its rule says of it.
    @Test(arguments: [
        ("{methods: [GET]}", true), ("{methods: [POST]}", false), ("{methods: [POST, 'G*']}", true),
        ("{methods: ['*']}", true), ("{notMethods: [GET]}", false), ("{notMethods: [POST]}", true),
        ("{paths: [/v1/users]}", true), ("{paths: [/v1]}", false), ("{paths: [/v1/*]}", true),
        ("{paths: ['*/users']}", true), ("{paths: ['*']}", true), ("{paths: [/admin]}", false),
        ("{notPaths: [/v1/*]}", false), ("{notPaths: [/admin]}", true),
        ("{methods: [GET], paths: [/v2*]}", false), ("{ports: [5432], paths: [/v1*]}", true),
        ("{ports: [1], paths: [/v1*]}", false), ("{hosts: [db.lan], notMethods: [PUT]}", true),
    ])
    func matchesARequest(_ operation: String, _ matches: Bool) throws {
        let allow = Self.allow.replacing("%", with: operation)
        #expect(try Self.decide(allow, Self.get, from: "mesh.example/ns/ops/sa/a") == matches)
        let deny = Self.deny.replacing("%", with: operation)
        #expect(try Self.decide(deny, Self.get) != matches)
    }

    /// What nobody has read: an ALLOW rule does not match, a DENY rule matches by what else it asks for.
    @Test(arguments: [
        "{methods: [GET]}", "{notMethods: [GET]}", "{paths: [/v1*]}", "{notPaths: [/v1*]}", "{paths: ['*']}",
        "{methods: ['*'], paths: ['*']}", "{hosts: [db.lan], methods: [GET]}",
    ])
    func aStreamWithoutHTTPIsNotAllowedByThemAndNotKeptFromDenial(_ operation: String) throws {
        #expect(try !Self.decide(Self.allow.replacing("%", with: operation), nil, from: "mesh.example/ns/ops/sa/a"))
        #expect(try !Self.decide(Self.deny.replacing("%", with: operation), nil))
        // The other fields count.
        let other = Self.deny.replacing("%", with: operation.replacing("{", with: "{ports: [1], "))
        #expect(try Self.decide(other, nil))
    }

    /// The same for a path that servers read differently: nobody gets round a rule by it.
    @Test func aPathOfSeveralMeaningsIsUnknown() throws {
        let request = RequestDetails(method: "GET", target: "/public/..%2Fadmin")
        #expect(request.path == nil)
        let from = "mesh.example/ns/ops/sa/a"
        #expect(try !Self.decide(Self.allow.replacing("%", with: "{paths: [/public/*]}"), request, from: from))
        #expect(try Self.decide(Self.allow.replacing("%", with: "{methods: [GET]}"), request, from: from))
        #expect(try !Self.decide(Self.deny.replacing("%", with: "{paths: [/admin]}"), request))
        #expect(try Self.decide(Self.deny.replacing("%", with: "{methods: [POST], paths: [/admin]}"), request))
    }

    @Test func tokensAreRead() throws {
        func decide(_ action: String, _ source: String, _ details: RequestDetails?) throws -> Bool {
            let policy = "- {name: a, action: \(action), rules: [{from: [\(source)]}]}"
            let from = action == "ALLOW" ? "mesh.example/ns/ops/sa/a" : "mesh.example/ns/prod/sa/web"
            return try Self.decide(policy, details, from: from)
        }
        let ann = RequestDetails(method: "GET", principal: "https://id/ann")
        let nobody = RequestDetails(method: "GET", target: "/", isTokenRead: true)
        #expect(try decide("ALLOW", "{requestPrincipals: ['https://id/*']}", ann))
        #expect(try decide("ALLOW", "{requestPrincipals: ['*']}", ann))
        #expect(try !decide("ALLOW", "{requestPrincipals: ['https://id/ben']}", ann))
        #expect(try !decide("ALLOW", "{requestPrincipals: ['*']}", nobody))
        #expect(try !decide("ALLOW", "{requestPrincipals: ['*']}", nil))
        #expect(try !decide("ALLOW", "{notRequestPrincipals: ['https://id/ben']}", nil))
        #expect(try !decide("ALLOW", "{requestPrincipals: ['*'], principals: ['other']}", ann))
        // Istio's way of asking for a token: deny whoever has none.
        #expect(try !decide("DENY", "{notRequestPrincipals: ['*']}", nobody))
        #expect(try decide("DENY", "{notRequestPrincipals: ['*']}", ann))
        #expect(try !decide("DENY", "{notRequestPrincipals: ['*']}", nil))
        #expect(try !decide("DENY", "{requestPrincipals: ['*/ann']}", ann))
        #expect(try decide("DENY", "{requestPrincipals: ['*/ben']}", nobody))
    }

    /// Where HTTP is read and nobody verifies tokens, who has one is as unknown as on a stream that nobody reads: no
    /// ALLOW rule lets everybody in for not being somebody, and no DENY rule is got round.
    @Test(arguments: [
        "{requestPrincipals: ['*']}", "{requestPrincipals: ['https://id/ann']}", "{notRequestPrincipals: ['*']}",
        "{notRequestPrincipals: ['https://id/ben']}",
    ])
    func aTokenThatNobodyReadsIsUnknown(_ source: String) throws {
        func decide(_ action: String, _ source: String, _ details: RequestDetails?, from: String) throws -> Bool {
            try Self.decide("- {name: a, action: \(action), rules: [{from: [\(source)]}]}", details, from: from)
        }
        let (ops, prod) = ("mesh.example/ns/ops/sa/a", "mesh.example/ns/prod/sa/web")
        #expect(!Self.get.isTokenRead)
        for details in [nil, Self.get] {
            #expect(try !decide("ALLOW", source, details, from: ops))
            #expect(try !decide("DENY", source, details, from: prod))
            // The other fields count.
            let other = source.replacing("{", with: "{namespaces: [ops], ")
            #expect(try decide("DENY", other, details, from: prod))
        }
        let engine = try PolicyTests.engine("- {name: w, action: AUDIT, rules: [{from: [\(source)]}]}")
        let plain = try PolicyTests.request("local", "db.lan:5432")
        let request = StreamRequest(
            source: plain.source,
            sourceIP: plain.sourceIP,
            transport: nil,
            destination: plain.destination,
            details: Self.get,
            now: plain.now
        )
        #expect(engine.decide(request).notes == [])
    }

    /// A rule that watches says what it has seen, and nothing of what it cannot see.
    @Test func auditNamesWhatItHasSeen() throws {
        let engine = try PolicyTests.engine(
            "- {name: w, action: AUDIT, rules: [{to: [{ports: [1]}]}, {to: [{paths: [/v1*]}]}]}"
        )
        let plain = try PolicyTests.request("local", "db.lan:5432")
        #expect(engine.decide(plain).notes == [])
        let request = StreamRequest(
            source: plain.source,
            sourceIP: plain.sourceIP,
            transport: nil,
            destination: plain.destination,
            details: Self.get,
            now: plain.now
        )
        #expect(engine.decide(request).notes == ["audited by policy 'w', rule 2 (AUDIT)"])
    }

    @Test(
        arguments: [
            ("/", "/"), ("/a/b", "/a/b"), ("/a/b/", "/a/b/"), ("/a?x=/../y", "/a"), ("/a#b", "/a"), ("*", "*"),
            ("/%61dmin", "/admin"), ("/a%20b", "/a b"), ("/%c3%a4", "/ä"), ("/a.b/..c/...", "/a.b/..c/..."),
            ("/?", "/"),
        ] as [(String, String)]
    )
    func pathsAreNormalized(_ target: String, _ path: String) {
        #expect(RequestDetails.path(of: target) == path)
    }

    @Test(arguments: [
        "", "a", "a/b", "http://x/", "//", "//admin", "/a//b", "/a/./b", "/..", "/a/../b", "/a/.", "/a/%2e%2e/b",
        "/.%2E/b",
        "/a%2fb", "/a%2Fb", "/a\\b", "/a%5cb", "/a%5Cb", "/a%00", "/a%0a", "/a\u{7f}", "/a%", "/a%2", "/a%zz",
        "/%252e%252e/",
        "/a;x=1", "/..;/b", "/a%3bx", "/%ff", "/%e4", "?x", "**",
    ])
    func pathsOfSeveralMeaningsAreUnknown(_ target: String) {
        #expect(RequestDetails.path(of: target) == nil)
    }
}

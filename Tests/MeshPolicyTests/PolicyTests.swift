import H2Transport
import MeshIdentity
import MeshNode
import Platform
import Streams
import Testing
import YAML

@testable import MeshPolicy

@Suite struct PolicyTests {
    static let own = "spiffe://mesh.example/ns/prod/sa/db"

    /// An engine for the YAML of `policy` (with the default of no `policy` key for `nil`) on a node that names the
    /// ports 5432 (endpoint), 6000 (an endpoint's address), 7000 (`forwardTo`) and all of `any.lan`.
    static func engine(_ policy: String?) throws -> PolicyEngine {
        PolicyEngine(try configuration(policy).rules(), own: try SPIFFEID(own))
    }

    static func configuration(_ policy: String?) throws -> NodeConfiguration {
        let text = """
            identity: /i
            listeners:
            - {name: hbone, bind: "0.0.0.0:15008", protocol: hbone}
            - {name: local, bind: "127.0.0.1:9999", protocol: tcp, forwardTo: "x.lan:7000"}
            endpoints:
            - {match: "db.lan:5432", address: "127.0.0.1:6000", hbone: "10.0.0.9:15008"}
            - {match: "any.lan", direct: true}
            """
        return try NodeConfiguration.parse(text + (policy.map { "\npolicy:\n" + $0 } ?? ""), file: "f")
    }

    static func request(
        _ from: String,
        _ to: String,
        ip: String = "10.1.2.3",
        over transport: Transport = .h2,
        now: Int64 = 1_800_000_000
    ) throws -> StreamRequest {
        let source: StreamRequest.Source =
            switch from {
            case "local": .localUser
            case "anyone": .unauthenticated
            default: .peer(try SPIFFEID("spiffe://\(from)"))
            }
        return StreamRequest(
            source: source,
            sourceIP: try #require(IPAddress(ip)),
            transport: transport,
            destination: try Authority(parsing: to),
            now: now
        )
    }

    /// Rules with an earlier name of the own trust domain are about it, and about no other.
    @Test func rulesMayHaveEarlierNamesOfTheTrustDomain() throws {
        let policy = """
            - {name: a, action: ALLOW, rules: [{from: [{principals: ["old.example/ns/ops/sa/ann", "older.example/ns/x*"]}]}]}
            - {name: d, action: DENY, rules: [{from: [{principals: ["*"], notPrincipals: ["old.example/*"]}]}]}
            """
        func allows(_ from: String, _ aliases: String) throws -> Bool {
            let text =
                "identity: /i\nlisteners: [{name: h, bind: '127.0.0.1:1', protocol: hbone}]\n\(aliases)policy:\n\(policy)"
            let rules = try NodeConfiguration.parse(text, file: "f").rules()
            return try PolicyEngine(rules, own: SPIFFEID(Self.own)).decide(Self.request(from, "db.lan:1")).isAllowed
        }
        let aliases = "aliases: [old.example, older.example]\n"
        #expect(try allows("mesh.example/ns/ops/sa/ann", aliases))
        #expect(try allows("mesh.example/ns/xy/sa/ann", aliases))
        #expect(try !allows("mesh.example/ns/ops/sa/ben", aliases))
        #expect(try !allows("old.example/ns/ops/sa/ann", aliases), "another domain by now")
        #expect(try !allows("mesh.example/ns/ops/sa/ann", ""))
        let error = #expect(throws: ConfigurationError.self) { _ = try allows("local", "aliases: [Old]\n") }
        #expect(error?.description.hasPrefix("f:3:11: 'aliases': the trust domain has the upper-case letter") == true)
    }

    @Test(arguments: [
        (
            "mesh.example/ns/prod/sa/web", "db.lan:5432", true,
            "allowed by default: spiffe://mesh.example/ns/prod/sa/web is of"
        ),
        ("mesh.example/ns/prod/sa/web", "127.0.0.1:6000", true, "allowed by default"),
        ("mesh.example/ns/prod/sa/web", "127.0.0.1:7000", true, "allowed by default"),
        ("mesh.example/ns/prod/sa/web", "any.lan:1", true, "allowed by default"),
        (
            "mesh.example/ns/prod/sa/web", "127.0.0.1:22", false,
            "names port 22: add an endpoint, or an ALLOW policy with 'ports: [22]'"
        ),
        ("mesh.example/ns/prod/sa/web", "127.0.0.1:9999", false, "names port 9999"),
        ("mesh.example/ns/prod/sa/web", "127.0.0.1:15008", false, "names port 15008"),
        ("mesh.example/ns/ops/sa/web", "db.lan:5432", false, "not of this node's namespace prod"),
        ("mesh.example/prod", "db.lan:5432", false, "not of this node's namespace prod"),
        (
            "other.example/ns/prod/sa/web", "db.lan:5432", false,
            "of trust domain other.example, this node of mesh.example"
        ),
        ("anyone", "db.lan:5432", false, "no mesh identity"),
        ("local", "anything:1", true, "local user"),
    ])
    func defaultPolicy(_ from: String, _ to: String, _ allowed: Bool, _ reason: String) throws {
        for policy in [nil, "- {name: x, action: ALLOW, rules: [{from: [{namespaces: [nobody]}]}]}"] {
            let decision = try Self.engine(policy).decide(Self.request(from, to))
            #expect(decision.isAllowed == allowed)
            #expect(decision.reason.contains(reason), "\(decision.reason)")
            #expect(decision.rule == nil)
        }
    }

    /// What looks the same to a reader, and to Unicode, is another text.
    @Test(arguments: [("K", "\u{212A}"), ("\u{E9}", "e\u{301}")])
    func patternsAreComparedByteByByte(_ one: String, _ other: String) {
        for pattern in [StringPattern.exact(one), .prefix(one), .suffix(one), .exact("a/\(one)"), .prefix("a/\(one)")] {
            let text = pattern.description.replacing("*", with: "")
            #expect(pattern.matches(text))
            #expect(!pattern.matches(text.replacing(one, with: other)), "\(pattern)")
        }
    }

    @Test func withoutOwnIdentityTheDefaultAllowsNobody() throws {
        let engine = PolicyEngine(try Self.configuration(nil).rules(), own: nil)
        let decision = try engine.decide(Self.request("mesh.example/ns/prod/sa/web", "db.lan:5432"))
        #expect(!decision.isAllowed && decision.reason.contains("own identity is not known"))
    }

    /// Another trust domain has its own namespaces of the same names: they let nobody in, and keep everybody out.
    @Test(arguments: [
        ("ALLOW", "{namespaces: [ops]}", false), ("ALLOW", "{namespaces: ['*']}", false),
        ("ALLOW", "{namespaces: [ops], principals: ['partner.example/*']}", true),
        ("ALLOW", "{principals: ['partner.example/ns/ops/*']}", true),
        ("DENY", "{namespaces: [ops]}", true), ("AUDIT", "{namespaces: [ops]}", true),
    ])
    func namespacesLetInTheOwnTrustDomainOnly(action: String, source: String, matches: Bool) throws {
        let engine = try Self.engine("- {name: p, action: \(action), rules: [{from: [\(source)]}]}")
        let decision = try engine.decide(Self.request("partner.example/ns/ops/sa/ann", "db.lan:5432"))
        #expect((decision.rule != nil || !decision.remarks.isEmpty) == matches, "\(decision.reason)")
        #expect(decision.isAllowed == (matches && action == "ALLOW"))
        let own = try engine.decide(Self.request("mesh.example/ns/ops/sa/ann", "db.lan:5432"))
        let isOthers = source.contains("partner")
        #expect((own.rule != nil || !own.remarks.isEmpty) != isOthers, "\(own.reason)")
    }

    /// `rule` in an ALLOW policy, and whether it matches; the peer is of another namespace, so that nothing else
    /// allows.
    @Test(arguments: [
        // principals
        ("{from: [{principals: [mesh.example/ns/ops/sa/ann]}]}", true),
        ("{from: [{principals: [mesh.example/ns/ops/sa/an]}]}", false),
        ("{from: [{principals: ['mesh.example/ns/ops/*']}]}", true),
        ("{from: [{principals: ['mesh.example/ns/op/*']}]}", false),
        ("{from: [{principals: ['*/sa/ann']}]}", true),
        ("{from: [{principals: ['*/sa/bob']}]}", false),
        ("{from: [{principals: ['*']}]}", true),
        ("{from: [{principals: [x, mesh.example/ns/ops/sa/ann]}]}", true),
        ("{from: [{principals: [MESH.example/ns/ops/sa/ann]}]}", false),
        ("{from: [{notPrincipals: [mesh.example/ns/ops/sa/ann]}]}", false),
        ("{from: [{notPrincipals: ['*/bob']}]}", true),
        ("{from: [{principals: ['mesh.example/*'], notPrincipals: ['*/ann']}]}", false),
        // namespaces
        ("{from: [{namespaces: [ops]}]}", true),
        ("{from: [{namespaces: [op]}]}", false),
        ("{from: [{namespaces: ['o*']}]}", true),
        ("{from: [{namespaces: ['*ps']}]}", true),
        ("{from: [{notNamespaces: [ops]}]}", false),
        ("{from: [{notNamespaces: [dev]}]}", true),
        // addresses
        ("{from: [{sourceIPs: [10.0.0.0/8]}]}", true),
        ("{from: [{sourceIPs: [10.1.2.3]}]}", true),
        ("{from: [{sourceIPs: [11.0.0.0/8, 'fd00::/8']}]}", false),
        ("{from: [{sourceIPs: ['0.0.0.0/0']}]}", true),
        ("{from: [{notSourceIPs: [10.1.0.0/16]}]}", false),
        ("{from: [{notSourceIPs: [10.2.0.0/16]}]}", true),
        // fields AND, sources OR
        ("{from: [{namespaces: [ops], sourceIPs: [11.0.0.0/8]}]}", false),
        ("{from: [{namespaces: [dev]}, {sourceIPs: [10.0.0.0/8]}]}", true),
        ("{from: [{namespaces: [dev]}, {sourceIPs: [11.0.0.0/8]}]}", false),
        // destinations
        ("{to: [{ports: [22]}]}", true),
        ("{to: [{ports: ['22']}]}", true),
        ("{to: [{ports: [23]}]}", false),
        ("{to: [{ports: ['20-30']}]}", true),
        ("{to: [{ports: ['1-65535']}]}", true),
        ("{to: [{ports: ['23-30', 21]}]}", false),
        ("{to: [{notPorts: [22]}]}", false),
        ("{to: [{notPorts: ['23-99']}]}", true),
        ("{to: [{hosts: [cam-1.lan]}]}", true),
        ("{to: [{hosts: [CAM-1.LAN.]}]}", true),
        ("{to: [{hosts: [cam.lan]}]}", false),
        ("{to: [{hosts: ['cam-*.lan']}]}", true),
        ("{to: [{hosts: ['Cam-*']}]}", true),
        ("{to: [{hosts: ['*.lan']}]}", true),
        ("{to: [{hosts: ['cam-1*1.lan']}]}", false),
        ("{to: [{hosts: ['*.net', '*']}]}", true),
        ("{to: [{hosts: ['0.0.0.0/0', '::/0']}]}", false),
        ("{to: [{notHosts: ['*.lan']}]}", false),
        ("{to: [{notHosts: ['*.net']}]}", true),
        ("{to: [{hosts: ['*.lan'], ports: [23]}]}", false),
        ("{to: [{hosts: ['*.net']}, {ports: [22]}]}", true),
        // conditions
        ("{when: [{transport: [h2]}]}", true),
        ("{when: [{transport: [ssh, h2]}]}", true),
        ("{when: [{transport: [ssh, h2-over-ssh]}]}", false),
        ("{when: [{notAfter: '2027-01-15T08:00:00Z'}]}", true),
        ("{when: [{notAfter: '2027-01-15T07:59:59Z'}]}", false),
        ("{when: [{notAfter: '2027-01-15T09:00:00+01:00'}]}", true),
        ("{when: [{notAfter: '2027-01-15T09:00:00.5+01:01'}]}", false),
        ("{when: [{transport: [h2]}, {notAfter: '2020-01-01T00:00:00Z'}]}", false),
        ("{when: [{notAfter: '2099-01-01T00:00:00Z'}, {transport: [ssh]}]}", false),
        // from AND to AND when
        ("{}", true),
        ("{from: [{namespaces: [ops]}], to: [{ports: [22]}], when: [{transport: [h2]}]}", true),
        ("{from: [{namespaces: [dev]}], to: [{ports: [22]}], when: [{transport: [h2]}]}", false),
        ("{from: [{namespaces: [ops]}], to: [{ports: [23]}], when: [{transport: [h2]}]}", false),
        ("{from: [{namespaces: [ops]}], to: [{ports: [22]}], when: [{transport: [ssh]}]}", false),
    ])
    func rules(_ rule: String, _ matches: Bool) throws {
        let request = try Self.request("mesh.example/ns/ops/sa/ann", "cam-1.lan:22")
        let allow = try Self.engine("- {name: p, action: ALLOW, rules: [\(rule)]}").decide(request)
        #expect(allow.isAllowed == matches, "\(allow)")
        if matches { #expect(allow.reason == "allowed by policy 'p', rule 1 (ALLOW)") }

        let deny = try Self.engine(
            "- {name: all, action: ALLOW, rules: [{}]}\n- {name: p, action: DENY, rules: [\(rule)]}"
        ).decide(request)
        #expect(deny.isAllowed != matches, "\(deny)")
        #expect(
            deny.reason == (matches ? "denied by policy 'p', rule 1 (DENY)" : "allowed by policy 'all', rule 1 (ALLOW)")
        )
    }

    @Test func addressesMatchBlocksAndNeverNamePatterns() throws {
        func allows(_ host: String, _ to: String) throws -> Bool {
            try Self.engine("- {name: p, action: ALLOW, rules: [{to: [{hosts: ['\(host)']}]}]}")
                .decide(Self.request("mesh.example/ns/ops/sa/ann", to)).isAllowed
        }
        #expect(try allows("10.0.0.0/8", "10.9.9.9:1"))
        #expect(try allows("10.0.0.0/8", "[::ffff:10.9.9.9]:1"))
        #expect(try !allows("10.0.0.0/8", "10.evil.example:1"))
        #expect(try allows("10.9.9.9", "10.9.9.9:1"))
        #expect(try allows("[fd00::1]", "[fd00:0::1]:1"))
        #expect(try allows("fd00::1", "[fd00:0::1]:1"))
        #expect(try !allows("fd*", "[fd00::1]:1"))
        #expect(try !allows("1*.lan", "10.0.0.1:1"))
        #expect(try allows("1*.lan", "10.0.0.1.lan:1"))
        #expect(try allows("*", "10.0.0.1:1"))
    }

    @Test func denyBeatsAllowAndTheFirstRuleIsNamed() throws {
        let engine = try Self.engine(
            """
            - {name: open, action: ALLOW, rules: [{to: [{ports: [1]}]}, {to: [{ports: ["1-100"]}]}]}
            - {name: also, action: ALLOW, rules: [{from: [{namespaces: [ops]}]}]}
            - {name: shut, action: DENY, rules: [{to: [{ports: [50]}]}, {to: [{ports: ["49-51"]}]}]}
            """
        )
        func reason(_ port: Int) throws -> String {
            try engine.decide(Self.request("mesh.example/ns/ops/sa/ann", "h:\(port)")).reason
        }
        #expect(try reason(1) == "allowed by policy 'open', rule 1 (ALLOW)")
        #expect(try reason(2) == "allowed by policy 'open', rule 2 (ALLOW)")
        #expect(try reason(101) == "allowed by policy 'also', rule 1 (ALLOW)")
        #expect(try reason(50) == "denied by policy 'shut', rule 1 (DENY)")
        #expect(try reason(51) == "denied by policy 'shut', rule 2 (DENY)")
        let rule = try engine.decide(Self.request("mesh.example/ns/ops/sa/ann", "h:51")).rule
        #expect(rule?.policy.name == "shut" && rule?.index == 1 && rule?.position?.line == 11)
    }

    @Test func denyHoldsAgainstTheDefaultToo() throws {
        let engine = try Self.engine("- {name: shut, action: DENY, rules: [{to: [{ports: [5432]}]}]}")
        #expect(try !engine.decide(Self.request("mesh.example/ns/prod/sa/web", "db.lan:5432")).isAllowed)
        #expect(try !engine.decide(Self.request("local", "db.lan:5432")).isAllowed)
        #expect(try engine.decide(Self.request("mesh.example/ns/prod/sa/web", "127.0.0.1:6000")).isAllowed)
    }

    @Test func aRuleThatNamesItsTransportForbidsTheDowngrade() throws {
        let engine = try Self.engine(
            "- {name: strict, action: ALLOW, rules: [{to: [{ports: [5432]}], when: [{transport: [h2, h2-over-ssh]}]}]}"
        )
        for from in ["mesh.example/ns/prod/sa/web", "local"] {
            #expect(try engine.decide(Self.request(from, "db.lan:5432")).isAllowed)
            let decision = try engine.decide(Self.request(from, "db.lan:5432", over: .ssh))
            #expect(!decision.isAllowed)
            #expect(
                decision.reason
                    == "denied: policy 'strict', rule 1 (ALLOW) allows it over h2, h2-over-ssh only, not over ssh"
            )
        }
        // What the rule does not speak of stays with the default, and another rule may allow more.
        #expect(try engine.decide(Self.request("mesh.example/ns/prod/sa/web", "h:6000", over: .ssh)).isAllowed)
        let relaxed = try Self.engine(
            """
            - {name: strict, action: ALLOW, rules: [{when: [{transport: [h2]}]}]}
            - {name: relaxed, action: ALLOW, rules: [{from: [{namespaces: [ops]}]}]}
            """
        )
        #expect(try relaxed.decide(Self.request("mesh.example/ns/ops/sa/ann", "h:1", over: .ssh)).isAllowed)
    }

    @Test func anExpiredRuleAllowsAndDeniesNothing() throws {
        let engine = try Self.engine(
            "- {name: guest, action: ALLOW, rules: [{when: [{notAfter: '2027-01-01T00:00:00Z'}]}]}"
        )
        let request = { try Self.request("mesh.example/ns/ops/sa/ann", "h:1", now: $0) }
        #expect(try engine.decide(request(1_798_761_600)).isAllowed)
        #expect(try !engine.decide(request(1_798_761_601)).isAllowed)
    }

    @Test func auditAndDryRunDecideNothingAndAreTold() throws {
        let engine = try Self.engine(
            """
            - {name: watch, action: AUDIT, rules: [{to: [{ports: [1]}]}, {}]}
            - {name: try-deny, action: DENY, dryRun: true, rules: [{}]}
            - {name: try-allow, action: ALLOW, dryRun: true, rules: [{to: [{ports: [2]}]}]}
            - {name: real, action: ALLOW, rules: [{to: [{ports: [1]}]}]}
            """
        )
        let first = try engine.decide(Self.request("mesh.example/ns/ops/sa/ann", "h:1"))
        #expect(first.isAllowed && first.rule?.policy.name == "real")
        #expect(
            first.notes == [
                "audited by policy 'watch', rule 1 (AUDIT)",
                "dry run: would be denied by policy 'try-deny', rule 1 (DENY)",
            ]
        )
        let second = try engine.decide(Self.request("mesh.example/ns/ops/sa/ann", "h:2"))
        #expect(!second.isAllowed && second.rule == nil)
        #expect(
            second.notes == [
                "audited by policy 'watch', rule 2 (AUDIT)",
                "dry run: would be denied by policy 'try-deny', rule 1 (DENY)",
                "dry run: would be allowed by policy 'try-allow', rule 1 (ALLOW)",
            ]
        )
        #expect(second.remarks.map(\.isAudit) == [true, false, false])
        #expect(!engine.names(port: 2), "a policy that only logs must not open a port")
    }

    @Test func namesPorts() throws {
        let engine = try Self.engine(
            """
            - {name: a, action: ALLOW, rules: [{to: [{ports: [22, "8000-8010"]}]}, {to: [{hosts: [x], ports: [1]}]}]}
            - {name: b, action: DENY, rules: [{to: [{ports: [99]}]}]}
            - {name: all, action: ALLOW, rules: [{}]}
            """
        )
        for port: UInt16 in [22, 8000, 8005, 8010, 1, 5432, 6000, 7000] { #expect(engine.names(port: port), "\(port)") }
        for port: UInt16 in [21, 23, 7999, 8011, 99, 15008, 9999, 65535] {
            #expect(!engine.names(port: port), "\(port)")
        }
    }

    /// A directory is for every node: what it says of others opens nothing here.
    @Test func aDirectoryWidensTheDefaultOfTheNodeThatItNamesOnly() throws {
        var configuration = try Self.configuration(nil)
        let added = try NodeConfiguration.parse(
            """
            identity: /i
            listeners: [{name: a, bind: "[::]:1", protocol: hbone}]
            endpoints:
            - {match: "own.prod:5433", address: "127.0.0.1:5434", hbone: "10.0.0.7:15008", identity: "\(Self.own)"}
            - match: "other.prod:5435"
              address: "127.0.0.1:5436"
              hbone: "10.0.0.8:15008"
              identity: "spiffe://mesh.example/ns/prod/sa/other"
            - {match: "some.prod:5438", hbone: "10.0.0.9:15008"}
            - {match: "web.lan:5437", direct: true}
            - {match: "dev7", hbone: "10.0.0.10:15008", identity: "spiffe://mesh.example/ns/prod/sa/dev7"}
            """,
            file: "f"
        ).endpoints
        for var endpoint in added {
            endpoint.source = "directory"
            configuration.endpoints.append(endpoint)
        }
        let engine = PolicyEngine(configuration.rules(), own: try SPIFFEID(Self.own))
        func allows(_ to: String) throws -> Bool {
            engine.decide(try Self.request("mesh.example/ns/prod/sa/web", to)).isAllowed
        }
        for port: UInt16 in [5433, 5434, 5432, 6000, 7000] {
            #expect(engine.names(port: port), "\(port)")
            let isAllowed = try allows("localhost:\(port)")
            #expect(isAllowed, "\(port)")
        }
        for port: UInt16 in [5435, 5436, 5437, 5438] {
            #expect(!engine.names(port: port), "\(port)")
            let isAllowed = try allows("localhost:\(port)")
            #expect(!isAllowed, "\(port)")
        }
        let throughHere = try allows("dev7:22")
        #expect(!throughHere)
    }

    @Test func aNameDoesNotLeadAroundADeniedAddress() throws {
        let engine = try Self.engine(
            """
            - {name: no-metadata, action: DENY, rules: [{to: [{hosts: ["100.100.0.0/16"], ports: [80]}]}]}
            - {name: all, action: ALLOW, rules: [{}]}
            """
        )
        let request = try Self.request("mesh.example/ns/ops/sa/ann", "innocent.example:80")
        #expect(engine.decide(request).isAllowed)
        let denial = engine.denial(of: request, dialing: try Authority(parsing: "100.100.1.1:80"))
        #expect(denial?.isAllowed == false)
        #expect(denial?.reason == "denied by policy 'no-metadata', rule 1 (DENY)")
        #expect(engine.denial(of: request, dialing: try Authority(parsing: "100.101.1.1:80")) == nil)
    }

    @Test func expectedPeers() throws {
        let own = try SPIFFEID(Self.own)
        func expectation(_ identity: String, _ own: SPIFFEID) throws -> PeerExpectation {
            try NodeConfiguration.parse(
                """
                identity: /i
                listeners: [{name: a, bind: "[::]:1", protocol: hbone}]
                endpoints: [{match: a, hbone: "a:1"\(identity)}]
                """,
                file: "f"
            ).endpoints[0].peer.expectation(own: own)
        }
        #expect(try expectation("", own) == .namespace("prod", in: own.trustDomain))
        #expect(try expectation("", SPIFFEID("spiffe://mesh.example/a")) == .identities([]), "no namespace: nobody")
        let two = ", identity: [spiffe://o.example/ns/a/sa/b, spiffe://o.example/ns/a/sa/c]"
        #expect(
            try expectation(two, own)
                == .identities([SPIFFEID("spiffe://o.example/ns/a/sa/b"), SPIFFEID("spiffe://o.example/ns/a/sa/c")])
        )
    }
}

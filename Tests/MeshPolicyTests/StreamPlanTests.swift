import MeshIdentity
import Platform
import Streams
import Testing

@testable import MeshPolicy

/// Requests × rules → plans: the one function that every front, `explain` and the check of a configuration ask.
@Suite struct StreamPlanTests {
    static func peer(_ name: String, _ transports: [Transport]) throws -> Peer {
        Peer(
            id: PeerID(name),
            candidates: transports.map { PathCandidate(PathID($0), place: "to \(name)") },
            servers: [try Authority(parsing: "10.0.0.8:15008")],
            identities: [try SPIFFEID("spiffe://mesh.example/ns/prod/sa/\(name)")]
        )
    }

    static func endpoint(_ match: String, _ way: Endpoint.Way, address: String? = nil) throws -> Endpoint {
        Endpoint(
            match: try EndpointMatch(parsing: match),
            address: try address.map { try Authority(parsing: $0) },
            way: way
        )
    }

    /// db by all three ways, cam by ssh alone, legacy without HBONE, and a listener of the node itself.
    static func planner(
        _ policies: [AuthorizationPolicy] = [],
        unmatched: MeshRules.Unmatched = .deny
    ) throws -> StreamPlanner {
        let rules = MeshRules(
            source: "rules",
            policies: policies,
            endpoints: [
                try endpoint("db.prod:5432", .peer(try peer("db", [.h2, .h2OverSSH, .ssh])), address: "10.0.0.8:5432"),
                try endpoint("cam.prod:80", .peer(try peer("cam", [.ssh]))),
                try endpoint("legacy.lan:80", .direct(tls: nil)),
                try endpoint("loop.lan:1", .direct(tls: nil), address: "127.0.0.1:15008"),
            ],
            unmatched: unmatched,
            sockets: [.init(what: "listener 'hbone'", address: .loopbackIPv4, port: 15008)]
        )
        return StreamPlanner(
            rules,
            own: try SPIFFEID("spiffe://mesh.example/ns/prod/sa/here"),
            ownAddresses: [try #require(IPAddress("10.0.0.7"))]
        )
    }

    static func request(
        _ from: String,
        _ to: String,
        at sourceIP: IPAddress = .loopbackIPv4,
        through forwarded: String? = nil
    ) throws -> StreamRequest {
        let source: StreamRequest.Source =
            switch from {
            case "local": .localUser
            case "anyone": .unauthenticated
            default: .peer(try SPIFFEID("spiffe://mesh.example/ns/\(from)/sa/web"))
            }
        return StreamRequest(
            source: source,
            sourceIP: sourceIP,
            transport: source == .localUser ? nil : .h2,
            destination: try Authority(parsing: to),
            hops: HopTrail(parsing: forwarded),
            now: 1_800_000_000
        )
    }

    /// The plan in one line.
    static func text(_ plan: StreamPlan) -> String {
        switch plan.outcome {
        case .refused(.policy(let decision)): "policy: \(decision.rule?.policy.name ?? "default")"
        case .refused(.route(let error)): "route: \(error.message)"
        case .dial(let target, _): "dial \(target)"
        case .listen(let place): "listen \(place)"
        case .peer(let route, let candidates):
            "\(route.peer.id) \(route.authority) \(candidates.map(\.id.description).joined(separator: ","))"
        }
    }

    /// Names its policy after what it does.
    static func rule(
        _ action: AuthorizationPolicy.Action,
        _ rule: AuthorizationPolicy.Rule = .init()
    ) -> AuthorizationPolicy {
        AuthorizationPolicy(name: action.rawValue, action: action, rules: [rule])
    }

    static func ports(_ ports: [UInt16]) -> AuthorizationPolicy.Operation {
        AuthorizationPolicy.Operation(ports: ports.map { $0...$0 })
    }

    static func only(_ transports: Set<Transport>) -> AuthorizationPolicy.Rule {
        AuthorizationPolicy.Rule(when: [.transport(transports)])
    }

    @Test(
        arguments: [
            // No policy: the default.
            ([], "local", "db.prod:5432", "db 10.0.0.8:5432 h2,h2-over-ssh,ssh"),
            ([], "prod", "db.prod:5432", "db 10.0.0.8:5432 h2,h2-over-ssh,ssh"),
            ([], "ops", "db.prod:5432", "policy: default"),
            ([], "anyone", "db.prod:5432", "policy: default"),
            ([], "prod", "cam.prod:80", "cam cam.prod:80 ssh"),
            ([], "local", "legacy.lan:80", "dial legacy.lan:80"),
            ([], "prod", "legacy.lan:80", "dial legacy.lan:80"),
            ([], "prod", "10.0.0.7:80", "dial 127.0.0.1:80"),
            // Who may is asked before where it is: who may not learns nothing of routes, not even in the log.
            ([], "prod", "nowhere.lan:9", "policy: default"),
            ([], "ops", "127.0.0.1:15008", "policy: default"),
            ([rule(.allow)], "ops", "nowhere.lan:9", "route: no endpoint matches nowhere.lan:9"),
            ([], "local", "nowhere.lan:9", "route: no endpoint matches nowhere.lan:9"),
            ([rule(.deny)], "local", "nowhere.lan:9", "policy: DENY"),
            // What is never a destination, and loops.
            ([rule(.allow)], "ops", "169.254.169.254:80", "route: 169.254.169.254 is link-local"),
            ([], "local", "169.254.169.254:80", "route: 169.254.169.254 is link-local"),
            ([], "local", "loop.lan:1", "route: 127.0.0.1:15008 is this node's own listener 'hbone'"),
            ([], "prod", "loop.lan:1", "route: 127.0.0.1:15008 is this node's own listener 'hbone'"),
            // DENY and ALLOW.
            ([rule(.deny)], "local", "db.prod:5432", "policy: DENY"),
            ([rule(.deny)], "local", "legacy.lan:80", "policy: DENY"),
            ([rule(.deny)], "prod", "db.prod:5432", "policy: DENY"),
            ([rule(.allow)], "ops", "db.prod:5432", "db 10.0.0.8:5432 h2,h2-over-ssh,ssh"),
            // Transports: for a local user each way is decided for itself ...
            ([rule(.allow, only([.h2]))], "local", "db.prod:5432", "db 10.0.0.8:5432 h2"),
            ([rule(.allow, only([.h2, .h2OverSSH]))], "local", "db.prod:5432", "db 10.0.0.8:5432 h2,h2-over-ssh"),
            ([rule(.deny, only([.h2]))], "local", "db.prod:5432", "db 10.0.0.8:5432 h2-over-ssh,ssh"),
            ([rule(.allow, only([.h2]))], "local", "cam.prod:80", "policy: ALLOW"),
            // ... and for a peer what it came over, and each way on from here.
            ([rule(.allow, only([.h2]))], "ops", "db.prod:5432", "db 10.0.0.8:5432 h2"),
            ([rule(.allow, only([.ssh]))], "ops", "db.prod:5432", "policy: ALLOW"),
            ([rule(.deny, only([.h2]))], "prod", "db.prod:5432", "policy: DENY"),
            ([rule(.allow, only([.h2]))], "ops", "cam.prod:80", "policy: ALLOW"),
            // Dialled from here: a local user's stream counts as one of the best kind.
            ([rule(.allow, only([.h2]))], "local", "legacy.lan:80", "dial legacy.lan:80"),
            ([rule(.deny, only([.h2]))], "local", "legacy.lan:80", "policy: DENY"),
            // What only logs decides nothing.
            ([rule(.audit)], "ops", "db.prod:5432", "policy: default"),
        ] as [([AuthorizationPolicy], String, String, String)]
    )
    func plans(_ policies: [AuthorizationPolicy], _ from: String, _ to: String, _ expected: String) throws {
        let plan = try Self.planner(policies).plan(Self.request(from, to))
        #expect(Self.text(plan).hasPrefix(expected), "\(Self.text(plan))")
        #expect(plan.isAllowed == !(expected.hasPrefix("policy") || expected.hasPrefix("route")))
    }

    /// Whoever comes in by a proxy on the network has the node's identity, and not its machine: what listens there for
    /// the machine's own programs is not for him.
    @Test(
        arguments: [
            // Nor may a program of this machine be led there by who it talks to.
            ("127.0.0.1", "127.0.0.1:22", "route: 127.0.0.1:22 is loopback"),
            ("10.0.0.7", "localhost:22", "route: localhost:22 is loopback"),
            ("10.0.0.7", "10.0.0.7:22", "dial 10.0.0.7:22"),
            ("192.168.1.9", "127.0.0.1:22", "route: 127.0.0.1 is this node itself"),
            ("192.168.1.9", "[::1]:22", "route: ::1 is this node itself"),
            ("192.168.1.9", "10.0.0.7:22", "route: 10.0.0.7 is this node itself"),
            ("192.168.1.9", "localhost:22", "route: localhost is this node itself"),
            // Named, by an endpoint.
            ("192.168.1.9", "10.0.0.7:80", "dial 10.0.0.7:80"),
            ("192.168.1.9", "web.example:22", "dial web.example:22"),
            ("192.168.1.9", "db.prod:5432", "db 10.0.0.8:5432 h2,h2-over-ssh,ssh"),
        ] as [(String, String, String)]
    ) func aUserOfAnotherMachineIsNoneOfThisOne(_ from: String, _ to: String, _ expected: String) throws {
        let planner = try Self.planner(unmatched: .direct)
        let request = try Self.request("local", to, at: try #require(IPAddress(from)))
        let plan = planner.plan(request)
        #expect(Self.text(plan).hasPrefix(expected), "\(Self.text(plan))")
        // Whatever the name resolves to, and for as long as the stream is open.
        let isRemote = from == "192.168.1.9"
        for address in try ["127.0.0.1", "::1", "10.0.0.7"].map({ try #require(IPAddress($0)) }) {
            let isRefused = isRemote || address.isLoopback
            #expect((planner.refusal(dialing: address, port: 22, for: request) != nil) == isRefused)
            #expect((planner.refusal(dialing: address, port: 80, for: request) == nil) == (isRemote || !isRefused))
        }
        let named = try Self.request("local", "web.example:22", at: request.sourceIP)
        let dialled = (address: try #require(IPAddress("10.0.0.7")), port: UInt16(22))
        #expect((planner.refusal(of: named, over: nil, dialled: dialled) != nil) == isRemote)
    }

    @Test func aRefusalNamesTheRuleThatDecided() throws {
        let policies = [
            Self.rule(.allow),
            AuthorizationPolicy(
                name: "shut",
                action: .deny,
                rules: [.init(to: [Self.ports([1])]), .init(to: [Self.ports([5432])])]
            ),
        ]
        let plan = try Self.planner(policies).plan(Self.request("ops", "db.prod:5432"))
        guard case .refused(let refusal) = plan.outcome, case .policy(let decision) = refusal else {
            Issue.record("\(plan)")
            return
        }
        #expect(decision.rule?.policy.name == "shut" && decision.rule?.index == 1)
        #expect(refusal.error.code == .denied && refusal.error.message == "denied by policy 'shut', rule 2 (DENY)")
    }

    /// The way that is in use when the stream is opened may be none of those that policy permits.
    @Test func eachWayThatIsNotPermittedHasItsReason() throws {
        let plan = try Self.planner([Self.rule(.allow, Self.only([.h2]))]).plan(Self.request("local", "db.prod:5432"))
        #expect(plan.refusal(over: PathID(.h2)) == nil)
        #expect(
            plan.refusal(over: PathID(.ssh))?.message
                == "denied: policy 'ALLOW', rule 1 (ALLOW) allows it over h2 only, not over ssh"
        )
        #expect(plan.refusal(over: PathID(.h2, "another address")) != nil, "a way that nobody decided about")
    }

    /// AUDIT and `dryRun` policies log each match, whoever asks and whatever comes of it.
    @Test(arguments: ["local", "prod", "ops"]) func auditSeesEveryRequest(_ from: String) throws {
        let planner = try Self.planner([Self.rule(.audit)])
        #expect(try planner.plan(Self.request(from, "db.prod:5432")).decision.notes.count == 1)
        #expect(try planner.plan(Self.request(from, "legacy.lan:80")).decision.notes.count == 1)
    }

    /// A name must not lead around what holds for the address that it stands for: neither a peer's nor a local user's.
    @Test(arguments: ["local", "prod"]) func whatANameResolvesToIsAskedAgain(_ from: String) throws {
        let block = HostPattern.block(try CIDR(parsing: "192.0.2.0/24"))
        let planner = try Self.planner([Self.rule(.deny, .init(to: [.init(hosts: [block])]))])
        let plan = try planner.plan(Self.request(from, "legacy.lan:80"))
        #expect(plan.isAllowed)
        func refusal(_ address: String) throws -> String? {
            planner.refusal(dialing: try #require(IPAddress(address)), port: 80, for: plan.request)?.message
        }
        #expect(try refusal("192.0.2.1") == "denied by policy 'DENY', rule 1 (DENY)")
        #expect(try refusal("192.0.3.1") == nil)
        #expect(try refusal("169.254.169.254")?.contains("link-local") == true)
    }

    /// A stream that lives is decided again by what it came over, and by the way that it took.
    @Test func liveStreamsAreDecidedAgain() throws {
        func refused(_ policies: [AuthorizationPolicy], _ from: String, over path: PathID?) throws -> Bool {
            let request = try Self.request(from, path == nil ? "legacy.lan:80" : "db.prod:5432")
            return try Self.planner(policies).refusal(of: request, over: path) != nil
        }
        for from in ["local", "prod"] {
            #expect(try !refused([], from, over: PathID(.ssh)))
            #expect(try refused([Self.rule(.deny, Self.only([.ssh]))], from, over: PathID(.ssh)))
            #expect(try !refused([Self.rule(.deny, Self.only([.ssh]))], from, over: PathID(.h2)))
            #expect(try !refused([Self.rule(.deny, Self.only([.ssh]))], from, over: nil))
            #expect(try refused([Self.rule(.deny)], from, over: nil))
        }
        #expect(try refused([Self.rule(.deny, Self.only([.h2]))], "prod", over: PathID(.ssh)), "it came over h2")
        #expect(try !refused([Self.rule(.deny, Self.only([.h2]))], "local", over: PathID(.ssh)), "it did not")
    }

    /// What an endpoint's `address` leads to is dialled like what a name stands for, and so it is judged.
    @Test(arguments: ["local", "prod"]) func theAddressOfAnEndpointIsAskedToo(_ from: String) throws {
        let deny = Self.rule(.deny, .init(to: [.init(hosts: [.block(try CIDR(parsing: "192.0.2.0/24"))])]))
        let rules = MeshRules(
            policies: [deny],
            endpoints: [try Self.endpoint("web.lan:80", .direct(tls: nil), address: "192.0.2.1:8080")]
        )
        let planner = StreamPlanner(rules, own: try SPIFFEID("spiffe://mesh.example/ns/prod/sa/here"), ownAddresses: [])
        let request = try Self.request(from, "web.lan:80")
        let address = try #require(IPAddress("192.0.2.1"))
        #expect(planner.plan(request).isAllowed)
        #expect(planner.refusal(dialing: address, port: 8080, for: request)?.code == .denied)
    }

    /// What was dialled for a stream stays with it: a rule about addresses that is new holds for it as well.
    @Test(arguments: ["local", "prod"]) func openStreamsAreDecidedAgainByTheirAddress(_ from: String) throws {
        let deny = Self.rule(.deny, .init(to: [.init(hosts: [.block(try CIDR(parsing: "192.0.2.0/24"))])]))
        let request = try Self.request(from, "legacy.lan:80")
        for (address, isRefused) in [("192.0.2.1", true), ("192.0.3.1", false), ("64:ff9b::c000:201", true)] {
            let dialled = (address: try #require(IPAddress(address)), port: UInt16(80))
            #expect(try Self.planner().refusal(of: request, over: nil, dialled: dialled) == nil, "\(address)")
            let refusal = try Self.planner([deny]).refusal(of: request, over: nil, dialled: dialled)
            #expect((refusal != nil) == isRefused, "\(address)")
        }
    }

    /// Another spelling of an address is no way around what a policy says of it, wherever the address stands.
    @Test(
        arguments: [
            "64:ff9b::10.1.2.3", "64:ff9b:1:a01:2:300::", "2002:a01:203::1", "::10.1.2.3", "::ffff:0:10.1.2.3",
            "2001:0:a01:203::1", "2001:0:101:101::f5fe:fdfc", "2a00::5efe:10.1.2.3", "::ffff:10.1.2.3",
        ]
    ) func anAddressIsJudgedByWhatIsInIt(_ spelling: String) throws {
        let ten = HostPattern.block(try CIDR(parsing: "10.0.0.0/8"))
        let cidr = try CIDR(parsing: "10.0.0.0/8")
        let address = try #require(IPAddress(spelling))
        let planner = { (policy: AuthorizationPolicy) in try Self.planner([policy], unmatched: .direct) }
        let asked = try Self.request("prod", "[\(spelling)]:5432")
        // As a destination, and as what a name resolves to.
        let deny = Self.rule(.deny, .init(to: [.init(hosts: [ten])]))
        #expect(try Self.text(planner(deny).plan(asked)) == "policy: DENY")
        let named = try Self.request("prod", "legacy.lan:80")
        #expect(try planner(deny).refusal(dialing: address, port: 80, for: named)?.code == .denied)
        // As a source.
        let from = try Self.request("prod", "legacy.lan:80", at: address)
        let denySource = Self.rule(.deny, .init(from: [.init(sourceIPs: [cidr])]))
        #expect(try Self.text(planner(denySource).plan(from)) == "policy: DENY")
        // What an ALLOW rule excludes.
        let allow = Self.rule(.allow, .init(to: [.init(notHosts: [ten], ports: [5432...5432])]))
        #expect(try Self.text(planner(allow).plan(Self.request("ops", "[\(spelling)]:5432"))) == "policy: default")
        let allowSource = Self.rule(.allow, .init(from: [.init(notSourceIPs: [cidr])], to: [Self.ports([80])]))
        let ops = try Self.request("ops", "legacy.lan:80", at: address)
        #expect(try Self.text(planner(allowSource).plan(ops)) == "policy: default")
        // An exclusion of a DENY rule is for what is written there, and nothing else.
        let denyOthers = Self.rule(.deny, .init(to: [.init(notHosts: [ten])]))
        #expect(
            try Self.text(planner(denyOthers).plan(asked)) == (address.isIPv4 ? "dial 10.1.2.3:5432" : "policy: DENY")
        )
        // Of a rule that is tried out, as well.
        var dry = deny
        dry.dryRun = true
        #expect(try planner(dry).plan(asked).decision.notes.count == 1)
    }

    /// Addresses that are never a destination, in the spellings of translators and tunnels.
    @Test(
        arguments: [
            "64:ff9b::169.254.169.254", "64:ff9b:1::169.254.169.254", "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1:0:a9:fea9:fe00:0", "2002:a9fe:a9fe::", "::169.254.169.254",
            "2001:0:a9fe:a9fe::", "2001:0:101:101::5601:5601", "2a00::200:5efe:169.254.169.254",
            "::ffff:0:169.254.169.254", "64:ff9b::127.0.0.1", "2002:7f00:1::", "64:ff9b::0.0.0.0", "::224.0.0.1",
        ]
    ) func whatIsNeverADestinationHasNoOtherSpelling(_ spelling: String) throws {
        let address = try #require(IPAddress(spelling))
        let planner = try Self.planner([Self.rule(.allow, .init(to: [Self.ports([80])]))], unmatched: .direct)
        for from in ["local", "ops"] {
            let plan = try planner.plan(Self.request(from, "[\(spelling)]:80"))
            #expect(Self.text(plan).contains("is another spelling of"), "\(Self.text(plan))")
            let named = try Self.request(from, "legacy.lan:80")
            #expect(planner.refusal(dialing: address, port: 80, for: named)?.code == .denied)
        }
    }

    /// A stream that goes round in a circle is refused where it goes on, and only there.
    @Test(
        arguments: [
            (nil, "db"), ("for=10.0.0.1;by=_mesh.example_ns_prod_sa_other", "db"),
            ("by=_mesh.example_ns_prod_sa_here", "loop"),
            ("for=x, FOR=\"[::1]:1\" ; By=\"_mesh.example_ns_prod_sa_here\" ,for=y", "loop"),
            // In quotes it is somebody's host.
            ("host=\"by=_mesh.example_ns_prod_sa_here\"", "db"),
            (Array(repeating: "for=a", count: 9).joined(separator: ","), "db"),
            (Array(repeating: "for=a", count: 10).joined(separator: ","), "loop"),
            (String(repeating: ",", count: 16000), "loop"),
        ] as [(String?, String)]
    ) func loopsAreFound(_ forwarded: String?, _ expected: String) throws {
        let request = try Self.request("prod", "db.prod:5432", through: forwarded)
        let plan = try Self.planner().plan(request)
        let error: StreamError? = if case .refused(let refusal) = plan.outcome { refusal.error } else { nil }
        #expect((error?.code == .loop) == (expected == "loop"), "\(plan)")
        #expect(error == nil || error?.code == .loop, "\(plan)")
        let here = try Self.request("prod", "legacy.lan:80", through: forwarded)
        #expect(try Self.planner().plan(here).isAllowed, "here it ends")
    }

    /// What goes on is written anew: an element that another node would read otherwise does not come through.
    @Test func theTrailIsContinued() throws {
        let own = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/a_b")
        let source = try #require(IPAddress("10.0.0.9"))
        let by = "by=_mesh.example_ns_prod_sa_a__b"
        func next(_ field: String?, _ source: IPAddress = source) -> String {
            HopTrail(parsing: field).field(from: source, through: own)
        }
        #expect(next(nil) == "for=10.0.0.9;\(by)")
        #expect(next(nil, .loopbackIPv6) == "for=\"[::1]\";\(by)")
        #expect(next("for=\"10.1.1.1:80\";host=web.lan") == "for=\"10.1.1.1:80\";host=web.lan, for=10.0.0.9;\(by)")
        #expect(next("secret=1;for=a") == "for=a, for=10.0.0.9;\(by)")
        #expect(next("for=\"a") == "for=a, for=10.0.0.9;\(by)", "an open quote swallows nothing")
        #expect(next("for=\(String(repeating: "a", count: 257))") == "for=unknown, for=10.0.0.9;\(by)")
        #expect(HopTrail(parsing: next("x, y")).refusal(at: own) != nil)
        #expect(HopTrail(parsing: next("x, y")).elements.count == 3)
    }

    /// Several ways of one kind, as the design has them: each is a candidate of its own.
    @Test func severalWaysOfOneKind() throws {
        let ways = [PathID(.h2, "10.0.0.7:15008"), PathID(.h2, "10.0.0.8:15008"), PathID(.ssh)]
        let peer = Peer(id: PeerID("db"), candidates: ways.map { PathCandidate($0, place: "") })
        let rules = MeshRules(
            policies: [Self.rule(.allow, Self.only([.h2]))],
            endpoints: [try Self.endpoint("db", .peer(peer))]
        )
        let plan = StreamPlanner(rules, own: nil, ownAddresses: []).plan(try Self.request("local", "db:1"))
        #expect(plan.candidates.map(\.id) == Array(ways[..<2]))
        #expect(plan.candidates.map(\.id.description) == ["h2 10.0.0.7:15008", "h2 10.0.0.8:15008"])
    }
}

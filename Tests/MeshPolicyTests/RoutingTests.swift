import MeshIdentity
import MeshNode
import Platform
import Streams
import Testing

@testable import MeshPolicy

@Suite struct RouterTests {
    static func router(
        _ more: String = "",
        listeners: String = """
        - {name: hbone, bind: "0.0.0.0:15008", protocol: hbone}
        - {name: white, bind: "127.0.0.1:5432", protocol: tcp, forwardTo: "db.prod:5432"}
        """,
        endpoints: String = """
        - {match: "db.prod:5432", address: "10.0.0.8:5432", hbone: "10.0.0.8:15008"}
        - {match: "10.0.0.8", ssh: {destination: ops@eight}}
        - {match: "self.prod:8080", address: "10.0.0.7:8080", hbone: "10.0.0.7:15008"}
        - {match: "legacy.lan", direct: true}
        - {match: "*.lan:80", address: "10.0.0.9:80", direct: true}
        - {match: "moved.net:443", address: "127.0.0.1:9443", direct: true, tls: {serverName: moved.net}}
        - {match: "loop.net", address: "127.0.0.1:5432", direct: true}
        - {match: "local.net", address: "169.254.169.254:80", direct: true}
        - {match: "group.net", address: "224.0.0.1:80", direct: true}
        """
    ) throws -> Router {
        let text =
            "identity: /i\nlisteners:\n\(listeners)\n\(endpoints.isEmpty ? "" : "endpoints:\n\(endpoints)\n")\(more)\n"
        let configuration = try NodeConfiguration.parse(text, file: "f")
        return Router(
            configuration.rules(),
            policy: PolicyEngine(configuration.rules(), own: nil),
            ownAddresses: [try #require(IPAddress("10.0.0.7")), try #require(IPAddress("fd00::7"))]
        )
    }

    /// The route in one line: `mesh AUTHORITY`, `direct AUTHORITY`, or `refused: MESSAGE`.
    private func text(_ route: Route) -> String {
        switch route.action {
        case .mesh(let mesh):
            "mesh \(mesh.authority) \(mesh.peer.candidates.map(\.id.transport.rawValue).joined(separator: ","))"
        case .direct(let target, let tls): "direct \(target)" + (tls.map { " tls \($0.serverName ?? "-")" } ?? "")
        case .listen(let place): "listen \(place)"
        case .refused(let error): "refused: \(error.message)"
        }
    }

    static let both: [Router.Origin] = [.local, .peer]

    @Test(arguments: [
        // endpoints, first match wins
        (both, "db.prod:5432", "mesh 10.0.0.8:5432 h2"),
        (both, "DB.prod.:5432", "mesh 10.0.0.8:5432 h2"),
        (both, "10.0.0.8:22", "mesh 10.0.0.8:22 ssh"),
        (both, "legacy.lan:80", "direct legacy.lan:80"),
        (both, "other.lan:80", "direct 10.0.0.9:80"),
        (both, "moved.net:443", "direct 127.0.0.1:9443 tls moved.net"),
        // nothing matches
        (
            both, "db.prod:5433",
            "refused: no endpoint matches db.prod:5433, and 'default' is deny: add '- match: \"db.prod:5433\"'"
        ),
        ([.local], "127.0.0.1:8080", "refused: no endpoint matches 127.0.0.1:8080, and 'default' is deny"),
        // own addresses, for peers: ports that the configuration names
        ([.peer], "127.0.0.1:8080", "direct 127.0.0.1:8080"),
        ([.peer], "localhost:8080", "direct 127.0.0.1:8080"),
        ([.peer], "10.0.0.7:8080", "direct 127.0.0.1:8080"),
        ([.peer], "[fd00::7]:8080", "direct 127.0.0.1:8080"),
        ([.peer], "[::ffff:10.0.0.7]:8080", "direct 127.0.0.1:8080"),
        ([.peer], "127.9.9.9:8080", "direct 127.0.0.1:8080"),
        (
            [.peer], "[::1]:22",
            "refused: ::1 is this node itself, and nothing in its configuration names port 22: add an ALLOW policy"
        ),
        ([.peer], "10.0.0.7:22", "refused: 10.0.0.7 is this node itself"),
        // an endpoint that is this node
        (both, "self.prod:8080", "direct 127.0.0.1:8080"),
        // loops: own listeners, whatever leads there
        (
            [.peer], "127.0.0.1:15008",
            "refused: 127.0.0.1 is this node itself, and nothing in its configuration names port 15008"
        ),
        (
            [.peer], "127.0.0.1:5432",
            "refused: 127.0.0.1:5432 is this node's own listener 'white': that would be a loop"
        ),
        (both, "loop.net:1", "refused: 127.0.0.1:5432 is this node's own listener 'white': that would be a loop"),
        // never a destination
        (both, "169.254.169.254:80", "refused: 169.254.169.254 is link-local, which is a destination only where an"),
        (both, "[fe80::1]:80", "refused: fe80::1 is link-local"),
        (both, "[::ffff:169.254.169.254]:80", "refused: 169.254.169.254 is link-local"),
        (both, "0.0.0.0:8080", "refused: 0.0.0.0 is the unspecified address"),
        (both, "[::]:8080", "refused: :: is the unspecified address"),
        (both, "224.0.0.1:80", "refused: 224.0.0.1 is a group"),
        (both, "255.255.255.255:80", "refused: 255.255.255.255 is a group"),
        (both, "local.net:1", "direct 169.254.169.254:80"),
        (both, "group.net:1", "refused: endpoint 'group.net' (line 14): its address 224.0.0.1 is a group"),
    ])
    func routes(_ origins: [Router.Origin], _ destination: String, _ expected: String) throws {
        for origin in origins {
            let route = try Self.router().route(Authority(parsing: destination), from: origin)
            #expect(text(route).hasPrefix(expected), "\(origin): \(text(route))")
            #expect((route.refusal == nil) == !expected.hasPrefix("refused"))
            if let refusal = route.refusal { #expect(refusal.code == .denied) }
        }
    }

    @Test(arguments: [
        ([Router.Origin.local], "anything.net:22", "direct anything.net:22"),
        (
            [.peer], "anything.net:22",
            "refused: no endpoint matches anything.net:22, and for peers 'default: direct' holds only for ports"
        ),
        ([.peer], "anything.net:8443", "direct anything.net:8443"),
        ([.peer], "127.0.0.1:8443", "direct 127.0.0.1:8443"),
        ([.local], "127.0.0.1:22", "refused: 127.0.0.1:22 is loopback, which is dialled only where an endpoint"),
        ([.local], "10.0.0.7:22", "direct 10.0.0.7:22"),
        (both, "127.0.0.1:15008", "refused: 127.0.0.1:15008 is this node's own listener 'hbone'"),
        ([.local], "10.0.0.7:15008", "refused: 10.0.0.7:15008 is this node's own listener 'hbone'"),
        ([.local], "localhost:5432", "refused: localhost:5432 is this node's own listener 'white'"),
        ([.local], "10.0.0.7:5432", "direct 10.0.0.7:5432"),
        (both, "127.0.0.1:15000", "refused: 127.0.0.1:15000 is this node's own 'admin'"),
        (both, "169.254.169.254:8443", "refused: 169.254.169.254 is link-local"),
    ])
    func routesByDefaultDirect(_ origins: [Router.Origin], _ destination: String, _ expected: String) throws {
        let router = try Self.router(
            """
            default: direct
            admin: "127.0.0.1:15000"
            policy: [{name: p, action: ALLOW, rules: [{to: [{ports: [8443, 15008, 15000]}]}]}]
            """
        )
        for origin in origins {
            let route = try router.route(Authority(parsing: destination), from: origin)
            #expect(text(route).hasPrefix(expected), "\(origin): \(text(route))")
        }
    }

    @Test func aRuleForEverythingNamesNoPort() throws {
        let router = try Self.router(
            "policy: [{name: all, action: ALLOW, rules: [{}]}]",
            endpoints: "- {match: db.prod, direct: true}"
        )
        #expect(try router.route(Authority(parsing: "127.0.0.1:22"), from: .peer).refusal != nil)
        #expect(try router.route(Authority(parsing: "evil.example:22"), from: .peer).refusal != nil)
    }

    @Test func guardsWhatANameResolvesTo() throws {
        let router = try Self.router()
        func refusal(_ address: String, _ port: UInt16, _ origin: Router.Origin) throws -> String? {
            try router.refusal(dialing: #require(IPAddress(address)), port: port, from: origin)?.message
        }
        for origin in Self.both {
            #expect(try refusal("169.254.169.254", 80, origin)?.contains("link-local") == true)
            #expect(try refusal("::", 80, origin)?.contains("unspecified") == true)
            #expect(try refusal("127.0.0.1", 5432, origin)?.contains("listener 'white'") == true)
            #expect(try refusal("fd00::7", 8080, origin) == nil)
            #expect(try refusal("192.0.2.1", 15008, origin) == nil)
        }
        #expect(try refusal("10.0.0.7", 22, .peer)?.contains("names port 22") == true)
        #expect(try refusal("10.0.0.7", 22, .local) == nil)
    }

    @Test func guardsThePortThatAListenerReallyGot() throws {
        let configuration = try NodeConfiguration.parse(
            """
            identity: /i
            listeners: [{name: hbone, bind: "127.0.0.1:0", protocol: hbone}]
            default: direct
            policy: [{name: p, action: ALLOW, rules: [{to: [{ports: ["1-65535"]}]}]}]
            """,
            file: "f"
        )
        let bound = NodeConfiguration.BindAddress(address: .loopbackIPv4, port: 41234)
        let rules = configuration.rules(listenerAddresses: ["hbone": bound])
        let router = Router(rules, policy: PolicyEngine(rules, own: nil), ownAddresses: [])
        #expect(try router.route(Authority(parsing: "127.0.0.1:41234"), from: .peer).refusal != nil)
        #expect(try router.route(Authority(parsing: "127.0.0.1:41235"), from: .peer).refusal == nil)
    }

    @Test("an endpoint that is this node leads to none but own addresses")
    func ownAddress() throws {
        let router = try Self.router(
            endpoints: """
                - {match: "192.0.2.0/24", hbone: "10.0.0.7:15008"}
                - {match: "self.prod:8080", address: "10.0.0.7:8080", hbone: "10.0.0.7:15008"}
                """
        )
        for (destination, address) in [
            ("192.0.2.9:8080", nil), ("self.prod:8080", "10.0.0.7"), ("10.0.0.7:8080", "10.0.0.7"),
            ("localhost:8080", nil), ("127.9.9.9:8080", "127.9.9.9"),
        ] as [(String, String?)] {
            let route = try router.route(Authority(parsing: destination), from: .peer)
            #expect(text(route) == "direct 127.0.0.1:8080", "\(destination)")
            #expect(route.isThisMachine)
            #expect(route.ownAddress == address.flatMap { IPAddress($0) }, "\(destination)")
        }
    }

    @Test func theFirstEndpointWinsAcrossTableAndPatterns() throws {
        let router = try Self.router(
            endpoints: """
                - {match: "*.prod:1", address: "192.0.2.1:1", direct: true}
                - {match: "db.prod", address: "192.0.2.2:1", direct: true}
                - {match: "db.prod:1", address: "192.0.2.3:1", direct: true}
                - {match: "*", address: "192.0.2.4:1", direct: true}
                - {match: "10.0.0.0/8", address: "192.0.2.5:1", direct: true}
                """
        )
        for (destination, index) in [
            ("db.prod:1", 0), ("db.prod:2", 1), ("x.prod:1", 0), ("x.prod:2", 3), ("10.1.1.1:1", 3),
        ] {
            let route = try router.route(Authority(parsing: destination), from: .local)
            #expect(route.endpoint == index, "\(destination)")
            #expect(text(route) == "direct 192.0.2.\(index + 1):1")
        }
    }

    @Test func findsTheInterfacesOfThisMachine() {
        #expect(Set(InterfaceAddress.all().map(\.address)).contains(.loopbackIPv4))
    }
}

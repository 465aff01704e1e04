import MeshIdentity
import MeshNode
import Platform
import Streams
import Testing

@testable import MeshPolicy

/// Which addresses a direct connection may lead to, in every spelling.
@Suite struct AddressGuardTests {
    private static let endpoints = """
        - {match: "named.lan", address: "169.254.169.254:80", direct: true}
        - {match: "[fd00:ec2::254]:80", direct: true}
        - {match: "[64:ff9b::6464:64c8]:80", direct: true}
        - {match: "loop.lan", address: "127.0.0.1:8080", direct: true}
        - {match: "127.0.0.2", direct: true}
        - {match: "localhost:9090", direct: true}
        - {match: "self.lan", address: "localhost:9090", direct: true}
        - {match: "node.lan", address: "127.0.0.1:15008", direct: true}
        - {match: "many.lan", address: "224.0.0.1:80", direct: true}
        - {match: "exact.lan", direct: true}
        - {match: "*.wild.lan", direct: true}
        - {match: "169.254.0.0/16:443", direct: true}
        - {match: "127.0.0.0/8:443", direct: true}
        """

    private static func router(_ more: String = "default: direct") throws -> Router {
        try RouterTests.router(
            "\(more)\npolicy: [{name: p, action: ALLOW, rules: [{to: [{ports: [80, 8080]}]}]}]",
            listeners: """
                - {name: hbone, bind: "0.0.0.0:15008", protocol: hbone}
                - {name: here, bind: "127.0.0.1:15432", protocol: tcp, forwardTo: "127.0.0.1:5432"}
                """,
            endpoints: endpoints
        )
    }

    /// Those that nothing names, in the spellings that lead there.
    private static let refused: [String] = [
        "169.254.169.254", "169.254.0.1", "fe80::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "2002:a9fe:a9fe::1", "::a9fe:a9fe",

        "100.100.100.200", "::ffff:100.100.100.200", "2002:6464:64c8::", "::6464:64c8", "fd20:ce::254",
        "192.0.0.192", "168.63.129.16", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::1", "::7f00:1",
        "224.0.0.1", "ff02::1", "64:ff9b::e000:1", "255.255.255.255", "0.0.0.0", "::", "64:ff9b::",
    ]

    @Test(arguments: refused) func isRefusedToEverybody(_ text: String) throws {
        let router = try Self.router()
        let address = try #require(IPAddress(text))
        for origin in [Router.Origin.local, .peer, .remoteUser] {
            let route = router.route(Authority(address: address, port: 80), from: origin)
            #expect(route.refusal?.code == .denied, "\(origin): \(route)")
            // And where a name leads there that an endpoint has, or a pattern, or nothing.
            for name in ["exact.lan:80", "a.wild.lan:80", "else.net:80", "named.lan:80"] {
                let route = try router.route(Authority(parsing: name), from: origin)
                let isNamed = name == "named.lan:80" && address.description == "169.254.169.254"
                let refusal = router.refusal(dialing: address, port: 80, from: origin, by: route)
                #expect((refusal == nil) == isNamed, "\(origin), \(name): \(refusal as Any)")
            }
        }
    }

    @Test func loopbackIsForWhomItIsNamedFor() throws {
        let router = try Self.router()
        func isRefused(_ destination: String, _ origin: Router.Origin) throws -> Bool {
            try router.route(Authority(parsing: destination), from: origin).refusal != nil
        }
        for destination in ["127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "localhost:80", "127.0.0.1:443"] {
            #expect(try isRefused(destination, .local), "\(destination)")
        }
        for destination in ["127.0.0.2:22", "localhost:9090", "self.lan:1", "loop.lan:1", "127.0.0.1:5432"] {
            #expect(try !isRefused(destination, .local), "\(destination)")
        }
        func refusal(_ destination: String, _ address: String, _ origin: Router.Origin) throws -> String? {
            let route = try router.route(Authority(parsing: destination), from: origin)
            return router.refusal(
                dialing: try #require(IPAddress(address)),
                port: 80,
                from: origin,
                by: route
            )?.message
        }
        for name in ["exact.lan:80", "a.wild.lan:80", "else.net:80"] {
            #expect(try refusal(name, "127.0.0.1", .local)?.contains("is loopback") == true, "\(name)")
            #expect(try refusal(name, "::1", .local)?.contains("is loopback") == true, "\(name)")
            // Of a peer's, the port is named by policy, as for 127.0.0.1 itself.
            #expect(try refusal(name, "127.0.0.1", .peer) == nil)
        }
        #expect(try refusal("localhost:9090", "::1", .local) == nil)
        #expect(try refusal("self.lan:1", "127.0.0.1", .local) == nil)
    }

    @Test func whatIsNamedIsDialled() throws {
        let router = try Self.router()
        for destination in ["named.lan:1", "[fd00:ec2::254]:80", "[64:ff9b::6464:64c8]:80"] {
            let route = try router.route(Authority(parsing: destination), from: .local)
            guard case .direct(let target, _) = route.action, let address = target.address else {
                Issue.record("\(destination): \(route)")
                continue
            }
            #expect(router.refusal(dialing: address, port: 80, from: .local, by: route) == nil)
        }
        // A block names none of its addresses, and nothing makes a group or a loop of use.
        for destination in ["169.254.1.1:443", "many.lan:1", "node.lan:1", "127.0.0.1:15008", "[fd00:ec2::254]:81"] {
            #expect(try router.route(Authority(parsing: destination), from: .local).refusal != nil, "\(destination)")
        }
    }

    @Test(arguments: [
        ("10.1.2.3", true), ("172.31.0.1", true), ("172.32.0.1", false), ("192.168.1.1", true), ("100.64.0.1", true),
        ("8.8.8.8", false), ("fd12::1", true), ("fe80::1", true), ("2001:4860:4860::8888", false), ("::1", true),
        ("64:ff9b::808:808", false), ("64:ff9b::a01:203", true), ("2002:a01:203::1", true),
        ("::ffff:10.0.0.1", true), ("169.254.169.254", true), ("198.18.0.1", true),
    ]) func isInside(_ text: String, _ expected: Bool) throws {
        #expect(AddressGuard.isInternal(try #require(IPAddress(text))) == expected)
    }

    @Test func anAnswerThatMixesInsideAndOutsideIsRefusedWhole() throws {
        let router = try Self.router()
        func refusal(_ destination: String, _ answer: [String]) throws -> String? {
            let destination = try Authority(parsing: destination)
            let addresses = try answer.map { try #require(IPAddress($0)) }
            let route = router.route(destination, from: .local)
            return router.refusal(ofAnswer: addresses, for: destination.host, by: route)?.message
        }
        for name in ["a.wild.lan:80", "else.net:80"] {
            for inside in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "fd00::1", "64:ff9b::a00:1"] {
                for answer in [
                    ["8.8.8.8", inside], [inside, "2001:4860:4860::8888"], ["8.8.8.8", "8.8.4.4", inside],
                ] {
                    let message = try refusal(name, answer)
                    #expect(message?.contains("an address inside, at once") == true, "\(name) \(answer)")
                }
            }
            #expect(try refusal(name, ["8.8.8.8", "2001:4860:4860::8888"]) == nil)
            #expect(try refusal(name, ["10.0.0.1", "fd00::1"]) == nil)
        }
        #expect(try refusal("exact.lan:80", ["8.8.8.8", "10.0.0.1"]) == nil)
    }
}

import MeshIdentity
import MeshNode
import Platform
import Streams
import Testing

@testable import MeshPolicy

/// Who may have a node listen: nobody, but by an endpoint that says so and what policy lets through.
@Suite struct PeerListeningTests {
    private func planner(_ endpoints: String, policy: String = "") throws -> StreamPlanner {
        let text = """
            identity: /i
            listeners: [{name: hbone, bind: "0.0.0.0:15008", protocol: hbone}]
            default: direct
            endpoints:
            \(endpoints)
            \(policy)
            """
        let configuration = try NodeConfiguration.parse(text, file: "f")
        try configuration.validate(checkingFiles: false)
        return StreamPlanner(
            configuration.rules(),
            own: try SPIFFEID("spiffe://mesh.example/ns/prod/sa/device"),
            ownAddresses: []
        )
    }

    private func request(
        _ destination: String,
        from peer: String? = "ns/prod/sa/operator"
    ) throws -> StreamRequest {
        StreamRequest(
            source: try peer.map { .peer(try SPIFFEID("spiffe://mesh.example/\($0)")) } ?? .localUser,
            sourceIP: .loopbackIPv4,
            transport: peer == nil ? nil : .h2,
            destination: try Authority(parsing: destination),
            now: 0
        )
    }

    private func outcome(_ planner: StreamPlanner, _ request: StreamRequest) -> String {
        switch planner.plan(request).outcome {
        case .listen(let place): "listen \(place)"
        case .refused(let refusal): "refused: \(refusal)"
        case .dial(let target, _): "dial \(target)"
        case .peer: "peer"
        }
    }

    @Test("an endpoint opens one port for listening, to the namespace, and no port to streams")
    func anEndpoint() throws {
        let planner = try planner("- {match: \"listen.bootstrap:9000\", direct: true}")
        #expect(outcome(planner, try request("listen.bootstrap:9000")) == "listen 127.0.0.1:9000")
        #expect(planner.plan(try request("listen.bootstrap:9000")).routeDescription.hasPrefix("listen on port 9000"))
        let refused = [
            ("listen.bootstrap:9001", "ns/prod/sa/operator" as String?), ("listen.bootstrap:9000", "ns/other/sa/x"),
            // What listens there is not reached for that.
            ("127.0.0.1:9000", "ns/prod/sa/operator"), ("localhost:9000", "ns/prod/sa/operator"),
            ("10.0.0.9:9000", "ns/prod/sa/operator"),
            // It is no name of anything to a program of this machine.
            ("listen.bootstrap:9000", nil),
        ]
        for (destination, peer) in refused {
            let outcome = outcome(planner, try request(destination, from: peer))
            #expect(outcome.hasPrefix("refused"), "\(destination) for \(peer ?? "a user"): \(outcome)")
        }
    }

    @Test("what allows a port to streams, or everything, does not allow to listen on it")
    func nothingElse() throws {
        let policy = """
            policy:
            - {name: all, action: ALLOW, rules: [{}]}
            - {name: ports, action: ALLOW, rules: [{to: [{ports: [9000]}]}]}
            """
        for endpoint in [
            "- {match: \"*\", direct: true}", "- {match: \"*.bootstrap:9000\", direct: true}",
            "- {match: \"listen.bootstrap:9001\", direct: true}",
        ] {
            let outcome = outcome(try planner(endpoint, policy: policy), try request("listen.bootstrap:9000"))
            #expect(outcome.hasPrefix("refused: no endpoint lets peers have this node listen"), "\(outcome)")
        }
    }

    @Test("policy decides by the name: others may be let in, and some kept out")
    func policy() throws {
        let policy = """
            policy:
            - name: guests
              action: ALLOW
              rules: [{from: [{namespaces: [guests]}], to: [{hosts: ["listen.bootstrap"], ports: [9000]}]}]
            - name: never
              action: DENY
              rules: [{from: [{principals: ["mesh.example/ns/prod/sa/bad"]}], to: [{hosts: ["listen.bootstrap"]}]}]
            """
        let planner = try planner(
            "- {match: \"listen.bootstrap:*\", address: \"0.0.0.0:*\", direct: true}",
            policy: policy
        )
        #expect(outcome(planner, try request("listen.bootstrap:9000", from: "ns/guests/sa/x")) == "listen 0.0.0.0:9000")
        #expect(outcome(planner, try request("listen.bootstrap:9001", from: "ns/guests/sa/x")).hasPrefix("refused"))
        #expect(outcome(planner, try request("listen.bootstrap:9000", from: "ns/prod/sa/bad")).hasPrefix("refused"))
        // Its own.
        #expect(outcome(planner, try request("listen.bootstrap:15008")).contains("this node's own listener 'hbone'"))
    }

    @Test("addresses: loopback, unless the endpoint says more")
    func addresses() throws {
        let other = try #require(IPAddress("10.0.0.7"))
        let everywhere = try #require(IPAddress("0.0.0.0"))
        for (text, allowed, expected) in [
            ("localhost", IPAddress.loopbackIPv4, "127.0.0.1"), ("127.0.0.1", .loopbackIPv4, "127.0.0.1"),
            ("::1", .loopbackIPv4, "::1"), ("*", .loopbackIPv4, nil), ("0.0.0.0", .loopbackIPv4, nil),
            ("10.0.0.7", .loopbackIPv4, nil), ("10.0.0.7", other, "10.0.0.7"), ("10.0.0.8", other, nil),
            ("*", other, nil), ("localhost", other, "127.0.0.1"), ("*", everywhere, "0.0.0.0"),
            ("10.0.0.8", everywhere, "10.0.0.8"), ("localhost", everywhere, "127.0.0.1"),
        ] as [(String, IPAddress, String?)] {
            let interface = try #require(PeerListening.Interface(text))
            #expect(interface.address(within: allowed)?.description == expected, "\(text) within \(allowed)")
        }
        #expect(PeerListening.Interface("camera.lan") == nil)
    }

    @Test(
        "what such an endpoint cannot mean is said",
        arguments: [
            ("- {match: \"listen.bootstrap:9000\", hbone: \"10.0.0.7:15008\"}", "leads nowhere"),
            ("- {match: \"listen.bootstrap:9000\", address: \"camera.lan:9000\", direct: true}", "no name"),
            ("- {match: \"listen.bootstrap:9000\", address: \"0.0.0.0:9001\", direct: true}", "on the port of 'match'"),
        ]
    )
    func mistakes(endpoint: String, mention: String) throws {
        let error = #expect(throws: (any Error).self) { try planner(endpoint) }
        #expect("\(try #require(error))".contains(mention))
    }
}

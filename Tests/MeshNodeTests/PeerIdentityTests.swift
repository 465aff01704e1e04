import MeshPolicy
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// A peer is what its endpoint says, never where or how that is written.
@Suite(.timeLimit(.minutes(10))) struct PeerIdentityTests {
    private static let head = "identity: /i\nlisteners: [{name: a, bind: \"[::]:1\", protocol: hbone}]\n"
    private static let endpoint = """
        endpoints:
        - match: "db.prod:5432"
          hbone: "10.0.0.8:15008"
          identity: [spiffe://mesh.example/ns/a/sa/b, spiffe://mesh.example/ns/a/sa/c]
          ssh: {destination: "ops@eight", sessions: 2}

        """

    private static func id(_ yaml: String, _ index: Int = 0) throws -> PeerID {
        try NodeConfiguration.parse(yaml, file: "f").endpoints[index].peer.id
    }

    @Test(arguments: [
        ("a blank line and a comment at the top", "# moved\n\n" + head + endpoint, 0),
        ("a comment inside", head + endpoint.replacing("  hbone", with: "  # where\n  hbone"), 0),
        (
            "an endpoint before it",
            head + endpoint.replacing("endpoints:\n", with: "endpoints:\n- {match: x, direct: true}\n"), 1
        ),
        (
            "another indentation",
            head + """
                endpoints:
                    -   match: "db.prod:5432"
                        hbone: "10.0.0.8:15008"
                        identity:
                        - spiffe://mesh.example/ns/a/sa/b
                        - spiffe://mesh.example/ns/a/sa/c
                        ssh:
                            destination: ops@eight
                            sessions: 2
                """, 0
        ),
        (
            "another order of keys",
            head + """
                endpoints:
                - ssh: {sessions: 2, destination: "ops@eight"}
                  identity: [spiffe://mesh.example/ns/a/sa/c, spiffe://mesh.example/ns/a/sa/b]
                  match: "db.prod:5432"
                  hbone: "10.0.0.8:15008"
                """, 0
        ),
        (
            "what is only for streams",
            head + endpoint.replacing("  hbone", with: "  address: \"10.0.0.8:5\"\n  hbone"), 0
        ),
        ("policy", head + endpoint + "policy: [{name: p, action: DENY, rules: [{}]}]\n", 0),
    ])
    func staysTheSame(_ what: String, _ yaml: String, _ index: Int) throws {
        #expect(try Self.id(yaml, index) == Self.id(Self.head + Self.endpoint), "\(what)")
    }

    @Test(arguments: [
        ("db.prod:5432", "db.prod:5433"), ("10.0.0.8:15008", "10.0.0.9:15008"), ("sa/c", "sa/d"),
        ("sessions: 2", "sessions: 3"),
        ("ops@eight", "ops@nine"), ("sessions: 2", "identityFile: /k"), ("sessions: 2", "knownHosts: /k"),
        ("sessions: 2", "config: /k"), ("sessions: 2", "engine: openssh"), ("  hbone", "  path: h2\n  hbone"),
        ("  hbone", "  reverse: true\n  hbone"),
    ])
    func becomesAnother(_ text: String, _ other: String) throws {
        let yaml = Self.head + Self.endpoint
        #expect(yaml.contains(text))
        #expect(try Self.id(yaml) != Self.id(yaml.replacing(text, with: other)))
    }

    /// What gateways are asked for is of the connections through them.
    @Test func anAddressBehindGatewaysCounts() throws {
        func id(_ address: String, by way: String) throws -> PeerID {
            try Self.id(
                Self.head + """
                    endpoints:
                    - match: "echo.mesh:7"
                      \(way): ["10.0.0.9:15008"]
                      identity: "spiffe://mesh.example/ns/a/sa/b"
                      address: "\(address)"
                      \(way == "via" ? "viaIdentity: \"spiffe://mesh.example/ns/a/sa/g\"" : "path: h2")
                    """
            )
        }
        let same = try id("10.0.0.8:5", by: "via") == id("10.0.0.8:5", by: "via")
        let other = try id("10.0.0.8:5", by: "via") == id("10.0.0.8:6", by: "via")
        let direct = try id("10.0.0.8:5", by: "hbone") == id("10.0.0.8:6", by: "hbone")
        #expect(same && !other && direct)
    }

    /// The net under ``NodeConfiguration/Endpoint/peer``: a field that is added must be thought of there.
    @Test func everyFieldIsKnown() throws {
        let endpoint = try NodeConfiguration.parse(Self.head + Self.endpoint, file: "f").endpoints[0]
        #expect(
            Mirror(reflecting: endpoint).children.compactMap(\.label) == [
                "match", "address", "hbone", "identities", "tunnel", "proxy", "token", "via", "viaIdentities",
                "reverse",
                "direct", "tls", "announces", "ssh", "path", "letsFiltersSee", "resumable", "position", "keepsPort",
                "source",
            ]
        )
        let access = try #require(endpoint.ssh)
        #expect(
            Mirror(reflecting: access).children.compactMap(\.label) == [
                "destination", "identityFile", "knownHosts", "config", "sessions", "engine",
            ]
        )
    }

    /// Real streams through a node whose file is edited around its endpoint.
    @Test func editsThatDoNotConcernAPeerCutNoneOfItsStreams() async throws {
        let backend = try EchoServer()
        let pair = try await NodePair(to: backend.port)
        let conversation = try await TCPConversation(port: pair.entry)
        #expect(try await conversation.echo([1]) == [1])
        let yaml = try pair.directory.read("client.yaml")
        let edits = [
            "# a comment\n\n" + yaml,
            yaml.replacing("endpoints:\n", with: "endpoints:\n- {match: other.lan, hbone: \"127.0.0.1:1\"}\n"),
            yaml.replacing("  hbone:", with: "  # where it listens\n  hbone:"),
            yaml,
        ]
        for (index, edit) in edits.enumerated() {
            try pair.directory.write("client.yaml", edit)
            try await pair.client.reload()
            #expect(try await conversation.echo([UInt8(index), 7]) == [UInt8(index), 7], "edit \(index)")
        }
        let (_, ending) = try await conversation.end()
        #expect(ending == .endOfStream)
        // It is let go when its own element goes.
        let second = try await TCPConversation(port: pair.entry)
        #expect(try await second.echo([1]) == [1])
        try pair.directory.write("client.yaml", yaml.replacing("path: auto", with: "path: h2"))
        try await pair.client.reload()
        let (_, cut) = try await second.end(finishing: false)
        #expect(cut != .endOfStream, "what was made for another peer does not live on")
        await pair.stop()
    }
}

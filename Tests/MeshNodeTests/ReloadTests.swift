import Logging
import MeshNode
import Streams
import TestPeers
import Testing

/// A reload cuts what it concerns, and nobody else: many streams through an entry, a hop and an exit, whose files are
/// edited under them.
@Suite(.timeLimit(.minutes(10))) struct ReloadTests {
    private static let streams = 200

    /// A way of writing one file, which says the same of the streams.
    struct Edit: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let apply: @Sendable (String) -> String

        init(_ name: String, _ apply: @escaping @Sendable (String) -> String) {
            testDescription = name
            self.apply = apply
        }

        init(_ name: String, replacing text: String, with other: String) {
            self.init(name) { $0.replacing(text, with: other) }
        }
    }

    private static let other = """
        - match: "other.lan:1"
          hbone: "127.0.0.1:1"
          identity: "spiffe://mesh.example/ns/prod/sa/other"

        """
    private static let spare = "- {name: spare, action: AUDIT, rules: [{to: [{ports: [8]}]}]}\n"
    private static let rules = "- {name: unrelated, action: DENY, rules: [{to: [{ports: [9]}]}]}\n" + spare

    static let edits: [Edit] = [
        Edit("a comment at the top") { "# moved\n" + $0 },
        Edit("blank lines at the top") { "\n\n\n" + $0 },
        Edit("a comment inside of the endpoint", replacing: "  identity:", with: "  # who it is\n  identity:"),
        Edit("another indentation") { yaml in
            yaml.split(separator: "\n", omittingEmptySubsequences: false)
                .map { $0.hasPrefix("- ") || $0.hasPrefix("  ") ? "    \($0)" : "\($0)" }.joined(separator: "\n")
        },
        Edit(
            "an endpoint before the others",
            replacing: "endpoints:\n",
            with: "endpoints:\n- {match: new.lan, hbone: \"127.0.0.1:2\"}\n"
        ),
        Edit("the others in another order") { yaml in
            let rest = yaml.replacing(other, with: "")
            return rest.replacing("policy:\n", with: other + "policy:\n")
        },
        Edit("values in other quotes") { $0.replacing("\"target.lan:7\"", with: "'target.lan:7'") },
        Edit("values without quotes", replacing: "\"127.0.0.1:1\"", with: "127.0.0.1:1"),
        Edit("another rule", replacing: "policy:\n", with: "policy:\n- {name: new, action: AUDIT, rules: [{}]}\n"),
        Edit("a rule less", replacing: spare, with: ""),
        Edit("a rule that concerns others", replacing: "ports: [9]", with: "ports: [9, \"10-20\"]"),
        Edit("an endpoint less", replacing: other, with: ""),
        Edit("another address of another endpoint", replacing: "\"127.0.0.1:1\"", with: "\"127.0.0.1:3\""),
        Edit("a setting of connections") { $0 + "connections: {keepAlive: 11s, perPeer: 8}\n" },
        Edit("carriage returns") { $0.replacing("\n", with: "\r\n") },
    ]

    /// Entry, hop and exit, with a file each.
    private final class Chain: Sendable {
        let directory = TemporaryDirectory()
        let nodes: [(name: String, yaml: String, node: Node)]
        let entry: UInt16

        init(to backend: UInt16) async throws {
            let certificates = TestCertificates.shared
            func yaml(_ kind: TestCertificates.Kind, _ listener: String, _ way: String) -> String {
                """
                identity: \(certificates.path(kind))
                listeners:
                \(listener)
                endpoints:
                \(ReloadTests.other)- match: "target.lan:7"
                  \(way)
                policy:
                \(ReloadTests.rules)
                """
            }
            let (hop, exit) = (FreePort.next(), FreePort.next())
            func hbone(_ port: UInt16) -> String { "- {name: in, bind: \"127.0.0.1:\(port)\", protocol: hbone}" }
            func way(_ port: UInt16, _ name: String) -> String {
                "hbone: \"127.0.0.1:\(port)\"\n  identity: \"spiffe://mesh.example/ns/prod/sa/\(name)\""
            }
            let local = "- {name: in, bind: \"127.0.0.1:0\", protocol: tcp, forwardTo: \"target.lan:7\"}"
            var nodes: [(String, String, Node)] = []
            var entry: UInt16 = 0
            for (name, text) in [
                ("exit", yaml(.server, hbone(exit), "direct: true\n  address: \"127.0.0.1:\(backend)\"")),
                ("hop", yaml(.client, hbone(hop), way(exit, "server"))),
                ("entry", yaml(.server, local, way(hop, "client"))),
            ] {
                let file = try directory.write("\(name).yaml", text)
                let node = Node(
                    try NodeConfiguration.load(file),
                    configurationFile: file,
                    loops: 1,
                    logger: Logger(label: name)
                )
                entry = try #require(try await node.start().first).address.port
                nodes.append((name, text, node))
            }
            (self.nodes, self.entry) = (nodes, entry)
        }

        func write(_ edit: (String) -> String) async throws {
            for (name, yaml, node) in nodes {
                try directory.write("\(name).yaml", edit(yaml))
                try await node.reload()
            }
        }

        func stop() async {
            for node in nodes.map(\.node).reversed() { await node.drain(deadline: .zero) }
        }
    }

    @Test func editsThatDoNotConcernAStreamDoNotCutIt() async throws {
        let backend = try EchoServer()
        let chain = try await Chain(to: backend.port)
        var conversations: [TCPConversation] = []
        for _ in 0..<Self.streams { conversations.append(try await TCPConversation(port: chain.entry)) }
        for conversation in conversations { #expect(try await conversation.echo([0]) == [0]) }
        for (index, edit) in Self.edits.enumerated() {
            for (name, yaml, _) in chain.nodes {
                let isSame = edit.apply(yaml) == yaml
                #expect(!isSame || name == "exit", "\(edit.testDescription) changes nothing in \(name)")
            }
            try await chain.write(edit.apply)
            var cut = 0
            for conversation in conversations {
                let sent = [UInt8(index), 7]
                if (try? await conversation.echo(sent)) != sent { cut += 1 }
            }
            #expect(cut == 0, "\(edit.testDescription)")
            guard cut == 0 else { break }
        }
        #expect(backend.accepted == Self.streams)
        // They are cut when their own endpoint says something else.
        try await chain.write { $0.replacing("ns/prod/sa/client", with: "ns/prod/sa/nobody") }
        for conversation in conversations {
            #expect(try await conversation.end(finishing: false).1 != .endOfStream)
        }
        await chain.stop()
    }

    /// To whom has asked, and not by the clock once more; the next good file is taken all the same.
    @Test func aReloadThatFailsIsToldOnce() async throws {
        let (directory, log) = (TemporaryDirectory(), LogRecorder())
        let good = NodeFile.server(identity: TestCertificates.shared.path(.server), ports: [1])
        let file = try directory.write("node.yaml", good)
        let node = Node(try NodeConfiguration.load(file), configurationFile: file, loops: 1, logger: log.logger)
        _ = try await node.start()
        _ = try directory.write("node.yaml", "identity: [")
        await #expect(throws: (any Error).self) { try await node.reload() }
        await node.reloadIfChanged()
        let again = log.lines.filter { $0.contains("was not taken over") }
        #expect(again == [])
        _ = try directory.write("node.yaml", good + "\nconnections: {keepAlive: 11s}\n")
        await node.reloadIfChanged()
        #expect(log.lines.count { $0.contains("reloaded") } == 1, "\(log.lines)")
        await node.drain(deadline: .zero)
    }
}

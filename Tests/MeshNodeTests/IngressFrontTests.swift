import Foundation
import MeshNode
import TestPeers
import Testing

/// What a gateway decides while a client's connection stays.
@Suite(.timeLimit(.minutes(10))) struct IngressFrontTests {
    private static func policy(_ name: String) -> String {
        """
        policy:
        - name: world
          action: ALLOW
          rules:
          - to: [{hosts: ["\(name)"], ports: [80]}]
        """
    }

    /// A server, two nodes before it, and a client of the first one's listener.
    private static func ingress() async throws -> (ChildProcess, FrontNodes, RawClient) {
        let server = try ChildProcess(
            TestTools.python,
            [TestTools.repository + "/Tests/Peers/http1/backend.py"],
            keepsInputOpen: true
        )
        let backend = try #require(UInt16(try await server.standardOutput.line { (UInt16($0) ?? 0) > 1023 }))
        let nodes = try await FrontNodes(
            "- {name: web, bind: \"127.0.0.1:0\", protocol: http, routes: [{to: \"web.mesh:80\"}]}",
            names: ["web.mesh:80": backend],
            more: policy("web.mesh")
        )
        let client = try RawClient(port: nodes.port("web"))
        return (server, nodes, client)
    }

    /// A stream to the server that is kept for the next request is no way past a policy that has changed since.
    @Test func eachRequestIsDecided() async throws {
        let (server, nodes, client) = try await Self.ingress()
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        for _ in 0..<3 {
            client.send(get)
            #expect(client.response().hasSuffix("\r\n\r\nhello"))
        }
        #expect(await nodes.near.liveStreams() == 1, "one stream has served them all")
        let allowed = try String(contentsOfFile: nodes.clientFile, encoding: .utf8)
        for (name, status) in [("other.mesh", 403), ("web.mesh", 200)] {
            let text = allowed.replacingOccurrences(of: Self.policy("web.mesh"), with: Self.policy(name))
            _ = try nodes.directory.write("near.yaml", text)
            try await nodes.near.reload()
            client.send(get)
            #expect(client.response().hasPrefix("HTTP/1.1 \(status) "))
        }
        client.reset()
        await nodes.stop()
        await server.stop()
    }

    /// Rules see the path that the server gets, decoded: not what the routes have made of it. One that means different
    /// things to different servers is what is denied.
    @Test func noSpellingOfAPathGetsRoundARule() async throws {
        let (server, nodes, client) = try await Self.ingress()
        let allowed = try String(contentsOfFile: nodes.clientFile, encoding: .utf8)
        let denied = """
            policy:
            - {name: no, action: DENY, rules: [{to: [{paths: ["/@fs/*", "/admin", "/my files/*", "/caf\u{E9}"]}]}]}
            """
        let text = allowed.replacingOccurrences(of: "policy:", with: denied)
        _ = try nodes.directory.write("near.yaml", text)
        try await nodes.near.reload()
        for (target, status) in [
            ("/", 200), ("/%40fs/etc/passwd", 403), ("/@fs/etc/passwd", 403), ("/admin;x", 403), ("/%2561dmin", 403),
            ("/%61dmin?q", 403), ("/my%20files/a", 403), ("/caf%C3%A9", 403), ("/cafe", 200),
        ] {
            client.send("GET \(target) HTTP/1.1\r\nHost: a\r\n\r\n")
            #expect(client.response().hasPrefix("HTTP/1.1 \(status) "), "\(target)")
        }
        client.reset()
        await nodes.stop()
        await server.stop()
    }

    /// What a listener has accepted goes on under a name that the configuration does not have any more, until listeners
    /// change once more.
    @Test func connectionsOutlastTheNameOfTheirListener() async throws {
        let (server, nodes, client) = try await Self.ingress()
        let text = try nodes.directory.read("near.yaml")
        // The third one changes no listener.
        for (name, more, isServed) in [
            ("web", "", true), ("other", "", true), ("other", "# more\n", true), ("third", "", false),
        ] {
            try nodes.directory.write("near.yaml", more + text.replacing("{name: web,", with: "{name: \(name),"))
            try await nodes.near.reload()
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            let answer = client.response()
            #expect(isServed ? answer.hasSuffix("\r\n\r\nhello") : answer.isEmpty, "\(name): \(answer)")
        }
        client.reset()
        await nodes.stop()
        await server.stop()
    }

    /// The name of a listener that asks for a token comes to mean one that asks for none: what is open does not get to
    /// the server without one.
    @Test(arguments: [
        "protocol: tcp, forwardTo: \"web.mesh:80\"}", "protocol: http, routes: [{to: \"web.mesh:80\"}]}",
    ])
    func aNameThatIsUsedAgainLetsNobodyInWithoutAToken(after: String) async throws {
        let server = try ChildProcess(
            TestTools.python,
            [TestTools.repository + "/Tests/Peers/http1/backend.py"],
            keepsInputOpen: true
        )
        let backend = try #require(UInt16(try await server.standardOutput.line { (UInt16($0) ?? 0) > 1023 }))
        let issuer = try await TokenIssuer()
        let before =
            "protocol: http, routes: [{to: \"web.mesh:80\"}], "
            + "jwt: {issuer: \"https://id.example\", audience: [web], jwks: keys.jwks}}"
        let nodes = try await FrontNodes(
            "- {name: web, bind: \"127.0.0.1:0\", \(before)",
            names: ["web.mesh:80": backend],
            files: ["keys.jwks": try issuer.keys()],
            more: Self.policy("web.mesh")
        )
        let client = try RawClient(port: nodes.port("web"))
        let token = "Authorization: Bearer \(try issuer.token("good-ec"))\r\n"
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\(token)\r\n")
        let welcome = client.response()
        #expect(welcome.hasSuffix("\r\n\r\nhello"), "\(welcome)")
        let text = try nodes.directory.read("near.yaml")
        try nodes.directory.write("near.yaml", text.replacing(before, with: after))
        try await nodes.near.reload()
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        let answer = client.response()
        #expect(answer.isEmpty, "\(answer)")
        client.reset()
        await nodes.stop()
        await server.stop()
    }

    /// Many may shake hands at once, and count only when that is done: the last place may be taken by then.
    @Test func theLastPlaceIsTakenWhileAnotherShakesHands() async throws {
        let server = try ChildProcess(
            TestTools.python,
            [TestTools.repository + "/Tests/Peers/http1/backend.py"],
            keepsInputOpen: true
        )
        let backend = try #require(UInt16(try await server.standardOutput.line { (UInt16($0) ?? 0) > 1023 }))
        let nodes = try await FrontNodes(
            "- {name: web, bind: \"127.0.0.1:0\", protocol: https, routes: [{to: \"web.mesh:80\"}], limits: {connections: 1}}",
            names: ["web.mesh:80": backend],
            more: Self.policy("web.mesh")
        )
        let script = TestTools.repository + "/Tests/Peers/tls/late.py"
        func arguments(_ way: String) throws -> [String] { [script, "\(try nodes.port("web"))", way, "get"] }
        let late = try ChildProcess(TestTools.python, arguments("hold"), keepsInputOpen: true)
        try await late.standardOutput.line { $0 == "held" }
        let first = try ChildProcess(TestTools.python, arguments("go"), keepsInputOpen: true)
        try await first.standardOutput.line { $0 == "HTTP/1.1 200 OK" }
        late.closeInput()
        try await late.standardOutput.line { $0.hasPrefix("ended") }
        try await nodes.nearLog.line(containing: "too many connections")
        #expect(first.isRunning)
        // There is a place again.
        first.closeInput()
        _ = try await first.exit()
        try await eventually("the next one is served") {
            try await ChildProcess.run(TestTools.python, arguments("go"), input: []).standardOutput.hasPrefix(
                "HTTP/1.1 200"
            )
        }
        await nodes.stop()
        await server.stop()
    }
}

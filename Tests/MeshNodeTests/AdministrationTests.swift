import Foundation
import Glibc
import HTTP1
import Logging
import MeshPolicy
import Streams
import Synchronization
import TestPeers
import Testing

@testable import MeshNode

/// Who may ask a node what it does, and what it says.
@Suite(.timeLimit(.minutes(10))) struct AdministrationTests {
    @Test func liveStreamsPathsAndCertificates() async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let pair = try await NodePair(to: backend.port, clientSettings: "admin: \"127.0.0.1:\(port)\"")
        let talk = try await TCPConversation(port: pair.entry)
        _ = try await talk.echo(Pattern.bytes(1000, seed: 1))

        let streams = try await OperationClient.get("/streams", port)
        #expect(streams.head.contains("\r\ncontent-type: application/json\r\n"))
        #expect(streams.head.contains("\r\ncontent-security-policy: default-src 'none'"))
        let page = try streams.object
        #expect(page["total"] as? Int == 1)
        let stream = try #require((page["streams"] as? [[String: Any]])?.first)
        #expect(stream["listener"] as? String == "in" && stream["path"] as? String == "h2", "\(stream)")
        #expect(stream["sent"] as? Int == 1000 && stream["received"] as? Int == 1000)
        #expect(stream["sentPerSecond"] != nil && stream["age"] != nil)
        let why = try #require(stream["why"] as? String)
        #expect(why.hasPrefix("allowed by default: local user; h2 to 127.0.0.1:\(pair.hbone)"), "\(why)")
        let none = try await OperationClient.get("/streams?limit=0", port).object
        #expect(none["total"] as? Int == 1 && (none["streams"] as? [Any])?.isEmpty == true)
        #expect(try await OperationClient.get("/streams?limit=10000", port).status == 200)
        for wrong in ["-1", "10001", "x"] {
            #expect(try await OperationClient.get("/streams?limit=\(wrong)", port).status == 400)
        }

        let peers = try #require(try await OperationClient.get("/paths", port).object["peers"] as? [[String: Any]])
        #expect(peers.count == 1 && peers[0]["name"] as? String == "127.0.0.1:\(backend.port)")
        let path = try #require((peers[0]["paths"] as? [[String: Any]])?.first)
        #expect(path["path"] as? String == "h2" && path["state"] as? String == "inUse", "\(path)")
        #expect(path["peer"] as? String == "spiffe://mesh.example/ns/prod/sa/server")
        #expect(path["streams"] as? Int == 1 && path["roundTripTime"] as? Double != nil, "\(path)")

        let certificates = try await OperationClient.get("/certificates", port).object
        #expect(certificates["identity"] as? String == "spiffe://mesh.example/ns/prod/sa/client")
        let chain = try #require(certificates["chain"] as? [[String: Any]])
        #expect((chain.first?["remaining"] as? Int).map { $0 > 0 } == true)
        #expect(!"\(certificates)".contains("PRIVATE"))
        #expect(try await OperationClient.get("/metrics", port).status == 200)
        let nothing = try await OperationClient.get("/nothing", port)
        #expect(nothing.status == 404 && nothing.body.contains("/ (for a browser), /streams"), "\(nothing.body)")
        _ = try await talk.end()
        await pair.stop()
    }

    /// Its servers are there before its event loops are.
    @Test func whoAsksTooEarlyIsToldToComeAgain() async throws {
        let text =
            "identity: \(TestCertificates.shared.path(.server))\nlisteners: [{name: a, bind: \"127.0.0.1:0\", protocol: hbone}]\n"
        let node = Node(try NodeConfiguration.parse(text, file: "f"), loops: 1, logger: LogRecorder().logger)
        for path in ["/explain", "/policy", "/routes"] {
            let answer = await node.answerAdministration(OperationRequest(method: "GET", path: path))
            #expect(answer.status == 503 && answer.retryAfter == 1, "\(path): \(answer)")
            #expect(String(decoding: answer.body, as: UTF8.self).contains("the node is starting"), "\(path)")
        }
    }

    /// Whatever the file says since, and also where the kernel has chosen the port.
    @Test func noStreamIsLedToTheNodesOwnServers() async throws {
        let nodes = try await FrontNodes(
            "- {name: proxy, bind: \"127.0.0.1:0\", protocol: http-proxy}",
            names: [:],
            more: """
                - {match: "127.0.0.1:*", direct: true}
                admin: "127.0.0.1:0"
                metrics: "127.0.0.1:0"
                """
        )
        var ports: [String: Substring] = [:]
        for name in ["admin", "metrics"] {
            let line = nodes.nearLog.lines.first { $0.contains("\(name) is served") }
            let end = try #require(line?.components(separatedBy: "127.0.0.1:").last)
            ports[name] = end.prefix(while: \.isNumber)
        }
        func areGuarded() throws {
            for (name, port) in ports {
                let client = try RawClient(port: nodes.port("proxy"))
                client.send("CONNECT 127.0.0.1:\(port) HTTP/1.1\r\nHost: 127.0.0.1:\(port)\r\n\r\n")
                let answer = client.response()
                #expect(answer.hasPrefix("HTTP/1.1 403") && answer.contains("own '\(name)'"), "\(answer)")
                client.reset()
            }
        }
        try areGuarded()
        let text = try nodes.directory.read("near.yaml")
        let moved = text.replacing("admin: \"127.0.0.1:0\"", with: "admin: \"127.0.0.1:\(FreePort.next())\"")
        try nodes.directory.write("near.yaml", moved.replacing("metrics: \"127.0.0.1:0\"", with: ""))
        try await nodes.near.reload()
        #expect(nodes.nearLog.lines.contains { $0.contains("takes effect with a restart only") })
        try areGuarded()
        await nodes.stop()
    }

    /// A page of another origin neither reads nor drives it, whatever name it has given the address.
    @Test func aBrowserCannotBeUsedAgainstIt() async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let pair = try await NodePair(to: backend.port, clientSettings: "admin: \"127.0.0.1:\(port)\"")
        let own = "127.0.0.1:\(port)"
        for (method, path, host, fields) in [
            // A form, and a script that does not ask first.
            ("POST", "/drain", own, ["Content-Type: application/x-www-form-urlencoded"]),
            ("POST", "/drain", own, ["Origin: http://evil.example", "x-bootstrap: 1"]),
            ("POST", "/drain", own, ["Origin: null", "x-bootstrap: 1"]),
            ("POST", "/drain", own, ["Sec-Fetch-Site: cross-site", "x-bootstrap: 1"]),
            ("POST", "/drain", own, ["Sec-Fetch-Site: same-site", "x-bootstrap: 1"]),
            ("POST", "/loglevel?level=trace", own, ["x-bootstrap: 0"]),
            // Rebinding.
            ("GET", "/streams", "evil.example:\(port)", []), ("GET", "/config", "evil.example", []),
            ("POST", "/drain", "evil.example:\(port)", ["x-bootstrap: 1"]),
            ("GET", "/streams", own, ["Origin: http://evil.example"]),
            ("GET", "/explain?from=local&to=a:1", own, ["Sec-Fetch-Site: cross-site"]),
            ("GET", "/explain?from=local&to=a:1", "evil.example:\(port)", []),
            ("GET", "/policy", own, ["Origin: null"]), ("GET", "/routes", own, ["Sec-Fetch-Site: same-site"]),
        ] {
            let answer = try await OperationClient.ask(method, path, port, host: host, fields: fields)
            #expect(answer.status == 403, "\(method) \(path) of \(host) with \(fields)")
            #expect(!answer.head.lowercased().contains("access-control"))
        }
        // What a script would ask first.
        let preflight = try await OperationClient.ask("OPTIONS", "/drain", port)
        #expect(preflight.status == 405 && !preflight.head.lowercased().contains("access-control"))
        #expect(try await OperationClient.get("/drain", port).status == 405)
        #expect(try await OperationClient.post("/streams", port).status == 405)
        #expect(try await OperationClient.get("/readyz", port).body == "ready\n")
        await pair.stop()
    }

    @Test func ordersAreCarriedOut() async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let pair = try await NodePair(to: backend.port, clientSettings: "admin: \"127.0.0.1:\(port)\"")
        #expect(try await OperationClient.post("/loglevel?level=debug", port).status == 404)
        let levels = Mutex<[Logger.Level]>([])
        pair.client.control = NodeControl(setLogLevel: { level in levels.withLock { $0.append(level) } })
        #expect(try await OperationClient.post("/loglevel?level=debug", port).status == 200)
        #expect(levels.withLock { $0 } == [.debug])
        for wrong in ["/loglevel", "/loglevel?level=loud", "/drain?within=never"] {
            #expect(try await OperationClient.post(wrong, port).status == 400)
        }
        let talk = try await TCPConversation(port: pair.entry)
        _ = try await talk.echo([1])
        #expect(try await OperationClient.post("/drain?within=1h", port).status == 202)
        try await eventually("it drains") { (try? await OperationClient.get("/readyz", port))?.status == 503 }
        _ = try await talk.end()
        await pair.stop()
    }

    // MARK: What is decided

    /// The same question as `bootstrap explain` asks, by what holds in the node.
    @Test func policyIsAsked() async throws {
        let port = FreePort.next()
        let nodes = try await FrontNodes(
            "- {name: in, bind: \"127.0.0.1:0\", protocol: tcp, forwardTo: \"db.mesh:1\"}",
            names: [:],
            more: """
                - {match: "db.mesh:1", hbone: "127.0.0.1:1"}
                - {match: "*.lan:80", direct: true}
                policy:
                - {name: ops, action: ALLOW, rules: [{from: [{namespaces: [ops]}], to: [{ports: [80]}]}]}
                - {name: no, action: DENY, rules: [{to: [{hosts: ["secret.lan"]}]}]}
                admin: "127.0.0.1:\(port)"
                """
        )
        func explain(_ query: String) async throws -> OperationClient.Answer {
            try await OperationClient.get("/explain?\(query)", port)
        }
        let local = try await explain("listener=in").object
        #expect(local["allowed"] as? Bool == true && local["to"] as? String == "db.mesh:1", "\(local)")
        #expect((local["route"] as? [String: Any])?["kind"] as? String == "mesh")
        let peer = "from=spiffe%3A%2F%2Fmesh.example%2Fns%2Fops%2Fsa%2Fann&transport=h2&sourceIP=10.0.0.1"
        let denied = try await explain("\(peer)&to=secret.lan%3A80").object
        #expect(denied["allowed"] as? Bool == false && denied["sourceIP"] as? String == "10.0.0.1", "\(denied)")
        let policy = try #require(denied["policy"] as? [String: Any])
        #expect(policy["name"] as? String == "no" && policy["rule"] as? Int == 1)
        #expect((policy["place"] as? String)?.contains("near.yaml:") == true, "\(policy)")
        for (query, message) in [
            ("to=a:1", "'from' is missing"), ("from=local", "'to' is missing"), ("from=local&to=a", "'to' a: "),
            ("from=locl&to=a:1", "did you mean 'local'?"), ("listener=nobody", "there is no such listener"),
            ("listener=in&from=local", "leave 'from' away"), ("from=local&to=a:1&tranport=h2", "'tranport' is no part"),
            ("from=local&to=a:1&transport=tcp", "'transport' tcp: must be"), ("from=local&to=a:1&method=GET", "'path'"),
            ("from=local&to=a:1&sourceIP=x", "'sourceIP' x: is not an IP address"),
        ] {
            let answer = try await explain(query)
            #expect(answer.status == 400 && answer.body.contains(message), "\(query): \(answer.body)")
        }
        // Asking is not deciding.
        let page = try await OperationClient.get("/policy", port).object
        #expect((page["decisions"] as? [Any])?.isEmpty == true)
        #expect(try await OperationClient.post("/explain?listener=in", port).status == 405)
        await nodes.stop()
    }

    /// A query that two readers could understand in two ways is understood in none.
    @Test func whatAQueryMayBe() throws {
        let gate = OperationGate(bind: nil)
        func query(_ text: String) -> [String: String]? {
            let head = HTTPRequestHead(
                method: "GET",
                target: "/x?\(text)",
                version: .http11,
                fields: HTTPFields(),
                framing: .none
            )
            return (try? gate.check(head).get())?.query
        }
        #expect(query("") == [:] && query("a") == ["a": ""] && query("a=") == ["a": ""])
        #expect(query("a=b=c&d=%2f%2F%26%3D%25") == ["a": "b=c", "d": "//&=%"])
        #expect(query("a=1+2%2B3%20") == ["a": "1+2+3 "], "a plus is a plus")
        #expect(query("n%61me=%C3%A9") == ["name": "é"])
        for wrong in [
            "a=%", "a=%4", "a=%zz", "a=%+1", "a=% 1", "a=%C3", "a=%C3%28", "a=%ED%A0%80", "a=%C0%AF", "a=%00", "a=%0A",
            "a=%7F", "a=%C2%85", "%=a", "a=1&a=2", "a=1&%61=1",
        ] { #expect(query(wrong) == nil, "\(wrong)") }
        let many = (0..<16).map { "p\($0)=1" }.joined(separator: "&")
        #expect(query(many)?.count == 16 && query(many + "&q=1") == nil)
    }

    /// What was decided, by which rule, and where streams go.
    @Test func rulesRoutesAndTheLastDecisions() async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let nodes = try await FrontNodes(
            "- {name: proxy, bind: \"127.0.0.1:0\", protocol: http-proxy}",
            names: [:],
            more: """
                - {match: "127.0.0.1:\(backend.port)", direct: true}
                - {match: "db.mesh:1", hbone: ["127.0.0.1:1", "127.0.0.1:2"]}
                policy:
                - {name: no, action: DENY, rules: [{to: [{hosts: ["other.lan"]}]}, {to: [{hosts: ["secret.lan"]}]}]}
                admin: "127.0.0.1:\(port)"
                """
        )
        func connect(_ destination: String) throws -> String {
            let client = try RawClient(port: nodes.port("proxy"))
            client.send("CONNECT \(destination) HTTP/1.1\r\nHost: \(destination)\r\n\r\n")
            defer { client.reset() }
            return String(client.response().prefix(12))
        }
        #expect(try connect("127.0.0.1:\(backend.port)") == "HTTP/1.1 200")
        for _ in 0..<120 { #expect(try connect("secret.lan:80") == "HTTP/1.1 403") }
        let page = try await OperationClient.get("/policy", port).object
        let policy = try #require((page["policies"] as? [[String: Any]])?.first)
        #expect(policy["name"] as? String == "no" && policy["action"] as? String == "DENY")
        let rules = try #require(policy["rules"] as? [[String: Any]])
        #expect(rules.map { $0["denied"] as? Int } == [0, 120], "\(rules)")
        #expect((rules[1]["place"] as? String)?.contains("near.yaml:") == true)
        #expect((page["default"] as? [String: Any])?["allowed"] as? Int == 1, "\(page)")
        // Bounded; and what was allowed is there however much was denied since.
        let decisions = try #require(page["decisions"] as? [[String: Any]])
        #expect(decisions.filter { $0["allowed"] as? Bool == false }.count == 50)
        let allowed = decisions.filter { $0["allowed"] as? Bool == true }
        #expect(allowed.map { $0["destination"] as? String } == ["127.0.0.1:\(backend.port)"])
        let denied = try #require(decisions.first { $0["allowed"] as? Bool == false })
        #expect(denied["destination"] as? String == "secret.lan:80" && denied["listener"] as? String == "proxy")
        #expect((denied["reason"] as? String)?.contains("policy 'no', rule 2") == true, "\(denied)")

        let routes = try await OperationClient.get("/routes", port).object
        #expect(routes["default"] as? String == "deny")
        let list = try #require(routes["routes"] as? [[String: Any]])
        #expect(list.count == routes["total"] as? Int)
        let mesh = try #require(list.first { $0["match"] as? String == "db.mesh:1" })
        #expect(mesh["kind"] as? String == "mesh" && mesh["ways"] as? [String] == ["h2 to 127.0.0.1:1 or 127.0.0.1:2"])
        #expect(list.contains { $0["kind"] as? String == "direct" })
        #expect((try await OperationClient.get("/routes?limit=1", port).object["routes"] as? [Any])?.count == 1)
        #expect(try await OperationClient.get("/routes?limit=x", port).status == 400)
        await nodes.stop()
    }

    /// The page loads nothing from elsewhere, runs no script that stands in it, and makes no markup of text.
    @Test func thePageOfABrowser() async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let pair = try await NodePair(to: backend.port, clientSettings: "admin: \"127.0.0.1:\(port)\"")
        for (path, type) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")] {
            let answer = try await OperationClient.get(path, port, fields: ["Sec-Fetch-Site: same-origin"])
            #expect(answer.status == 200 && answer.head.contains("\r\ncontent-type: \(type); charset=utf-8\r\n"))
            let policy = answer.head.components(separatedBy: "\r\n").first { $0.hasPrefix("content-security-policy: ") }
            #expect(
                policy?.contains("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'") == true
            )
            #expect(policy?.contains("unsafe") == false && policy?.contains("frame-ancestors 'none'") == true)
            for word in [
                "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http://", "https://",
            ] {
                #expect(!answer.body.replacing("http://www.w3.org/2000/svg", with: "").contains(word), "\(word)")
            }
            for word in [" onclick", " onload", "<script>", "<style"] { #expect(!answer.body.contains(word)) }
        }
        let script = try await OperationClient.get("/page.js", port).body
        let file = try pair.directory.write("page.js", script)
        let checked = try await ChildProcess.run("node", ["--check", file])
        #expect(checked.succeeded, "\(checked.standardError)")
        // What it asks for is there.
        for match in script.matches(of: #/(?:get|order)\("(\/[a-z]+)/#) {
            let method = script[match.range].hasPrefix("order") ? "POST" : "GET"
            let answer = try await OperationClient.ask(
                method,
                "\(match.1)?level=x&within=x",
                port,
                fields: ["x-bootstrap: 1"]
            )
            #expect(answer.status == (method == "GET" ? 200 : 400), "\(match.1)")
        }
        // Another site may link to the page, and is not shown it.
        let linked = try await OperationClient.get("/", port, fields: ["Sec-Fetch-Site: cross-site"])
        #expect(linked.status == 403)
        await pair.stop()
    }

    @Test func aUnixSocketIsThisUsersOwn() async throws {
        let backend = try EchoServer()
        let directory = TemporaryDirectory()
        let path = directory.path("admin.sock")
        let pair = try await NodePair(to: backend.port, clientSettings: "admin: \(path)")
        let attributes = try FileManager.default.attributesOfItem(atPath: path)
        #expect(attributes[.posixPermissions] as? Int == 0o600)
        // Whatever a client says of the host: no browser comes here.
        for host in ["localhost", "node.example"] {
            let output = try await ChildProcess.run(
                "curl",
                ["-sS", "-H", "Host: \(host)", "--unix-socket", path, "http://localhost/streams"]
            )
            #expect(output.standardOutput == "{\"total\":0,\"streams\":[]}\n", "\(output.standardError)")
        }
        await pair.stop()
        #expect(!FileManager.default.fileExists(atPath: path))
    }

    /// Who connects and says nothing makes room for who asks.
    @Test func idleConnectionsShutNobodyOut() async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let pair = try await NodePair(to: backend.port, clientSettings: "admin: \"127.0.0.1:\(port)\"")
        var idle: [TCPConversation] = []
        for _ in 0..<150 { idle.append(try await TCPConversation(port: port)) }
        for path in ["/healthz", "/readyz", "/metrics"] {
            let answer = try await OperationClient.get(path, port)
            #expect(answer.status == 200, "\(path)")
        }
        for conversation in idle { _ = try? await conversation.end() }
        await pair.stop()
    }

    @Test func eachOfSeveralServersIsShown() async throws {
        let port = FreePort.next()
        let servers = [FreePort.next(), FreePort.next()].map { "127.0.0.1:\($0)" }
        let list = servers.map { "\"\($0)\"" }.joined(separator: ", ")
        let nodes = try await FrontNodes(
            "- {name: in, bind: \"127.0.0.1:0\", protocol: tcp, forwardTo: \"db.mesh:1\"}",
            names: [:],
            more: """
                - {match: "db.mesh:1", hbone: [\(list)]}
                admin: "127.0.0.1:\(port)"
                """
        )
        _ = try await TCPClient.exchange(port: nodes.port("in"), sending: [1])
        let page = try await OperationClient.get("/paths", port).object
        let peer = try #require((page["peers"] as? [[String: Any]])?.first)
        let path = try #require((peer["paths"] as? [[String: Any]])?.first)
        let shown = try #require(path["servers"] as? [[String: Any]])
        #expect(shown.compactMap { $0["address"] as? String } == servers)
        #expect(shown.allSatisfy { $0["state"] as? String == "waiting" && $0["failure"] is String }, "\(shown)")
        await nodes.stop()
    }

    @Test func whatIsNoRequestIsAnswered() async throws {
        let loop = EventLoop(name: "test")
        let address = try SocketAddress(ip: "127.0.0.1", port: 0)
        for (text, line, timeout) in [
            ("GET / HTTP/1.1\r\nHost:", "HTTP/1.1 408 Request Timeout\r\n", Duration.seconds(3)),
            (
                "GET / HTTP/2.0\r\nHost: a\r\n\r\n", "HTTP/1.1 505 HTTP Version Not Supported\r\n",
                Duration.seconds(600)
            ),
        ] {
            let server = try await loop.execute { [loop] in
                let server = try OperationServer(at: address, adopting: nil, on: loop, timeout: timeout) { _ in
                    OperationResponse(200, "")
                }
                return LoopBound(server, on: loop)
            }
            let port = try await loop.execute { server.withValue { $0.localAddress?.port ?? 0 } }
            let client = try RawClient(port: port)
            client.send(text)
            let answer = client.response()
            #expect(answer.hasPrefix(line), "\(answer)")
            client.reset()
            try await loop.execute { server.withValue { $0.shutDown() } }
        }
        await loop.shutDown()
    }

    @Test func whatCannotBeServedIsAnError() throws {
        for (value, message) in [
            ("0.0.0.0:15000", "'admin' asks nobody who they are and must be on loopback, not 0.0.0.0:15000"),
            ("\"127.0.0.1:1\"", "'admin' would listen on 127.0.0.1:1, which listener 'a' has already"),
            ("/\(String(repeating: "x", count: 120))", "a socket path has 1 to 107 bytes"),
            ("localhost", "is not an IP address and a port"),
        ] {
            let text = "identity: i\nlisteners: [{name: a, bind: \"127.0.0.1:1\", protocol: hbone}]\nadmin: \(value)\n"
            let error = #expect(throws: (any Error).self, "\(value)") {
                try NodeConfiguration.parse(text, file: "f").validate(checkingFiles: false)
            }
            #expect("\(error.map { "\($0)" } ?? "")".contains(message), "\(error.map { "\($0)" } ?? "")")
        }
    }

    // MARK: What is in effect

    /// Every example of the documentation means the same when it is printed with its defaults: a default that is wrong
    /// would make another configuration of it.
    @Test(arguments: ["configuration.md", "policy.md"])
    func whatIsInEffectIsAConfiguration(page: String) throws {
        let text = try String(contentsOfFile: "\(TestTools.repository)/docs/\(page)", encoding: .utf8)
        for block in text.components(separatedBy: "```yaml\n").dropFirst() {
            let yaml = try #require(block.components(separatedBy: "\n```").first)
            try Self.expectSame(yaml)
        }
    }

    @Test func whatIsWrittenHoldsAndTheRestIsThere() throws {
        let yaml = """
            identity: "a\\"b/\\u00e9"
            listeners:
            - {name: t, bind: "127.0.0.1:1", protocol: transparent, mode: tproxy, direction: inbound, capture: {local: false}}
            - {name: o, bind: "127.0.0.1:4", protocol: transparent, capture: {}}
            - {name: d, bind: "127.0.0.1:2", protocol: dns, names: {ttl: 9}}
            - {name: h, bind: "127.0.0.1:3", protocol: hbone}
            endpoints:
            - {match: "a.b:1", hbone: "c.d:2", ssh: {destination: s, sessions: 2}}
            - {match: "*:80", direct: true}
            policy:
            - {name: "22", action: ALLOW, rules: [{to: [{ports: [22, "80-90"]}], when: [{transport: [ssh]}]}]}
            connections: {keepAlive: 3s, idleTimeout: none}
            """
        try Self.expectSame(yaml)
        let printed = try #require(try NodeConfiguration.parse(yaml, file: "f").inEffect)
        let object = try #require(try JSONSerialization.jsonObject(with: Data(printed.utf8)) as? [String: Any])
        #expect(object["default"] as? String == "deny" && object["identity"] as? String == "a\"b/é")
        let connections = try #require(object["connections"] as? [String: Any])
        #expect(connections["keepAlive"] as? String == "3s" && connections["keepAliveTimeout"] as? String == "20s")
        #expect(connections["idleTimeout"] as? String == "none" && connections["perPeer"] as? Int == 16)
        let listeners = try #require(object["listeners"] as? [[String: Any]])
        #expect(listeners[0]["plaintext"] as? String == "deny" && listeners[1]["mode"] as? String == "redirect")
        #expect((listeners[2]["names"] as? [String: Any])?["ipv4"] as? String == "198.18.0.0/15")
        #expect((listeners[0]["capture"] as? [String: Any])?["onFailure"] as? String == "closed")
        let endpoints = try #require(object["endpoints"] as? [[String: Any]])
        #expect(endpoints[0]["path"] as? String == "auto" && endpoints[1]["path"] == nil)
        #expect((endpoints[0]["ssh"] as? [String: Any])?["engine"] as? String == "auto")
        let policy = try #require((object["policy"] as? [[String: Any]])?.first)
        // What was quoted stays text.
        #expect(policy["name"] as? String == "22" && policy["dryRun"] as? Bool == false)
    }

    /// A default that the documentation has and the output has not would look like a key that is not in effect.
    @Test func everyDefaultOfTheDocumentationIsThere() throws {
        let yaml = """
            identity: {workloadAPI: "unix:///agent.sock"}
            listeners:
            - {name: w, bind: "127.0.0.1:1", protocol: tls, forwardTo: "a.b:1"}
            - {name: h, bind: "127.0.0.1:2", protocol: http, routes: [{to: "a.b:1"}], jwt: {issuer: i, audience: [a], jwks: k}}
            - {name: o, bind: "127.0.0.1:3", protocol: transparent, capture: {}}
            - {name: t, bind: "127.0.0.1:4", protocol: transparent, mode: tproxy, direction: inbound}
            - {name: d, bind: "127.0.0.1:5", protocol: dns}
            - {name: m, bind: "127.0.0.1:6", protocol: hbone}
            endpoints:
            - {match: "a.b:1", hbone: "c.d:2", ssh: {destination: s}}
            """
        try Self.expectSame(yaml)
        let printed = try #require(try NodeConfiguration.parse(yaml, file: "f").inEffect)
        let members = Set(
            printed.split(separator: "\n").map { line in
                let text = line.trimmingCharacters(in: .whitespaces)
                return text.hasSuffix(",") ? String(text.dropLast()) : text
            }
        )
        let page = try String(contentsOfFile: "\(TestTools.repository)/docs/configuration.md", encoding: .utf8)
        let defaults = Self.documentedDefaults(page)
        #expect(defaults.count >= 30, "\(defaults)")
        for (key, value) in defaults {
            let isThere = members.contains("\"\(key)\": \(value)") || members.contains("\"\(key)\": \"\(value)\"")
            #expect(isThere, "\(key): \(value)")
        }
    }

    /// Of the tables of keys, those rows whose default is a value and not a description.
    private static func documentedDefaults(_ page: String) -> [(key: String, value: String)] {
        func literals(_ cell: String) -> [String] {
            if Int(cell) != nil { return [cell] }
            let words = cell.components(separatedBy: ", ")
            let inner = words.map { String($0.dropFirst().dropLast()) }
            let isLiteral = zip(words, inner).allSatisfy { word, inner in
                word == "`\(inner)`" && !inner.isEmpty && !inner.contains("`")
            }
            return isLiteral ? inner : []
        }
        var found: [(key: String, value: String)] = []
        var column: Int?
        for line in page.components(separatedBy: "\n") {
            guard line.hasPrefix("|") else {
                column = nil
                continue
            }
            let cells = line.components(separatedBy: "|").dropFirst().map { $0.trimmingCharacters(in: .whitespaces) }
            if cells[0].hasPrefix("key") {
                column = cells.firstIndex(of: "default")
                continue
            }
            guard let column, column < cells.count else { continue }
            let (keys, values) = (literals(cells[0]), literals(cells[column]))
            if keys.count == values.count {
                for (key, value) in zip(keys, values) { found.append((key, value)) }
            }
            // These have theirs in the text: `head` (15s).
            guard keys == ["timeouts"] || keys == ["limits"] else { continue }
            for match in line.matches(of: #/`([a-z]+)` \(([0-9][^,)]*)/#) {
                found.append((String(match.1), String(match.2)))
            }
        }
        return found
    }

    private static func expectSame(_ yaml: String) throws {
        let first = try NodeConfiguration.parse(yaml, file: "f")
        let printed = try #require(first.inEffect)
        let second = try NodeConfiguration.parse(printed, file: "f")
        #expect(placeless(second) == placeless(first), "\(printed)")
        // Printed again, it has nothing to add.
        #expect(second.inEffect == printed)
    }

    /// Without what says where things stand in the file.
    private static func placeless(_ configuration: NodeConfiguration) -> NodeConfiguration {
        var configuration = configuration
        configuration.document = nil
        configuration.positions = [:]
        for index in configuration.listeners.indices {
            configuration.listeners[index].position = nil
            configuration.listeners[index].capture?.position = nil
            for route in configuration.listeners[index].ingress.routes.indices {
                configuration.listeners[index].ingress.routes[route].position = nil
            }
        }
        for index in configuration.endpoints.indices { configuration.endpoints[index].position = nil }
        for index in configuration.reverse.indices { configuration.reverse[index].position = nil }
        configuration.policy = configuration.policy.map { policies in
            policies.map { policy in
                var policy = policy
                policy.position = nil
                for index in policy.rules.indices { policy.rules[index].position = nil }
                return policy
            }
        }
        return configuration
    }

    @Test func itIsShown() async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let pair = try await NodePair(to: backend.port, clientSettings: "admin: \"127.0.0.1:\(port)\"")
        let page = try await OperationClient.get("/config", port).object
        #expect(page["admin"] as? String == "127.0.0.1:\(port)" && page["connections"] != nil)
        await pair.stop()
    }
}

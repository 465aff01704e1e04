import Foundation
import MeshNode
import Streams
import TestPeers
import Testing

/// A node that clients without a certificate of the mesh come to, with a token, and that passes their ciphertext on to
/// the workload; and a workload as other implementations' clients see it.
@Suite(.timeLimit(.minutes(10))) struct TunnelGateTests {
    struct Answer: Decodable {
        var status: Int?
        var headers: [String: String]?
        var peer: [String]?
        var alpn: String?
        var echo: String?
        var failure: String?
        var goaway: Bool?
    }

    /// `tunclient.py` with one connection for many requests.
    private struct Turns {
        private let client: ChildProcess
        private var count = 0

        init(_ port: UInt16, _ destination: String, _ options: [String]) throws {
            client = try ChildProcess(
                TestTools.python,
                ["\(TestTools.repository)/Tests/Peers/h2/tunclient.py", "\(port)", destination, "turns"] + options,
                keepsInputOpen: true
            )
        }

        /// The status for a request with this token; `-`: with none.
        mutating func ask(_ token: String = "-") async throws -> Int? {
            count += 1
            try client.write("\(token)\n")
            let beginning = "\(count) "
            let line = try await client.standardOutput.line { $0.hasPrefix(beginning) }
            return Int(line.dropFirst(beginning.count))
        }

        func end() async throws -> Answer {
            client.closeInput()
            let text = try await client.standardOutput.complete()
            _ = try await client.exit()
            let last = try #require(text.split(separator: "\n").last)
            return try JSONDecoder().decode(Answer.self, from: Data(last.utf8))
        }
    }

    private static let certificates = TestCertificates.shared
    private static let server = "spiffe://mesh.example/ns/prod/sa/server"

    /// What `tunclient.py` makes of it.
    static func ask(_ port: UInt16, _ destination: String, _ options: [String]) async throws -> Answer {
        let output = try await ChildProcess.run(
            TestTools.python,
            ["\(TestTools.repository)/Tests/Peers/h2/tunclient.py", "\(port)", destination] + options
        )
        return try JSONDecoder().decode(Answer.self, from: Data(output.standardOutput.utf8))
    }

    /// A gateway with its tokens, and behind it a workload.
    final class Gateway: Sendable {
        let directory = TemporaryDirectory()
        let gate: Node
        let far: Node
        let port: UInt16
        let log = LogRecorder()
        let issuer: TokenIssuer

        init(
            to backend: UInt16,
            keys: String? = nil,
            issuer: TokenIssuer? = nil,
            jwt: String = "{issuer: \"https://id.example\", audience: [web], jwks: DIR/keys.json}",
            listener: String = "clients: none",
            more: String = "",
            files: [String: String] = [:]
        ) async throws {
            let issuer = if let issuer { issuer } else { try await TokenIssuer() }
            self.issuer = issuer
            let directory = directory
            _ = try directory.write("keys.json", try keys ?? issuer.keys())
            for (name, text) in files { _ = try directory.write(name, text) }
            far = Node(
                try NodeConfiguration.parse(
                    NodeFile.server(identity: certificates.path(.server), ports: [backend])
                        + "\naccessLog: {file: \(directory.path("far.log"))}\n",
                    file: "far"
                ),
                loops: 1,
                logger: LogRecorder().logger
            )
            let hbone = try #require(try await far.start().first).address.port
            let web = try TunnelNodes.proxyCertificate()
            let gateFile = try directory.write(
                "gate.yaml",
                """
                identity: \(certificates.path(.withNames))
                listeners:
                - name: gate
                  bind: "127.0.0.1:0"
                  protocol: hbone
                  credentials: [\(web)]
                  \(listener)
                  jwt: \(jwt.replacingOccurrences(of: "DIR", with: directory.path("")))
                endpoints:
                - {match: "127.0.0.1:\(backend)", hbone: "127.0.0.1:\(hbone)", identity: "\(server)"}
                policy:
                - name: people
                  action: ALLOW
                  rules: [{from: [{requestPrincipals: ["https://id.example/ann"]}], to: [{ports: [\(backend)]}]}]
                accessLog: {file: \(directory.path("gate.log"))}
                \(more)
                """
            )
            gate = Node(
                try NodeConfiguration.check(gateFile),
                configurationFile: gateFile,
                loops: 1,
                logger: log.logger
            )
            port = try #require(try await gate.start().first).address.port
        }

        /// A file with a token of ``TokenIssuer``.
        func token(_ name: String) throws -> String { try directory.write("\(name).jwt", issuer.token(name)) }

        func stop() async {
            await gate.drain(deadline: .milliseconds(100))
            await far.drain(deadline: .milliseconds(100))
        }
    }

    static let web = "web=\(TunnelNodes.roots)"
    static let inner = "inner=\(certificates.path(.client))"

    /// The client is known to the workload by its certificate, and to the gateway by its token alone.
    @Test(arguments: ["POST", "CONNECT"]) func aTokenOpensTheGateway(method: String) async throws {
        let backend = try EchoServer()
        let gateway = try await Gateway(to: backend.port)
        let answer = try await Self.ask(
            gateway.port,
            backend.authority,
            [Self.web, Self.inner, "token=\(try gateway.token("good-ec"))", "method=\(method)"]
        )
        #expect(answer.echo == "ping" && answer.peer == [Self.server], "\(answer) \(gateway.log.lines)")
        let gate = try await AccessLogTests.wait(for: 1, in: gateway.directory.path("gate.log"))[0]
        #expect(gate["source"] == "unauthenticated" && gate["principal"] == "https://id.example/ann", "\(gate)")
        #expect(gate["path"] == "h2" && gate["peer"] == Self.server && gate["policy"] == "people")
        let far = try await AccessLogTests.wait(for: 1, in: gateway.directory.path("far.log"))[0]
        #expect(far["source"] == "spiffe://mesh.example/ns/prod/sa/client" && far["policy"] == "backend", "\(far)")
        await gateway.stop()
    }

    /// What PyJWT has signed, with a set of keys that it has made.
    @Test func tokensOfPyJWTOpenTheGatewayOrDoNot() async throws {
        let backend = try EchoServer()
        let gateway = try await Gateway(to: backend.port, issuer: try await TokenIssuer(.pyJWT))
        for name in ["good-rsa", "good-ec", "good-ed"] {
            let token = "token=\(try gateway.token(name))"
            let answer = try await Self.ask(gateway.port, backend.authority, [Self.web, Self.inner, token])
            #expect(answer.echo == "ping" && answer.peer == [Self.server], "\(name): \(answer)")
        }
        for name in ["bad-audience", "bad-ended", "bad-none", "bad-unknown-kid", "bad-other-key", "bad-hmac-of-key"] {
            let token = "token=\(try gateway.token(name))"
            let answer = try await Self.ask(gateway.port, backend.authority, [Self.web, Self.inner, token])
            #expect(answer.status == 401 && answer.echo == nil, "\(name): \(answer)")
        }
        #expect(backend.accepted == 3)
        await gateway.stop()
    }

    /// The node's own client, with its token in a file.
    @Test func ourClientComesThroughOurGateway() async throws {
        let backend = try EchoServer()
        let gateway = try await Gateway(to: backend.port)
        let near = Node(
            try NodeConfiguration.parse(
                """
                identity: \(Self.certificates.path(.client))
                listeners:
                - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "\(backend.authority)"}
                endpoints:
                - match: "\(backend.authority)"
                  hbone: "127.0.0.1:\(gateway.port)"
                  labels: {tun: POST}
                  proxy: {serverName: \(TunnelNodes.proxyName), roots: \(TunnelNodes.roots)}
                  token: {file: \(try gateway.token("good-rsa"))}
                  identity: "\(Self.server)"
                """,
                file: "near"
            ),
            loops: 1,
            logger: LogRecorder().logger
        )
        let entry = try #require(try await near.start().first).address.port
        let bytes = Pattern.bytes(3_000_000, seed: 9)
        let (received, ending) = try await TCPClient.exchange(port: entry, sending: bytes)
        #expect(received == bytes && ending == .endOfStream)
        await near.drain(deadline: .milliseconds(100))
        await gateway.stop()
    }

    /// Each with a status, and nothing is dialled.
    @Test(arguments: [
        (nil, 401), ("bad-none", 401), ("bad-none-unsigned", 401), ("bad-unsigned", 401), ("bad-hmac-of-pem", 401),
        ("bad-ended", 401), ("bad-audience", 401), ("bad-issuer", 401),
        ("bad-unknown-kid", 401),
        ("bad-twice", 401), ("bad-kid-twice", 401), ("bad-long", 401), ("good-unicode", 403),
    ]) func tokensThatOpenNothing(name: String?, status: Int) async throws {
        let backend = try EchoServer()
        let gateway = try await Gateway(to: backend.port)
        let token = name == "bad-kid-twice" ? nil : try name.map { "token=\(try gateway.token($0))" }
        var options = [Self.web, Self.inner] + [token].compactMap { $0 }
        if name == "bad-kid-twice" {
            let twice = try gateway.directory.write(
                "twice.jwt",
                "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEiLCJraWQiOiJiIn0.e30.AAAA"
            )
            options.append("token=\(twice)")
        }
        let answer = try await Self.ask(gateway.port, backend.authority, options)
        #expect(answer.status == status, "\(answer)")
        let challenge = name == nil ? "Bearer" : "Bearer error=\"invalid_token\""
        #expect(answer.headers?["www-authenticate"] == (status == 401 ? challenge : nil))
        #expect(backend.accepted == 0)
        let line = try await AccessLogTests.wait(for: 1, in: gateway.directory.path("gate.log"))[0]
        #expect(line["outcome"] == "refused" && line["status"] == "\(status)", "\(line)")
        await gateway.stop()
    }

    /// Two fields, of which this node would read one and another one the other; and one that has no room.
    @Test func tokensTwiceAndTokensWithoutRoom() async throws {
        let backend = try EchoServer()
        let gateway = try await Gateway(to: backend.port)
        let good = try gateway.token("good-ec")
        let twice = try await Self.ask(
            gateway.port,
            backend.authority,
            [Self.web, Self.inner, "token=\(good)", "tokens=\(good)"]
        )
        #expect(twice.status == 401)
        let large = try gateway.directory.write("large", String(repeating: "a", count: 16 << 10))
        let over = try await Self.ask(gateway.port, backend.authority, [Self.web, Self.inner, "token=\(large)"])
        #expect(over.status == 431, "\(over)")
        #expect(backend.accepted == 0)
        await gateway.stop()
    }

    /// The connection ends with the third in a row, and who does not go is served no more.
    @Test func whoMakesUpTokensHasToComeAgain() async throws {
        let backend = try EchoServer()
        let gateway = try await Gateway(to: backend.port)
        let (good, bad) = (try gateway.token("good-ec"), try gateway.token("bad-unsigned"))
        var client = try Turns(gateway.port, backend.authority, [Self.web])
        var statuses: [Int?] = []
        for token in [bad, bad, good, bad, "-", bad, good] { statuses.append(try await client.ask(token)) }
        #expect(statuses == [401, 401, 200, 401, 401, 401, 503], "\(gateway.log.lines)")
        let end = try await client.end()
        #expect(end.goaway == true, "\(end)")
        // Another connection is none of that one's.
        let answer = try await Self.ask(gateway.port, backend.authority, [Self.web, Self.inner, "token=\(good)"])
        #expect(answer.echo == "ping", "\(answer)")
        await gateway.stop()
    }

    /// What is open when a reload adds `jwt` is asked for tokens from then on; where nobody knows which listener it
    /// came by, it is told to come again.
    @Test(arguments: [(", clients: optional", 401, nil), ("", 200, true)] as [(String, Int, Bool?)])
    func aTokenThatAReloadAsksForIsAskedOfOpenConnections(before: String, status: Int, goaway: Bool?) async throws {
        let backend = try EchoServer()
        let (directory, issuer) = (TemporaryDirectory(), try await TokenIssuer())
        _ = try directory.write("keys.json", try issuer.keys())
        let text = NodeFile.server(identity: Self.certificates.path(.server), ports: [backend.port])
        func write(_ settings: String) throws -> String {
            try directory.write(
                "node.yaml",
                text.replacingOccurrences(of: "protocol: hbone}", with: "protocol: hbone\(settings)}")
            )
        }
        let file = try write(before)
        let node = Node(
            try NodeConfiguration.check(file),
            configurationFile: file,
            loops: 1,
            logger: LogRecorder().logger
        )
        let port = try #require(try await node.start().first).address.port
        let mesh = "mesh=\(Self.certificates.path(.client))"
        let options = [mesh, "method=CONNECT", "authority=\(backend.authority)"]
        var client = try Turns(port, "-", options)
        let first = try await client.ask()
        #expect(first == 200)
        _ = try write(before + ", jwt: {issuer: \"https://id.example\", audience: [web], jwks: keys.json}")
        _ = try await node.reload()
        let second = try await client.ask()
        #expect(second == status)
        let end = try await client.end()
        #expect(end.goaway == goaway, "\(end)")
        let newcomer = try await Self.ask(port, "-", options)
        #expect(newcomer.status == 401, "\(newcomer)")
        await node.drain(deadline: .milliseconds(100))
    }

    /// Also where clients have come to the listener before.
    @Test func aReloadThatAsksForTokensHolds() async throws {
        let backend = try EchoServer()
        let gateway = try await Gateway(to: backend.port)
        let yaml = try gateway.directory.read("gate.yaml")
        let lines = yaml.split(separator: "\n", omittingEmptySubsequences: false)
        let before = lines.filter { !$0.hasPrefix("  jwt:") }.joined(separator: "\n")
            .replacing("{requestPrincipals: [\"https://id.example/ann\"]}", with: "{namespaces: [prod]}")
        var statuses: [Int?] = []
        for text in [before, yaml] {
            _ = try gateway.directory.write("gate.yaml", text)
            _ = try await gateway.gate.reload()
            let answer = try await Self.ask(gateway.port, backend.authority, [Self.web, Self.inner])
            statuses.append(answer.status)
        }
        #expect(statuses == [403, 401], "\(gateway.log.lines)")
        #expect(backend.accepted == 0)
        await gateway.stop()
    }

    /// Several issuers: each vouches for its own, and the last one for nobody else.
    @Test func eachIssuerVouchesForItsOwn() async throws {
        let backend = try EchoServer()
        let (other, own) = ("https://other.example", "https://id.example")
        let gateway = try await Gateway(
            to: backend.port,
            jwt: "["
                + [own, other].map { "{issuer: \"\($0)\", audience: [web], jwks: DIR/keys.json}" }.joined(
                    separator: ", "
                )
                + "]"
        )
        for (name, status) in [("good-ec", 200), ("bad-issuer", 401)] {
            let answer = try await Self.ask(
                gateway.port,
                backend.authority,
                [Self.web, Self.inner, "token=\(try gateway.token(name))"]
            )
            #expect(answer.status == status, "\(name): \(answer)")
        }
        await gateway.stop()
    }

    /// What a workload behind a proxy makes of clients that share no code with it.
    @Test func othersSpeakWithTheWorkload() async throws {
        let backend = try EchoServer()
        let file = TemporaryDirectory()
        let node = Node(
            try NodeConfiguration.parse(
                NodeFile.server(identity: Self.certificates.path(.server), ports: [backend.port])
                    .replacingOccurrences(of: "protocol: hbone", with: "protocol: hbone, cleartext: true")
                    + "\naccessLog: {file: \(file.path("log"))}\n",
                file: "node"
            ),
            loops: 1,
            logger: LogRecorder().logger
        )
        let port = try #require(try await node.start().first).address.port
        func ask(_ options: String..., to destination: String? = nil) async throws -> Answer {
            try await Self.ask(port, destination ?? backend.authority, options)
        }
        for options in [[], ["method=CONNECT"], ["alpn=h2"], ["name=web.example.org"]] {
            let answer = try await Self.ask(port, backend.authority, [Self.inner] + options)
            #expect(answer.echo == "ping" && answer.peer == [Self.server], "\(options): \(answer)")
        }
        #expect(backend.accepted == 4)
        // Not the one that is asked for inside.
        let swapped = try await ask(Self.inner, "name=outbound_.1_._.127-0-0-1")
        #expect(swapped.echo == nil && swapped.failure != nil, "\(swapped)")
        let named = try await ask(Self.inner, "name=outbound_.\(backend.port)_._.127-0-0-1")
        #expect(named.echo == "ping", "\(named)")
        for kind in [TestCertificates.Kind.intruder, .expired, .rogue, .foreign] {
            let answer = try await ask("inner=\(Self.certificates.path(kind))")
            #expect(answer.status == 200 && answer.echo == nil && answer.failure != nil, "\(kind): \(answer)")
        }
        let plain = try await ask("plain")
        #expect(plain.status == 200 && plain.echo ?? "" == "", "\(plain)")
        // Without x-tun nobody says who asks.
        let anonymous = try await ask("method=CONNECT", "authority=\(backend.authority)", to: "-")
        #expect(anonymous.status == 403)
        for destination in ["nonsense", "127.0.0.1:0", "127.0.0.1:\(backend.port),127.0.0.1:22"] {
            #expect(try await ask(Self.inner, to: destination).status == 400, "\(destination)")
        }
        #expect(backend.accepted == 5)
        await node.drain(deadline: .milliseconds(100))
    }

    /// Members of the mesh as before; and a stream with TLS inside may come to them, too.
    @Test func anOrdinaryListenerEndsTunnels() async throws {
        let backend = try EchoServer()
        let node = Node(
            try NodeConfiguration.parse(
                NodeFile.server(identity: Self.certificates.path(.server), ports: [backend.port]),
                file: "node"
            ),
            loops: 1,
            logger: LogRecorder().logger
        )
        let port = try #require(try await node.start().first).address.port
        let mesh = "mesh=\(Self.certificates.path(.intruder))"
        // The one outside only carries it.
        let answer = try await Self.ask(port, backend.authority, [mesh, Self.inner])
        #expect(answer.echo == "ping", "\(answer)")
        let refused = try await Self.ask(
            port,
            backend.authority,
            ["mesh=\(Self.certificates.path(.client))", "inner=\(Self.certificates.path(.intruder))"]
        )
        #expect(refused.echo == nil)
        #expect(backend.accepted == 1)
        await node.drain(deadline: .milliseconds(100))
    }
}

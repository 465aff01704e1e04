import Foundation
import TestPeers
import Testing

/// Whoever shows a token of the issuer's comes in, and nobody else: curl, raw requests and two node processes.
@Suite(.timeLimit(.minutes(10))) struct TokenIngressTests {
    private final class Setup: Sendable {
        let issuer: TokenIssuer
        let server: ChildProcess
        let nodes: IngressNodes

        private static let policy = """
            policy:
            - name: ann
              action: ALLOW
              rules:
              - from: [{requestPrincipals: ["https://id.example/ann"]}]
                to: [{hosts: ["web.mesh"], ports: [80]}]
            """

        init(_ signer: TokenIssuer.Signer = .cryptography) async throws {
            issuer = try await TokenIssuer(signer)
            server = try ChildProcess(
                TestTools.python,
                [TestTools.repository + "/Tests/Peers/http1/backend.py"],
                keepsInputOpen: true
            )
            let backend = try #require(UInt16(try await server.standardOutput.line { (UInt16($0) ?? 0) > 1023 }))
            let settings = "issuer: \"https://id.example\", audience: [web], jwks: keys.jwks"
            nodes = try await IngressNodes(
                """
                - name: web
                  bind: "127.0.0.1:0"
                  protocol: http
                  routes: [{host: "web.example.org", to: "web.mesh:80"}]
                  redirect: https
                  jwt: {\(settings)}
                - name: telling
                  bind: "127.0.0.1:0"
                  protocol: http
                  routes: [{to: "web.mesh:80"}]
                  jwt: {\(settings), forwardToken: true}
                """,
                names: ["web.mesh:80": backend],
                policy: Self.policy,
                files: ["keys.jwks": try issuer.keys()]
            )
        }

        /// What curl gets, with the head.
        func get(_ listener: String = "web", _ tokens: String...) async throws -> String {
            let fields = tokens.flatMap { ["-H", "Authorization: Bearer \($0)"] }
            let url = "http://127.0.0.1:\(try nodes.port(listener))/head"
            let output = try await ChildProcess.run(
                "curl",
                ["-sS", "-i", "--max-time", "60", "--noproxy", "*", "-H", "Host: web.example.org"] + fields + [url]
            )
            #expect(output.succeeded, "\(output.standardError)")
            return output.standardOutput
        }

        func stop() async {
            await nodes.stop()
            await server.stop()
        }
    }

    @Test func whoShowsATokenComesIn() async throws {
        let setup = try await Setup()
        let none = try await setup.get()
        #expect(none.hasPrefix("HTTP/1.1 401 "), "\(none)")
        #expect(none.contains("WWW-Authenticate: Bearer\r\n"), "\(none)")
        #expect(none.contains("Proxy-Status: bootstrap; error=http_request_denied\r\n"), "\(none)")
        for (name, status) in [
            ("bad-ended", 401), ("bad-audience", 401), ("bad-issuer", 401), ("bad-other-key", 401), ("bad-none", 401),
            ("good-ec", 200), ("good-rsa", 200), ("good-ed", 200), ("good-unicode", 403),
        ] {
            let token = try setup.issuer.token(name)
            let text = try await setup.get("web", token)
            #expect(text.hasPrefix("HTTP/1.1 \(status) "), "\(name): \(text)")
            let challenge = "WWW-Authenticate: Bearer error=\"invalid_token\"\r\n"
            #expect(text.contains(challenge) == (status == 401), "\(name): \(text)")
            // What the server shows is the head that it got.
            #expect(!text.contains("\r\nAuthorization:"), "\(name): \(text)")
        }
        let token = try setup.issuer.token("good-ec")
        let twice = try await setup.get("web", token, token)
        #expect(twice.hasPrefix("HTTP/1.1 401 "), "\(twice)")
        let told = try await setup.get("telling", token)
        #expect(told.contains("\r\nAuthorization: Bearer \(token)\r\n"), "\(told)")
        // The log says why, and never the token.
        _ = try await setup.nodes.ingress.standardError.line { $0.contains("the token has ended") }
        #expect(!setup.nodes.ingress.standardError.text.contains(token.prefix(40)))
        await setup.stop()
    }

    /// Keys and tokens of a library that many issuers use.
    @Test func whatPyJWTHasSignedIsTakenForWhatItIs() async throws {
        let setup = try await Setup(.pyJWT)
        for (name, status) in [
            ("good-rsa", 200), ("good-ec", 200), ("good-ed", 200), ("good-one-audience", 200), ("good-begun", 200),
            ("bad-audience", 401), ("bad-ended", 401), ("bad-no-end", 401), ("bad-not-begun", 401),
            ("bad-issuer", 401), ("bad-none", 401), ("bad-unknown-kid", 401), ("bad-other-key", 401),
            ("bad-rs512", 401), ("bad-hmac-of-key", 401),
        ] {
            let text = try await setup.get("web", setup.issuer.token(name))
            #expect(text.hasPrefix("HTTP/1.1 \(status) "), "\(name): \(text)")
        }
        await setup.stop()
    }

    /// Each request is looked at for itself, and the connection stays for the next.
    @Test func eachRequestOfAConnectionIsAskedForItsOwn() async throws {
        let setup = try await Setup()
        func request(_ host: String, _ fields: String = "") -> String {
            "GET / HTTP/1.1\r\nHost: \(host)\r\n\(fields)\r\n"
        }
        let token = "Authorization: Bearer \(try setup.issuer.token("good-ec"))\r\n"
        let host = "web.example.org"
        let (bytes, ending) = try await TCPClient.exchange(
            port: setup.nodes.port("web"),
            sending: Array(
                (request(host) + request(host, token) + request(host) + request("other.example.org")
                    + request(host, token + "Connection: close\r\n")).utf8
            ),
            staysOpen: true
        )
        let text = String(decoding: bytes, as: UTF8.self)
        let statuses = text.components(separatedBy: "HTTP/1.1 ").dropFirst().map { String($0.prefix(3)) }
        #expect(statuses == ["401", "200", "401", "301", "200"], "\(text)")
        #expect(ending == .endOfStream)
        await setup.stop()
    }

    /// The issuer has other keys: those of before count for nothing. A file that is broken changes nothing.
    @Test func otherKeysAreTakenOver() async throws {
        let setup = try await Setup()
        let (before, other) = (try setup.issuer.token("good-ec"), try await TokenIssuer())
        _ = try setup.nodes.directory.write("keys.jwks", "none")
        setup.nodes.ingress.signal(SIGHUP)
        _ = try await setup.nodes.ingress.standardError.line { $0.contains("listener 'web': 'jwt': ") }
        let unchanged = try await setup.get("web", before)
        #expect(unchanged.hasPrefix("HTTP/1.1 200 "), "\(unchanged)")
        _ = try setup.nodes.directory.write("keys.jwks", try other.keys())
        let after = try other.token("good-ec")
        try await eventually("the new keys count") {
            try await setup.get("web", after).hasPrefix("HTTP/1.1 200 ")
        }
        let refused = try await setup.get("web", before)
        #expect(refused.hasPrefix("HTTP/1.1 401 "), "\(refused)")
        await setup.stop()
    }
}

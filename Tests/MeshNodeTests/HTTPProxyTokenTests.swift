import Foundation
import MeshNode
import TestPeers
import Testing

/// An HTTP proxy that asks for a token.
@Suite(.timeLimit(.minutes(10))) struct HTTPProxyTokenTests {
    private static let listener =
        "- {name: proxy, bind: \"127.0.0.1:0\", protocol: http-proxy, "
        + "jwt: {issuer: \"https://id.example\", audience: [web], jwks: keys.jwks}}"

    private static let policy = """
        policy:
        - name: not-ann
          action: DENY
          rules:
          - from: [{requestPrincipals: ["https://id.example/ann"]}]
            to: [{ports: [8080]}]
        """

    /// Requests and tunnels alike, policy knows whose it is, and the token ends here.
    @Test func requestsAndTunnelsNeedOne() async throws {
        let issuer = try await TokenIssuer()
        let server = try ChildProcess(
            TestTools.python,
            [TestTools.repository + "/Tests/Peers/http1/backend.py"],
            keepsInputOpen: true
        )
        let backend = try #require(UInt16(try await server.standardOutput.line { (UInt16($0) ?? 0) > 1023 }))
        let nodes = try await FrontNodes(
            Self.listener,
            names: ["web.mesh:80": backend, "other.mesh:8080": backend],
            files: ["keys.jwks": try issuer.keys()],
            more: Self.policy
        )
        let port = try nodes.port("proxy")
        func exchange(_ requests: String...) async throws -> String {
            let (bytes, _) = try await TCPClient.exchange(
                port: port,
                sending: Array(requests.joined().utf8),
                staysOpen: true
            )
            return String(decoding: bytes, as: UTF8.self)
        }
        func get(_ url: String, _ fields: String) -> String { "GET \(url) HTTP/1.1\r\nHost: x\r\n\(fields)\r\n" }
        let last = "Connection: close\r\n"
        let ann = "Proxy-Authorization: Bearer \(try issuer.token("good-ec"))\r\n"
        let other = "Proxy-Authorization: Bearer \(try issuer.token("good-unicode"))\r\n"
        let ended = "Proxy-Authorization: Bearer \(try issuer.token("bad-ended"))\r\n"

        let shown = try await exchange(get("http://web.mesh/head", ann + "Authorization: Basic YTpi\r\n" + last))
        #expect(shown.hasPrefix("HTTP/1.1 200 "), "\(shown)")
        // What is for the server goes on.
        #expect(shown.contains("\r\nAuthorization: Basic YTpi\r\n") && !shown.contains("Bearer"), "\(shown)")
        for fields in ["", ended, ann + ann, "Authorization: Bearer \(try issuer.token("good-ec"))\r\n"] {
            let text = try await exchange(get("http://web.mesh/", fields + last))
            #expect(text.hasPrefix("HTTP/1.1 407 ") && text.contains("Proxy-Authenticate: Bearer"), "\(text)")
            let tunnel = try await exchange("CONNECT web.mesh:80 HTTP/1.1\r\nHost: x\r\n\(fields)\(last)\r\n")
            #expect(tunnel.hasPrefix("HTTP/1.1 407 "), "\(tunnel)")
        }
        // Policy knows who it is, in a tunnel as well.
        for (fields, status) in [(ann, 403), (other, 200)] {
            let text = try await exchange(get("http://other.mesh:8080/", fields + last))
            #expect(text.hasPrefix("HTTP/1.1 \(status) "), "\(text)")
            let tunnel = try await exchange(
                "CONNECT other.mesh:8080 HTTP/1.1\r\nHost: x\r\n\(fields)\r\n",
                status == 200 ? get("/until-end", "") : ""
            )
            #expect(tunnel.hasPrefix("HTTP/1.1 \(status) "), "\(tunnel)")
            #expect(tunnel.hasSuffix("until the end") == (status == 200), "\(tunnel)")
        }
        // One after the other; whoever goes on without one is sent away.
        let mixed = try await exchange(
            get("http://web.mesh/", ""),
            get("http://web.mesh/", ann),
            get("http://web.mesh/", ""),
            get("http://web.mesh/", ended),
            get("http://web.mesh/", ""),
            get("http://web.mesh/", ann)
        )
        let statuses = mixed.components(separatedBy: "HTTP/1.1 ").dropFirst().map { String($0.prefix(3)) }
        #expect(statuses == ["407", "200", "407", "407", "407"], "\(mixed)")
        #expect(!nodes.nearLog.lines.contains { $0.contains("eyJ") })
        await nodes.stop()
        await server.stop()
    }
}

import Foundation
import MeshNode
import Streams
import TestPeers
import Testing

/// Keys of issuers that come from an HTTPS server, good and bad.
@Suite(.timeLimit(.minutes(10))) struct TunnelKeyTests {
    private static func server(
        _ document: String,
        in directory: TemporaryDirectory
    ) async throws -> (ChildProcess, UInt16) {
        let credential = try TestCertificates.shared.makeLeaf(
            id: "spiffe://web.example/ns/web/sa/web",
            issuer: "rogue"
        ) { $0.ipAddresses = ["127.0.0.1"] }
        let file = try directory.write("document", document)
        let process = try ChildProcess(
            TestTools.python,
            ["\(TestTools.repository)/Tests/Peers/tls/keys.py", credential, file]
        )
        try await eventually("the server says its port: \(process.standardError.text)") {
            process.standardOutput.text.contains("\n")
        }
        return (process, try #require(UInt16(process.standardOutput.lines[0])))
    }

    private static func gateway(
        to backend: UInt16,
        keysAt port: UInt16,
        roots: String = TunnelNodes.roots,
        _ issuer: TokenIssuer
    ) async throws -> TunnelGateTests.Gateway {
        try await TunnelGateTests.Gateway(
            to: backend,
            issuer: issuer,
            jwt:
                "{issuer: \"https://id.example\", audience: [web], jwks: \"https://127.0.0.1:\(port)/k?a=b\", roots: \(roots)}"
        )
    }

    /// None of them keeps the node from starting, and none makes a token hold.
    @Test(arguments: [
        ("", 200), ("chunked", 200), ("hang", 401), ("status 500", 401), ("status 302", 401), ("short", 401),
        ("huge", 401),
        ("{}", 401), ("nonsense", 401),
    ]) func whatTheServerAnswers(document: String, status: Int) async throws {
        let (backend, issuer, directory) = (try EchoServer(), try await TokenIssuer(), TemporaryDirectory())
        let content = status == 200 ? document + (try issuer.keys()) : document
        let (process, port) = try await Self.server(content, in: directory)
        let gateway = try await Self.gateway(to: backend.port, keysAt: port, issuer)
        let answer = try await TunnelGateTests.ask(
            gateway.port,
            backend.authority,
            [TunnelGateTests.web, TunnelGateTests.inner, "token=\(try gateway.token("good-ec"))"]
        )
        #expect(answer.status == status, "\(answer) \(gateway.log.lines)")
        #expect(try await process.standardOutput.line(containing: "HTTP/1.1") == "GET /k?a=b HTTP/1.1")
        // A start waits for two seconds at most, and no token.
        if status != 200, document != "hang" { try await gateway.log.line(containing: "no keys of an issuer") }
        await gateway.stop()
        await process.stop()
    }

    /// Nobody whom the roots do not vouch for says which keys hold; and a server that is away is nothing new.
    @Test func theServerIsVerified() async throws {
        let (backend, issuer, directory) = (try EchoServer(), try await TokenIssuer(), TemporaryDirectory())
        let (process, port) = try await Self.server(try issuer.keys(), in: directory)
        let roots = TestCertificates.shared.caPath("root")
        let gateway = try await Self.gateway(to: backend.port, keysAt: port, roots: roots, issuer)
        try await gateway.log.line(containing: "no keys of an issuer")
        let line = try #require(gateway.log.lines.first { $0.contains("no keys of an issuer") })
        #expect(line.contains("not signed by a root that is trusted for it"), "\(line)")
        await gateway.stop()
        await process.stop()
        let away = try await Self.gateway(to: backend.port, keysAt: FreePort.next(), issuer)
        try await away.log.line(containing: "no keys of an issuer")
        #expect(away.log.lines.contains { $0.contains("no keys of an issuer") && $0.contains("refused") })
        await away.stop()
    }

    /// A key that nobody has seen is fetched, and the one before it still counts.
    @Test func aRotationIsNoticed() async throws {
        let (backend, issuer, directory) = (try EchoServer(), try await TokenIssuer(), TemporaryDirectory())
        func keys(_ name: String) throws -> String {
            let all = try JSONSerialization.jsonObject(with: Data(issuer.keys().utf8)) as? [String: [[String: Any]]]
            let chosen = (all?["keys"] ?? []).filter { $0["kid"] as? String == name }
            return String(decoding: try JSONSerialization.data(withJSONObject: ["keys": chosen]), as: UTF8.self)
        }
        let (process, port) = try await Self.server(try keys("ec"), in: directory)
        let gateway = try await Self.gateway(to: backend.port, keysAt: port, issuer)
        func status(_ token: String) async throws -> Int? {
            try await TunnelGateTests.ask(
                gateway.port,
                backend.authority,
                [TunnelGateTests.web, TunnelGateTests.inner, "token=\(try gateway.token(token))"]
            ).status
        }
        #expect(try await status("good-ec") == 200)
        #expect(try await status("good-rsa") == 401)
        try directory.write("document", keys("rsa"))
        try await eventually("the new key is fetched") { try await status("good-rsa") == 200 }
        #expect(try await status("good-ec") == 200)
        await gateway.stop()
        await process.stop()
    }
}

import Foundation
import MeshNode
import TestPeers
import Testing

/// What a gateway decides while a client's connection stays.
@Suite(.timeLimit(.minutes(5))) struct IngressFrontTests {
    private static func policy(_ name: String) -> String {
        """
        policy:
        - name: world
          action: ALLOW
          rules:
          - to: [{hosts: ["\(name)"], ports: [80]}]
        """
    }

    /// A stream to the server that is kept for the next request is no way past a policy that has changed since.
    @Test func eachRequestIsDecided() async throws {
        let server = try ChildProcess(
            TestTools.python,
            [TestTools.repository + "/Tests/Peers/http1/backend.py"],
            keepsInputOpen: true
        )
        let backend = try #require(UInt16(try await server.standardOutput.line { (UInt16($0) ?? 0) > 1023 }))
        let nodes = try await FrontNodes(
            "- {name: web, bind: \"127.0.0.1:0\", protocol: http, routes: [{to: \"web.mesh:80\"}]}",
            names: ["web.mesh:80": backend],
            more: Self.policy("web.mesh")
        )
        let client = try RawClient(port: nodes.port("web"))
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
}

import MeshIdentity
import TestPeers
import Testing

/// What the command line says about fronts.
@Suite struct FrontCommandTests {
    @Test func aPasswordIsHashed() async throws {
        let output = try await ChildProcess.run(
            TestTools.bootstrap,
            ["node", "--hash-password"],
            input: Array("secret\n".utf8)
        )
        #expect(output.succeeded, "\(output.standardError)")
        let hash = try PasswordHash(parsing: output.standardOutput.split(separator: "\n").first ?? "")
        #expect(hash.matches(Array("secret".utf8)))
        let empty = try await ChildProcess.run(TestTools.bootstrap, ["node", "--hash-password"], input: [])
        #expect(empty.status == .exited(2))
        let without = try await ChildProcess.run(TestTools.bootstrap, ["node"], input: [])
        #expect(without.standardError.contains("Missing expected argument '--config <FILE>'"))
    }

    @Test func aFrontIsCheckedAndExplained() async throws {
        let directory = TemporaryDirectory()
        let file = try directory.write(
            "node.yaml",
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: db, bind: "127.0.0.1:15432", protocol: tcp, forwardTo: "web.mesh:80"}
            - {name: socks, bind: "127.0.0.1:15004", protocol: socks5}
            - {name: proxy, bind: "127.0.0.1:15002", protocol: http-proxy}
            - {name: hbone, bind: "127.0.0.1:15008", protocol: hbone}
            - {name: sni, bind: "127.0.0.1:15443", protocol: sni}
            - {name: open, bind: "0.0.0.0:15444", protocol: sni}
            - {name: web, bind: "127.0.0.1:15080", protocol: http, routes: [{host: w.example, path: /a, to: "web.mesh:80"}]}
            - {name: tls, bind: "127.0.0.1:15081", protocol: tls, forwardTo: "web.mesh:80"}
            endpoints:
            - {match: "*.mesh:80", hbone: "127.0.0.1:15009"}
            """
        )
        func run(_ arguments: String...) async throws -> ChildProcess.Output {
            try await ChildProcess.run(TestTools.bootstrap, arguments + ["--config", file])
        }
        #expect(try await run("node", "--check").succeeded)
        let whitebox = try await run("explain", "--listener", "db")
        #expect(whitebox.succeeded, "\(whitebox.standardError)")
        // The very place that it leads to.
        let named = try await run("explain", "--listener", "db", "--to", "web.mesh:80")
        #expect(named.succeeded && named.standardOutput == whitebox.standardOutput, "\(named.standardError)")
        for name in ["socks", "proxy", "sni"] {
            let allowed = try await run("explain", "--listener", name, "--to", "web.mesh:80")
            #expect(allowed.standardOutput == whitebox.standardOutput)
            let denied = try await run("explain", "--listener", name, "--to", "web.example:80")
            #expect(denied.status == .exited(5))
            #expect(denied.standardOutput.contains("no endpoint matches"))
        }
        let anybody = try await run("explain", "--listener", "open", "--to", "web.mesh:80")
        #expect(anybody.status == .exited(5))
        #expect(anybody.standardOutput.contains("has no mesh identity"), "\(anybody.standardOutput)")
        let routed = try await run("explain", "--listener", "web", "--to", "https://W.example/a/b")
        #expect(routed.status == .exited(5) && routed.standardOutput.contains("to      web.mesh:80"))
        #expect(try await run("explain", "--listener", "tls").standardOutput == anybody.standardOutput)
        let unrouted = try await run("explain", "--listener", "web", "--to", "http://w.example/ab")
        #expect(unrouted.status == .exited(5) && unrouted.standardError.contains("no route of listener web matches"))
        for (arguments, message) in [
            (["--listener", "web", "--to", "web.mesh:80"], "neither a path nor an http URL"),
            (["--listener", "web", "--to", "http://w.example/../x"], "the path has a segment . or .."),
            (
                ["--listener", "none", "--to", "a:1"],
                "there is no such listener (there are: db, socks, proxy, hbone, sni, open, web, tls)"
            ),
            (["--listener", "hbone", "--to", "a:1"], "write --from SPIFFE-ID (or anyone, local) --to HOST:PORT"),
            (["--listener", "db", "--to", "a:1"], "listener db leads to web.mesh:80 only"),
            (["--listener", "socks"], "say with --to where the stream goes"),
            (["--listener", "socks", "--from", "local", "--to", "a:1"], "leave --from away"),
            (["--to", "a:1"], "--from is missing"),
        ] {
            let output = try await ChildProcess.run(TestTools.bootstrap, ["explain", "--config", file] + arguments)
            #expect(output.status == .exited(2))
            #expect(output.standardError.contains(message), "\(output.standardError)")
        }
        // A front beyond loopback is nobody's by accident.
        let open = try directory.write(
            "open.yaml",
            "identity: \(TestCertificates.shared.path(.client))\nlisteners:\n- {name: a, bind: '0.0.0.0:1', protocol: http-proxy}\n"
        )
        let refused = try await ChildProcess.run(TestTools.bootstrap, ["node", "--check", "--config", open])
        #expect(refused.status == .exited(2))
        #expect(
            refused.standardError.contains("open.yaml:3:19: listener 'a': protocol http-proxy on 0.0.0.0:1, beyond")
        )
    }
}

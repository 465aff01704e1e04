import TestPeers
import Testing

/// `bootstrap explain`: what it prints and how it ends.
@Suite struct ExplainCommandTests {
    private static let yaml = """
        identity: /i
        listeners:
        - {name: hbone, bind: "0.0.0.0:15008", protocol: hbone}
        endpoints:
        - match: "db.prod:5432"
          address: "10.0.0.8:5432"
          hbone: "10.0.0.8:15008"
          identity: spiffe://mesh.example/ns/prod/sa/db
          ssh: {destination: "ops@eight"}
        - {match: legacy.lan, direct: true}
        policy:
        - name: ssh-ops
          action: ALLOW
          rules:
          - from: [{principals: ["mesh.example/ns/ops/sa/*"]}]
            to: [{hosts: ["127.0.0.1"], ports: [22]}]
          - to: [{ports: [5432]}]
            when: [{transport: [h2, h2-over-ssh]}]
        - {name: watch, action: AUDIT, rules: [{to: [{ports: [22]}]}]}
        """

    @Test func aRequestIsExplained() async throws {
        let directory = TemporaryDirectory()
        let http = Self.yaml.replacing(
            "endpoints:",
            with: "- {name: web, bind: \"127.0.0.1:1\", protocol: http-proxy, jwt: {issuer: \"https://id\", "
                + "audience: [web], jwks: keys.json}}\nendpoints:"
        )
        let rule = """
            - name: api
              action: DENY
              rules:
              - {to: [{ports: [1]}]}
              - {to: [{methods: [GET], paths: ["/v1/*"]}], from: [{notRequestPrincipals: ["https://id/*"]}]}
            """
        let file = try directory.write("node.yaml", "\(http)\n\(rule)\n")
        func run(_ arguments: String...) async throws -> ChildProcess.Output {
            try await ChildProcess.run(
                TestTools.bootstrap,
                ["explain", "--config", file, "--from", "local", "--to", "legacy.lan:80"] + arguments
            )
        }
        let denied = try await run("--method", "GET", "--path", "/v1/%61?x")
        #expect(denied.status == .exited(5), "\(denied)")
        let lines = denied.standardOutput.split(separator: "\n").map(String.init)
        #expect(lines.count == 6)
        #expect(lines.contains("request GET /v1/a"))
        #expect(
            lines.contains { $0.hasPrefix("policy  denied by policy 'api', rule 2 (DENY) (\(file):25:5)") },
            "\(lines)"
        )
        let token = try await run("--method", "GET", "--path", "/v1/a", "--request-principal", "https://id/ann")
        #expect(token.succeeded)
        #expect(token.standardOutput.contains("request GET /v1/a, with a token of https://id/ann\n"))
        #expect(try await run("--method", "POST", "--path", "/v1/a").succeeded)
        let stream = try await run("--output", "json")
        #expect(stream.status == .exited(5), "what nobody reads is not kept from a denial")
        #expect(!stream.standardOutput.contains("\"method\""))
        let ambiguous = try await run("--method", "GET", "--path", "/x/../v1", "--output", "json")
        #expect(ambiguous.status == .exited(5))
        #expect(
            ambiguous.standardOutput.contains("\"method\" : \"GET\"") && !ambiguous.standardOutput.contains("\"path\"")
        )
        let half = try await run("--method", "GET")
        #expect(half.status == .exited(2))
        #expect(half.standardError.contains("give --method and --path"))
        // Nobody reads HTTP there.
        try directory.write("node.yaml", "\(Self.yaml)\n\(rule)\n")
        let refused = try await run()
        #expect(refused.status == .exited(2))
        #expect(refused.standardError.contains("node.yaml:24:5: policy 'api': methods and paths are read"))
        #expect(refused.standardError.contains("node.yaml:24:5: policy 'api': requestPrincipals are of tokens"))
    }

    /// What Istio's policies would decide in the place of the node's own.
    @Test func policiesOfIstioAreExplained() async throws {
        let directory = TemporaryDirectory()
        try directory.write("node.yaml", Self.yaml)
        let policies = """
            apiVersion: security.istio.io/v1
            kind: AuthorizationPolicy
            metadata: {name: legacy, namespace: prod}
            spec:
              rules:
              - from: [{source: {principals: ["cluster.local/ns/ops/sa/ann"]}}]
                to: [{operation: {ports: ["80"]}}]
            """
        let file = try directory.write("istio.yaml", policies)
        func run(_ from: String) async throws -> ChildProcess.Output {
            try await ChildProcess.run(
                TestTools.bootstrap,
                [
                    "explain", "--config", directory.path("node.yaml"), "--node", "spiffe://mesh.example/ns/prod/sa/db",
                    "--from", from, "--to", "legacy.lan:80", "--istio", file,
                ]
            )
        }
        let allowed = try await run("ns/ops/sa/ann")
        #expect(allowed.succeeded, "\(allowed)")
        #expect(
            allowed.standardOutput.contains("policy  allowed by policy 'prod/legacy', rule 1 (ALLOW) (\(file):6:5)\n"),
            "\(allowed.standardOutput)"
        )
        let denied = try await run("ns/prod/sa/web")
        #expect(denied.status == .exited(5))
        #expect(
            denied.standardOutput.contains("denied by default: there are ALLOW policies of Istio's, and none allows it")
        )
        try directory.write("istio.yaml", policies.replacing("spec:", with: "spec:\n  selector: {}"))
        let refused = try await run("ns/ops/sa/ann")
        #expect(refused.status == .exited(2))
        #expect(refused.standardError.contains("\(file):5:13: 'selector' is not supported"), "\(refused.standardError)")
    }

    @Test func command() async throws {
        let directory = TemporaryDirectory()
        try directory.write(
            "node.yaml",
            Self.yaml.replacing("identity: /i", with: "identity: \(TestCertificates.shared.path(.server))")
        )
        func run(_ arguments: String...) async throws -> ChildProcess.Output {
            try await ChildProcess.run(
                TestTools.bootstrap,
                ["explain", "--config", directory.path("node.yaml")] + arguments
            )
        }
        let allowed = try await run("--from", "ns/ops/sa/ann", "--to", "127.0.0.1:22", "--source-ip", "10.0.0.9")
        #expect(allowed.status == .exited(0), "\(allowed)")
        #expect(allowed.standardOutput.hasPrefix("from    spiffe://mesh.example/ns/ops/sa/ann at 10.0.0.9, over h2\n"))
        #expect(allowed.standardOutput.hasSuffix("result  allowed\n"))

        let denied = try await run("--from", "anyone", "--to", "127.0.0.1:22", "--output", "json")
        #expect(denied.status == .exited(5))
        #expect(denied.standardOutput.contains("\"allowed\" : false"))
        #expect(denied.standardOutput.contains("\"kind\" : \"direct\""))

        let downgrade = try await run(
            "--from",
            "spiffe://mesh.example/ns/prod/sa/a",
            "--to",
            "db.prod:5432",
            "--transport",
            "ssh"
        )
        #expect(downgrade.status == .exited(5))
        #expect(downgrade.standardOutput.contains("allows it over h2, h2-over-ssh only, not over ssh"))

        for (arguments, message) in [
            (["--from", "local", "--to", "db.prod"], "--to db.prod: authority 'db.prod' has no port"),
            (
                ["--from", "ns/ops", "--to", "a:1", "--transport", "tcp"],
                "--transport tcp: must be one of h2, "
            ),
            (["--from", "locl", "--to", "a:1"], "not 'local' or 'anyone'; did you mean 'local'?"),
            (["--from", "local", "--to", "a:1", "--source-ip", "127.1"], "--source-ip 127.1: is not an IP address"),
            (
                ["--from", "spiffe://A/b", "--to", "a:1"],
                "--from spiffe://A/b: the trust domain has the upper-case letter"
            ),
        ] {
            let output = try await ChildProcess.run(
                TestTools.bootstrap,
                ["explain", "--config", directory.path("node.yaml")] + arguments
            )
            #expect(output.status == .exited(2) && output.standardError.contains(message), "\(output)")
        }
        try directory.write("node.yaml", "identity: x\nlistners: []\n")
        let broken = try await run("--from", "local", "--to", "a:1")
        #expect(broken.status == .exited(2))
        #expect(
            broken.standardError.contains(
                "node.yaml:2:1: unknown key 'listners' in the configuration: did you mean 'listeners'?"
            )
        )
    }
}

import Glibc
import Platform
import Streams
import TestPeers
import Testing
import YAML

@testable import MeshNode

@Suite struct ValidationTests {
    /// `expected`: the beginnings of all issues in the order of the file, with '|' between them.
    private func expectIssues(_ text: String, _ expected: String, checkingFiles: Bool = false) throws {
        let configuration = try NodeConfiguration.parse(text, file: "f")
        var issues: [String] = []
        do {
            try configuration.validate(checkingFiles: checkingFiles)
        } catch {
            issues = error.issues.map(\.description)
        }
        let beginnings = expected.split(separator: "|")
        #expect(issues.count == beginnings.count, "\(issues)")
        for (issue, beginning) in zip(issues, beginnings) { #expect(issue.hasPrefix(beginning), "\(issue)") }
    }

    @Test(arguments: [
        ("- {name: a, bind: '127.0.0.1:1', protocol: hbone}", ""),
        ("- {name: a, bind: '0.0.0.0:1', protocol: sni}", ""),
        ("- {name: a, bind: '127.0.0.1:0', protocol: hbone}\n- {name: b, bind: '127.0.0.1:0', protocol: hbone}", ""),
        ("- {name: a, bind: '127.0.0.1:1', protocol: hbone}\n- {name: b, bind: '127.0.0.2:1', protocol: hbone}", ""),
        (
            "- {name: a, bind: '127.0.0.1:1', protocol: hbone}\n- {name: a, bind: '127.0.0.1:2', protocol: hbone}",
            "f:4:3: listener 'a' is there twice, also at line 3"
        ),
        (
            "- {name: a, bind: '127.0.0.1:1', protocol: hbone}\n- {name: b, bind: '127.0.0.1:1', protocol: hbone}",
            "f:4:3: listener 'b' would listen on 127.0.0.1:1, which listener 'a' has already"
        ),
        (
            "- {name: a, bind: '0.0.0.0:1', protocol: hbone}\n- {name: b, bind: '127.0.0.1:1', protocol: hbone}",
            "f:4:3: listener 'b' would listen on 127.0.0.1:1"
        ),
        (
            "- {name: a, bind: '127.0.0.1:1', protocol: hbone}\nmetrics: '0.0.0.0:1'",
            "f:4:10: 'metrics' would listen on 0.0.0.0:1, which listener 'a' has"
        ),
        (
            "- {name: a, bind: '127.0.0.1:1', protocol: hbone}\nadmin: '0.0.0.0:2'",
            "f:4:8: 'admin' asks nobody who they are"
        ),
        (
            "- {name: a, bind: '127.0.0.1:1', protocol: https, routes: [{to: 'a:1'}]}",
            "f:3:60: listener 'a': route '*/': no endpoint matches a:1"
        ),
        (
            "- {name: a, bind: '127.0.0.1:1', protocol: tcp, forwardTo: 'b:1'}",
            "f:3:3: listener 'a': forwardTo: no endpoint matches b:1, and 'default' is deny: add '- match: \"b:1\"'"
        ),
        ("- {name: a, bind: '127.0.0.1:1', protocol: tcp, forwardTo: 'b:1'}\ndefault: direct", ""),
        (
            "- {name: a, bind: '127.0.0.1:1', protocol: tcp, forwardTo: 'b:1'}\nendpoints: [{match: b, hbone: 'h:1'}]",
            ""
        ),
        (
            "- {name: a, bind: '127.0.0.1:1', protocol: tcp, forwardTo: '127.0.0.1:1'}\ndefault: direct",
            "f:3:3: listener 'a': forwardTo: 127.0.0.1:1 is this node's own listener 'a': that would be a loop"
        ),
        (
            "- {name: a, bind: '127.0.0.1:1', protocol: tcp, forwardTo: '169.254.169.254:1'}\ndefault: direct",
            "f:3:3: listener 'a': forwardTo: 169.254.169.254 is link-local"
        ),
        (
            "- {name: a, bind: '127.0.0.1:1', protocol: hbone}\nendpoints:\n- {match: b, direct: true}\n- {match: 'B:*', hbone: 'h:1'}",
            "f:6:3: endpoint 'b': is never used, since line 5 has the same 'match'"
        ),
        (
            "- {name: a, bind: '127.0.0.1:1', protocol: hbone}\nendpoints:\n- {match: b, hbone: 'h:1', labels: {tun: POST}, token: {file: t}, via: ['g:1']}",
            "f:5:3: endpoint 'b': 'via' and 'labels"
        ),
    ])
    func checksAgainstItself(_ listeners: String, _ expected: String) throws {
        try expectIssues("identity: /i\nlisteners:\n\(listeners)\n", expected)
    }

    /// A rule about HTTP needs somebody who reads it, and one about tokens somebody who verifies them.
    @Test(arguments: [
        ("to: [{methods: [GET]}]", "sni", false), ("to: [{ports: [1], notPaths: [/a]}]", "sni", false),
        ("to: [{ports: [1]}]", "hbone", true), ("to: [{methods: [GET]}]", "http-proxy", true),
    ])
    func rulesAboutHTTPNeedAListenerThatReadsIt(_ rule: String, _ kind: String, _ isFine: Bool) throws {
        try expectRule(rule, kind, isFine ? "" : "methods and paths are read by listeners of protocol http")
    }

    @Test(arguments: [
        ("requestPrincipals: ['*']", "hbone", false), ("requestPrincipals: ['*']", "http-proxy", false),
        ("notRequestPrincipals: ['*']", "http-proxy", false),
        ("notRequestPrincipals: ['*']", "http-proxy, jwt: {issuer: i, audience: [a], jwks: k}", true),
    ])
    func rulesAboutTokensNeedAListenerThatVerifiesThem(_ source: String, _ kind: String, _ isFine: Bool) throws {
        try expectRule("from: [{\(source)}]", kind, isFine ? "" : "requestPrincipals are of tokens that a listener")
    }

    /// The users of a proxy are local, and may open what routing knows.
    @Test(arguments: [
        ("action: ALLOW", "to: [{methods: [GET]}]", 1), ("action: ALLOW", "to: [{paths: [/a]}]", 1),
        ("action: ALLOW", "to: [{ports: [1]}]", 0), ("action: DENY", "to: [{notMethods: [GET]}]", 0),
        ("action: ALLOW", "to: [{methods: [GET]}], when: [{transport: [h2]}]", 0),
        ("action: ALLOW, dryRun: true", "to: [{methods: [GET]}]", 0),
    ])
    func anAllowRuleThatLimitsNobodyIsWarnedOf(_ action: String, _ rule: String, _ count: Int) throws {
        func warnings(beside listener: String) throws -> [String] {
            let text = """
                identity: i
                listeners:
                - {name: proxy, bind: '127.0.0.1:1', protocol: http-proxy}
                - \(listener)
                policy:
                - {name: p, \(action), rules: [{\(rule)}]}
                """
            let configuration = try NodeConfiguration.parse(text, file: "f")
            try configuration.validate(checkingFiles: false)
            return configuration.warnings.map(\.description)
        }
        let found = try warnings(beside: "{name: hbone, bind: '127.0.0.1:2', protocol: hbone}")
        #expect(found.count == count)
        for warning in found {
            #expect(warning.hasPrefix("f:6:") && warning.contains("policy 'p': this ALLOW rule keeps nobody out"))
        }
        // There, it is about whoever comes in.
        let others = try warnings(beside: "{name: web, bind: '127.0.0.1:2', protocol: http, redirect: https}")
        #expect(others.isEmpty)
    }

    private func expectRule(_ rule: String, _ kind: String, _ message: String) throws {
        try expectIssues(
            """
            identity: i
            listeners: [{name: a, bind: '127.0.0.1:1', protocol: \(kind)}]
            policy:
            - {name: fine, action: DENY, rules: [{to: [{ports: [1]}]}]}
            - name: p
              action: DENY
              rules:
              - {to: [{ports: [2]}]}
              - {\(rule)}
            """,
            message.isEmpty ? "" : "f:9:5: policy 'p': \(message)"
        )
    }

    @Test func needsAListener() throws {
        let error = #expect(throws: ConfigurationError.self) {
            try NodeConfiguration(identity: "/i", listeners: []).validate(checkingFiles: false)
        }
        #expect(error?.description == "configuration: needs at least one listener, or the node has nothing to do")
    }

    @Test func checksTheFilesItNames() throws {
        let directory = TemporaryDirectory()
        let good = TestCertificates.shared.path(.server)
        func text(_ identity: String, _ ssh: String) -> String {
            """
            identity: \(identity)
            listeners: [{name: a, bind: "127.0.0.1:1", protocol: hbone}]
            endpoints:
            - {match: b, ssh: {destination: h\(ssh)}}
            """
        }
        try expectIssues(text(good, ""), "", checkingFiles: true)
        // An expired credential is renewed by the node that runs; it must be able to start.
        try expectIssues(text(TestCertificates.shared.path(.expired), ""), "", checkingFiles: true)
        try expectIssues(text(directory.path("none"), ""), "f:1:11: 'identity': ", checkingFiles: true)
        try expectIssues(text(TestCertificates.shared.path(.twoSANs), ""), "f:1:11: 'identity': ", checkingFiles: true)
        let missing = directory.path("none")
        try expectIssues(
            text(good, ", identityFile: \(missing), knownHosts: \(missing), config: \(missing)"),
            "f:4:3: endpoint 'b': ssh identityFile \(missing): No such file|f:4:3: endpoint 'b': ssh knownHosts \(missing)|f:4:3: endpoint 'b': ssh config \(missing)",
            checkingFiles: true
        )
        let file = try directory.write("key", "x", permissions: 0o600)
        try expectIssues(
            text(good, ", identityFile: key"),
            "f:4:3: endpoint 'b': ssh identityFile key: No such file",
            checkingFiles: true
        )
        try expectIssues(text(good, ", identityFile: \(file)"), "", checkingFiles: true)
    }

    @Test func checksFilesOfUsers() throws {
        let directory = TemporaryDirectory()
        let good = TestCertificates.shared.path(.server)
        func text(_ users: String) -> String {
            "identity: \(good)\nlisteners: [{name: a, bind: '0.0.0.0:1', protocol: socks5, users: \(users)}]\n"
        }
        let hash = "$pbkdf2-sha256$i=10000$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA"
        let fine = try directory.write(
            "fine",
            "# c\n\nann:\(hash)\r\nbob b:x:\(hash)\n".replacing("bob b:x", with: "bob")
        )
        try expectIssues(text(fine), "", checkingFiles: true)
        for (mode, name) in [(0o666, "666"), (0o620, "620")] as [(UInt32, String)] {
            let open = try directory.write("open", "ann:\(hash)\n", permissions: mode)
            try expectIssues(
                text(open),
                "f:2:13: listener 'a': 'users': \(open): others than its owner can write to it (mode \(name))",
                checkingFiles: true
            )
        }
        let missing = directory.path("none")
        try expectIssues(
            text(missing),
            "f:2:13: listener 'a': 'users': \(missing): cannot be read",
            checkingFiles: true
        )
        let bad = try directory.write(
            "bad",
            "ann\nann:plain\nbob:\(hash)\nbob:\(hash)\na b:\(hash)\neve:$pbkdf2-sha256$i=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA\n"
        )
        try expectIssues(
            text(bad),
            [
                "1:1: has no ':'", "2:1: user 'ann': the hash must be", "4:1: user 'bob' is there twice",
                "5:1: the user's name must be", "6:1: user 'eve': the hash has 1 iterations",
            ].map { "f:2:13: listener 'a': 'users': \(bad):\($0)" }.joined(separator: "|"),
            checkingFiles: true
        )
        let empty = try directory.write("empty", "# nobody\n")
        try expectIssues(text(empty), "f:2:13: listener 'a': 'users': \(empty): has no users", checkingFiles: true)
    }

    @Test func theAccessLogIsAFile() throws {
        let directory = TemporaryDirectory()
        func text(_ path: String) -> String {
            """
            identity: \(TestCertificates.shared.path(.server))
            listeners: [{name: a, bind: "127.0.0.1:1", protocol: hbone}]
            accessLog: {file: \(path)}
            """
        }
        try expectIssues(text(directory.path("log")), "", checkingFiles: true)
        let folder = TestCertificates.shared.path(.server)
        try expectIssues(text(folder), "f:3:12: 'accessLog': \(folder): is a directory", checkingFiles: true)
    }

    @Test func checkReadsAndValidates() throws {
        let directory = TemporaryDirectory()
        let good = TestCertificates.shared.path(.server)
        try directory.write(
            "good.yaml",
            "identity: \(good)\nlisteners: [{name: a, bind: '127.0.0.1:1', protocol: hbone}]\n"
        )
        #expect(try NodeConfiguration.check(directory.path("good.yaml")).listeners.count == 1)
        try directory.write(
            "bad.yaml",
            "identity: \(good)\nlisteners: [{name: a, bind: '127.0.0.1:1', protocol: https, forwardTo: 'a:1'}]\n"
        )
        #expect(throws: ConfigurationError.self) { try NodeConfiguration.check(directory.path("bad.yaml")) }
    }
}

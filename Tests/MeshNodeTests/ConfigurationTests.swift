import Glibc
import HTTP1
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import SSHSignal
import Streams
import TestPeers
import Testing
import YAML

@testable import MeshNode

@Suite struct ConfigurationTests {
    /// Every key of design and documentation at once.
    @Test func decodesEverything() throws {
        let configuration = try NodeConfiguration.parse(
            """
            identity: /etc/bootstrap/identity
            listeners:
            - {name: hbone,  bind: "0.0.0.0:15008",   protocol: hbone}
            - {name: db,     bind: "127.0.0.1:5432",  protocol: tcp, forwardTo: "DB.prod:5432"}
            - {name: socks,  bind: "127.0.0.1:15004", protocol: socks5}
            - {name: proxy,  bind: "localhost:15002", protocol: http-proxy}
            - {name: out,    bind: "[::1]:0",         protocol: transparent}
            - {name: names,  bind: "127.0.0.1:53",    protocol: dns, names: {upstreams: [192.0.2.53, "[::1]:54"], ttl: 9}}
            - {name: web,    bind: "0.0.0.0:443",     protocol: tls,   forwardTo: "web.prod:8080", credentials: [web], clients: mesh}
            - {name: plain,  bind: "0.0.0.0:80",      protocol: http, redirect: "https:8443", routes: [{host: "*.Example.org", path: /a/, to: "a:1"}]}
            - {name: api,    bind: "0.0.0.0:8443",    protocol: https, hsts: 60, routes: [{to: "a:1"}], timeouts: {head: 1s, upstream: none}, limits: {body: 1MiB, fields: 50}}
            - {name: sni,    bind: "0.0.0.0:15443",   protocol: sni}
            endpoints:
            - match: "db.prod:5432"
              address: "10.0.0.7:5432"
              hbone: "10.0.0.7:15008"
              identity: "spiffe://example.org/ns/prod/sa/db"
              labels: {tun: POST}
              token: {file: /var/run/token}
              via: ["gw.edge:15008"]
            - match: "legacy.lan:*"
              direct: true
              tls: {serverName: Legacy.lan}
            - match: "*.cams.lan"
              hbone: "[fd00::1]:15008"
              identity: [spiffe://example.org/ns/prod/sa/a, spiffe://example.org/ns/prod/sa/b]
              ssh: {destination: "ops@cam:2222", identityFile: id_ed25519, knownHosts: /kh, config: sub/ssh_config, sessions: 2, engine: openssh}
              path: h2-over-ssh
            default: direct
            policy:
            - name: echo
              action: ALLOW
              rules:
              - from: [{principals: ["mesh.example/ns/ops/sa/*"], namespaces: [ops], sourceIPs: ["10.0.0.0/8"], notPrincipals: []}]
                to:   [{hosts: ["127.0.0.1", "cam-*.lan"], ports: [22, "8000-8010"]}]
                when: [{transport: [h2, h2-over-ssh]}, {notAfter: "2026-12-31T00:00:00Z"}]
            admin: "127.0.0.1:15000"
            metrics: "127.0.0.1:15020"
            """,
            file: "/srv/node.yaml"
        )
        #expect(configuration.identity == .directory("/etc/bootstrap/identity"))
        #expect(configuration.listeners.map(\.protocol) == NodeConfiguration.ListenerProtocol.allCases)
        #expect(
            configuration.listeners.map(\.name) == [
                "hbone", "db", "socks", "proxy", "out", "names", "web", "plain", "api", "sni",
            ]
        )
        #expect(configuration.listeners[0].bind.description == "0.0.0.0:15008")
        #expect(configuration.listeners[5].names.upstreams.map(\.description) == ["192.0.2.53:53", "[::1]:54"])
        #expect(try configuration.listeners[1].forwardTo == Authority(parsing: "db.prod:5432"))
        #expect(configuration.listeners[1].position == SourcePosition(line: 4, column: 3))
        #expect(configuration.listeners[3].bind.socketAddress.description == "127.0.0.1:15002")
        #expect(configuration.listeners[4].bind.description == "[::1]:0")
        #expect(configuration.listeners[6].ingress.credentials == ["/srv/web"])
        #expect(configuration.listeners[6].ingress.clients == .mesh)
        let plain = configuration.listeners[7].ingress
        #expect(plain.redirectPort == 8443)
        #expect(plain.routes.map(\.description) == ["*.example.org/a"])
        let api = configuration.listeners[8].ingress
        #expect(api.hsts == 60 && api.routes.map(\.description) == ["*/"])
        #expect(api.timeouts.head == .seconds(1) && api.timeouts.upstream == nil && api.timeouts.idle == .seconds(60))
        #expect(api.limits.http.body == 1 << 20 && api.limits.http.fields == 50)

        let db = configuration.endpoints[0]
        #expect(db.match.description == "db.prod:5432")
        #expect(try db.address == Authority(parsing: "10.0.0.7:5432"))
        #expect(try db.hbone == [Authority(parsing: "10.0.0.7:15008")])
        #expect(try db.identities == [SPIFFEID("spiffe://example.org/ns/prod/sa/db")])
        #expect(db.tunnel == .post)
        #expect(db.token == .file("/var/run/token"))
        #expect(try db.via == [Authority(parsing: "gw.edge:15008")])
        #expect(db.transports == [.h2ViaGateway])

        let legacy = configuration.endpoints[1]
        #expect(legacy.direct && legacy.tls?.serverName == "legacy.lan" && legacy.transports.isEmpty)

        let cams = configuration.endpoints[2]
        #expect(cams.identities.count == 2)
        #expect(cams.ssh?.destination.description == "ops@cam:2222")
        #expect(cams.ssh?.identityFile == "/srv/id_ed25519")
        #expect(cams.ssh?.sessions == 2)
        #expect(cams.ssh?.engine == .openSSH)
        #expect(cams.ssh?.knownHosts == "/kh")
        #expect(cams.ssh?.config == "/srv/sub/ssh_config")
        #expect(cams.path == .h2OverSSH && cams.transports == [.h2OverSSH])
        #expect(cams.position == SourcePosition(line: 24, column: 3))

        #expect(configuration.unmatched == .direct)
        #expect(configuration.admin?.description == "127.0.0.1:15000")
        #expect(configuration.metrics?.description == "127.0.0.1:15020")

        let policy = try #require(configuration.policy?.first)
        #expect(policy.name == "echo" && policy.action == .allow && !policy.dryRun)
        let rule = policy.rules[0]
        #expect(
            rule.from == [
                .init(
                    principals: [.prefix("mesh.example/ns/ops/sa/")],
                    namespaces: [.exact("ops")],
                    sourceIPs: [try CIDR(parsing: "10.0.0.0/8")]
                )
            ]
        )
        #expect(rule.to[0].hosts.map(\.description) == ["127.0.0.1", "cam-*.lan"])
        #expect(rule.to[0].ports == [22...22, 8000...8010])
        #expect(rule.when == [.transport([.h2, .h2OverSSH]), .notAfter(1_798_675_200)])
        #expect(rule.position?.line == 34)
    }

    @Test func defaults() throws {
        let configuration = try NodeConfiguration.parse(
            "identity: id\nlisteners: [{name: a, bind: '127.0.0.1:1', protocol: hbone}]\n",
            file: "node.yaml"
        )
        #expect(configuration.identity == .directory("id"))
        #expect(configuration.endpoints.isEmpty && configuration.policy == nil)
        #expect(configuration.unmatched == .deny && configuration.admin == nil && configuration.metrics == nil)
    }

    @Test func pathsOfAnEndpoint() throws {
        func transports(_ keys: String) throws -> [Transport] {
            try NodeConfiguration.parse(
                "identity: i\nlisteners: [{name: a, bind: '[::]:1', protocol: sni}]\nendpoints: [{match: a, \(keys)}]\n",
                file: "f"
            )
            .endpoints[0].transports
        }
        #expect(try transports("hbone: 'a:1'") == [.h2])
        #expect(try transports("ssh: {destination: a}") == [.ssh])
        #expect(try transports("hbone: 'a:1', ssh: {destination: a}") == [.h2, .h2OverSSH, .ssh])
        #expect(try transports("hbone: 'a:1', ssh: {destination: a}, path: auto") == [.h2, .h2OverSSH, .ssh])
        #expect(try transports("hbone: 'a:1', ssh: {destination: a}, path: h2") == [.h2])
        #expect(try transports("hbone: 'a:1', ssh: {destination: a}, path: ssh") == [.ssh])
        #expect(try transports("direct: true").isEmpty)
    }

    /// `body` stands in a file whose first two lines are good; errors are expected where they say.
    private static let head = "identity: /i\nlisteners: [{name: a, bind: '127.0.0.1:1', protocol: hbone}]\n"

    @Test(arguments: [
        ("lisseners: []\n", "f:3:1: unknown key 'lisseners' in the configuration: did you mean 'listeners'?"),
        ("colour: blue\n", "f:3:1: unknown key 'colour' in the configuration: known keys are identity, listeners"),
        ("<<: {a: b}\n", "f:3:1: unknown key '<<'"),
        ("endpoints: {match: a}\n", "f:3:12: 'endpoints' must be a list, not a mapping"),
        ("endpoints: []\n", "f:3:12: 'endpoints' is an empty list"),
        ("endpoints:\n", "f:3:11: 'endpoints' must be a list, not nothing"),
        ("endpoints: [a]\n", "f:3:13: an endpoint must be a mapping with the keys match, address"),
        ("endpoints: [{hbone: 'a:1'}]\n", "f:3:13: an endpoint needs the key 'match'"),
        (
            "endpoints:\n- match: a\n",
            "f:4:10: endpoint 'a': needs 'hbone' (where its HBONE server listens), 'via' (gateways on the way), 'ssh'"
        ),
        ("endpoints:\n- match: a\n  hbon: 'a:1'\n", "f:5:3: unknown key 'hbon' in an endpoint: did you mean 'hbone'?"),
        ("endpoints:\n- match: a\n  hbone: a\n", "f:5:10: 'hbone': authority 'a' has no port"),
        ("endpoints:\n- match: a\n  hbone: ['h:1', 'H:1']\n", "f:5:10: 'hbone': h:1 is there twice: remove one"),
        ("endpoints:\n- match: a\n  hbone: []\n", "f:5:10: 'hbone' is an empty list"),
        ("endpoints:\n- match: a\n  direct: true\n  tls: {roots: [a]}\n", "f:6:16: 'roots' must be"),
        ("endpoints:\n- match: '127.1'\n  hbone: 'a:1'\n", "f:4:10: 'match': authority '127.1:1' ends in a number"),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  address: '[::1]'\n",
            "f:6:12: 'address': authority '[::1]' has no port"
        ),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  identity: example.org/ns/a/sa/b\n",
            "f:6:13: 'identity': the scheme is not spiffe://"
        ),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  identity: [spiffe://e/ns/a/sa/b, spiffe://E/x]\n",
            "f:6:36: 'identity': the trust domain has the upper-case"
        ),
        ("endpoints:\n- match: a\n  hbone: 'a:1'\n  identity: []\n", "f:6:13: 'identity' is an empty list"),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  labels: {tun: post}\n",
            "f:6:17: 'tun' must be one of CONNECT, POST, not 'post': did you mean 'POST'?"
        ),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  labels: {tum: POST}\n",
            "f:6:12: unknown key 'tum' in 'labels': did you mean 'tun'?"
        ),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  token: {file: x}\n",
            "f:6:10: endpoint 'a': 'token' is for the proxy of 'labels: {tun: …}'"
        ),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  token: x\n",
            "f:6:10: 'token' must be a mapping with the keys file, exec, static, not 'x'|f:6:10: endpoint 'a': 'token' is for"
        ),
        ("endpoints:\n- match: a\n  hbone: 'a:1'\n  via: 'gw:1'\n", "f:6:8: 'via' must be a list, not 'gw:1'"),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  via: [gw]\n",
            "f:6:9: a gateway of 'via': authority 'gw' has no port"
        ),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  viaIdentity: 'spiffe://a/b'\n",
            "f:6:16: endpoint 'a': 'viaIdentity' is who the gateways of 'via' are, and there are none"
        ),
        (
            "endpoints:\n- match: a\n  via: ['g:1', 'h:1', 'g:1']\n",
            "f:5:8: endpoint 'a': 'via': g:1 is there twice, and the way would be a loop"
        ),
        (
            "endpoints:\n- match: a\n  via: ['g:1', 'h:1', 'i:1']\n  viaIdentity: ['spiffe://a/b', 'spiffe://a/c']\n",
            "f:6:16: endpoint 'a': 'via' has 3 gateways and 'viaIdentity' 2 identities: write one that all"
        ),
        (
            "endpoints:\n- match: a\n  via: ['a:1', 'b:1', 'c:1', 'd:1', 'e:1', 'f:1', 'g:1', 'h:1', 'i:1']\n",
            "f:5:8: endpoint 'a': 'via' has 9 gateways; 8 are allowed"
        ),
        (
            "endpoints:\n- match: a\n  direct: true\n  viaIdentity: 'spiffe://a/b'\n",
            "f:6:16: endpoint 'a': 'viaIdentity' means nothing with 'direct: true'"
        ),
        (
            "endpoints:\n- match: a\n  ssh: {destination: a}\n  identity: 'spiffe://a/b'\n",
            "f:6:13: endpoint 'a': 'identity' is who the server of 'hbone' must be"
        ),
        ("endpoints:\n- match: a\n  hbone: 'a:1'\n  tls: {}\n", "f:6:8: endpoint 'a': 'tls' is for 'direct: true'"),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  direct: true\n",
            "f:5:10: endpoint 'a': 'hbone' means nothing with 'direct: true'"
        ),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  direct: yes\n",
            "f:6:11: 'direct' must be true or false, not 'yes'"
        ),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  direct: false\n",
            "f:6:11: endpoint 'a': 'direct: false' is what holds anyway"
        ),
        (
            "endpoints:\n- match: a\n  direct: 'true'\n",
            "f:5:11: 'direct' must be true or false"
        ),
        (
            "endpoints:\n- match: a\n  hbone: 'a:1'\n  path: h3\n",
            "f:6:9: 'path' must be one of auto, h2, h2-via-gateway, h2-over-ssh, ssh, not 'h3': did you mean 'h2'?"
        ),
        ("endpoints:\n- match: a\n  hbone: 'a:1'\n  path: ssh\n", "f:6:9: endpoint 'a': 'path: ssh' needs 'ssh'"),
        (
            "endpoints:\n- match: a\n  ssh: {destination: a}\n  path: h2-over-ssh\n",
            "f:6:9: endpoint 'a': 'path: h2-over-ssh' needs 'hbone'"
        ),
        ("endpoints:\n- match: a\n  ssh: {}\n", "f:5:8: 'ssh' needs the key 'destination'"),
        (
            "endpoints:\n- match: a\n  ssh: {destination: '-oProxyCommand=x'}\n",
            "f:5:22: 'destination': '-oProxyCommand=x'"
        ),
        (
            "endpoints:\n- match: a\n  ssh: {destination: a, identityfile: b}\n",
            "f:5:25: unknown key 'identityfile' in 'ssh': did you mean 'identityFile'?"
        ),
        ("default: allow\n", "f:3:10: 'default' must be one of deny, direct, not 'allow'"),
        ("admin: 15000\n", "f:3:8: 'admin': '15000' is not an IP address and a port: write 127.0.0.1:PORT"),
        ("metrics: ':15020'\n", "f:3:10: 'metrics': ':15020' is not an IP address and a port: write 127.0.0.1:PORT"),
        (
            "metrics: '::1:15020'\n",
            "f:3:10: 'metrics': '::1:15020' is not an IP address and a port: write an IPv6 address in brackets"
        ),
        ("metrics: 'host:15020'\n", "f:3:10: 'metrics': 'host:15020' is not an IP address"),
        ("metrics: '[127.0.0.1]:15020'\n", "f:3:10: 'metrics': '[127.0.0.1]:15020' is not an IP address"),
        (
            "metrics: '127.0.0.1:70000'\n",
            "f:3:10: 'metrics': '127.0.0.1:70000' is not an IP address and a port: the port must be from 0"
        ),
        ("metrics: \"a\\nb\"\n", "f:3:10: 'metrics' must be text on one line"),
        ("metrics: \"\"\n", "f:3:10: 'metrics' must be text on one line, and not empty"),
        ("metrics: [a]\n", "f:3:10: 'metrics' must be text, not a list"),
    ])
    func reportsMistakes(_ body: String, _ expected: String) {
        expectIssues(Self.head + body, expected)
    }

    @Test(arguments: [
        ("[]\n", "f:1:1: the configuration must be a mapping"),
        ("identity: /i\n", "f:1:1: the configuration needs the key 'listeners'"),
        (
            "identity:\nlisteners: [{name: a, bind: '127.0.0.1:1', protocol: hbone}]\n",
            "f:1:10: 'identity' must be text, not nothing"
        ),
        ("identity: /i\nlisteners:\n- name: a\n  bind: '127.0.0.1:1'\n", "f:3:3: a listener needs the key 'protocol'"),
        (
            "identity: /i\nlisteners:\n- {name: a b, bind: '127.0.0.1:1', protocol: hbone}\n",
            "f:3:10: 'name': 'a b' must be at most 63 letters"
        ),
        (
            "identity: /i\nlisteners:\n- {name: a, bind: '127.0.0.1', protocol: hbone}\n",
            "f:3:19: 'bind': '127.0.0.1' is not an IP address and a port"
        ),
        (
            "identity: /i\nlisteners:\n- {name: a, bind: '127.0.0.1:1', protocol: socks}\n",
            "f:3:44: 'protocol' must be one of hbone, tcp, socks5, http-proxy, transparent, dns, tls, http, https, sni, not 'socks': did you mean 'socks5'?"
        ),
        (
            "identity: /i\nlisteners:\n- {name: a, bind: '127.0.0.1:1', protocol: tcp}\n",
            "f:3:3: listener 'a': protocol tcp needs 'forwardTo'"
        ),
        (
            "identity: /i\nlisteners:\n- {name: a, bind: '127.0.0.1:1', protocol: hbone, forwardTo: 'b:1'}\n",
            "f:3:62: listener 'a': 'forwardTo' means nothing with protocol hbone"
        ),
        (
            "identity: /i\nlisteners:\n- {name: a, bind: '127.0.0.1:1', protocol: hbone, credentials: [/c]}\n",
            "f:3:64: listener 'a': 'credentials' are shown to clients that know this node by its names"
        ),
        (
            "identity: /i\nlisteners:\n- {name: a, bind: '0.0.0.0:1', protocol: socks5}\n"
                + "- {name: b, bind: '[::]:2', protocol: http-proxy}\n",
            "f:3:19: listener 'a': protocol socks5 on 0.0.0.0:1, beyond loopback, would carry anybody's streams in the "
                + "name of this node: add 'users'|f:4:19: listener 'b': protocol http-proxy on [::]:2, beyond loopback"
        ),
        (
            "identity: /i\nlisteners:\n- {name: a, bind: '127.0.0.1:1', protocol: hbone, users: /u}\n",
            "f:3:58: listener 'a': 'users' is for protocols socks5 and http-proxy"
        ),
        (
            "identity: /i\nlisteners:\n- {name: a, bnid: '127.0.0.1:1', protocol: hbone}\n- {name: b, bind: x, protocol: hbone}\n",
            "f:3:13: unknown key 'bnid' in a listener: did you mean 'bind'?|f:4:19: 'bind': 'x' is not"
        ),
    ])
    func reportsMistakesInListeners(_ text: String, _ expected: String) {
        expectIssues(text, expected)
    }

    /// `expected`: the beginnings of all issues, in any order, with '|' between them.
    private func expectIssues(_ text: String, _ expected: String) {
        let error = #expect(throws: ConfigurationError.self) { try NodeConfiguration.parse(text, file: "f") }
        let issues = (error?.issues ?? []).map(\.description)
        let beginnings = expected.split(separator: "|")
        #expect(issues.count == beginnings.count, "\(issues)")
        for beginning in beginnings {
            #expect(issues.contains { $0.hasPrefix(beginning) }, "\(beginning) is not in \(issues)")
        }
    }

    @Test func showsEveryMistakeInOrder() {
        let text = "identity: []\nlistners: x\nendpoints: [{match: ''}]\ndefault: maybe\n"
        let error = #expect(throws: ConfigurationError.self) { try NodeConfiguration.parse(text, file: "f") }
        #expect(error?.issues.compactMap(\.position?.line) == [1, 2, 3, 3, 4])
        #expect(error?.description.split(separator: "\n").count == 5)
    }

    @Test func aWrongFileDoesNotFloodTheTerminal() {
        let text = (0..<1000).map { "key\($0): x\n" }.joined()
        let error = #expect(throws: ConfigurationError.self) { try NodeConfiguration.parse(text, file: "f") }
        #expect((error?.issues.count ?? 0) == 50)
    }

    @Test func readsFiles() throws {
        let directory = TemporaryDirectory()
        try directory.write("node.yaml", Self.head)
        #expect(try NodeConfiguration.load(directory.path("node.yaml")).identity == .directory("/i"))
        chmod(directory.path("node.yaml"), 0o664)
        #expect(throws: Never.self) { try NodeConfiguration.load(directory.path("node.yaml")) }
        chmod(directory.path("node.yaml"), 0o646)
        let open = #expect(throws: ConfigurationError.self) { try NodeConfiguration.load(directory.path("node.yaml")) }
        #expect(open.map { "\($0)".contains("chmod o-w \(directory.path("node.yaml"))") } == true)
        chmod(directory.path("node.yaml"), 0o644)

        let missing = #expect(throws: ConfigurationError.self) {
            try NodeConfiguration.load(directory.path("none.yaml"))
        }
        #expect(missing?.description == "\(directory.path("none.yaml")): cannot be read: No such file or directory")
        let folder = #expect(throws: ConfigurationError.self) { try NodeConfiguration.load(directory.path) }
        #expect(folder?.description.contains("Is a directory") == true)
        try directory.write("latin.yaml", Array("a: ".utf8) + [0xe9, 0x0a])
        let latin = #expect(throws: ConfigurationError.self) {
            try NodeConfiguration.load(directory.path("latin.yaml"))
        }
        #expect(latin?.description.contains("save it as UTF-8") == true)
    }

    @Test func rulesOfEndpointMatches() throws {
        func matches(_ match: String, _ destination: String) throws -> Bool {
            try EndpointMatch(parsing: match).matches(Authority(parsing: destination))
        }
        for (match, yes, no) in [
            ("db.prod:5432", ["db.prod:5432", "DB.PROD.:5432"], ["db.prod:5433", "xdb.prod:5432"]),
            ("db.prod", ["db.prod:1", "db.prod:65535"], ["a.db.prod:1"]),
            ("db.prod:*", ["db.prod:1"], ["db.prod.x:1"]),
            ("*.prod", ["a.prod:1", "a.b.prod:1"], ["prod:1", "aprod:1", "a.prod.x:1"]),
            ("*.prod:80", ["a.prod:80"], ["a.prod:81"]),
            ("*", ["a:1", "1.2.3.4:5", "[::1]:6"], []),
            ("*:80", ["a:80", "[::1]:80"], ["a:81"]),
            ("10.0.0.0/8", ["10.1.2.3:4", "[::ffff:10.1.2.3]:4"], ["11.0.0.1:4", "a.10.0.0.0.lan:1"]),
            ("10.0.0.0/8:22", ["10.1.2.3:22"], ["10.1.2.3:23"]),
            ("fd00::/8", ["[fd01::1]:4"], ["[fe00::1]:4", "10.0.0.1:4"]),
            ("fd00::/8:22", ["[fd01::1]:22"], ["[fd01::1]:23"]),
            ("[fd00::]/8:22", ["[fd01::1]:22"], ["[fd01::1]:23"]),
            ("[::1]:80", ["[0::1]:80"], ["[::1]:81", "[::2]:80"]),
            ("[::1]", ["[::1]:81"], ["[::2]:80"]),
            ("10.0.0.1", ["10.0.0.1:9", "[::ffff:a00:1]:9"], ["10.0.0.2:9"]),
        ] {
            for destination in yes { #expect(try matches(match, destination), "\(match) \(destination)") }
            for destination in no { #expect(try !matches(match, destination), "\(match) \(destination)") }
            let parsed = try EndpointMatch(parsing: match)
            #expect(try EndpointMatch(parsing: parsed.description) == parsed)
        }
        for text in [
            "", ":80", "a:0", "a:x", "a:080", "a:+1", "*a", "a*.b", "*.", "*.10", "10.0.0.0/33", "10.0.0.1/8", "::1",
            "a b", "*.*",
        ] {
            #expect(throws: StreamError.self, "\(text)") { try EndpointMatch(parsing: text) }
        }
    }
}

import Glibc
import MeshIdentity
import MeshNode
import Platform
import TestPeers
import Testing
import YAML

@testable import MeshPolicy

/// AuthorizationPolicies of Istio: the examples of its documentation, and what cannot be imported.
@Suite struct IstioPolicyTests {
    /// A node that reads HTTP, and its policies from a file.
    private static func configuration(_ policies: String) throws -> (NodeConfiguration, TemporaryDirectory) {
        let directory = TemporaryDirectory()
        try directory.write("istio.yaml", policies)
        let file = try directory.write(
            "node.yaml",
            """
            identity: /i
            listeners:
            - {name: hbone, bind: "0.0.0.0:15008", protocol: hbone}
            - {name: web, bind: "127.0.0.1:9999", protocol: http-proxy}
            endpoints:
            - {match: "db.lan", direct: true}
            policy: {istio: istio.yaml}
            """
        )
        return (try NodeConfiguration.load(file), directory)
    }

    /// It says who is let in, as the node's own file does.
    @Test func whatAnybodyCanChangeIsNoPolicy() throws {
        let (_, directory) = try Self.configuration(Self.head + "spec: {action: ALLOW}")
        let (node, policy) = (directory.path("node.yaml"), directory.path("istio.yaml"))
        chmod(policy, 0o646)
        let error = #expect(throws: ConfigurationError.self) { try NodeConfiguration.load(node) }
        #expect(error.map { "\($0)".contains("chmod o-w \(policy)") } == true, "\(error as Any)")
    }

    private static func engine(_ policies: String) throws -> PolicyEngine {
        PolicyEngine(try configuration(policies).0.rules(), own: try SPIFFEID(PolicyTests.own))
    }

    private static func request(
        _ from: String,
        _ details: RequestDetails? = nil,
        port: Int = 80
    ) throws -> StreamRequest {
        let plain = try PolicyTests.request(from, "db.lan:\(port)", ip: "10.1.2.3")
        return StreamRequest(
            source: plain.source,
            sourceIP: plain.sourceIP,
            transport: plain.transport,
            destination: plain.destination,
            details: details,
            now: plain.now
        )
    }

    private static let head =
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: foo\n"

    /// https://istio.io/latest/docs/reference/config/security/authorization-policy/
    private static let httpbin = """
        apiVersion: security.istio.io/v1
        kind: AuthorizationPolicy
        metadata:
          name: httpbin
          namespace: foo
          labels: {app: httpbin}
          annotations: {owner: somebody}
        spec:
          action: ALLOW
          rules:
          - from:
            - source:
                principals: ["cluster.local/ns/default/sa/curl"]
            - source:
                namespaces: ["test"]
            to:
            - operation:
                methods: ["GET"]
                paths: ["/info*"]
            - operation:
                methods: ["POST"]
                paths: ["/data"]
            when:
            - key: request.auth.principal
              values: ["https://accounts.google.com/*"]
        """

    @Test func theExampleOfTheReferenceMeansTheSame() throws {
        let engine = try Self.engine(Self.httpbin)
        let token = "https://accounts.google.com/ann"
        func decide(_ from: String, _ method: String, _ path: String, _ principal: String?) throws -> Bool {
            try engine.decide(
                Self.request(from, RequestDetails(method: method, target: path, principal: principal))
            ).isAllowed
        }
        // cluster.local is whichever trust domain the mesh has.
        let curl = "mesh.example/ns/default/sa/curl"
        #expect(try decide(curl, "GET", "/info/x?y", token))
        #expect(try decide(curl, "POST", "/data", token))
        #expect(try decide("mesh.example/ns/test/sa/any", "GET", "/info", token))
        #expect(try !decide("other.example/ns/default/sa/curl", "GET", "/info", token))
        #expect(try !decide(curl, "POST", "/info", token))
        #expect(try !decide(curl, "GET", "/data", token))
        #expect(try !decide(curl, "GET", "/info", nil))
        #expect(try !decide(curl, "GET", "/info", "https://other/ann"))
        #expect(try !engine.decide(Self.request(curl)).isAllowed, "what nobody reads is not allowed by it")
        let decision = try engine.decide(
            Self.request(curl, RequestDetails(method: "GET", target: "/info", principal: token))
        )
        #expect(decision.reason == "allowed by policy 'foo/httpbin', rule 1 (ALLOW)")
        #expect(decision.rule?.position?.line == 11)
    }

    @Test(arguments: [
        "spec:\n  {}", "spec:", "", "spec: {action: ALLOW}", "spec: {rules: []}", "spec: {action: ALLOW, rules: }",
    ])
    func allowNothing(_ spec: String) throws {
        let engine = try Self.engine(Self.head + spec)
        // The default would let it in.
        let decision = try engine.decide(Self.request("mesh.example/ns/prod/sa/web"))
        #expect(!decision.isAllowed)
        #expect(decision.reason == "denied by default: there are ALLOW policies of Istio's, and none allows it")
        #expect(try !engine.decide(Self.request("anyone")).isAllowed)
        // It is about who comes, and not about who goes.
        #expect(try engine.decide(Self.request("local")).isAllowed)
    }

    @Test func allowAll() throws {
        let engine = try Self.engine(Self.head + "spec:\n  action: ALLOW\n  rules:\n  - {}\n")
        #expect(try engine.decide(Self.request("mesh.example/ns/x/sa/web")).isAllowed)
        #expect(try engine.decide(Self.request("anyone")).isAllowed)
    }

    @Test func denyAllAndDenyNothing() throws {
        let all = try Self.engine(Self.head + "spec: {action: DENY, rules: [{}]}")
        #expect(try !all.decide(Self.request("mesh.example/ns/prod/sa/web")).isAllowed)
        #expect(try all.decide(Self.request("local")).isAllowed)
        for spec in ["spec: {action: DENY}", "spec: {action: AUDIT}"] {
            let none = try Self.engine(Self.head + spec)
            #expect(try none.decide(Self.request("mesh.example/ns/prod/sa/web")).isAllowed, "the default decides")
        }
        // A policy that is tried out decides nothing, and leaves the default.
        let dry = Self.head + "  annotations: {\"istio.io/dry-run\": \"true\"}\nspec: {action: ALLOW}"
        #expect(try Self.engine(dry).decide(Self.request("mesh.example/ns/prod/sa/web")).isAllowed)
    }

    /// Several documents; a DENY first, and whoever has no token.
    @Test func documentsAreOneSet() throws {
        let text = """
            # comment
            ---
            \(Self.head)spec:
              action: DENY
              rules:
              - from:
                - source:
                    notRequestPrincipals: ["*"]
                to:
                - operation:
                    ports: ["80"]
            ---
            # nothing here
            ---
            \(Self.head.replacing("name: p", with: "name: q"))spec:
              rules:
              - from:
                - source: {ipBlocks: ["10.1.0.0/16"], notIpBlocks: ["10.1.9.9"]}
                when:
                - {key: destination.port, values: ["80", "81"], notValues: ["81"]}
                - {key: source.namespace, notValues: ["evil*"]}
            """
        let engine = try Self.engine(text)
        let token = RequestDetails(method: "GET", path: "/", principal: "i/s")
        let web = "mesh.example/ns/x/sa/web"
        #expect(try engine.decide(Self.request(web, token)).reason == "allowed by policy 'foo/q', rule 1 (ALLOW)")
        let denied = try engine.decide(Self.request(web, RequestDetails(method: "GET", path: "/")))
        #expect(denied.reason == "denied by policy 'foo/p', rule 1 (DENY)")
        #expect(denied.rule?.position?.line == 11)
        #expect(try !engine.decide(Self.request(web, token, port: 81)).isAllowed)
        #expect(try !engine.decide(Self.request("mesh.example/ns/evil-x/sa/web", token)).isAllowed)
    }

    @Test(arguments: [
        (
            "spec: {selector: {matchLabels: {app: a}}}",
            "f:6:18: 'selector' is not supported: the file is for this node as a whole"
        ),
        ("spec: {targetRefs: [{kind: Gateway}]}", "f:6:20: 'targetRefs' is not supported"),
        (
            "spec: {action: CUSTOM, provider: {name: a}}",
            "f:6:16: 'action' must be one of ALLOW, DENY, AUDIT, not 'CUSTOM'"
        ),
        ("spec: {action: allow}", "f:6:16: 'action' must be one of"),
        ("spec: {rule: []}", "f:6:8: unknown key 'rule' in 'spec': did you mean 'rules'?"),
        ("status: {}", "f:6:1: unknown key 'status' in the document"),
        ("spec: {rules: [{from: []}]}", "f:6:23: 'from' is an empty list"),
        ("spec: {rules: [{from: [{}]}]}", "f:6:24: an element of 'from' needs the key 'source'"),
        ("spec: {rules: [{from: [{source: {}}]}]}", "f:6:33: 'source' is empty"),
        (
            "spec: {rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]}",
            "f:6:50: 'remoteIpBlocks' is not supported"
        ),
        ("spec: {rules: [{from: [{source: {serviceAccounts: [a]}}]}]}", "f:6:51: 'serviceAccounts' is not supported"),
        (
            "spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.1/8]}}]}]}",
            "f:6:45: 'ipBlocks': '10.0.0.1/8' has bits set"
        ),
        ("spec: {rules: [{to: [{operation: {ports: ['80-90']}}]}]}", "f:6:43: 'ports': '80-90' is not one port"),
        (
            "spec: {rules: [{to: [{operation: {hosts: ['a.*.b']}}]}]}",
            "f:6:43: 'hosts': 'a.*.b' must have at most one '*'"
        ),
        (
            "spec: {rules: [{to: [{operation: {paths: ['/a/{**}']}}]}]}",
            "f:6:43: 'paths': '/a/{**}' must have at most one"
        ),
        ("spec: {rules: [{to: [{operation: {methods: [get]}}]}]}", "f:6:45: 'methods': 'get' is not a method"),
        (
            "spec: {rules: [{when: [{key: 'request.headers[x]', values: [a]}]}]}",
            "f:6:30: the key 'request.headers[x]' of 'when' is not"
        ),
        (
            "spec: {rules: [{when: [{key: 'request.auth.claims[iss]', values: [a]}]}]}",
            "f:6:30: the key 'request.auth.claims[iss]'"
        ),
        ("spec: {rules: [{when: [{key: destination.ip, values: [10.0.0.1]}]}]}", "f:6:30: the key 'destination.ip'"),
        ("spec: {rules: [{when: [{key: connection.sni, values: [a]}]}]}", "f:6:30: the key 'connection.sni'"),
        ("spec: {rules: [{when: [{key: source.ip}]}]}", "f:6:24: a condition of 'when' needs 'values' or 'notValues'"),
        ("spec: {rules: [{when: [{key: source.ip, values: []}]}]}", "f:6:49: 'values' is an empty list"),
        ("---\nspec: {}", "f:7:1: the document needs the key 'apiVersion'"),
    ])
    func whatCannotBeImportedIsAnError(_ rest: String, _ message: String) throws {
        let directory = TemporaryDirectory()
        let file = try directory.write("f", Self.head + rest)
        var configuration = try Self.configuration(Self.head).0
        let error = #expect(throws: ConfigurationError.self) { try configuration.importPolicies(ofIstio: file) }
        #expect(error?.description.hasPrefix(directory.path("") + message) == true, "\(String(describing: error))")
    }

    @Test(arguments: [
        ("security.istio.io/v1", "security.istio.io/v2", ":1:13: 'apiVersion' is 'security.istio.io/v2'"),
        ("kind: AuthorizationPolicy", "kind: PeerAuthentication", ":2:7: 'kind' is 'PeerAuthentication'"),
        ("name: p", "name: p\n  uid: x", ":5:3: unknown key 'uid' in 'metadata'"),
        (
            "name: p", "name: p\n  annotations: {istio.io/other: x}",
            ":5:33: the annotation 'istio.io/other' is not supported"
        ),
    ])
    func otherObjectsAreRefused(_ text: String, _ other: String, _ message: String) throws {
        let error = #expect(throws: ConfigurationError.self) {
            _ = try Self.configuration(Self.head.replacing(text, with: other))
        }
        #expect(error?.description.contains("/istio.yaml" + message) == true, "\(String(describing: error))")
        // v1beta1 is the same.
        _ = try Self.configuration(Self.head.replacing("istio.io/v1", with: "istio.io/v1beta1"))
        #expect(throws: ConfigurationError.self) { _ = try Self.configuration("# nothing\n---\n") }
    }

    /// Names are unique over all documents, and a rule about HTTP is told with its own file where nobody reads it.
    @Test func theSetIsChecked() throws {
        let twice = #expect(throws: ConfigurationError.self) {
            _ = try Self.configuration("\(Self.head)---\n\(Self.head)")
        }
        #expect(twice?.description.contains("policy 'foo/p' is there twice") == true)
        let (configuration, directory) = try Self.configuration(Self.httpbin)
        var other = configuration
        other.listeners.removeLast()
        let error = #expect(throws: ConfigurationError.self) { try other.validate(checkingFiles: false) }
        #expect(error?.description.contains("/istio.yaml:11:5: policy 'foo/httpbin': methods and paths") == true)
        _ = directory
    }
}

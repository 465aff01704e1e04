import MeshPolicy
import Platform
import Testing
import YAML

@testable import MeshNode

@Suite struct PolicyDecodingTests {
    @Test(arguments: [
        ("[]", "f:3:9: 'policy' is an empty list: fill it, or remove the key"),
        ("", "f:3:8: 'policy' must be a list, not nothing"),
        ("{name: a}", "f:3:9: 'policy' must be a list, not a mapping"),
        ("[{name: a, action: ALLOW}]", "f:3:10: a policy needs the key 'rules'"),
        ("[{action: ALLOW, rules: [{}]}]", "f:3:10: a policy needs the key 'name'"),
        ("[{name: a, rules: [{}]}]", "f:3:10: a policy needs the key 'action'"),
        (
            "[{name: a, action: allow, rules: [{}]}]",
            "f:3:28: 'action' must be one of ALLOW, DENY, AUDIT, not 'allow': did you mean 'ALLOW'?"
        ),
        (
            "[{name: a, action: CUSTOM, rules: [{}]}]",
            "f:3:28: 'action' must be one of ALLOW, DENY, AUDIT, not 'CUSTOM'"
        ),
        ("[{name: a, action: ALLOW, rules: []}]", "f:3:42: 'rules' is an empty list"),
        ("[{name: a, action: ALLOW, rules: [x]}]", "f:3:43: a rule must be a mapping"),
        (
            "[{name: a, action: ALLOW, dryrun: true, rules: [{}]}]",
            "f:3:35: unknown key 'dryrun' in a policy: did you mean 'dryRun'?"
        ),
        (
            "[{name: a, action: ALLOW, rules: [{form: []}]}]",
            "f:3:44: unknown key 'form' in a rule: did you mean 'from'?"
        ),
        ("[{name: a, action: ALLOW, rules: [{from: []}]}]", "f:3:50: 'from' is an empty list"),
        ("[{name: a, action: ALLOW, rules: [{from: [{}]}]}]", "f:3:51: a source of 'from' is empty"),
        ("[{name: a, action: ALLOW, rules: [{from: [{notPrincipals: []}]}]}]", "f:3:51: a source of 'from' is empty"),
        ("[{name: a, action: ALLOW, rules: [{from: [{principals: []}]}]}]", "f:3:64: 'principals' is an empty list"),
        (
            "[{name: a, action: ALLOW, rules: [{from: [{principals: [], notPrincipals: []}]}]}]",
            "f:3:64: 'principals' is an empty list"
        ),
        (
            "[{name: a, action: ALLOW, rules: [{from: [{principals: x}]}]}]",
            "f:3:64: 'principals' must be a list, not 'x'"
        ),
        (
            "[{name: a, action: ALLOW, rules: [{from: [{principals: ['']}]}]}]",
            "f:3:65: 'principals' must be text on one line, and not empty"
        ),
        (
            "[{name: a, action: ALLOW, rules: [{from: [{principals: [~]}]}]}]",
            "f:3:65: 'principals' must be text, not nothing"
        ),
        (
            "[{name: a, action: ALLOW, rules: [{from: [{principals: ['a*b']}]}]}]",
            "f:3:65: 'principals': 'a*b' must have at most one '*', at its beginning or its end"
        ),
        (
            "[{name: a, action: ALLOW, rules: [{from: [{principals: ['**']}]}]}]",
            "f:3:65: 'principals': '**' must have at most one '*'"
        ),
        (
            "[{name: a, action: ALLOW, rules: [{from: [{principals: [spiffe://a/b]}]}]}]",
            "f:3:65: 'principals': principals are written without spiffe://, as 'a/b'"
        ),
        (
            "[{name: a, action: ALLOW, rules: [{from: [{sourceIPs: [10.0.0.1/8]}]}]}]",
            "f:3:64: 'sourceIPs': '10.0.0.1/8' has bits set after its prefix: write 10.0.0.0/8"
        ),
        (
            "[{name: a, action: ALLOW, rules: [{from: [{requestPrincipals: ['a*b']}]}]}]",
            "f:3:72: 'requestPrincipals': 'a*b' must have at most one '*'"
        ),
        (
            "[{name: a, action: DENY, rules: [{to: [{methods: [get]}]}]}]",
            "f:3:59: 'methods': 'get' is not a method, which is written in capitals"
        ),
        (
            "[{name: a, action: DENY, rules: [{to: [{notMethods: ['G T']}]}]}]",
            "f:3:62: 'notMethods': 'G T' is not a method"
        ),
        (
            "[{name: a, action: DENY, rules: [{to: [{paths: [admin]}]}]}]",
            "f:3:57: 'paths': 'admin': a path begins with '/', or with '*'"
        ),
        (
            "[{name: a, action: DENY, rules: [{to: [{paths: ['/a?b']}]}]}]",
            "f:3:57: 'paths': '/a?b': a path is compared without its query"
        ),
        (
            "[{name: a, action: DENY, rules: [{to: [{notPaths: ['/a/{*}']}]}]}]",
            "f:3:60: 'notPaths': '/a/{*}' must have at most one '*', at its beginning or its end"
        ),
        (
            "[{name: a, action: DENY, rules: [{to: [{paths: ['/a%20b']}]}]}]",
            "f:3:57: 'paths': '/a%20b': paths are compared decoded"
        ),
        (
            "[{name: a, action: DENY, rules: [{to: [{paths: ['/a//b*']}]}]}]",
            "f:3:57: 'paths': '/a//b*': paths are compared decoded, and without '//'"
        ),
        ("[{name: a, action: DENY, rules: [{to: [{paths: []}]}]}]", "f:3:56: 'paths' is an empty list"),
        ("[{name: a, action: DENY, rules: [{to: [{}]}]}]", "f:3:48: an element of 'to' is empty"),
        (
            "[{name: a, action: DENY, rules: [{to: [{ports: [0]}]}]}]",
            "f:3:57: 'ports': '0' is neither a port from 1 to 65535 nor a range"
        ),
        ("[{name: a, action: DENY, rules: [{to: [{ports: [65536]}]}]}]", "f:3:57: 'ports': '65536' is neither"),
        ("[{name: a, action: DENY, rules: [{to: [{ports: ['9-8']}]}]}]", "f:3:57: 'ports': '9-8' is neither"),
        ("[{name: a, action: DENY, rules: [{to: [{ports: ['8-9-10']}]}]}]", "f:3:57: 'ports': '8-9-10' is neither"),
        ("[{name: a, action: DENY, rules: [{to: [{ports: ['-8']}]}]}]", "f:3:57: 'ports': '-8' is neither"),
        ("[{name: a, action: DENY, rules: [{to: [{ports: [http]}]}]}]", "f:3:57: 'ports': 'http' is neither"),
        ("[{name: a, action: DENY, rules: [{to: [{ports: 22}]}]}]", "f:3:56: 'ports' must be a list, not '22'"),
        (
            "[{name: a, action: DENY, rules: [{to: [{hosts: ['10.*']}]}]}]",
            "f:3:57: 'hosts': '10.*': write a block of addresses as CIDR"
        ),
        (
            "[{name: a, action: DENY, rules: [{to: [{hosts: ['*.10']}]}]}]",
            "f:3:57: 'hosts': '*.10': write a block of addresses as CIDR"
        ),
        (
            "[{name: a, action: DENY, rules: [{to: [{hosts: ['a*b*']}]}]}]",
            "f:3:57: 'hosts': 'a*b*' is not a host name with at most one '*'"
        ),
        (
            "[{name: a, action: DENY, rules: [{to: [{hosts: ['a:80']}]}]}]",
            "f:3:57: 'hosts': host 'a:80' has a character"
        ),
        (
            "[{name: a, action: DENY, rules: [{to: [{hosts: ['0x7f.1']}]}]}]",
            "f:3:57: 'hosts': host '0x7f.1' ends in a number"
        ),
        ("[{name: a, action: DENY, rules: [{when: [{transport: []}]}]}]", "f:3:62: 'transport' is an empty list"),
        (
            "[{name: a, action: DENY, rules: [{when: [{transport: [hbone]}]}]}]",
            "f:3:63: a transport must be one of h2, h2-reverse, h2-via-gateway, h2-over-ssh, ssh, not 'hbone'"
        ),
        (
            "[{name: a, action: DENY, rules: [{when: [{notAfter: tomorrow}]}]}]",
            "f:3:61: 'notAfter': 'tomorrow' is not a date and time"
        ),
        ("[{name: a, action: DENY, rules: [{when: [{}]}]}]", "f:3:50: a condition of 'when' is empty"),
        (
            "[{name: a, action: DENY, rules: [{when: [{key: x}]}]}]",
            "f:3:51: unknown key 'key' in a condition of 'when'"
        ),
        (
            "[{name: a, action: DENY, rules: [{when: [{transport: [h2], notAfter: '2026-12-31T00:00:00Z'}]}]}]",
            "f:3:50: a condition of 'when' has one key"
        ),
        (
            "[{name: a, action: DENY, rules: [{}]}, {name: a, action: ALLOW, rules: [{}]}]",
            "f:3:48: policy 'a' is there twice, also at line 3"
        ),
    ])
    func refuses(_ policy: String, _ expected: String) {
        let text = "identity: /i\nlisteners: [{name: a, bind: '127.0.0.1:1', protocol: hbone}]\npolicy: \(policy)\n"
        let error = #expect(throws: ConfigurationError.self) { try NodeConfiguration.parse(text, file: "f") }
        #expect(error?.issues.count == 1, "\(error?.description ?? "")")
        #expect(error?.description.hasPrefix(expected) == true, "\(error?.description ?? "")")
    }

    @Test(arguments: [
        ("1970-01-01T00:00:00Z", 0), ("2000-02-29t23:59:59z", 951_868_799), ("2026-12-31 00:00:00Z", 1_798_675_200),
        ("2027-01-15T09:00:00+01:00", 1_800_000_000), ("2027-01-15T02:30:00.999-05:30", 1_800_000_000),
        ("2100-03-01T00:00:00Z", 4_107_542_400), ("9999-12-31T23:59:59Z", 253_402_300_799),
    ])
    func times(_ text: String, _ seconds: Int64) throws {
        #expect(try parseTime(text) == seconds)
    }

    @Test(arguments: [
        "", "2026-12-31", "2026-12-31T00:00:00", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2025-02-29T00:00:00Z",
        "2100-02-29T00:00:00Z", "2026-04-31T00:00:00Z", "2026-12-31T24:00:00Z", "2026-12-31T00:60:00Z",
        "2026-12-31T00:00:60Z",
        "2026-12-31T00:00:00.Z", "2026-12-31T00:00:00+0100", "2026-12-31T00:00:00Zx", "26-12-31T00:00:00Z",
        "2026-12-31T00:00:00+24:00",
        "1969-12-31T00:00:00Z", "2026-1-31T00:00:00Z", "2026/12/31T00:00:00Z",
    ])
    func refusesTimes(_ text: String) {
        #expect(throws: (any Error).self) { try parseTime(text) }
    }
}

import Platform
import Testing
import YAML

@testable import MeshNode

/// The key `jwt` of a listener.
@Suite struct TokenSettingsTests {
    private func decode(_ text: String) throws -> TokenSettings? {
        let diagnostics = Diagnostics(file: "f")
        let node = try YAMLDocument.parse(text, file: "f")
        let settings = TokenSettingsDecoder(diagnostics: diagnostics) { "/etc/" + $0 }.decode(node)
        try diagnostics.throwIfAny()
        return settings
    }

    @Test func isDecoded() throws {
        #expect(
            try decode("{issuer: 'https://id.example', audience: [web, api], jwks: keys.json}")
                == TokenSettings(issuer: "https://id.example", audiences: ["web", "api"], keyFile: "/etc/keys.json")
        )
    }

    /// Of a listener that has it, also beyond loopback: whoever comes shows who he is.
    @Test func aListenerHasThem() throws {
        let text = """
            identity: /i
            listeners:
            - name: a
              bind: "0.0.0.0:1"
              protocol: http-proxy
              jwt: {issuer: i, audience: [web], jwks: keys.json}
            - name: b
              bind: "0.0.0.0:2"
              protocol: http
              routes: [{to: "c:1"}]
              jwt: {issuer: i, audience: [web], jwks: /k, forwardToken: true}
            - {name: c, bind: "127.0.0.1:3", protocol: http-proxy}
            """
        let listeners = try NodeConfiguration.parse(text, file: "/etc/f").listeners
        #expect(
            listeners.map(\.tokens) == [
                TokenSettings(issuer: "i", audiences: ["web"], keyFile: "/etc/keys.json"),
                TokenSettings(issuer: "i", audiences: ["web"], keyFile: "/k", forwardsToken: true), nil,
            ]
        )
    }

    @Test(arguments: [
        ("{issuer: a, audience: [b]}", "f:1:1: 'jwt' needs the key 'jwks'"),
        ("{issuer: a, jwks: c}", "f:1:1: 'jwt' needs the key 'audience'"),
        ("{issuer: a, audience: [], jwks: c}", "f:1:23: 'audience' is an empty list"),
        ("{issuer: a, audience: b, jwks: c}", "f:1:23: 'audience' must be a list"),
        ("{issuer: '', audience: [b], jwks: c}", "f:1:10: 'issuer' must be text on one line, and not empty"),
        ("{issuer: a, audience: [b], jwks: c, leeway: 1h}", "f:1:37: unknown key 'leeway' in 'jwt'"),
        ("{issuer: a, audience: [b], jwks: c, forwardToken: yes}", "f:1:51: 'forwardToken' must be true or false"),
        ("[]", "f:1:1: 'jwt' is an empty list"), ("[a]", "f:1:2: 'jwt' must be a mapping"),
    ])
    func mistakesAreTold(_ text: String, _ message: String) {
        let error = #expect(throws: ConfigurationError.self) { try decode(text) }
        #expect(error?.issues.first?.description.hasPrefix(message) == true, "\(String(describing: error))")
    }

    /// `ISSUER/SUBJECT` must be one issuer's only, in a listener and in the whole file.
    @Test(arguments: [
        ("https://idp", "https://idp/tenant", true), ("https://idp/tenant", "https://idp", true),
        ("https://idp", "https://idp/", true), ("https://idp", "https://idp.example", false),
        ("https://idp/a", "https://idp/b", false),
    ])
    func noIssuerIsTheBeginningOfAnother(first: String, second: String, isRefused: Bool) {
        func jwt(_ name: String) -> String { "{issuer: \"\(name)\", audience: [web], jwks: /k}" }
        func listener(_ name: String, _ port: Int, _ jwt: String) -> String {
            "- {name: \(name), bind: \"127.0.0.1:\(port)\", protocol: http-proxy, jwt: \(jwt)}\n"
        }
        for listeners in [
            listener("a", 1, "[\(jwt(first)), \(jwt(second))]"),
            listener("a", 1, jwt(first)) + listener("b", 2, jwt(second)),
        ] {
            var problem = ""
            do {
                try NodeConfiguration.parse("identity: /i\nlisteners:\n\(listeners)", file: "f")
                    .validate(checkingFiles: false)
            } catch {
                problem = "\(error)"
            }
            #expect(problem.contains("its subjects could be taken for those of the other") == isRefused, "\(problem)")
        }
    }

    @Test func aFileOfKeysThatIsMissingIsNamed() throws {
        let settings = try #require(try decode("{issuer: a, audience: [b], jwks: no/such}"))
        let error = #expect(throws: (any Error).self) { _ = try settings.verifiers() }
        #expect("\(error.map { "\($0)" } ?? "")" == "/etc/no/such: there is no such file")
    }
}

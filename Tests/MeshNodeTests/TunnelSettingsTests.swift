import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import TestPeers
import Testing
import YAML

@testable import MeshNode

/// What a configuration says of streams through what is not trusted, and of those that come out of it.
@Suite struct TunnelSettingsTests {
    private static func parse(_ endpoint: String, listener: String = "") throws -> NodeConfiguration {
        try NodeConfiguration.parse(
            """
            identity: /i
            listeners:
            - {name: a, bind: "127.0.0.1:1", protocol: hbone\(listener.isEmpty ? "" : ", " + listener)}
            endpoints:
            - {match: "far.prod:80"\(endpoint.isEmpty ? ", direct: true" : ", " + endpoint)}
            """,
            file: "/etc/f"
        )
    }

    private static let tunnel = "hbone: \"tunnel.example.net:443\", labels: {tun: POST}"

    @Test func everythingIsRead() throws {
        let plain = try Self.parse(Self.tunnel).endpoints[0]
        #expect(plain.tunnel == .post && plain.transports == [.h2] && plain.token == nil)
        #expect(plain.proxyTLS?.name == "tunnel.example.net" && plain.proxyTLS?.files == DirectTLS())
        let full = try Self.parse(
            Self.tunnel + ", proxy: {serverName: proxy.lan, roots: web.pem}, token: {exec: [bin/token, a, b]}, "
                + "ssh: {destination: x}"
        ).endpoints[0]
        #expect(full.token == .program(["/etc/bin/token", "a", "b"]))
        #expect(full.proxyTLS?.files.roots == "/etc/web.pem" && full.watchedFiles == ["/etc/web.pem"])
        // The proxy's address is none of the peer's own machine.
        #expect(full.transports == [.h2, .ssh])
        #expect(try Self.parse(Self.tunnel + ", token: {exec: [token]}").endpoints[0].token == .program(["token"]))
        #expect(plain.peer.id != full.peer.id)
        #expect("\(plain.peer.candidates[0])" == "h2 through the proxy at tunnel.example.net:443")
    }

    @Test(arguments: [
        ("labels: {tun: POST}, ssh: {destination: x}", "'labels' needs 'hbone'"),
        ("hbone: \"a:1\", token: {file: f}", "'token' is for the proxy of 'labels: {tun: …}': add that"),
        ("hbone: \"a:1\", proxy: {roots: f}", "'proxy' is for the proxy of 'labels: {tun: …}': add that"),
        (tunnel + ", token: {}", "write one of {file: PATH} and {exec: [PROGRAM, ARGUMENT]}"),
        (tunnel + ", token: {file: f, exec: [a]}", "write one of {file: PATH} and {exec: [PROGRAM, ARGUMENT]}"),
        (tunnel + ", token: {static: hunter2}", "put it in a file that only this node reads"),
        (tunnel + ", token: {exec: []}", "'exec'"),
        (tunnel + ", path: h2-over-ssh, ssh: {destination: x}", "'path: h2-over-ssh' leads to the peer's own server"),
        ("hbone: [\"a:1\", \"b:1\"], labels: {tun: POST}", "add 'proxy: {serverName: NAME}'"),
        ("direct: true, proxy: {roots: f}", "'proxy' means nothing with 'direct: true'"),
        ("hbone: \"a:1\", labels: {tun: PUT}", "'tun'"),
    ]) func mistakesOfEndpoints(endpoint: String, message: String) {
        let error = #expect(throws: ConfigurationError.self) { try Self.parse(endpoint) }
        #expect(error?.issues.contains { $0.message.contains(message) } == true, "\(error as Any)")
        #expect("\(error as Any)".contains("hunter2") == false)
    }

    @Test func listenersSayWhoComes() throws {
        func gateway(_ listener: String) throws -> NodeConfiguration.GatewaySettings? {
            try Self.parse("", listener: listener).listeners[0].gateway
        }
        #expect(try gateway("") == nil)
        #expect(try gateway("clients: mesh") == nil && gateway("cleartext: false") == nil)
        let open = try #require(try gateway("clients: none, credentials: [web]"))
        #expect(open.clients == .none && open.credentials == ["/etc/web"] && !open.isClear)
        let clear = try #require(try gateway("cleartext: true"))
        #expect(clear.isClear && clear.clients == .none)
        let jwt = "jwt: {issuer: i, audience: [a], jwks: k}"
        #expect(try gateway(jwt)?.clients == .mesh)
        // What --print-config prints means the same.
        for listener in ["", "cleartext: true", "clients: optional, credentials: [/etc/web]", jwt] {
            let configuration = try Self.parse("", listener: listener)
            let again = try NodeConfiguration.parse(try #require(configuration.inEffect), file: "/etc/f")
            #expect(again.listeners[0].gateway == configuration.listeners[0].gateway, "\(configuration.inEffect ?? "")")
        }
    }

    @Test(arguments: [
        ("cleartext: true, clients: none", "'clients' is for TLS, and 'cleartext: true' has none"),
        ("cleartext: true, credentials: [/c]", "'credentials' is for TLS"),
        ("credentials: [/c]", "'credentials' are shown to clients that know this node by its names"),
        ("clients: some", "'clients'"),
    ]) func mistakesOfListeners(listener: String, message: String) {
        let error = #expect(throws: ConfigurationError.self) { try Self.parse("", listener: listener) }
        #expect(error?.issues.contains { $0.message.contains(message) } == true, "\(error as Any)")
    }

    private static func tokens(_ yaml: String) throws -> TokenSettings? {
        let diagnostics = Diagnostics(file: "f")
        let decoder = TokenSettingsDecoder(diagnostics: diagnostics) { "/etc/" + $0 }
        let settings = decoder.decode(try YAMLDocument.parse(yaml, file: "f"))
        try diagnostics.throwIfAny()
        return settings
    }

    @Test func keysAreOfFilesAndOfServers() throws {
        let several = try #require(
            try Self.tokens(
                "[{issuer: i, audience: [a], jwks: k}, {issuer: j, audience: [b], jwks: \"https://id.lan/a?b=c\", roots: r}]"
            )
        )
        #expect(several.issuers.map(\.name) == ["i", "j"] && several.issuers[0].keys == .file("/etc/k"))
        guard case .web(let address) = several.issuers[1].keys else { throw DeadlineExceeded("no address") }
        #expect("\(address)" == "https://id.lan:443/a?b=c" && address.roots == "/etc/r")
        #expect(several.watchedFiles == ["/etc/k", "/etc/r"])
        for (url, text) in [
            ("https://id.lan:8443", "https://id.lan:8443/"), ("https://[::1]/k", "https://[::1]:443/k"),
            ("https://[::1]:8443/k", "https://[::1]:8443/k"), ("https://id.lan?x", "https://id.lan:443/?x"),
        ] {
            let settings = try Self.tokens("{issuer: i, audience: [a], jwks: \"\(url)\"}")
            guard case .web(let address)? = settings?.issuers[0].keys else { throw DeadlineExceeded(url) }
            #expect("\(address)" == text)
        }
    }

    @Test(arguments: [
        ("[{issuer: i, audience: [a], jwks: k}, {issuer: i, audience: [b], jwks: l}]", "'i' is there twice"),
        (
            "[{issuer: i, audience: [a], jwks: k}, {issuer: j, audience: [b], jwks: l, forwardToken: true}]",
            "must be the same"
        ),
        ("{issuer: i, audience: [a], jwks: \"http://id.lan/k\"}", "must be a file or an https URL"),
        ("{issuer: i, audience: [a], jwks: \"https://me@id.lan/k\"}", "no URL of a server"),
        ("{issuer: i, audience: [a], jwks: \"https://id.lan/k#x\"}", "no URL of a server"),
        ("{issuer: i, audience: [a], jwks: k, roots: r}", "'jwks' is a file"),
    ]) func mistakesOfIssuers(yaml: String, message: String) {
        let error = #expect(throws: ConfigurationError.self) { try Self.tokens(yaml) }
        #expect(error?.issues.contains { $0.message.contains(message) } == true, "\(error as Any)")
    }
}

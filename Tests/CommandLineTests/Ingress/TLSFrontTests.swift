import Foundation
import TestPeers
import Testing

/// TLS that ends at a node, for clients that are no members of the mesh and for those that are.
@Suite(.timeLimit(.minutes(10))) struct TLSFrontTests {
    private static func listener(_ more: String = "") -> String {
        """
        - name: in
          bind: "127.0.0.1:0"
          protocol: tls
          forwardTo: "echo.mesh:7"
          credentials: ["DIR/web", "DIR/api"]
          \(more)
        """
    }

    private static let certificates = ["web": ["*.example.org", "web.example.net"], "api": ["api.example.org"]]

    private func nodes(
        _ more: String = "",
        policy: String = IngressNodes.everybody
    ) async throws -> (
        IngressNodes, EchoServer
    ) {
        let echo = try EchoServer()
        let nodes = try await IngressNodes(
            Self.listener(more),
            names: ["echo.mesh:7": echo.port],
            certificates: Self.certificates,
            policy: policy
        )
        return (nodes, echo)
    }

    @Test func theServerNameChoosesTheCertificate() async throws {
        let (nodes, echo) = try await nodes()
        let port = try nodes.port("in")
        let (web, api) = (nodes.directory.path("web"), nodes.directory.path("api"))
        let fingerprints = (try await WebClient.fingerprint(web), try await WebClient.fingerprint(api))
        // A name of its own is better than a pattern, in whatever order; a pattern stands for one label; the first is
        // for all others.
        for (name, directory, fingerprint) in [
            ("www.example.org", web, fingerprints.0), ("API.example.org", api, fingerprints.1),
            ("web.example.net", web, fingerprints.0),
        ] {
            let output = try await WebClient.run(port, name: name, roots: "\(directory)/cert-chain.pem")
            #expect(output == "\(fingerprint) TLSv1.3\nechoed\n", "\(name): \(output)")
        }
        for name in ["", "a.b.example.org", "other.example.com", "example.org"] {
            let output = try await WebClient.run(port, name: name)
            #expect(output == "\(fingerprints.0) TLSv1.3\nechoed\n", "\(name): \(output)")
        }
        await nodes.stop()
        withExtendedLifetime(echo) {}
    }

    /// What listens before a certificate is renewed shows the new one after; what is broken changes nothing.
    @Test func aRenewedCertificateIsTakenOver() async throws {
        let (nodes, echo) = try await nodes()
        let port = try nodes.port("in")
        let api = nodes.directory.path("api")
        let before = try await WebClient.fingerprint(api)
        try Data("no key".utf8).write(to: URL(fileURLWithPath: "\(api)/key.pem"))
        nodes.ingress.signal(SIGHUP)
        _ = try await nodes.ingress.standardError.line { $0.contains("api") && $0.contains("no private key") }
        #expect(try await WebClient.run(port, name: "api.example.org").hasPrefix(before))
        try await IngressNodes.makeCertificate(api, ["api.example.org"])
        let after = try await WebClient.fingerprint(api)
        #expect(before != after)
        try await eventually("the new certificate is shown") {
            try await WebClient.run(port, name: "api.example.org") == "\(after) TLSv1.3\nechoed\n"
        }
        await nodes.stop()
        withExtendedLifetime(echo) {}
    }

    @Test func aClientOfTheMeshIsKnown() async throws {
        let certificates = TestCertificates.shared
        let policy = """
            policy:
            - name: clients
              action: ALLOW
              rules:
              - from: [{namespaces: [prod]}]
                to: [{hosts: ["echo.mesh"], ports: [7]}]
            """
        for mode in ["mesh", "optional", "none"] {
            let (nodes, echo) = try await nodes("clients: \(mode)", policy: policy)
            let port = try nodes.port("in")
            func run(_ credential: String?) async throws -> String {
                try await WebClient.run(port, name: "www.example.org", credential: credential)
            }
            let known = try await run(certificates.path(.client))
            #expect(known.contains("echoed") == (mode != "none"), "\(mode): \(known)")
            // Somebody without a certificate is nobody to the policy; one that nobody vouches for is refused at once.
            #expect(!(try await run(nil)).contains("echoed"))
            for kind in [TestCertificates.Kind.rogue, .foreign, .expired, .intruder] {
                let output = try await run(certificates.path(kind))
                #expect(!output.contains("echoed"), "\(mode), \(kind): \(output)")
            }
            await nodes.stop()
            withExtendedLifetime(echo) {}
        }
        let (nodes, echo) = try await nodes("clients: optional")
        #expect(try await WebClient.run(nodes.port("in"), name: "www.example.org").hasSuffix("echoed\n"))
        let rogue = try await WebClient.run(nodes.port("in"), name: "x", credential: certificates.path(.rogue))
        #expect(!rogue.contains("echoed"), "optional is no way around a certificate that is bad: \(rogue)")
        await nodes.stop()
        withExtendedLifetime(echo) {}
    }

    @Test func whatIsNoTLSIsClosed() async throws {
        let (nodes, echo) = try await nodes()
        let port = try nodes.port("in")
        let (bytes, _) = try await TCPClient.exchange(port: port, sending: Array("GET / HTTP/1.1\r\n\r\n".utf8))
        // An alert at most.
        #expect(bytes.first != UInt8(ascii: "H") && bytes.count <= 7)
        _ = try await nodes.ingress.standardError.line(containing: "no TLS handshake")
        #expect(try await WebClient.run(port, name: "www.example.org").hasSuffix("echoed\n"))
        await nodes.stop()
        withExtendedLifetime(echo) {}
    }
}

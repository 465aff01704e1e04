import Foundation
import MeshIdentity
import TestPeers
import Testing

@testable import SSHSignal

/// The line that trusts a CA for some hosts: added once, and nothing else is touched.
@Suite struct CertificateAuthorityLineTests {
    private let directory = TemporaryDirectory()
    private let authority: SSHPublicKey

    init() throws { authority = try SSHCertificateAuthority().publicKey(.host) }

    private func login(_ host: String, port: UInt16 = 22, options: [String] = []) throws -> SSHLogin {
        try SSHLogin(
            to: Destination(host: host, port: port),
            arguments: SSHArguments(
                configurationFile: "none",
                options: options + ["UserKnownHostsFile=\(directory.path("known_hosts"))", "GlobalKnownHostsFile=none"]
            ),
            prompts: .init(warn: { _ in })
        )
    }

    @Test func onceForEachHost() throws {
        try directory.write("known_hosts", "# mine\nother ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==")
        let first = CertificateAuthorityLine(
            trusting: authority,
            for: ["10.0.0.7", "dev7"],
            login: try login("10.0.0.7")
        )
        #expect(try first.add())
        #expect(try !first.add())
        let text =
            "# mine\nother ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==\n@cert-authority 10.0.0.7,dev7 \(authority.line) bootstrap SSH host CA\n"
        #expect(try directory.read("known_hosts") == text)
        // A name less is covered, a name more and another port are not.
        #expect(try !CertificateAuthorityLine(trusting: authority, for: ["dev7"], login: try login("dev7")).add())
        #expect(
            try CertificateAuthorityLine(trusting: authority, for: ["dev7", "dev8"], login: try login("dev7")).add()
        )
        let port = CertificateAuthorityLine(trusting: authority, for: ["dev7"], login: try login("dev7", port: 2222))
        #expect(try port.add())
        #expect(port.text.hasPrefix("@cert-authority [dev7]:2222 "))
        // Another CA's line does not count.
        let other = try SSHCertificateAuthority().publicKey(.host)
        #expect(try CertificateAuthorityLine(trusting: other, for: ["dev7"], login: try login("dev7")).add())
    }

    @Test func patternsAndAliases() throws {
        let wide = CertificateAuthorityLine(
            trusting: authority,
            for: ["dev7"],
            patterns: "*.lan,10.*",
            login: try login("dev7")
        )
        #expect(try wide.add())
        #expect(try !wide.add())
        #expect(wide.text.hasPrefix("@cert-authority *.lan,10.* "))
        // What it covers needs no line of its own.
        #expect(try !CertificateAuthorityLine(trusting: authority, for: ["a.lan"], login: try login("a.lan")).add())
        let alias = CertificateAuthorityLine(
            trusting: authority,
            for: ["seven", "dev7"],
            login: try login("dev7", port: 2222, options: ["HostKeyAlias=Seven"])
        )
        #expect(alias.text.hasPrefix("@cert-authority seven,[dev7]:2222 "))
        let none = CertificateAuthorityLine(
            trusting: authority,
            for: ["dev7"],
            login: try login("dev7", options: ["UserKnownHostsFile=none"])
        )
        #expect(none.file == nil)
        #expect(try !none.add())
    }

    /// A fleet writes at once: whole lines, each once.
    @Test func manyAtOnce() async throws {
        let authority = authority
        let logins = try (0..<40).map { try login("dev\($0 % 20)") }
        let added = try await withThrowingTaskGroup(of: Bool.self) { group in
            for (index, login) in logins.enumerated() {
                group.addTask {
                    try CertificateAuthorityLine(trusting: authority, for: ["dev\(index % 20)"], login: login).add()
                }
            }
            var count = 0
            for try await added in group where added { count += 1 }
            return count
        }
        #expect(added == 20)
        let lines = try directory.read("known_hosts").split(separator: "\n")
        #expect(Set(lines).count == 20 && lines.count == 20)
        #expect(lines.allSatisfy { $0.hasPrefix("@cert-authority dev") && $0.hasSuffix("bootstrap SSH host CA") })
    }
}

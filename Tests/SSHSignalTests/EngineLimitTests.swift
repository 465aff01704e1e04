import Foundation
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// What is known before the dial about logins that libssh2 cannot do.
@Suite struct EngineLimitTests {
    private let directory = TemporaryDirectory()

    private func login(
        _ lines: [String] = [],
        knownHosts: String = "",
        identities: [String] = [],
        options: [String] = []
    ) throws -> SSHLogin {
        let config = try directory.write("config", lines.joined(separator: "\n") + "\n", permissions: 0o600)
        let hosts = try directory.write("known_hosts", knownHosts)
        return try SSHLogin(
            to: Destination(user: "u", host: "127.0.0.1", port: FreePort.next()),
            arguments: SSHArguments(
                configurationFile: config,
                options: ["UserKnownHostsFile=\(hosts)", "GlobalKnownHostsFile=none", "IdentityAgent=none"] + options,
                identityFiles: identities,
                engine: .libssh2
            ),
            prompts: SSHLogin.Prompts(warn: { _ in })
        )
    }

    @Test func nothingSpeaksAgainstAnOrdinaryLogin() async throws {
        let key = directory.path("id")
        try await OpenSSHServer.makeKey("ed25519", key)
        #expect(try login(["SendEnv LANG", "ForwardAgent yes"], identities: [key]).limits.isEmpty)
        #expect(try login(["ProxyCommand none", "CanonicalizeHostname no"], identities: [key]).limits.isEmpty)
    }

    @Test(arguments: [
        ("ProxyCommand nc %h %p", EngineLimit.Kind.proxyCommand), ("PKCS11Provider /lib/x.so", .smartCard),
        ("Match sessiontype exec\nUser other", .match), ("CanonicalizeHostname yes", .keyword),
        ("RevokedHostKeys /etc/revoked", .keyword),
    ])
    func whatOnlySSHCanDo(lines: String, kind: EngineLimit.Kind) async throws {
        let login = try login(["Host *", lines])
        #expect(login.limits.map(\.kind) == [kind])
        #expect(login.limits.first?.reason.contains("config:2: ") == true)
        #expect(login.limits.first?.isDecisive == true)
        let error = await sshFailure { try await login.connect(on: testLoops.next()) }
        #expect(error?.code == .unsupported)
        #expect(error?.limits == login.limits)
    }

    @Test func aMatchThatCannotHoldIsNoLimit() throws {
        #expect(try login(["Match host elsewhere sessiontype exec", "User other"]).limits.isEmpty)
    }

    @Test func onlyRSAKeys() async throws {
        let (rsa, good) = (directory.path("rsa"), directory.path("good"))
        try await OpenSSHServer.makeKey("rsa", rsa)
        try await OpenSSHServer.makeKey("ecdsa", good)
        let isOld = !EngineCapabilities.current.signsRSAWithSHA2
        #expect(try login(identities: [rsa]).limits.map(\.kind) == (isOld ? [.rsaUserKey] : []))
        #expect(try login(identities: [rsa, good]).limits.isEmpty)
    }

    @Test func hostsKnownInAWayThatCannotBeVerified() async throws {
        try await OpenSSHServer.makeKey("rsa", directory.path("rsa"))
        try await OpenSSHServer.makeKey("ecdsa", directory.path("ca"))
        let rsa = try directory.read("rsa.pub")
        let ca = try directory.read("ca.pub")
        let isOld = !EngineCapabilities.current.signsRSAWithSHA2
        #expect(try login(knownHosts: "[127.0.0.1]:* \(rsa)").limits.map(\.kind) == (isOld ? [.rsaHostKey] : []))
        #expect(try login(knownHosts: "@cert-authority * \(ca)").limits.map(\.kind) == [.hostCertificate])
        let both = "@cert-authority * \(ca)[127.0.0.1]:* \(ca)"
        #expect(try login(knownHosts: both).limits.isEmpty)
    }

    @Test func aNewerLibrarySetsNoLimit() {
        for version in ["1.11.0", "1.11.1", "1.11.2_DEV", "1.20", "2.0"] {
            let newer = EngineCapabilities(version: version)
            #expect(newer.signsRSAWithSHA2, "\(version)")
            #expect(newer.limit(forUserKey: "ssh-rsa", name: "k") == nil)
            #expect(newer.limit(forUserKey: "sk-ssh-ed25519@openssh.com", name: "k")?.kind == .securityKey)
        }
        for version in ["1.10.0", "1.9.0", "1.2", "unknown"] {
            let older = EngineCapabilities(version: version)
            #expect(older.limit(forUserKey: "ssh-rsa", name: "k")?.kind == .rsaUserKey, "\(version)")
        }
        let certificate = EngineCapabilities(version: "1.10.0")
        #expect(certificate.limit(forUserKey: "ssh-ed25519-cert-v01@openssh.com", name: "k")?.kind == .userCertificate)
        #expect(certificate.limit(forUserKey: "ecdsa-sha2-nistp256-cert-v01@openssh.com", name: "k") == nil)
    }

    @Test func aServerWithRSAHostKeysOnly() async throws {
        let server = try await OpenSSHServer(hostKeys: ["rsa"])
        guard !EngineCapabilities.current.signsRSAWithSHA2 else { return }
        let error = await sshFailure { try await server.connect() }
        #expect(error?.code == .negotiationFailed)
        #expect(error?.limits.map(\.kind) == [.algorithms])
        await server.stop()
    }

    @Test func keysThatWereNotOfferedAreNamedInTheRefusal() async throws {
        let server = try await OpenSSHServer()
        let key = server.directory.path("rsa")
        try await OpenSSHServer.makeKey("rsa", key)
        guard !EngineCapabilities.current.signsRSAWithSHA2 else { return }
        let error = await sshFailure { try await server.connect([.keyFile(path: key)]) }
        #expect(error?.code == .authenticationRefused)
        #expect(error?.limits.map(\.kind) == [.rsaUserKey])
        await server.stop()
    }
}

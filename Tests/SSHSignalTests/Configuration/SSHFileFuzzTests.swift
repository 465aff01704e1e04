import Foundation
import TestPeers
import Testing

@testable import SSHSignal

/// known_hosts and ssh_config, mangled: an error or an answer, never a crash, and nothing is trusted that was not
/// written.
@Suite struct SSHFileFuzzTests {
    @Test func knownHosts() async throws {
        var fuzzer = Fuzzer("known_hosts")
        let directory = TemporaryDirectory()
        try await OpenSSHServer.makeKey("ed25519", directory.path("k"))
        let key = try directory.read("k.pub")
        let words = key.split(separator: " ").map(String.init)
        let hostKey = try #require(Data(base64Encoded: words[1]).flatMap { HostKey(blob: Array($0)) })
        try await OpenSSHServer.makeKey("ed25519", directory.path("stranger"))
        let other = try directory.read("stranger.pub").split(separator: " ").map(String.init)
        let stranger = try #require(Data(base64Encoded: other[1]).flatMap { HostKey(blob: Array($0)) })
        let corpus = [
            "host,*.lan,!bad.lan \(key)", "[host]:2222 \(key)", "@revoked * \(key)", "@cert-authority *.x \(key)",
            "|1|AAAAAAAAAAAAAAAAAAAAAAAAAAA=|AAAAAAAAAAAAAAAAAAAAAAAAAAA= \(key)", "# comment\n\n \(key)",
        ].map { Array($0.utf8) }
        let dictionary = ["|1|", "@revoked ", "@cert-authority ", "!", "*", "=", "\n", "\0", "\u{FEFF}", "\r"].map {
            Array($0.utf8)
        }
        var done = 0
        while fuzzer.goesOn(done, of: 3000) {
            let bytes = fuzzer.mutate(corpus, dictionary: dictionary)
            let known = KnownHosts(contents: bytes, file: "fuzz")
            for name in ["host", "a.lan", "bad.lan", "[host]:2222"] {
                _ = known.verdict(for: hostKey, of: name)
                _ = known.algorithms(for: name)
                if case .match = known.verdict(for: stranger, of: name) {
                    Issue.record("a key that stands nowhere matched")
                }
            }
            done += 1
        }
    }

    @Test func configuration() throws {
        var fuzzer = Fuzzer("ssh_config")
        let home = try Home(config: "")
        let directory = home.directory
        let corpus = [
            "Host a b !c *.lan\n HostName %h.x\n Port 22\nMatch host x user y\n User z\n",
            "Include \(directory.path("fuzz"))\nProxyJump a,b:22,c@d\n",
            "ServerAliveInterval 1m30s\nIdentityFile \"/a b\"\nIdentityFile ~/x\nIdentityAgent $SSH_AUTH_SOCK\n",
            "Match all\nConnectTimeout=10\nUserKnownHostsFile ${KEYS}/a %d/b\nStrictHostKeyChecking accept-new\n",
            "PreferredAuthentications publickey,password\nNumberOfPasswordPrompts 3\nAddressFamily inet6\n",
        ].map { Array($0.utf8) }
        let dictionary = [
            "\"", "'", "\\", "%", "%%", "${", "}", "!", "*", "=", "#", "\0", "\r\n", "Include ", "Match ", "Host ",
            "none", "-1",
            "99999999999999999999",
        ].map { Array($0.utf8) }
        var done = 0
        while fuzzer.goesOn(done, of: 1500) {
            let file = try directory.write("fuzz", fuzzer.mutate(corpus, dictionary: dictionary), permissions: 0o600)
            do {
                let result = try home.resolve("a", SSHArguments(configurationFile: file))
                #expect(result.port > 0)
                #expect(!result.hostName.isEmpty && !result.hostName.hasPrefix("-"))
            } catch let error as SSHConfigurationError {
                #expect(!error.message.isEmpty)
            }
            done += 1
        }
    }
}

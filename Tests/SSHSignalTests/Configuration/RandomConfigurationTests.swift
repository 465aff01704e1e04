import Foundation
import Platform
import TestPeers
import Testing

@testable import SSHSignal

/// Configurations from a grammar, in every notation that `ssh` takes: `ssh -G` says what they mean.
@Suite struct RandomConfigurationTests {
    private static let hosts = ["web", "db.lan", "Dev1", "10.0.0.1", "x.y.lan"]

    private static let patterns = [
        "*", "web", "*.lan", "!web", "dev?", "Dev?", "10.*", "real.example", "*.real", "?eb", "!*.lan", "10.0.0.7",
    ]

    private static let lines: [(keyword: String, values: [String])] = [
        ("HostName", ["%h.real", "real.example", "10.0.0.7", "REAL.example", "%%h"]),
        ("Port", ["22", "2201", "2202"]), ("User", ["ann", "bob"]),
        ("IdentityFile", ["/k/a", "/k/with space", "/k/c", "none"]), ("IdentitiesOnly", ["yes", "no", "TRUE"]),
        ("CertificateFile", ["/c/a", "/c/b"]), ("IdentityAgent", ["/run/agent", "none"]),
        ("ProxyJump", ["none", "gate", "ann@gate:2022,[::1]:2023"]), ("ProxyCommand", ["none", "nc %h %p"]),
        ("UserKnownHostsFile", ["/kh/one", "/kh/one /kh/two"]), ("GlobalKnownHostsFile", ["/kh/three"]),
        ("StrictHostKeyChecking", ["yes", "No", "off", "ask", "accept-new"]), ("ConnectTimeout", ["none", "7", "1m1"]),
        ("HostKeyAlias", ["alias", "Other"]), ("HashKnownHosts", ["yes", "no"]),
        ("ServerAliveInterval", ["0", "15", "2m"]), ("ServerAliveCountMax", ["1", "9"]),
        ("AddressFamily", ["any", "inet", "INET6"]), ("BindAddress", ["127.0.0.2"]), ("BatchMode", ["yes", "no"]),
        ("NumberOfPasswordPrompts", ["1", "2"]), ("PubkeyAuthentication", ["yes", "no", "unbound"]),
        ("PasswordAuthentication", ["no"]), ("Compression", ["yes"]), ("LogLevel", ["QUIET", "INFO", "ERROR"]),
        ("NoHostAuthenticationForLocalhost", ["yes", "no"]),
    ]

    private struct Grammar {
        var fuzzer: Fuzzer

        private mutating func word(_ text: String) -> String {
            fuzzer.below(3) == 0 ? String(text.map { fuzzer.below(2) == 0 ? Character($0.uppercased()) : $0 }) : text
        }

        private mutating func quoted(_ text: String) -> String {
            if text.contains(" ") && !text.hasPrefix("/kh") { return "\"\(text)\"" }
            return fuzzer.below(5) == 0 && !text.contains(" ") ? "\"\(text)\"" : text
        }

        private mutating func criterion() -> String {
            let negation = fuzzer.below(4) == 0 ? "!" : ""
            let patterns = RandomConfigurationTests.patterns
            let list = (0...fuzzer.below(2)).map { _ in fuzzer.pick(patterns) }.joined(separator: ",")
            let separator = fuzzer.pick([" ", "=", " = ", "\t"])
            switch fuzzer.below(8) {
            case 0: return "\(negation)\(word("host"))\(separator)\(quoted(list))"
            case 1: return "\(negation)\(word("originalhost"))\(separator)\(list)"
            case 2: return "\(negation)user\(separator)\(fuzzer.pick(["ann", "a*,bob", "*", "!ann,*"]))"
            case 3: return "\(negation)localuser\(separator)\(fuzzer.pick([NSUserName(), "nobody"]))"
            case 4: return "\(negation)final"
            case 5:
                return
                    "\(negation)exec \(fuzzer.pick(["true", "false", "\"test %h = real.example\"", "\"test %r = ann\""]))"
            case 6: return "\(negation)exec=\"test %n%p = web22\""
            default: return "\(negation)canonical"
            }
        }

        private mutating func head() -> String {
            switch fuzzer.below(8) {
            case 0: return "Match all"
            case 1: return fuzzer.pick(["Match final all", "Match canonical all", "match FINAL", "Match !final all"])
            case 2, 3, 4:
                let criteria = (0...fuzzer.below(2)).map { _ in criterion() }.joined(separator: " ")
                return "\(word("Match"))\(fuzzer.pick([" ", "  ", "\t"]))\(criteria)"
            default:
                let patterns = RandomConfigurationTests.patterns
                let list = (0...fuzzer.below(2)).map { _ in quoted(fuzzer.pick(patterns)) }.joined(separator: " ")
                return "\(word("Host"))\(fuzzer.pick([" ", "=", " = "]))\(list)"
            }
        }

        private mutating func line() -> String {
            let (keyword, values) = fuzzer.pick(RandomConfigurationTests.lines)
            let value = fuzzer.pick(values)
            let isCommand = keyword.hasPrefix("Proxy")
            let separator = fuzzer.pick([" ", "=", " = ", "\t", "  "])
            let end = isCommand ? "" : fuzzer.pick(["", "", " ", "\t", " # comment", "\r"])
            return word(keyword) + separator + (isCommand ? value : quoted(value)) + end
        }

        mutating func file(_ include: String?) -> String {
            var text = ""
            for _ in 0...fuzzer.below(5) {
                text += fuzzer.pick(["", "# comment\n", "\n"]) + head() + "\n"
                for _ in 0..<fuzzer.below(4) { text += fuzzer.pick(["", "  ", "\t"]) + line() + "\n" }
                if let include, fuzzer.below(3) == 0 { text += "Include \(include)\n" }
            }
            return text
        }
    }

    @Test func sameAsSSH() async throws {
        var home = try Home(config: "")
        home.account.user = NSUserName()
        let file = home.directory.path(".ssh/config")
        let include = home.directory.path(".ssh/*.conf")
        var grammar = Grammar(fuzzer: Fuzzer("ssh_config grammar"))
        var done = 0
        var compared = 0
        while grammar.fuzzer.goesOn(done, of: 150) {
            done += 1
            let text = grammar.file(include)
            let inner = grammar.file(nil)
            try home.directory.write(".ssh/config", text, permissions: 0o600)
            try home.directory.write(".ssh/a.conf", inner, permissions: 0o600)
            let host = (grammar.fuzzer.below(4) == 0 ? "bob@" : "") + grammar.fuzzer.pick(Self.hosts)
            let oracle = try await SSHOracle(file, host)
            let comment = Comment(rawValue: "ssh \(host), with\n\(text)\na.conf:\n\(inner)")
            let result: SSHClientConfiguration
            do {
                result = try home.resolve(host)
            } catch {
                #expect(oracle == nil, "\(error): \(comment)")
                continue
            }
            guard let oracle else { continue }
            compared += 1
            #expect(result.limits.isEmpty == (oracle["proxycommand"] == nil), comment)
            oracle.compare(result, comment)
        }
        #expect(compared > done / 2)
    }
}

/// What `ssh -G` says.
struct SSHOracle {
    private var values: [String: [String]] = [:]

    /// nil where `ssh` does not take the file.
    init?(_ file: String, _ host: String) async throws {
        let output = try await ChildProcess.run("ssh", ["-G", "-F", file, host])
        guard output.succeeded else { return nil }
        for line in output.standardOutput.split(separator: "\n") {
            let parts = line.split(separator: " ", maxSplits: 1).map(String.init)
            values[parts[0], default: []].append(parts.count > 1 ? parts[1] : "")
        }
    }

    subscript(_ keyword: String) -> [String]? { values[keyword] }

    func compare(_ result: SSHClientConfiguration, _ comment: Comment? = nil) {
        #expect([result.hostName] == self["hostname"], comment)
        #expect(["\(result.port)"] == self["port"], comment)
        #expect([result.user] == self["user"], comment)
        #expect([result.identitiesOnly ? "yes" : "no"] == self["identitiesonly"], comment)
        #expect(result.hostKeyAlias == self["hostkeyalias"]?.first, comment)
        #expect([result.globalKnownHostsFiles.joined(separator: " ")] == self["globalknownhostsfile"], comment)
        if let files = self["userknownhostsfile"], files.first?.hasPrefix("/kh") == true {
            #expect([result.userKnownHostsFiles.joined(separator: " ")] == files, comment)
        }
        #expect(
            [result.connectTimeout.map { "\($0.components.seconds)" } ?? "none"] == self["connecttimeout"],
            comment
        )
        #expect([result.hashKnownHosts ? "yes" : "no"] == self["hashknownhosts"], comment)
        let strict: [StrictHostKeyChecking: String] = [
            .yes: "true", .no: "false", .acceptNew: "accept-new", .ask: "ask",
        ]
        #expect(strict[result.strictHostKeyChecking].map { [$0] } == self["stricthostkeychecking"], comment)
        // Debian's ssh has a default of its own for BatchMode.
        if result.serverAliveInterval != nil || !result.authentication.isBatch {
            #expect(
                ["\(result.serverAliveInterval?.components.seconds ?? 0)"] == self["serveraliveinterval"],
                comment
            )
        }
        #expect(["\(result.serverAliveCountMax)"] == self["serveralivecountmax"], comment)
        #expect([result.addressFamily.rawValue] == self["addressfamily"], comment)
        #expect(result.bindAddress.map { [$0] } == self["bindaddress"], comment)
        #expect((result.certificateFiles.isEmpty ? nil : result.certificateFiles) == self["certificatefile"], comment)
        if let agent = self["identityagent"] { #expect([result.agentSocket ?? "none"] == agent, comment) }
        #expect([result.authentication.isBatch ? "yes" : "no"] == self["batchmode"], comment)
        #expect(["\(result.authentication.passwordPrompts)"] == self["numberofpasswordprompts"], comment)
        #expect(
            result.showsBanner == !["SILENT", "FATAL", "ERROR"].contains(self["loglevel"]?.first ?? ""),
            comment
        )
        #expect([result.trustsLoopback ? "yes" : "no"] == self["nohostauthenticationforlocalhost"], comment)
        let switches = [
            ("publickey", "pubkeyauthentication"), ("password", "passwordauthentication"),
            ("keyboard-interactive", "kbdinteractiveauthentication"),
        ]
        for (method, keyword) in switches where self["preferredauthentications"] == nil {
            #expect(
                result.authentication.methods.contains(method) == !["no", "false"].contains(self[keyword]?.first),
                comment
            )
        }
        if result.identityFilesAreExplicit {
            #expect(result.identityFiles == (self["identityfile"] ?? []).filter { $0 != "none" }, comment)
        }
        #expect(
            (result.proxyJump.isEmpty ? nil : [result.proxyJump.map(\.description).joined(separator: ",")])
                == self["proxyjump"],
            comment
        )
    }
}

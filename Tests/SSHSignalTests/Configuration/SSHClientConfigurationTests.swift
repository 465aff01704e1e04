import Foundation
import Platform
import TestPeers
import Testing

@testable import SSHSignal

/// An account whose home is a directory of the test's own.
struct Home {
    let directory = TemporaryDirectory()
    var account: LocalAccount

    init(config: String? = nil) throws {
        account = LocalAccount(user: "me", userID: getuid(), home: directory.path, environment: ["KEYS": "/keys"])
        try directory.makeDirectory(".ssh", permissions: 0o700)
        if let config { try directory.write(".ssh/config", config, permissions: 0o600) }
    }

    func resolve(_ text: String, _ arguments: SSHArguments = SSHArguments()) throws -> SSHClientConfiguration {
        var arguments = arguments
        // The system's file is the machine's business, except where a test asks for the user's by name.
        arguments.configurationFile = arguments.configurationFile ?? directory.path(".ssh/config")
        return try SSHClientConfiguration(
            resolving: Destination(parsing: text),
            arguments: arguments,
            account: account
        )
    }
}

@Suite struct SSHClientConfigurationTests {
    @Test func defaults() throws {
        let home = try Home(config: "")
        let result = try home.resolve("host")
        #expect(result.hostName == "host")
        #expect(result.port == 22)
        #expect(result.user == "me")
        #expect(
            result.identityFiles
                == ["id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk"].map {
                    home.directory.path(".ssh/\($0)")
                }
        )
        #expect(!result.identityFilesAreExplicit)
        #expect(!result.identitiesOnly)
        #expect(
            result.userKnownHostsFiles == [".ssh/known_hosts", ".ssh/known_hosts2"].map { home.directory.path($0) }
        )
        #expect(result.globalKnownHostsFiles == ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"])
        #expect(result.strictHostKeyChecking == .ask)
        #expect(result.proxyJump.isEmpty)
        #expect(result.connectTimeout == nil)
        #expect(result.notes.isEmpty)
    }

    @Test func firstValueWinsAndCommandLineComesFirst() throws {
        let home = try Home(
            config: """
                Host dev*
                    HostName 10.0.0.%h
                    Port 2200
                    User file
                    IdentityFile ~/.ssh/dev
                Host *
                    Port 2300
                    User late
                    IdentityFile ~/.ssh/all
                """
        )
        let plain = try home.resolve("dev7")
        #expect(plain.hostName == "10.0.0.dev7")
        #expect(plain.port == 2200)
        #expect(plain.user == "file")
        #expect(plain.identityFiles == [home.directory.path(".ssh/dev"), home.directory.path(".ssh/all")])

        let arguments = SSHArguments(
            options: ["User=option", "StrictHostKeyChecking accept-new"],
            identityFiles: ["/k"],
            port: 2
        )
        let overridden = try home.resolve("dev7", arguments)
        #expect(overridden.port == 2)
        #expect(overridden.user == "option")
        #expect(overridden.strictHostKeyChecking == .acceptNew)
        #expect(overridden.identityFiles.first == "/k")

        let written = try home.resolve("root@dev7:23", arguments)
        #expect(written.port == 23)
        #expect(written.user == "root")
        #expect(try home.resolve("other").port == 2300)
    }

    @Test func tokensAndVariables() throws {
        let home = try Home(
            config: """
                HostName real.%h
                Port 2200
                User ada
                IdentityFile %d/.ssh/%n-%h-%p-%r-%u-%i-%%
                IdentityFile ${KEYS}/%k
                UserKnownHostsFile ~/kh-%n none /x
                HostKeyAlias alias
                ProxyJump jump-%h:%p,%r@two
                """
        )
        let result = try home.resolve("dev")
        #expect(
            result.identityFiles == [
                home.directory.path(".ssh/dev-real.dev-2200-ada-me-\(getuid())-%"), "/keys/alias",
            ]
        )
        #expect(result.userKnownHostsFiles == [home.directory.path("kh-dev"), "/x"])
        #expect(result.hostKeyAlias == "alias")
        #expect(
            result.proxyJump == [
                Destination(host: "jump-real.dev", port: 2200), Destination(user: "ada", host: "two"),
            ]
        )
    }

    @Test func whatIsSharedBetweenProcesses() throws {
        let home = try Home(
            config: """
                Host none
                    ControlPath none
                Host dev
                    ControlMaster auto
                    ControlPersist 1m30s
                    ControlPath ~/.ssh/cm-%r@%h:%p
                    ExitOnForwardFailure yes
                    User ada
                Host strange
                    ControlPath /run/%Q
                """
        )
        let dev = try home.resolve("dev")
        #expect(dev.controlPath == home.directory.path(".ssh/cm-ada@dev:22"))
        #expect(dev.controlMaster == .auto && dev.exitOnForwardFailure && !dev.controlPathIsTyped)
        #expect(dev.controlPersist == .yes(.seconds(90)))
        #expect(try home.resolve("none").controlPath == nil)
        #expect(try home.resolve("none").controlPersist == .no)
        // Of ssh_config(5): 0 is as yes.
        for (text, expected) in [("yes", .yes(nil)), ("0", .yes(nil)), ("no", .no), ("5", .yes(.seconds(5)))]
            as [(String, ControlPersist)]
        {
            let typed = SSHArguments(options: ["ControlPersist=\(text)"])
            #expect(try home.resolve("dev", typed).controlPersist == expected)
        }
        // Most commands have no use for it.
        #expect(try home.resolve("strange").controlPath == nil)
        let typed = try home.resolve("dev", SSHArguments(options: ["ControlPath=/run/x", "ControlMaster autoask"]))
        #expect(typed.controlPath == "/run/x" && typed.controlPathIsTyped && typed.controlMaster == .ask)
        #expect(throws: SSHConfigurationError.self) {
            try home.resolve("dev", SSHArguments(options: ["ControlPath=/run/%Q"]))
        }
    }

    @Test func matchSeesWhatWasSetBefore() throws {
        let config = """
            Host dev
                HostName dev.lan
                User ada
            Match host *.lan,!web.lan user ada
                Port 1
            Match host dev
                Port 2
            Match originalhost dev localuser me
                ConnectTimeout 1m30s
            Match !user ada
                HostKeyAlias wrong
            Match all
                HostKeyAlias right
            """
        let home = try Home(config: config)
        let result = try home.resolve("dev")
        #expect(result.port == 1)
        #expect(result.connectTimeout == .seconds(90))
        #expect(result.hostKeyAlias == "right")
        #expect(try home.resolve("bob@dev").hostKeyAlias == "wrong")
    }

    @Test func includeKeepsTheBlockItStandsIn() throws {
        let home = try Home(
            config: """
                Include conf.d/*.conf
                Host other
                    Include inner
                Host dev
                    Include inner
                """
        )
        try home.directory.write(".ssh/conf.d/a.conf", "Host dev\nPort 7\n")
        try home.directory.write(".ssh/conf.d/b.conf", "Port 8\n")
        try home.directory.write(".ssh/inner", "User inner\nHost *\nHostKeyAlias any\n")
        let dev = try home.resolve("dev")
        #expect(dev.port == 7)
        #expect(dev.user == "inner")
        #expect(dev.hostKeyAlias == "any")
        let none = try home.resolve("third")
        #expect(none.port == 8)
        #expect(none.user == "me")
        #expect(none.hostKeyAlias == nil, "a Host line in an included file does not leave the block of its Include")
    }

    @Test func includeLoopEnds() throws {
        let home = try Home(config: "Include config")
        #expect(throws: SSHConfigurationError.self) { try home.resolve("dev") }
    }

    @Test(arguments: [
        ("Port 0", ":2: Port '0'"), ("Port x", "Port 'x'"), ("Port", "has no value"), ("Port 1 2", "one value"),
        ("StrictHostKeyChecking maybe", "accept-new"), ("IdentitiesOnly 1", "yes or no"), ("ConnectTimeout 1x", "time"),
        ("User \"open", "not closed"), ("Match", "no criterion"), ("Match color red", "unknown criterion"),
        ("Match host", "no value"), ("Match all host x", "alone"), ("Host", "no pattern"), ("Include", "no file"),
        ("IdentityFile %q", "%q"), ("IdentityFile ${NOPE}/x", "NOPE"), ("IdentityFile x%", "lone '%'"), ("= x", "'='"),
        ("HostName bad name", "one value"), ("HostName -x", "not allowed"), ("ProxyJump a,,b", "ProxyJump"),
        ("Ciphers !a", "list of algorithms"), ("ProxyCommand", "no value"), ("ConnectTimeout 99999999999", "time"),
    ])
    func mistakesNameFileAndLine(line: String, reason: String) throws {
        let home = try Home(config: "# comment\n\(line)\n")
        let error = #expect(throws: SSHConfigurationError.self) { try home.resolve("dev") }
        #expect(error?.description.contains(reason) == true, "\(error?.description ?? "")")
        if line != "HostName -x" {
            #expect(error?.description.contains(".ssh/config:2: ") == true, "\(error?.description ?? "")")
        }
    }

    @Test func mistakeInABlockNotInEffectIsFound() throws {
        let home = try Home(config: "Host other\nPort x\n")
        #expect(throws: SSHConfigurationError.self) { try home.resolve("dev") }
    }

    @Test func badOptionsAreRefused() throws {
        let home = try Home(config: "")
        for option in ["", "Port", "Port=x", "Host=x", "Include=/x", "Match all"] {
            #expect(throws: SSHConfigurationError.self, "\(option)") {
                try home.resolve("dev", SSHArguments(options: [option]))
            }
        }
    }

    /// As ssh(1) refuses it; what `IgnoreUnknown` names before does not matter.
    @Test func anOptionThatSSHDoesNotKnowIsRefused() throws {
        let home = try Home(config: "NoSuchKeyword 1\n")
        let error = #expect(throws: SSHConfigurationError.self) {
            try home.resolve("dev", SSHArguments(options: ["StrictHostKeyCheking=no"]))
        }
        let message = error?.description ?? ""
        #expect(message.contains("bad configuration option 'StrictHostKeyCheking'"), "\(message)")
        #expect(message.contains("did you mean StrictHostKeyChecking?"), "\(message)")
        #expect(throws: SSHConfigurationError.self) {
            try home.resolve("dev", SSHArguments(options: ["UseKeychain=yes", "IgnoreUnknown=UseKeychain"]))
        }
        let ignored = ["IgnoreUnknown=x,usekey*", "UseKeychain=yes", "compression yes", "CIPHER=3des"]
        #expect(throws: Never.self) { try home.resolve("dev", SSHArguments(options: ignored)) }
    }

    @Test func whatHasNoEffectIsListed() throws {
        let home = try Home(
            config: """
                SendEnv LANG
                Host other
                    ProxyCommand nc %h %p
                Host dev
                    ProxyCommand nc %h %p
                Match sessiontype shell
                    Port 9
                """
        )
        let result = try home.resolve("dev")
        #expect(result.port == 22)
        #expect(result.notes.map(\.keyword) == ["SendEnv", "ProxyCommand", "Match sessiontype"])
        #expect(result.notes.map(\.changesConnection) == [false, true, true])
        #expect(result.notes.map(\.line) == [1, 5, 6])
    }

    /// The first of them counts, `none` too; but a command may follow no jump hosts.
    @Test func aJumpHostAndACommandAreOneChoice() throws {
        let home = try Home(
            config: """
                Host direct
                    ProxyCommand none
                Host jump
                    ProxyJump gate
                Host nowhere
                    ProxyJump none
                Host *
                    ProxyJump other
                    ProxyCommand nc %h %p
                """
        )
        #expect(try home.resolve("direct").proxyJump.isEmpty)
        #expect(try home.resolve("direct").limits.isEmpty)
        #expect(try home.resolve("jump").proxyJump == [Destination(host: "gate")])
        #expect(try home.resolve("jump").limits.isEmpty)
        #expect(try home.resolve("nowhere").proxyJump.isEmpty)
        #expect(try home.resolve("nowhere").limits.map(\.kind) == [.proxyCommand])
        #expect(try home.resolve("x").proxyJump == [Destination(host: "other")])
    }

    @Test func theFinalPassSeesTheNameThatIsDialled() throws {
        let home = try Home(
            config: """
                Host short
                    HostName Long.Example
                Match final host long.example
                    User ann
                Host long.example
                    Port 7
                Match canonical originalhost short
                    HostKeyAlias both
                """
        )
        let result = try home.resolve("short")
        #expect((result.hostName, result.user, result.port) == ("long.example", "ann", 7))
        #expect(result.hostKeyAlias == "both")
        #expect(result.limits.isEmpty)
    }

    @Test func commandsAndNetworks() throws {
        let elsewhere = TemporaryDirectory()
        let home = try Home(
            config: """
                Host a
                    HostName b
                    Port 7
                    User ann
                Match exec "test %h-%n-%p-%r-%u-%% = b-a-7-ann-me-%%"
                    HostKeyAlias one
                Match !exec=true
                    HostKeyAlias two
                Match host other exec "touch \(elsewhere.path("ran"))"
                    HostKeyAlias three
                Match localnetwork 127.0.0.0/8,203.0.113.0/24
                    BatchMode yes
                Match localnetwork 203.0.113.0/24
                    ConnectTimeout 3
                """
        )
        let result = try home.resolve("a")
        #expect(result.hostKeyAlias == "one")
        #expect(try home.resolve("b").hostKeyAlias == nil)
        #expect(result.authentication.isBatch)
        #expect(result.connectTimeout == nil)
        #expect(result.limits.isEmpty)
        #expect(!FileManager.default.fileExists(atPath: elsewhere.path("ran")))
    }

    @Test func tags() throws {
        let home = try Home(
            config: "Host a\n Tag blue\nMatch tagged=blue,green\n Port 7\nMatch !tagged=blue\n Port 8\n"
        )
        #expect(try home.resolve("a").port == 7)
        #expect(try home.resolve("b").port == 8)
    }

    @Test(arguments: [
        ("IdentityFile ~other/key", "IdentityFile ~other/key"), ("Include ~other/config", "Include ~other/config"),
        ("CheckHostIP yes", "CheckHostIP"), ("VerifyHostKeyDNS ask", "VerifyHostKeyDNS"),
        ("RekeyLimit 1G 1h", "RekeyLimit"), ("Match command x\nPort 9", "Match command"),
    ])
    func whatIsLeftToSSH(line: String, reason: String) throws {
        let home = try Home(config: "Host x\n\(line)\nHost dev\n\(line)\n")
        let result = try home.resolve("dev")
        #expect(!result.limits.isEmpty && result.limits.allSatisfy(\.isDecisive))
        #expect(result.limits.first?.reason.contains("\(reason) is for ssh alone") == true, "\(result.limits)")
    }

    @Test func whatIsSwitchedOffFirstStaysOff() throws {
        let lines = ["CheckHostIP no", "RekeyLimit default none", "PKCS11Provider none", "KnownHostsCommand none"]
        let later = ["CheckHostIP yes", "RekeyLimit 1G", "PKCS11Provider /lib/x.so", "KnownHostsCommand /bin/x"]
        let home = try Home(
            config: "Host a\n\(lines.joined(separator: "\n"))\nHost *\n\(later.joined(separator: "\n"))\n"
        )
        #expect(try home.resolve("a").limits.isEmpty)
        #expect(try home.resolve("b").limits.count == 4)
    }

    @Test func includedFilesThatOthersCanWriteAreRefused() throws {
        let home = try Home(config: "Include inner\n")
        try home.directory.write(".ssh/inner", "Port 9\n", permissions: 0o600)
        #expect(try home.resolve("a").port == 9)
        chmod(home.directory.path(".ssh/inner"), 0o666)
        #expect(throws: SSHConfigurationError.self) { try home.resolve("a") }
    }

    @Test func aDirectoryThatIsIncludedHasNoLines() throws {
        let home = try Home(config: "Include conf.d/*\nPort ssh\n")
        try home.directory.makeDirectory(".ssh/conf.d/old", permissions: 0o700)
        try home.directory.write(".ssh/conf.d/z", "User ann\n", permissions: 0o600)
        let result = try home.resolve("a")
        #expect((result.user, result.port) == ("ann", 22))
    }

    @Test func aKeyOfTheCommandLineThatIsNotThereNamesNothing() throws {
        let home = try Home(config: "")
        let usual = try home.directory.write(".ssh/id_ed25519", "", permissions: 0o600)
        let missing = SSHArguments(identityFiles: ["/missing"])
        #expect(try home.resolve("a", missing).identityFiles == ["/missing", usual])
        #expect(try home.resolve("a", SSHArguments(options: ["IdentityFile=/missing"])).identityFiles == ["/missing"])
    }

    @Test func tokensOfThisMachine() throws {
        let home = try Home(config: "IdentityFile /k/%l-%L-%j\nCertificateFile /c/%C\nProxyJump gate\n")
        let name = ProcessInfo.processInfo.hostName
        let result = try home.resolve("dev")
        let short = name.prefix { $0 != "." }
        #expect(result.identityFiles == ["/k/\(name)-\(short)-gate"])
        #expect(result.certificateFiles.first?.wholeMatch(of: /\/c\/[0-9a-f]{40}/) != nil)
    }

    @Test(arguments: [
        "bootstrap connect %h -W localhost:22", "exec /usr/local/bin/bootstrap connect -W localhost:22 %h",
        "\"/opt/bootstrap\" connect %h -W localhost:22",
        "bootstrap connect -q -p2222 -i ~/.ssh/gw --path h2 '%r@%h:%p' -W localhost:22",
        "bootstrap connect -N --path=ssh Dev:22 -W localhost:22",
    ])
    func aProxyCommandThatIsThisProgramIsNotFollowed(command: String) throws {
        let result = try Home(config: "Host dev\n    ProxyCommand \(command)\n").resolve("dev")
        #expect(result.notes.isEmpty, "\(result.notes)")
        #expect(result.limits.isEmpty, "\(result.limits)")
        #expect(OwnProxyCommand.isThisProgram(command, to: ["dev"]))
    }

    @Test func otherProxyCommandsAreFollowed() throws {
        for command in ["nc %h %p", "bootstrap --help", "ssh bootstrap connect", "/usr/bin/connect bootstrap"] {
            #expect(!OwnProxyCommand.isThisProgram(command, to: ["dev"]))
        }
        // Under another name it is known by its file.
        let own = try #require(realpath("/proc/self/exe", nil).map { String(cString: $0) })
        #expect(OwnProxyCommand.isThisProgram("\(own) connect %h -W localhost:22", to: []))
    }

    /// The way by a gateway is not dropped.
    @Test(arguments: ["bootstrap connect gw -W %h:22", "bootstrap connect -p 22 ops@gw:22 -W %h:%p"])
    func aProxyCommandToAnotherHostIsFollowed(command: String) throws {
        #expect(!OwnProxyCommand.isThisProgram(command, to: ["dev", "192.0.2.1"]))
        let result = try Home(config: "Host dev\n    ProxyCommand \(command)\n").resolve("dev")
        #expect(result.limits.map(\.kind) == [.proxyCommand])
    }

    @Test func whatIsUnderWayIsNotBegunAgain() {
        let outer = OwnProxyCommand.environment(connectingTo: "me@one:22", ["HOME": "/"])
        let inner = OwnProxyCommand.environment(connectingTo: "me@two:22", outer)
        #expect(inner["HOME"] == "/")
        for peer in ["me@one:22", "me@two:22"] { #expect(OwnProxyCommand.isUnderWay(to: peer, in: inner)) }
        #expect(!OwnProxyCommand.isUnderWay(to: "me@two:22", in: outer))
        #expect(!OwnProxyCommand.isUnderWay(to: "me@one:22", in: [:]))
    }

    @Test func namedFileMustExistAndNoneReadsNothing() throws {
        let home = try Home(config: "Port 9")
        #expect(throws: SSHConfigurationError.self) {
            try home.resolve("dev", SSHArguments(configurationFile: "/nonexistent/config"))
        }
        #expect(try home.resolve("dev", SSHArguments(configurationFile: "none")).port == 22)
    }

    @Test func fileThatOthersCanWriteIsRefused() throws {
        let home = try Home(config: "Port 9")
        chmod(home.directory.path(".ssh/config"), 0o666)
        let error = #expect(throws: SSHConfigurationError.self) {
            try SSHClientConfiguration(resolving: Destination(host: "dev"), account: home.account)
        }
        #expect(error?.message.contains("permissions") == true)
        chmod(home.directory.path(".ssh/config"), 0o644)
        #expect(try SSHClientConfiguration(resolving: Destination(host: "dev"), account: home.account).port == 9)
    }
}

/// The same files through `ssh -G`: OpenSSH itself says what they mean.
@Suite struct SSHConfigurationOracleTests {
    /// `ssh -v` names the files that it makes of the tokens.
    @Test func tokens() async throws {
        var home = try Home(
            config: """
                HostName Real.%h
                Port 2200
                User ada
                ProxyCommand false
                IdentityFile /k/%%-%C-%h-%i-%k-%L-%l-%n-%p-%r-%u
                IdentityFile "/k/${FIELD}/%n"
                CertificateFile ${FIELD}/c
                """
        )
        home.account.user = NSUserName()
        home.account.environment["FIELD"] = "/field"
        let file = home.directory.path(".ssh/config")
        for more in ["", "HostKeyAlias Alias"] {
            try home.directory.write(
                ".ssh/config",
                home.directory.read(".ssh/config") + "\n\(more)\n",
                permissions: 0o600
            )
            let ssh = try await ChildProcess.run("ssh", ["-v", "-F", file, "Dev"], environment: ["FIELD": "/field"])
            let files = ssh.standardError.split(whereSeparator: \.isNewline).compactMap { line -> String? in
                guard let range = line.firstRange(of: " file /") else { return nil }
                return "/" + line[range.upperBound...].prefix { $0 != " " }
            }
            let result = try home.resolve("Dev")
            #expect(result.identityFiles + result.certificateFiles == files, "\(ssh.standardError)")
        }
    }

    static let config = """
        # A file with every notation.
        Host=web   # comment
          HostName = "web".example
          Port=2201
        Host "quoted" 'single' esc\\ aped
          Port 2202
        Host dev? !devx *.lan
          HostName %h.internal
          User dev
          IdentityFile /keys/dev
          IdentityFile "/keys/with space"
          IdentitiesOnly yes
        host case
          pORT 2203
          StrictHostKeyChecking off
        Match host *.internal,!dev9.internal user dev,ops
          Port 2204
          ConnectTimeout 2m
        Match host *.INTERNAL
          HostKeyAlias Alias
        Match !host *.internal originalhost w*
          User webuser
          UserKnownHostsFile /kh/one /kh/two
        Host jump
          ProxyJump one@first:2022,[::1]:2023,last
          StrictHostKeyChecking accept-new
        Host alive
          ServerAliveInterval 1m
          ServerAliveCountMax 5
          AddressFamily INET6
          BindAddress 127.0.0.2
          CertificateFile /certs/one
          CertificateFile /certs/two
          IdentityAgent /run/agent
          PreferredAuthentications password,publickey
          BatchMode yes
          NumberOfPasswordPrompts 2
        Host quiet
          PubkeyAuthentication no
          PasswordAuthentication no
          ChallengeResponseAuthentication no
          ServerAliveInterval 0
        Host *
          User fallback
          GlobalKnownHostsFile /kh/global
          HashKnownHosts no
          StrictHostKeyChecking yes
          ConnectTimeout none
        """

    @Test(arguments: [
        "web", "quoted", "single", "esc", "dev1", "devx", "dev9", "cam.lan", "case", "CASE", "jump", "nothing",
        "root@dev2", "W1", "alive", "quiet",
        "ops@x.internal", "10.0.0.1", "::1",
    ])
    func sameAsSSH(text: String) async throws {
        let home = try Home(config: Self.config)
        let file = home.directory.path(".ssh/config")
        let oracle = try #require(try await SSHOracle(file, text))
        oracle.compare(try home.resolve(text))
    }
}

import Foundation
import SSHSignal
import Streams
import Synchronization
import TestPeers
import Testing

@Suite(.serialized) struct SessionAuthenticationTests {
    /// Counts how often a passphrase was asked, and answers.
    final class Prompt: Sendable {
        let requests = Mutex<[PassphraseRequest]>([])
        let answers: [String?]

        init(_ answers: String?...) { self.answers = answers }

        var prompt: PassphrasePrompt {
            { request in
                let number = self.requests.withLock { requests in
                    requests.append(request)
                    return requests.count
                }
                guard number <= self.answers.count else { return nil }
                return self.answers[number - 1].map { Array($0.utf8) }
            }
        }

        var count: Int { requests.withLock(\.count) }
    }

    @Test(arguments: ["ed25519", "ecdsa"]) func keyFiles(type: String) async throws {
        let server = try await OpenSSHServer()
        let key = server.directory.path("user_\(type)")
        try await OpenSSHServer.makeKey(type, key)
        try server.authorize(key + ".pub")
        let client = try await server.connect([.keyFile(path: key)])
        #expect(try await client.run("echo in").text == "in\n")
        await client.close()
        let contents = try Array(Data(contentsOf: URL(fileURLWithPath: key)))
        let fromMemory = try await server.connect([.key(contents, name: "memory")])
        await fromMemory.close()
    }

    @Test(arguments: ["ecdsa"]) func pemKeyFiles(type: String) async throws {
        let server = try await OpenSSHServer()
        for (format, passphrase) in [("PEM", ""), ("PKCS8", ""), ("PEM", "secret"), ("PKCS8", "secret")] {
            let key = server.directory.path("\(format)-\(passphrase)")
            try await OpenSSHServer.makeKey(type, key, passphrase: passphrase, format: format)
            try server.authorize(key + ".pub")
            let prompt = Prompt("secret")
            let client = try await server.connect([.keyFile(path: key)]) { $0.passphrase = prompt.prompt }
            #expect(prompt.count == (passphrase.isEmpty ? 0 : 1), "\(format) \(passphrase)")
            await client.close()
        }
    }

    @Test(arguments: ["ed25519", "ecdsa"]) func encryptedKeyFiles(type: String) async throws {
        let server = try await OpenSSHServer()
        let key = server.directory.path("encrypted")
        try await OpenSSHServer.makeKey(type, key, passphrase: "right horse")
        try server.authorize(key + ".pub")

        let right = Prompt("right horse")
        let client = try await server.connect([.keyFile(path: key)]) { $0.passphrase = right.prompt }
        #expect(right.count == 1)
        let fingerprint = try await OpenSSHServer.fingerprint(key)
        #expect(right.requests.withLock { $0.first?.fingerprint } == fingerprint)
        await client.close()

        let second = Prompt("wrong", "right horse")
        let patient = try await server.connect([.keyFile(path: key)]) { $0.passphrase = second.prompt }
        #expect(second.requests.withLock { $0.map(\.attempt) } == [1, 2])
        await patient.close()

        let wrong = Prompt("wrong", "wrong", "wrong", "right horse")
        let refused = await sshFailure {
            try await server.connect([.keyFile(path: key)]) { $0.passphrase = wrong.prompt }
        }
        #expect(refused?.code == .authenticationRefused)
        #expect(refused?.message.contains("wrong passphrase") == true)
        #expect(wrong.count == 3)

        let silent = await sshFailure { try await server.connect([.keyFile(path: key)]) }
        #expect(silent?.message.contains("encrypted, and there is no terminal") == true)
        let none = Prompt(nil)
        let unanswered = await sshFailure {
            try await server.connect([.keyFile(path: key)]) { $0.passphrase = none.prompt }
        }
        #expect(unanswered?.message.contains("no passphrase was given") == true)
        #expect(refused?.message.contains("right horse") == false)
    }

    @Test("a login that asks nobody does not ask either what the server takes")
    func keysAreOfferedAtOnce() async throws {
        let server = try await OpenSSHServer(configuration: ["LogLevel DEBUG1", "PasswordAuthentication yes"])
        let questions = { server.log.components(separatedBy: "method none").count - 1 }
        await (try await server.connect()).close()
        try await server.logged("Accepted publickey")
        #expect(questions() == 1)
        var configuration = server.configuration
        configuration.offersKeysAtOnce = true
        await (try await server.connect(configuration)).close()
        // What it was asked before it accepted is in its log before that.
        try await server.logged("Accepted publickey", count: 2)
        #expect(questions() == 1)

        // Where no key is taken, it is asked after all, and the error says what it would take.
        let stranger = server.directory.path("stranger")
        try await OpenSSHServer.makeKey("ed25519", stranger)
        let error = await sshFailure {
            try await server.connect([.keyFile(path: stranger)]) { $0.offersKeysAtOnce = true }
        }
        #expect(error?.code == .authenticationRefused)
        #expect(error?.message.contains("publickey, password") == true, "\(error?.message ?? "")")
        let nothing = await sshFailure { try await server.connect([]) { $0.offersKeysAtOnce = true } }
        #expect(nothing?.message.contains("publickey, password") == true, "\(nothing?.message ?? "")")
    }

    /// Each answer on the way costs a round trip. This one is held back until the client has asked for more.
    @Test("a login that asks nobody does not wait for the word that there is authentication", arguments: [true, false])
    func keysAreOfferedBehindTheRequest(isDropbear: Bool) async throws {
        let openSSH = isDropbear ? nil : try await OpenSSHServer()
        let dropbear = isDropbear ? try await DropbearServer() : nil
        let port = try #require(openSSH?.port ?? dropbear?.port)
        let key = try #require(openSSH?.userKey ?? dropbear?.userKey)
        let relay = try RelayServer(to: port)
        // A request for a service has not even half as many bytes, whatever the cipher is.
        relay.holdAnswers { asked in
            let enciphered = Self.enciphered(in: asked)
            return enciphered == 0 || enciphered > 120
        }
        var configuration = SSHSessionConfiguration(user: OpenSSHServer.user, credentials: [.keyFile(path: key)])
        configuration.offersKeysAtOnce = true
        let client = try await SSHClient.connect(
            host: "127.0.0.1",
            port: relay.port,
            configuration: configuration,
            hostKeyVerifier: AnyHostKey(),
            on: testLoops.next()
        )
        #expect(try await client.run("echo here").text == "here\n")
        await client.close()
    }

    /// How many bytes a client has sent behind its SSH_MSG_NEWKEYS.
    private static func enciphered(in sent: [UInt8]) -> Int {
        guard let end = sent.firstIndex(of: 10) else { return 0 }
        var rest = sent[(end + 1)...]
        while rest.count >= 6 {
            let length = rest.prefix(4).reduce(0) { $0 << 8 | Int($1) } + 4
            let type = rest[rest.startIndex + 5]
            guard rest.count >= length else { return 0 }
            rest = rest.dropFirst(length)
            if type == 21 { return rest.count }
        }
        return 0
    }

    @Test func aKeyThatTheServerRefusesNeedsNoPassphrase() async throws {
        let server = try await OpenSSHServer()
        let key = server.directory.path("stranger")
        try await OpenSSHServer.makeKey("ed25519", key, passphrase: "secret")
        let prompt = Prompt("secret")
        let error = await sshFailure {
            try await server.connect([.keyFile(path: key)]) { $0.passphrase = prompt.prompt }
        }
        #expect(error?.message.contains("refused by the server") == true)
        #expect(prompt.count == 0)
    }

    @Test func refusalsNameMethodsAndKeys() async throws {
        let server = try await OpenSSHServer(configuration: ["PasswordAuthentication yes"])
        let key = server.directory.path("stranger")
        try await OpenSSHServer.makeKey("ed25519", key)
        let fingerprint = try await OpenSSHServer.fingerprint(key)
        let error = await sshFailure { try await server.connect([.keyFile(path: key)]) }
        #expect(error?.code == .authenticationRefused)
        #expect(error?.streamError.code == .authentication)
        #expect(error?.message.contains("publickey, password") == true)
        #expect(error?.message.contains(fingerprint) == true)

        let missing = await sshFailure { try await server.connect([.keyFile(path: key + ".none")]) }
        #expect(missing?.code == .authenticationRefused)
        #expect(missing?.message.contains("No such file") == true)

        let garbage = try server.directory.write("garbage", "not a key", permissions: 0o600)
        let useless = await sshFailure { try await server.connect([.keyFile(path: garbage)]) }
        #expect(useless?.message.contains("is not a private key") == true)

        let empty = await sshFailure { try await server.connect([]) }
        #expect(empty?.message.contains("no key to offer") == true)
    }

    @Test func anUnknownUserIsRefusedLikeAWrongKey() async throws {
        let server = try await OpenSSHServer()
        let error = await sshFailure {
            try await server.connect([.keyFile(path: server.userKey)]) { $0.user = "no-such-user" }
        }
        #expect(error?.code == .authenticationRefused)
        #expect(error?.message.contains("no-such-user@") == true)
    }

    @Test func rsaKeysAreExplained() async throws {
        let server = try await OpenSSHServer()
        let key = server.directory.path("user_rsa")
        try await OpenSSHServer.makeKey("rsa", key)
        try server.authorize(key + ".pub")
        do {
            let client = try await server.connect([.keyFile(path: key)])
            // libssh2 1.11 and newer.
            await client.close()
        } catch let error as SSHError {
            #expect(error.code == .authenticationRefused)
            #expect(error.message.contains("libssh2 >= 1.11"))
        }
    }

    @Test func noMoreKeysAreOfferedThanAllowed() async throws {
        let server = try await OpenSSHServer()
        var credentials: [SSHCredential] = []
        for number in 1...4 {
            let key = server.directory.path("stranger\(number)")
            try await OpenSSHServer.makeKey("ed25519", key)
            credentials.append(.keyFile(path: key))
        }
        let error = await sshFailure {
            try await server.connect(credentials + [.keyFile(path: server.userKey)]) { $0.maximumKeyOffers = 3 }
        }
        #expect(error?.code == .authenticationRefused)
        #expect(error?.message.contains("3 keys are enough") == true)
        let log = server.log
        #expect(log.components(separatedBy: "Failed publickey").count - 1 <= 3)
    }

    @Test func agentKeys() async throws {
        let server = try await OpenSSHServer()
        let agent = try await Agent()
        let strange = await sshFailure { try await server.connect([.agent(socketPath: agent.socket)]) }
        #expect(strange?.code == .authenticationRefused)
        for type in ["ed25519", "ecdsa"] {
            let key = server.directory.path("agent_\(type)")
            try await OpenSSHServer.makeKey(type, key, passphrase: "", comment: "in the agent")
            try server.authorize(key + ".pub")
            try await agent.add(key)
            let client = try await server.connect([.agent(socketPath: agent.socket)])
            #expect(try await client.run("echo in").text == "in\n")
            await client.close()
            try await agent.removeAll()
        }
    }

    @Test func theAgentSavesThePassphrase() async throws {
        let server = try await OpenSSHServer()
        let agent = try await Agent()
        let key = server.directory.path("encrypted")
        try await OpenSSHServer.makeKey("ed25519", key)
        try server.authorize(key + ".pub")
        try await agent.add(key)
        let changed = try await ChildProcess.run("ssh-keygen", ["-q", "-p", "-P", "", "-N", "secret", "-f", key])
        #expect(changed.succeeded)
        let prompt = Prompt("secret")
        let client = try await server.connect([.keyFile(path: key), .agent(socketPath: agent.socket)]) {
            $0.passphrase = prompt.prompt
        }
        #expect(prompt.count == 0)
        await client.close()
    }

    @Test func identitiesOnlyKeepsTheAgentsOtherKeysBack() async throws {
        let server = try await OpenSSHServer()
        let agent = try await Agent()
        for number in 1...7 {
            let key = server.directory.path("stranger\(number)")
            try await OpenSSHServer.makeKey("ed25519", key)
            try await agent.add(key)
        }
        try await agent.add(server.userKey)
        let all = await sshFailure { try await server.connect([.agent(socketPath: agent.socket)]) }
        #expect(all?.code == .authenticationRefused)
        #expect(all?.message.contains("IdentitiesOnly=yes") == true, "\(String(describing: all))")
        let client = try await server.connect([.agent(socketPath: agent.socket), .keyFile(path: server.userKey)]) {
            $0.identitiesOnly = true
        }
        await client.close()
    }

    @Test func anAgentThatIsGoneOrLocked() async throws {
        let server = try await OpenSSHServer()
        let gone = await sshFailure { try await server.connect([.agent(socketPath: server.directory.path("none"))]) }
        #expect(gone?.code == .authenticationRefused)
        #expect(gone?.message.contains("no ssh-agent at") == true)
        // A key file still works beside it.
        let client = try await server.connect([
            .agent(socketPath: server.directory.path("none")), .keyFile(path: server.userKey),
        ])
        await client.close()
    }

    /// An ssh-agent of the test's own.
    final class Agent: Sendable {
        let directory = TemporaryDirectory()
        let process: ChildProcess
        var socket: String { directory.path("agent") }

        init() async throws {
            let socket = directory.path("agent")
            process = try ChildProcess("ssh-agent", ["-D", "-a", socket])
            // Said when it listens; its socket is there sooner.
            _ = try await process.standardOutput.line(containing: "SSH_AUTH_SOCK=")
        }

        func add(_ key: String) async throws { try await ssh_add([key]) }
        func removeAll() async throws { try await ssh_add(["-D"]) }

        private func ssh_add(_ arguments: [String]) async throws {
            let result = try await ChildProcess.run(
                "ssh-add",
                ["-q"] + arguments,
                environment: ["SSH_AUTH_SOCK": socket]
            )
            #expect(result.succeeded, "\(result.standardError)")
        }
    }
}

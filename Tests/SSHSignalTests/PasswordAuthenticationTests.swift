import Foundation
import Glibc
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// Passwords, keyboard-interactive through the system's PAM, and several steps in sequence, against OpenSSH.
@Suite(.serialized, .enabled(if: getuid() == 0, "an account with a password of its own needs a mount namespace"))
struct PasswordAuthenticationTests {
    static let password = "correct horse"

    /// Answers in turn, and remembers what it was asked.
    final class Person: Sendable {
        let asked = Lock<[AuthenticationQuestion]>([])
        let answers: [String?]

        init(_ answers: String?...) { self.answers = answers }

        var prompt: AuthenticationPrompt {
            { question in
                let number = self.asked.withLock { asked in
                    asked.append(question)
                    return asked.count
                }
                return number <= self.answers.count ? self.answers[number - 1].map { Array($0.utf8) } : nil
            }
        }

        var questions: [AuthenticationQuestion] { asked.withLock { $0 } }
    }

    private func server(
        _ lines: [String],
        pam: [String] = ["required pam_unix.so nodelay"]
    ) async throws -> OpenSSHServer {
        try await OpenSSHServer(
            configuration: ["PermitRootLogin yes", "UsePAM yes"] + lines,
            password: Self.password,
            pam: pam
        )
    }

    private func connect(
        _ server: OpenSSHServer,
        _ person: Person?,
        keys: [SSHCredential] = [],
        _ change: (inout SSHSessionConfiguration) -> Void = { _ in }
    ) async throws -> SSHClient {
        try await server.connect(keys) { configuration in
            configuration.authenticationPrompt = person?.prompt
            // PAM and a slow machine.
            configuration.authenticationTimeout = .seconds(60)
            change(&configuration)
        }
    }

    @Test func aPassword() async throws {
        let server = try await server(["PasswordAuthentication yes"])
        let person = Person(Self.password)
        let client = try await connect(server, person)
        #expect(try await client.run("echo in").text == "in\n")
        #expect(person.questions.map(\.method) == ["password"])
        #expect(person.questions.first?.isSecret == true)
        // Another login would have to ask again.
        #expect(try await client.withConnection { ($0 as? SSHSession)?.silentKey } == nil)
        await client.close()
        await server.stop()
    }

    /// An `ssh` that logs in has the password of the file, too, and sends it once.
    @Test(arguments: ["PasswordAuthentication yes", "KbdInteractiveAuthentication yes"], [true, false])
    func aPasswordFileByWayOfSSH(line: String, isRight: Bool) async throws {
        let server = try await server([line])
        let directory = TemporaryDirectory()
        let hosts = try directory.write(
            "known_hosts",
            "[127.0.0.1]:\(server.port) " + server.directory.read("host_ed25519.pub")
        )
        var prompts = SSHLogin.Prompts(warn: { _ in })
        prompts.passwordFile = try directory.write(
            "pass word",
            isRight ? "\(Self.password)\nmore\n" : "wrong",
            permissions: 0o600
        )
        let login = try SSHLogin(
            to: Destination(user: OpenSSHServer.user, host: "127.0.0.1", port: server.port),
            arguments: SSHArguments(
                configurationFile: "none",
                options: [
                    "UserKnownHostsFile=\(hosts)", "GlobalKnownHostsFile=none", "IdentityAgent=none",
                    "PubkeyAuthentication=no",
                ],
                engine: .openSSH
            ),
            prompts: prompts
        )
        do {
            let client = try await login.connect(on: testLoops.next())
            #expect(isRight)
            #expect(try await client.run("echo in").text == "in\n")
            await client.close()
        } catch {
            #expect(!isRight, "\(error)")
            #expect(error.code == .authenticationRefused, "\(error)")
            #expect(server.log.split(separator: "\n").filter { $0.contains("Failed ") }.count <= 1)
        }
        await server.stop()
    }

    @Test func aJumpHostIsNotAnsweredFromTheFile() async throws {
        let directory = TemporaryDirectory()
        let file = try directory.write("password", "secret\n", permissions: 0o600)
        let long = String(repeating: "m", count: 31)
        let questions: [(String, Bool, String, Bool)] = [
            ("me", true, "me@last's password: ", true),
            ("me", false, "me@last's password: ", true),
            ("me", false, "(me@last) Password: ", true),
            ("me", true, "Password: ", true),
            ("me", false, "Password: ", false),
            ("me", true, "me@jump's password: ", false),
            ("me", false, "(me@jump) Password: ", false),
            ("me", true, "Enter passphrase for key '/k': ", false),
            ("me", true, "(me@last) One-time code: ", false),
            // Cut, and whole, as newer releases ask.
            (long, false, "\(long.dropLast())@last's password: ", true),
            (long, false, "\(long)@last's password: ", true),
            (long, false, "\(long)m@last's password: ", false),
        ]
        for (user, isDirect, question, isAnswered) in questions {
            let script = AskpassScript(file: file, user: user, host: "last", isDirect: isDirect).text
            let path = try directory.write("askpass", script, permissions: 0o700)
            // Without a terminal.
            let output = try await ChildProcess.run("setsid", ["--wait", "sh", path, question])
            #expect(output.standardOutput == (isAnswered ? "secret\n" : ""), "\(question) \(output)")
            #expect(output.succeeded == isAnswered)
        }
    }

    @Test func aWrongPasswordIsAskedForThreeTimes() async throws {
        let server = try await server(["PasswordAuthentication yes"])
        let patient = Person("wrong", "wrong", Self.password)
        let client = try await connect(server, patient)
        #expect(patient.questions.map(\.attempt) == [1, 2, 3])
        await client.close()

        let person = Person("wrong", "wrong", "wrong", Self.password)
        let error = await sshFailure { try await connect(server, person) }
        #expect(error?.code == .authenticationRefused)
        #expect(person.questions.count == 3)
        #expect(error?.message.contains("It offers: publickey, password") == true)
        #expect(error?.message.contains("password: refused (attempt 3)") == true)
        #expect(error?.message.contains("wrong") == false)

        let once = Person("wrong", Self.password)
        let strict = await sshFailure {
            try await connect(server, once) { $0.authentication.passwordPrompts = 1 }
        }
        #expect(strict?.code == .authenticationRefused)
        #expect(once.questions.count == 1)
        await server.stop()
    }

    @Test func nobodyToAsk() async throws {
        let server = try await server(["PasswordAuthentication yes", "KbdInteractiveAuthentication yes"])
        let error = await sshFailure { try await connect(server, nil) }
        #expect(error?.code == .authenticationRefused)
        #expect(error?.message.contains("password: there is nobody to ask") == true)
        #expect(error?.message.contains("keyboard-interactive: there is nobody to ask") == true)
        let silent = Person(nil)
        let unanswered = await sshFailure { try await connect(server, silent) }
        #expect(unanswered?.code == .authenticationRefused)
        #expect(unanswered?.message.contains("no answer was given") == true)
        #expect(silent.questions.count == 1)
        await server.stop()
    }

    @Test func keyboardInteractive() async throws {
        let server = try await server(["KbdInteractiveAuthentication yes"])
        let person = Person(Self.password)
        let client = try await connect(server, person)
        #expect(try await client.run("echo in").text == "in\n")
        #expect(person.questions.map(\.method) == ["keyboard-interactive"])
        #expect(person.questions.first?.text.contains("assword") == true)
        #expect(person.questions.first?.isSecret == true)
        #expect(person.questions.first?.isForPassword == true)
        await client.close()

        let stranger = Person("a", "b", "c", Self.password)
        let error = await sshFailure { try await connect(server, stranger) }
        #expect(error?.code == .authenticationRefused)
        #expect(stranger.questions.count == 3)
        await server.stop()
    }

    @Test func severalRoundsOfQuestions() async throws {
        // pam_stress, PAM's own test module, asks a question of its own and takes every answer.
        let modules = ["required pam_unix.so nodelay", "required pam_stress.so"]
        let server = try await server(["KbdInteractiveAuthentication yes"], pam: modules)
        let person = Person(Self.password, Self.password)
        let client = try await connect(server, person)
        #expect(person.questions.count == 2)
        #expect(person.questions.map(\.attempt) == [1, 1])
        await client.close()
        await server.stop()
    }

    /// The loop goes on while a person thinks, and a connection that ends meanwhile ends the question.
    @Test func theConnectionEndsWhileAPersonThinks() async throws {
        let server = try await server(["KbdInteractiveAuthentication yes"])
        let started = AsyncStream<Void>.makeStream()
        let go = AsyncStream<Void>.makeStream()
        let loop = testLoops.next()
        let login = Task {
            try await server.connect(
                {
                    var configuration = SSHSessionConfiguration(user: OpenSSHServer.user, credentials: [])
                    configuration.authenticationPrompt = { _ in
                        started.continuation.yield()
                        for await _ in go.stream { break }
                        return Array("late".utf8)
                    }
                    return configuration
                }(),
                on: loop
            )
        }
        for await _ in started.stream { break }
        #expect(try await loop.execute { 1 } == 1)
        server.killSessions()
        let error = await sshFailure { try await login.value }
        #expect(error?.code == .connectionLost)
        go.continuation.yield()
        #expect(try await loop.execute { 2 } == 2)
        await server.stop()
    }

    @Test(arguments: [
        (["publickey,keyboard-interactive"], ["keyboard-interactive"]), (["publickey,password"], ["password"]),
        (["password,publickey"], ["password"]), (["keyboard-interactive,publickey"], ["keyboard-interactive"]),
        (["password,keyboard-interactive"], ["password", "keyboard-interactive"]),
    ])
    func severalStepsInSequence(chain: [String], asked: [String]) async throws {
        let server = try await server([
            "PasswordAuthentication yes", "KbdInteractiveAuthentication yes", "AuthenticationMethods \(chain[0])",
        ])
        let keys = [SSHCredential.keyFile(path: server.userKey)]
        let person = Person(Self.password, Self.password)
        let client = try await connect(server, person, keys: keys)
        #expect(try await client.run("echo in").text == "in\n")
        #expect(person.questions.map(\.method) == asked)
        await client.close()

        // A right first step does not excuse a wrong second one, and neither loops.
        let stranger = Person(asked.count == 2 ? Self.password : "no", "no", "no", "no", "no")
        let error = await sshFailure { try await connect(server, stranger, keys: keys) }
        #expect(error?.code == .authenticationRefused)
        #expect(stranger.questions.count == 3)
        if chain[0].hasPrefix("publickey") {
            #expect(error?.message.contains("accepted as one of several steps") == true)
        }
        await server.stop()
    }

    @Test func twoKeysInSequence() async throws {
        let server = try await server(["AuthenticationMethods publickey,publickey"])
        let second = server.directory.path("second")
        try await OpenSSHServer.makeKey("ecdsa", second)
        try server.authorize(second + ".pub")
        let client = try await connect(
            server,
            nil,
            keys: [.keyFile(path: server.userKey), .keyFile(path: second)]
        )
        await client.close()
        let error = await sshFailure { try await connect(server, nil, keys: [.keyFile(path: second)]) }
        #expect(error?.code == .authenticationRefused)
        await server.stop()
    }

    @Test func switchedOffMethodsAreNotUsed() async throws {
        let server = try await server(["PasswordAuthentication yes", "KbdInteractiveAuthentication yes"])
        let person = Person(Self.password)
        let client = try await connect(server, person, keys: [.keyFile(path: server.userKey)]) {
            $0.authentication.methods = ["password"]
        }
        #expect(person.questions.map(\.method) == ["password"])
        await client.close()
        let error = await sshFailure {
            try await connect(server, Person("x")) { $0.authentication.methods = ["keyboard-interactive"] }
        }
        #expect(error?.message.contains("password: switched off in ssh_config") == true)
        await server.stop()
    }

    @Test func theRefusalMessageIsRead() {
        func parse(_ bytes: [UInt8]) -> AuthenticationFailure? { bytes.withUnsafeBytes { AuthenticationFailure($0) } }
        let list = Array("publickey,password".utf8)
        let whole = parse([51, 0, 0, 0, 18] + list + [1, 0xEE, 0xEE])
        #expect(whole?.methods == ["publickey", "password"])
        #expect(whole?.isPartialSuccess == true)
        #expect(parse([51, 0, 0, 0, 18] + list + [0])?.isPartialSuccess == false)
        #expect(parse([51, 0, 0, 0, 0, 0])?.methods == [])
        #expect(parse([51, 0, 0, 0, 18] + list) == nil)
        #expect(parse([51, 0, 0, 0, 18] + list + [2]) == nil)
        #expect(parse([51, 0xFF, 0xFF, 0xFF, 0xFF, 1, 1]) == nil)
        #expect(parse([50, 0, 0, 0, 0, 0]) == nil)
        #expect(parse([]) == nil)
    }
}

/// libssh2's callbacks as coroutines.
@Suite struct SuspendableCallTests {
    private final class Steps {
        var log: [String] = []
    }

    @Test func aCallStopsInTheMiddleAndGoesOn() throws {
        let steps = Steps()
        var inner: SuspendableCall?
        let call = SuspendableCall(again: -37) {
            steps.log.append("in")
            inner?.suspend()
            steps.log.append("out")
            return steps.log.count < 5 ? -37 : 7
        }
        inner = call
        #expect(try call.resume() == .suspended)
        #expect(steps.log == ["in"])
        #expect(try call.resume() == .returned(-37))
        #expect(try call.resume() == .suspended)
        #expect(steps.log == ["in", "out", "in"])
        #expect(try call.resume() == .returned(-37))
        #expect(try call.resume() == .suspended)
        #expect(try call.resume() == .returned(7))
        inner = nil
    }

    @Test func aCancelledCallEnds() throws {
        let steps = Steps()
        var inner: SuspendableCall?
        let call = SuspendableCall(again: -37) {
            inner?.suspend()
            steps.log.append(inner?.isCancelled == true ? "cancelled" : "went on")
            return -37
        }
        inner = call
        #expect(try call.resume() == .suspended)
        call.cancel()
        call.cancel()
        #expect(steps.log == ["cancelled"])
        inner = nil
        let idle = SuspendableCall(again: -37) { -37 }
        #expect(try idle.resume() == .returned(-37))
        idle.cancel()
        SuspendableCall(again: -37) { 0 }.cancel()
    }
}

import Foundation
import Synchronization
import TestPeers
import Testing

@testable import SSHSignal

@Suite struct HostKeyPolicyTests {
    let keys = TestKeys()

    private final class Log: Sendable {
        let lines = Mutex<[String]>([])
        func callAsFunction(_ line: String) { lines.withLock { $0.append(line) } }
    }

    private func policy(
        _ mode: StrictHostKeyChecking,
        host: String = "dev7",
        port: UInt16 = 2222,
        options: [String] = [],
        pinned: String? = nil,
        ask: HostKeyPrompt? = nil,
        log: Log = Log()
    ) throws -> HostKeyPolicy {
        let arguments = SSHArguments(
            configurationFile: "none",
            options: options + [
                "StrictHostKeyChecking=\(mode.rawValue)", "UserKnownHostsFile=\(keys.directory.path("kh"))",
                "GlobalKnownHostsFile=none",
            ],
            hostKey: pinned
        )
        let configuration = try SSHClientConfiguration(
            resolving: Destination(host: host, port: port),
            arguments: arguments
        )
        return HostKeyPolicy(configuration, ask: ask, warn: { log($0) })
    }

    private func refusal(_ policy: HostKeyPolicy, _ key: HostKey) async -> HostKeyError? {
        await #expect(throws: HostKeyError.self) { try await policy.check(key) }
    }

    @Test func knownKeyIsAcceptedInEveryMode() async throws {
        let a = try await keys.make("a")
        try keys.directory.write("kh", "[dev7]:2222 \(a.line)\n")
        for mode in StrictHostKeyChecking.allCases {
            try await policy(mode).check(a)
            #expect(try policy(mode).preferredAlgorithms == ["ssh-ed25519"])
        }
    }

    @Test func changedKeyIsRefusedInEveryMode() async throws {
        let a = try await keys.make("a")
        let b = try await keys.make("b")
        try keys.directory.write("kh", "# x\n[dev7]:2222 \(a.line)\n")
        for mode in StrictHostKeyChecking.allCases {
            let error = await refusal(try policy(mode, ask: { _ in true }), b)
            #expect(error?.reason == .changed)
            let message = error?.message ?? ""
            #expect(message.hasPrefix("HOST KEY CHANGED for [dev7]:2222: expected \(a.fingerprint)"), "\(message)")
            #expect(message.contains("kh:2), got \(b.fingerprint); nothing was sent"), "\(message)")
            #expect(message.contains("ssh-keygen -R '[dev7]:2222'"), "\(message)")
        }
        #expect(try keys.directory.read("kh") == "# x\n[dev7]:2222 \(a.line)\n")
    }

    /// As ssh writes a host in its messages: two servers of one machine are not the same.
    @Test(arguments: [(2222, "[Dev7]:2222"), (22, "Dev7")] as [(UInt16, String)])
    func messagesNameThePort(port: UInt16, name: String) async throws {
        let (a, b) = (try await keys.make("a"), try await keys.make("b"))
        try keys.directory.write("kh", "")
        let asked = Mutex<[String]>([])
        _ = await refusal(
            try policy(.ask, host: "Dev7", port: port) { question in
                asked.withLock { $0.append(question.text) }
                return false
            },
            a
        )
        #expect(asked.withLock { $0.first }?.hasPrefix("The authenticity of host '\(name)' can't be") == true)
        let unknown = await refusal(try policy(.yes, host: "Dev7", port: port), a)?.message ?? ""
        #expect(unknown.hasPrefix("host key of \(name) is unknown: "), "\(unknown)")
        let log = Log()
        try await policy(.acceptNew, host: "Dev7", port: port, log: log).check(a)
        #expect(log.lines.withLock { $0.first }?.hasPrefix("\(name): recorded the host key") == true)
        let changed = await refusal(try policy(.no, host: "Dev7", port: port), b)?.message ?? ""
        #expect(changed.hasPrefix("HOST KEY CHANGED for \(name): "), "\(changed)")
        try keys.directory.write("kh", "@revoked * \(a.line)\n")
        let revoked = await refusal(try policy(.no, host: "Dev7", port: port), a)?.message ?? ""
        #expect(revoked.hasPrefix("REVOKED HOST KEY for \(name): "), "\(revoked)")
        let pinned =
            await refusal(
                try policy(.no, host: "Dev7", port: port, pinned: "SHA256:" + String(repeating: "A", count: 43)),
                b
            )?.message ?? ""
        #expect(pinned.hasPrefix("HOST KEY MISMATCH for \(name): "), "\(pinned)")
    }

    @Test func revokedKeyIsRefusedInEveryMode() async throws {
        let a = try await keys.make("a")
        try keys.directory.write("kh", "[dev7]:2222 \(a.line)\n@revoked * \(a.line)\n")
        for mode in StrictHostKeyChecking.allCases {
            #expect(await refusal(try policy(mode, ask: { _ in true }), a)?.reason == .revoked)
        }
    }

    @Test func unknownKeyWithoutATerminal() async throws {
        let a = try await keys.make("a")
        for mode in [StrictHostKeyChecking.yes, .ask] {
            let error = await refusal(try policy(mode), a)
            #expect(error?.reason == .unknown)
            #expect(error?.message.contains(a.fingerprint) == true)
            #expect(error?.message.contains("StrictHostKeyChecking=accept-new") == true)
        }
        #expect(!FileManager.default.fileExists(atPath: keys.directory.path("kh")))
    }

    @Test func newKeyIsRecordedOnceAccepted() async throws {
        let a = try await keys.make("a")
        let log = Log()
        try await policy(.acceptNew, log: log).check(a)
        #expect(try keys.directory.read("kh") == "[dev7]:2222 \(a.line)\n")
        #expect(log.lines.withLock { $0.count } == 1)
        // The next connection finds it.
        try await policy(.yes).check(a)
    }

    /// As with `ssh`: the key is good for this login, recorded or not.
    @Test(arguments: [StrictHostKeyChecking.acceptNew, .no, .ask])
    func whatCannotBeRecordedIsAccepted(mode: StrictHostKeyChecking) async throws {
        let a = try await keys.make("a")
        try keys.directory.write("file", "")
        for place in ["/dev/null", "/dev/full", keys.directory.path("file/known_hosts"), keys.directory.path] {
            let log = Log()
            let policy = try policy(mode, options: ["UserKnownHostsFile=\(place)"], ask: { _ in true }, log: log)
            try await policy.check(a)
            let said = log.lines.withLock { $0.last } ?? ""
            #expect(said.contains(place == "/dev/null" ? "recorded" : "for this login only"), "\(place): \(said)")
        }
        let nowhere = Log()
        try await policy(mode, options: ["UserKnownHostsFile=none"], ask: { _ in true }, log: nowhere).check(a)
        #expect(nowhere.lines.withLock { !$0.contains { $0.contains("recorded") } })
    }

    /// A login may make several sessions, and only the first can ask.
    @Test func aLoginAsksOnceForAKeyThatCannotBeRecorded() async throws {
        let (a, b) = (try await keys.make("a"), try await keys.make("b"))
        let policy = try policy(.ask, options: ["UserKnownHostsFile=/dev/null"], ask: { _ in true })
        try await policy.check(a)
        try await policy.withoutQuestions.check(a)
        #expect(await refusal(policy.withoutQuestions, b)?.reason == .unknown)
    }

    @Test func theFirstOfSeveralFilesTakesTheKeyAndAllAreRead() async throws {
        let (a, b) = (try await keys.make("a"), try await keys.make("b"))
        let files = "UserKnownHostsFile=\(keys.directory.path("one")) \(keys.directory.path("two"))"
        try keys.directory.write("two", "[dev7]:2222 \(a.line)\n")
        try await policy(.yes, options: [files]).check(a)
        #expect(await refusal(try policy(.acceptNew, options: [files]), b)?.reason == .changed)
        try await policy(.acceptNew, host: "dev8", options: [files]).check(b)
        #expect(try keys.directory.read("one") == "[dev8]:2222 \(b.line)\n")
    }

    @Test func aFileThatCannotBeReadSaysNothingAndIsNamed() async throws {
        let a = try await keys.make("a")
        try keys.directory.write("two", "[dev7]:2222 \(a.line)\n")
        let files = "UserKnownHostsFile=\(keys.directory.path) \(keys.directory.path("two"))"
        let log = Log()
        try await policy(.yes, options: [files], log: log).check(a)
        #expect(log.lines.withLock { $0.first?.hasPrefix("\(keys.directory.path): cannot be read") } == true)
    }

    @Test func localhostNeedNotProveAnything() async throws {
        let (a, b) = (try await keys.make("a"), try await keys.make("b"))
        let option = ["NoHostAuthenticationForLocalhost=yes"]
        for host in ["localhost", "127.0.0.1", "::1"] {
            try await policy(.yes, host: host, options: option).check(a)
        }
        try keys.directory.write("kh", "[localhost]:2222 \(b.line)\n@revoked * \(a.line)\n")
        #expect(await refusal(try policy(.yes, host: "localhost", options: option), a)?.reason == .revoked)
        for other in ["dev7", "10.0.0.1"] {
            #expect(await refusal(try policy(.yes, host: other, options: option), b)?.reason == .unknown)
        }
        let alias = option + ["HostKeyAlias=dev9"]
        #expect(await refusal(try policy(.yes, host: "localhost", options: alias), b)?.reason == .unknown)
    }

    @Test func noWarnsAndRecords() async throws {
        let a = try await keys.make("a")
        let log = Log()
        try await policy(.no, log: log).check(a)
        #expect(log.lines.withLock { $0.first?.contains("taken on trust") == true })
        try await policy(.yes).check(a)
    }

    @Test func hashedFileGetsHashedEntries() async throws {
        let a = try await keys.make("a")
        try keys.directory.write("kh", "old \(a.line)\n")
        _ = try await ChildProcess.run("ssh-keygen", ["-H", "-f", keys.directory.path("kh")])
        try await policy(.acceptNew).check(a)
        #expect(try !keys.directory.read("kh").contains("dev7"))
        try await policy(.yes).check(a)
    }

    @Test func hashKnownHostsHashes() async throws {
        let a = try await keys.make("a")
        try await policy(.acceptNew, options: ["HashKnownHosts=yes"]).check(a)
        #expect(try keys.directory.read("kh").hasPrefix("|1|"))
    }

    @Test func askingDecides() async throws {
        let a = try await keys.make("a")
        let error = await refusal(try policy(.ask, ask: { _ in false }), a)
        #expect(error?.reason == .rejected)
        try await policy(.ask) { question in
            #expect(question.host == "[dev7]:2222")
            #expect(question.text.contains("ssh-ed25519 key fingerprint is \(a.fingerprint)."))
            return true
        }.check(a)
        try await policy(.yes).check(a)
    }

    @Test func anotherTypeOfKeyIsNotNew() async throws {
        let a = try await keys.make("a")
        let b = try await keys.make("b", type: "ecdsa")
        try keys.directory.write("kh", "[dev7]:2222 \(a.line)\n")
        for mode in [StrictHostKeyChecking.acceptNew, .no, .yes] {
            let error = await refusal(try policy(mode), b)
            #expect(error?.reason == .unknown)
            #expect(error?.message.contains("recorded with ssh-ed25519 only") == true)
        }
        try await policy(.ask) { question in
            #expect(question.knownAlgorithms == ["ssh-ed25519"])
            return true
        }.check(b)
    }

    @Test func aliasIsLookedUpWithoutPort() async throws {
        let a = try await keys.make("a")
        try keys.directory.write("kh", "theAlias \(a.line)\n")
        try await policy(.yes, options: ["HostKeyAlias=thealias"]).check(a)
    }

    @Test func keyRecordedWithoutPortIsAcceptedAsSSHDoes() async throws {
        let a = try await keys.make("a")
        let b = try await keys.make("b")
        try keys.directory.write("kh", "dev7 \(a.line)\n")
        try await policy(.yes).check(a)
        #expect(try policy(.yes).preferredAlgorithms == ["ssh-ed25519"])
        #expect(await refusal(try policy(.yes), b)?.reason == .unknown, "another machine may listen on another port")
    }

    @Test func caLineIsExplained() async throws {
        let a = try await keys.make("a")
        try keys.directory.write("kh", "@cert-authority * \(a.line)\n")
        #expect(await refusal(try policy(.yes), a)?.message.contains("@cert-authority") == true)
    }

    @Test func answers() async throws {
        let question = HostKeyQuestion(host: "h", key: try await keys.make("a"), knownAlgorithms: [])
        #expect(question.accepts("yes\n") == true)
        #expect(question.accepts(question.key.fingerprint) == true)
        #expect(question.accepts("no") == false)
        #expect(question.accepts("SHA256:other") == false)
        #expect(question.accepts("y") == nil)
        #expect(question.accepts("") == nil)
    }
}

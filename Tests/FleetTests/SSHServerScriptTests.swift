import Foundation
import MeshIdentity
import TestDevices
import TestPeers
import Testing

@testable import Fleet
@testable import SSHSignal

/// What a device's root shell does with its sshd: the real scripts and a real sshd, in the shells of the far sides
/// there are.
@Suite(.timeLimit(.minutes(10))) struct SSHServerScriptTests {
    private let included = TemporaryDirectory()

    private func server() async throws -> OpenSSHServer {
        try await OpenSSHServer(configuration: ["Include \(included.path("*.conf"))"], hostKeys: ["ed25519"])
    }

    private func facts(_ server: OpenSSHServer) throws -> SSHServerFacts {
        try SSHServerFacts(
            .init(
                status: 0,
                lines: [
                    "server=openssh", "sshd=/usr/sbin/sshd", "config=\(server.directory.path("sshd_config"))",
                    "listener=\(server.process.pid)", "dropin=\(included.path("50-bootstrap.conf"))", "done=1",
                ]
            ),
            name: "dev7"
        )
    }

    private func shell(_ kind: FarShell = .dash, setup: String = "") throws -> RemoteShell {
        RemoteShell(try LocalChannel.shell(kind.command, home: included.path, setup: setup), name: "dev7")
    }

    /// Counts how often sshd has begun to listen.
    private func starts(_ server: OpenSSHServer) -> Int {
        server.log.components(separatedBy: "Server listening on").count - 1
    }

    private var work: String { ".bootstrap-certificates" }

    @Test(arguments: FarShell.allCases) func appliedAndKept(kind: FarShell) async throws {
        let server = try await server()
        let facts = try facts(server)
        let file = included.path("50-bootstrap.conf")
        let shell = try shell(kind)
        let change = SSHServerScript.Change.write(path: file, content: "MaxSessions 3\n")
        try await SSHServerSetup.apply([change], effective: ["maxsessions 3"], facts, shell, name: "dev7")
        try await eventually("sshd has read it") { starts(server) == 2 }
        try await SSHServerSetup.keep(facts, shell)
        shell.channel.close()
        #expect(try included.read("50-bootstrap.conf") == "MaxSessions 3\n")
        #expect(!FileManager.default.fileExists(atPath: server.directory.path(work)))
        await server.stop()
    }

    /// The operator is gone before anything was confirmed: the device takes it back by itself.
    @Test(arguments: FarShell.allCases) func takenBackWhenTheOperatorIsGone(kind: FarShell) async throws {
        let server = try await server()
        let facts = try facts(server)
        try included.write("50-bootstrap.conf", "MaxSessions 4\n")
        let shell = try shell(kind)
        let new = included.path("60-new.conf")
        let changes: [SSHServerScript.Change] = [
            .write(path: included.path("50-bootstrap.conf"), content: "MaxSessions 3\n"),
            .write(path: new, content: "MaxAuthTries 3\n"), .block("LoginGraceTime 30\n"),
        ]
        let before = try server.directory.read("sshd_config")
        try await SSHServerSetup.apply(
            changes,
            effective: ["maxsessions 3", "logingracetime 30"],
            facts,
            shell,
            name: "dev7"
        )
        #expect(try server.directory.read("sshd_config") != before)
        shell.channel.close()
        try await eventually("everything is as it was") {
            !FileManager.default.fileExists(atPath: server.directory.path(work))
        }
        #expect(try included.read("50-bootstrap.conf") == "MaxSessions 4\n")
        #expect(!FileManager.default.fileExists(atPath: new))
        #expect(try server.directory.read("sshd_config") == before)
        try await eventually("sshd has read it again") { starts(server) == 3 }
        await server.stop()
    }

    /// Without a word to sshd: what `sshd -t` refuses it never sees.
    @Test(arguments: FarShell.allCases) func aConfigurationThatSSHDRefuses(kind: FarShell) async throws {
        let server = try await server()
        let shell = try shell(kind)
        let error = await #expect(throws: HostError.self) {
            try await SSHServerSetup.apply(
                [.write(path: included.path("50-bootstrap.conf"), content: "Nonsense yes\n")],
                effective: [],
                try facts(server),
                shell,
                name: "dev7"
            )
        }
        shell.channel.close()
        #expect(error?.message.contains("sshd -t refuses the new configuration") == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("Nonsense") == true)
        #expect(try FileManager.default.contentsOfDirectory(atPath: included.path) == [])
        #expect(!FileManager.default.fileExists(atPath: server.directory.path(work)))
        #expect(starts(server) == 1)
        await server.stop()
    }

    @Test func aLineThatHasNoEffect() async throws {
        let server = try await server()
        try included.write("10-site.conf", "MaxSessions 7\n")
        let shell = try shell()
        let error = await #expect(throws: HostError.self) {
            try await SSHServerSetup.apply(
                [.write(path: included.path("50-bootstrap.conf"), content: "MaxSessions 3\n")],
                effective: ["maxsessions 3"],
                try facts(server),
                shell,
                name: "dev7"
            )
        }
        shell.channel.close()
        #expect(error?.message.contains("'maxsessions 3' has no effect") == true, "\(error?.message ?? "")")
        #expect(try FileManager.default.contentsOfDirectory(atPath: included.path) == ["10-site.conf"])
        #expect(starts(server) == 1)
        await server.stop()
    }

    @Test func aDirectoryThatCannotBeWritten() async throws {
        let server = try await server()
        for (place, words) in [(included.path, "cannot be written"), (server.directory.path, "cannot be made")] {
            let shell = try shell(setup: "mount --bind \(place) \(place); mount -o remount,ro,bind \(place)")
            let error = await #expect(throws: HostError.self) {
                try await SSHServerSetup.apply(
                    [.write(path: included.path("50-bootstrap.conf"), content: "MaxSessions 3\n")],
                    effective: [],
                    try facts(server),
                    shell,
                    name: "dev7"
                )
            }
            shell.channel.close()
            #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
            #expect(error?.message.contains("Read-only file system") == true)
        }
        #expect(!FileManager.default.fileExists(atPath: server.directory.path(work)))
        #expect(starts(server) == 1)
        await server.stop()
    }

    /// A machine that lost its power, and two operators.
    @Test func whatAnEarlierRunLeft() async throws {
        let server = try await server()
        let facts = try facts(server)
        let file = included.path("50-bootstrap.conf")
        let path = server.directory.path(work)
        try server.directory.write("\(work)/old.0", "MaxSessions 4\n")
        try server.directory.write("\(work)/list", "0 \(file)\n1 \(included.path("60-new.conf"))\n")
        try included.write("60-new.conf", "MaxAuthTries 3\n")
        let boot = try String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8)
        let change = SSHServerScript.Change.write(path: included.path("70-other.conf"), content: "MaxStartups 20\n")

        // Somebody is at it.
        try server.directory.write("\(work)/pid", "\(getpid()) \(boot)")
        let busy = try shell()
        let error = await #expect(throws: HostError.self) {
            try await SSHServerSetup.apply([change], effective: [], facts, busy, name: "dev7")
        }
        #expect(error?.message.contains("another bootstrap (process \(getpid()))") == true, "\(error?.message ?? "")")
        // A shell that took nothing takes nothing back.
        busy.channel.close()
        _ = try await (busy.channel as? LocalChannel)?.process.exit()
        #expect(FileManager.default.fileExists(atPath: path + "/list"))

        // Nobody any more: another boot.
        try server.directory.write("\(work)/pid", "\(getpid()) 0-0\n")
        let shell = try shell()
        try await SSHServerSetup.apply([change], effective: [], facts, shell, name: "dev7")
        try await SSHServerSetup.keep(facts, shell)
        shell.channel.close()
        #expect(try included.read("50-bootstrap.conf") == "MaxSessions 4\n")
        #expect(!FileManager.default.fileExists(atPath: included.path("60-new.conf")))
        #expect(!FileManager.default.fileExists(atPath: path))
        await server.stop()
    }

    @Test func factsThatCannotBeTrue() {
        func refusal(_ lines: [String]) -> String? {
            do throws(HostError) {
                _ = try SSHServerFacts(.init(status: 0, lines: lines), name: "dev7")
                return nil
            } catch {
                return error.message
            }
        }
        #expect(refusal(["server=dropbear"])?.contains("dropbear") == true)
        #expect(refusal(["server=unknown"])?.contains("/proc") == true)
        #expect(refusal(["server=openssh"]) != nil)
        let good = ["server=openssh", "done=1", "sshd=/usr/sbin/sshd", "config=/etc/ssh/sshd_config"]
        #expect(refusal(good) == nil)
        for path in [
            "etc/x", "/etc/x y", "/etc/\"x\"", "/etc/x#y", "/etc/?x", "/" + String(repeating: "x", count: 2000),
        ] {
            #expect(refusal(good + ["key.0.file=\(path)"]) != nil, "\(path)")
            #expect(refusal(good + ["dropin=\(path)"]) != nil, "\(path)")
        }
    }

    @Test func onlyTheVeryCertificateConfirms() {
        let shown =
            "debug1: Server host certificate: ssh-ed25519-cert-v01@openssh.com SHA256:x, serial 77 ID \"a\" CA b\r\n"
        let matches = "debug1: Host '[127.0.0.1]:22' is known and matches the ED25519-CERT host certificate.\r\n"
        func confirms(_ log: String) -> Bool { HostCertificateConfirmation.confirms(log, serial: 77) }
        #expect(confirms(shown + matches))
        #expect(!confirms(shown))
        #expect(!confirms(matches))
        #expect(!confirms(shown.replacingOccurrences(of: "77", with: "78") + matches))
        #expect(!confirms(shown + matches.replacingOccurrences(of: "certificate.", with: "key.")))
        #expect(!confirms("x" + shown + "x" + matches))
    }
}

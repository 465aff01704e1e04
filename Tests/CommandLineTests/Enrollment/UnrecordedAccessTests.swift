import Foundation
import TestDevices
import TestPeers
import Testing

@testable import Fleet

/// What a device allows and what the ledger says of it are the same, or somebody hears of it. A real sshd, agent and
/// node.
@Suite(.serialized, .timeLimit(.minutes(5))) struct UnrecordedAccessTests {
    private func enrolled() async throws -> (Operator, OpenSSHServer) {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        try await owner.enrolled(on: server, ["--allow-port", "80"])
        return (owner, server)
    }

    /// `$1` is the operator's directory, in a mount namespace of its own.
    private static let disks = [
        "read-only": "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"",
        "full": """
        cp -a "$1" "$1.copy"; mount -t tmpfs -o size=4m none "$1"
        cp -a "$1.copy/." "$1"; rm -r "$1.copy"
        dd if=/dev/zero of="$1/ballast" bs=1k 2>/dev/null || true
        """,
    ]

    @Test(.enabled(if: getuid() == 0), arguments: ["read-only", "full"])
    func whatCannotBeRecordedIsNotDone(disk: String) async throws {
        let (owner, server) = try await enrolled()
        defer { owner.stopNode() }
        let file = owner.state + "/node.yaml"
        let before = try String(contentsOfFile: file, encoding: .utf8)
        let script = "set -e; \(Self.disks[disk] ?? "false"); shift; exec \"$@\""
        func run(_ arguments: [String]) async throws -> ChildProcess.Output {
            try await ChildProcess.run(
                "unshare",
                ["-m", "sh", "-c", script, "sh", owner.bootstrapHome, "setsid", "--wait", TestTools.bootstrap]
                    + arguments,
                environment: ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil]
            )
        }
        for words in [["allow", "dev7", "77"], ["deny", "dev7", "80"]] {
            let output = try await run(words)
            #expect(output.status == .exited(1), "\(output.standardOutput)")
            #expect(
                output.standardError.contains("error: dev7: nothing was changed, since it could not be recorded: "),
                "\(output.standardError)"
            )
            #expect(try String(contentsOfFile: file, encoding: .utf8) == before)
        }
        let removal = try await run(["unenroll", "dev7"])
        #expect(removal.status == .exited(1) && removal.standardError.contains("dev7: nothing was removed, since it "))
        #expect(FileManager.default.fileExists(atPath: file))
        withExtendedLifetime(server) {}
    }

    /// The disk is full just then: what is open by now is said, and whoever looks is told until it is settled.
    @Test func whatWasNotRecordedIsSaid() async throws {
        let (owner, server) = try await enrolled()
        defer { owner.stopNode() }
        func refuseRecords(_ refuses: Bool) throws {
            try owner.devices.ledger.write { (database) throws(LedgerError) in
                _ = try database.execute(
                    refuses
                        ? "CREATE TRIGGER full BEFORE UPDATE ON devices BEGIN SELECT RAISE(ABORT, 'no room'); END"
                        : "DROP TRIGGER full"
                )
            }
        }
        func changed(_ words: [String], _ allowed: String) async throws {
            try refuseRecords(true)
            let output = try await owner.run(words)
            try refuseRecords(false)
            #expect(output.status == .exited(1))
            let text = "error: dev7 allows \(allowed) now, and that is not recorded: "
            #expect(output.standardError.contains(text), "\(output.standardError)")
            let remedy = "`bootstrap \(words.joined(separator: " "))` records it"
            #expect(output.standardError.contains(remedy), "\(output.standardError)")
        }
        func allowed() throws -> [String]? { try owner.devices.record(named: "dev7")?.allowed }

        try await changed(["allow", "dev7", "443"], "80, 443")
        #expect(try allowed() == ["80"])
        let probed = try await owner.run(["status", "--probe", "dev7"])
        #expect(probed.status == .exited(1), "\(probed.standardOutput)")
        let difference = "dev7: it allows 80, 443, and the ledger has 80"
        #expect(
            probed.standardOutput.contains("attention: \(difference): bootstrap deny dev7 443 closes it"),
            "\(probed.standardOutput)"
        )
        // What it did is by the device's word.
        let closed = try await owner.run(["deny", "dev7", "443"])
        #expect(closed.standardOutput == "dev7  allows 80\n", "\(closed.standardOutput)\(closed.standardError)")

        try await changed(["allow", "dev7", "443"], "80, 443")
        let renewed = try await owner.run(["renew", "dev7"])
        #expect(renewed.succeeded, "\(renewed.standardError)")
        #expect(renewed.standardError.contains("\(difference); that is recorded now."), "\(renewed.standardError)")
        #expect(try allowed() == ["80", "443"])
        #expect(try await owner.run(["status", "--probe", "dev7"]).succeeded)

        try await changed(["deny", "dev7", "443"], "80")
        let missing = try await owner.run(["status", "--probe", "dev7"])
        #expect(
            missing.standardOutput.contains(
                "it allows 80, and the ledger has 80, 443: bootstrap allow dev7 443 opens it again"
            ),
            "\(missing.standardOutput)"
        )
        let again = try await owner.run(["deny", "dev7", "443"])
        #expect(
            again.standardOutput == "dev7  did not allow 443: that is recorded now\ndev7  allows 80\n",
            "\(again.standardOutput)"
        )
        #expect(try allowed() == ["80"])
        withExtendedLifetime(server) {}
    }
}

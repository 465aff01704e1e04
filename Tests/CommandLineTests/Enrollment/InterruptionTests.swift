import Fleet
import Foundation
import MeshIdentity
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// Operators who are killed, who come in twos, and who have no space left, with the real command, sshd and nodes.
extension EnrollmentOverSSHTests {
    private func enrollment(_ owner: Operator, _ port: UInt16, _ server: OpenSSHServer, base: String) -> [String] {
        [
            "enroll", "\(OpenSSHServer.user)@127.0.0.1:\(port)", "--name", "dev", "-i", server.userKey, "-o",
            "IdentitiesOnly=yes",
            "-o", "BatchMode=yes", "--base", base, "--agent-binary", TestTools.bootstrap, "--hbone-port", "0",
            "--hbone-address", "127.0.0.1", "--service", "none",
        ]
    }

    private func environment(_ owner: Operator) -> [String: String?] {
        ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil]
    }

    /// The certificate on the device, with its key beside it, is one that the ledger knows.
    private func expectWhole(_ owner: Operator, _ moment: String) throws {
        let credential = try CredentialDirectory(owner.state + "/identity").load()
        let serials = try owner.devices.ledger.certificates(of: "dev").map(\.serial)
        #expect(
            serials.contains(credential.leaf.serialNumber),
            "\(moment): the ledger does not know what the device has"
        )
    }

    /// The operator's process is killed at a dozen places of an enrolment: each time the device has the old credential
    /// or the new one, whole and in the ledger, its node goes on, and the next enrolment needs nothing but itself.
    @Test func theOperatorIsKilledAnywhere() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        let relay = try RelayServer(to: server.port)
        try owner.know(server.directory.path("host_ed25519.pub"), port: relay.port)
        let arguments = enrollment(owner, relay.port, server, base: owner.base.path)

        /// Killed before so many bytes have passed; false: it was done before.
        func killed(after bytes: Int) async throws -> Bool {
            let victim = Lock<ChildProcess?>(nil)
            let isKilled = Lock(false)
            relay.watch(until: bytes) {
                victim.withLock { $0?.signal(SIGKILL) }
                isKilled.withLock { $0 = true }
            }
            // The lock is held until the process is known: what passes earlier waits for it.
            let process = try victim.withLock { victim in
                let process = try ChildProcess(TestTools.bootstrap, arguments, environment: environment(owner))
                victim = process
                return process
            }
            let status = try await process.exit(within: .seconds(120))
            relay.watch()
            guard isKilled.withLock({ $0 }) else {
                #expect(status == .exited(0), "\(process.standardError.text)")
                return false
            }
            #expect(status == .signalled(SIGKILL))
            try await eventually("the device's side has noticed") {
                server.sessionProcesses.isEmpty
            }
            return true
        }

        // While the agent is on its way: nothing usable is there, and nothing is in the way.
        #expect(try await killed(after: 200_000))
        #expect(!FileManager.default.fileExists(atPath: owner.state + "/identity"))
        #expect(!FileManager.default.fileExists(atPath: owner.base.path("bootstrap/current")))
        let first = try await owner.run(arguments)
        try #require(first.succeeded, "\(first.standardError)")

        relay.watch()
        let again = try await owner.run(arguments)
        try #require(again.succeeded, "\(again.standardError)")
        let whole = relay.passed
        let before = try #require(try owner.devices.record(named: "dev"))
        var cuts = 0
        for part in 1...12 {
            let bytes = whole * part / 13
            guard try await killed(after: bytes) else { continue }
            cuts += 1
            try expectWhole(owner, "killed after \(bytes) of \(whole) bytes")
            let status = try await owner.run(["status"])
            #expect(status.standardOutput.contains("dev"), "\(status.standardOutput)\(status.standardError)")
        }
        #expect(cuts >= 10, "\(cuts) of 12 were cut: enrolments differ too much in their size")
        let last = try await owner.run(arguments)
        #expect(last.succeeded, "\(last.standardError)")
        let record = try #require(try owner.devices.record(named: "dev"))
        #expect(record.serial != before.serial)
        #expect(try CredentialDirectory(owner.state + "/identity").load().leaf.serialNumber == record.serial)
        let removed = try await owner.run(["unenroll", "dev"])
        #expect(removed.succeeded, "\(removed.standardError)")
        let left = FileManager.default.enumerator(atPath: owner.base.path)?.compactMap { $0 as? String } ?? []
        #expect(left == [], "\(removed.standardOutput)\(removed.standardError)")
    }

    /// The connection is cut while the agent is on its way: once, and the same command finishes; every time, and it
    /// gives up and says so.
    @Test func aConnectionThatIsCutIsMadeAgain() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        let relay = try RelayServer(to: server.port)
        try owner.know(server.directory.path("host_ed25519.pub"), port: relay.port)
        let arguments = enrollment(owner, relay.port, server, base: owner.base.path)

        @Sendable func cutEach() { relay.watch(until: 200_000) { cutEach() } }
        cutEach()
        let never = try await owner.run(arguments)
        #expect(never.status == .exited(1))
        #expect(never.standardError.contains("connecting again (3 of 3)"), "\(never.standardError)")
        #expect(!FileManager.default.fileExists(atPath: owner.state + "/identity"))
        #expect(try owner.devices.all().isEmpty)

        relay.watch(until: 200_000) { relay.watch() }
        let once = try await owner.run(arguments)
        #expect(once.succeeded, "\(once.standardError)")
        #expect(once.standardError.contains("connecting again (1 of 3)"), "\(once.standardError)")
        #expect(!once.standardError.contains("(2 of 3)"), "\(once.standardError)")
        try expectWhole(owner, "after a cut")
    }

    /// Four at once, over and over: whoever is too late is told by whom; what the device has is what the ledger says.
    @Test func operatorsAtTheSameDeviceAtTheSameTime() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        let arguments = enrollment(owner, server.port, server, base: owner.base.path)
        for round in 0..<3 {
            let outputs = try await withThrowingTaskGroup(of: ChildProcess.Output.self) { group in
                for _ in 0..<4 { group.addTask { try await owner.run(arguments) } }
                return try await group.reduce(into: []) { $0.append($1) }
            }
            #expect(outputs.contains { $0.succeeded }, "\(outputs.map(\.standardError))")
            for output in outputs where !output.succeeded {
                #expect(output.status == .exited(1))
                #expect(output.standardError.contains("another "), "\(output.standardError)")
            }
            try expectWhole(owner, "round \(round)")
            let record = try #require(try owner.devices.record(named: "dev"))
            #expect(try CredentialDirectory(owner.state + "/identity").load().leaf.serialNumber == record.serial)
        }
    }

    /// No space for the ledger: no certificate is given out that nobody would know of, and nothing that was there is
    /// harmed.
    @Test func theOperatorsDiskIsFull() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        let arguments = enrollment(owner, server.port, server, base: owner.base.path)
        let first = try await owner.run(arguments)
        try #require(first.succeeded, "\(first.standardError)")
        let serial = try CredentialDirectory(owner.state + "/identity").load().leaf.serialNumber

        // The operator's directory on a file system of its own that is filled up, for this command only; what is left
        // there is copied back.
        let saved = owner.home.path("saved")
        let script = """
            set -e; cp -a "$BOOTSTRAP_HOME" '\(saved)'; mount -t tmpfs -o size=2m tmpfs "$BOOTSTRAP_HOME"
            cp -a '\(saved)/.' "$BOOTSTRAP_HOME"; cat /dev/zero >"$BOOTSTRAP_HOME/filler" 2>/dev/null || true
            status=0; "$@" || status=$?
            rm "$BOOTSTRAP_HOME/filler"; rm -r '\(saved)'; cp -a "$BOOTSTRAP_HOME" '\(saved)'; exit $status
            """
        let full = try await ChildProcess.run(
            "unshare",
            ["--mount", "sh", "-c", script, "sh", TestTools.bootstrap] + arguments,
            environment: environment(owner)
        )
        #expect(full.status == .exited(1), "\(full.standardOutput)\(full.standardError)")
        #expect(full.standardError.contains("no space"), "\(full.standardError)")
        #expect(try CredentialDirectory(owner.state + "/identity").load().leaf.serialNumber == serial)

        try FileManager.default.removeItem(atPath: owner.bootstrapHome)
        try FileManager.default.moveItem(atPath: saved, toPath: owner.bootstrapHome)
        #expect(try owner.devices.ledger.certificates(of: "dev").map(\.serial) == [serial])
        let again = try await owner.run(arguments)
        #expect(again.succeeded, "\(again.standardError)")
        try expectWhole(owner, "after there was space again")
    }
}

import Fleet
import Foundation
import H2Transport
import MeshIdentity
import Platform
import Streams
import TestPeers
import Testing

/// The operator refuses whom he has revoked, and his issuer does: new connections, and those that stand.
@Suite(.serialized, .timeLimit(.minutes(10))) struct OperatorTrustTests {
    private func start(_ owner: Operator, _ arguments: [String]) throws -> ChildProcess {
        try ChildProcess(
            TestTools.bootstrap,
            arguments,
            environment: ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil]
        )
    }

    private func connect(
        _ devices: TwoDevices,
        to name: String
    ) async throws -> (process: ChildProcess, conversation: TCPConversation) {
        let port = FreePort.next()
        let process = try start(devices.owner, ["connect", name, "-L", "\(port):localhost:\(devices.backend.port)"])
        _ = try await process.standardOutput.line(containing: "path h2: ")
        let conversation = try await TCPConversation(port: port)
        #expect(try await conversation.echo(Array("hello".utf8)) == Array("hello".utf8))
        return (process, conversation)
    }

    @Test func connectLeavesADeviceThatIsRevoked() async throws {
        let devices = try await TwoDevices()
        let owner = devices.owner
        let (process, conversation) = try await connect(devices, to: "a")
        let (other, unconcerned) = try await connect(devices, to: "b")
        // Nobody is told but the ledger and the CA's list.
        let revoked = try await owner.run(["revoke", "a", "--reason", "stolen", "--list-only"])
        #expect(revoked.succeeded, "\(revoked.standardError)")
        #expect(try await conversation.end(finishing: false).1 == .broken(ECONNRESET))
        #expect(try await process.exit() == .exited(5))
        #expect(process.standardError.text.contains("a: it was revoked at "), "\(process.standardError.text)")
        #expect(process.standardError.text.contains("(stolen)"), "\(process.standardError.text)")
        for path in ["auto", "h2", "h2-over-ssh", "ssh"] {
            let again = try await owner.run([
                "connect", "a", "--path", path, "-W", "localhost:\(devices.backend.port)",
            ])
            #expect(again.status == .exited(5), "\(path): \(again.standardError)")
        }
        #expect(try await unconcerned.echo(Array("still here".utf8)) == Array("still here".utf8))
        #expect(try await unconcerned.end().1 == .endOfStream)
        await other.stop()
    }

    /// By another spelling of its destination, which no device was enrolled with: its host key tells who it is. And
    /// where an earlier ledger was put back, the CA's list does.
    @Test func noSpellingAndNoEarlierLedgerReachesARevokedDevice() async throws {
        let devices = try await TwoDevices()
        let (owner, server) = (devices.owner, devices.server)
        let key = try server.directory.read("host_ed25519.pub").split(separator: " ").prefix(2).joined(separator: " ")
        let known = try owner.home.read(".ssh/known_hosts")
        try owner.home.write(".ssh/known_hosts", known + "[localhost]:\(server.port) \(key)\n", permissions: 0o600)
        let spelling = "\(OpenSSHServer.user)@localhost:\(server.port)"
        let login = ["-F", "none", "-i", server.userKey, "-o", "IdentitiesOnly=yes"]
        let port = FreePort.next()
        let process = try start(
            owner,
            ["connect", spelling, "-L", "\(port):localhost:\(devices.backend.port)"] + login
                + ["-o", "UserKnownHostsFile=\(owner.home.path(".ssh/known_hosts"))"]
        )
        _ = try await process.standardOutput.line(containing: "path ssh")
        let conversation = try await TCPConversation(port: port)
        #expect(try await conversation.echo(Array("hello".utf8)) == Array("hello".utf8))
        let copy = try AtomicFile.read(owner.devices.ledger.path)

        #expect(try await owner.run(["revoke", "a", "--reason", "stolen", "--list-only"]).succeeded)
        #expect(try await conversation.end(finishing: false).1 == .broken(ECONNRESET))
        #expect(try await process.exit() == .exited(5), "\(process.standardError.text)")
        func isRefused(_ destination: String, _ more: [String]) async throws {
            let options = login + ["-o", "UserKnownHostsFile=\(owner.home.path(".ssh/known_hosts"))"] + more
            let output = try await owner.run(
                ["connect", destination, "-W", "localhost:\(devices.backend.port)"] + options
            )
            #expect(output.status == .exited(5), "\(destination) \(more): \(output.standardError)")
            #expect(output.standardError.contains("error: ") && output.standardError.contains("a: "))
        }
        for engine in ["libssh2", "openssh"] { try await isRefused(spelling, ["--ssh-engine", engine]) }
        let doctor = try await owner.run(["doctor", spelling] + login)
        #expect(doctor.status == .exited(5), "\(doctor.standardOutput)")
        #expect(doctor.standardOutput.contains("shows the host key of a"), "\(doctor.standardOutput)")
        #expect(doctor.standardOutput.contains("--name a --reinstate"), "\(doctor.standardOutput)")
        #expect(!doctor.standardOutput.contains("is not enrolled"))

        // Another file, as a restore makes it.
        try AtomicFile.write(copy, to: owner.devices.ledger.path, mode: 0o600)
        #expect(try owner.devices.record(named: "a")?.revokedAt == nil)
        for path in ["ssh", "auto"] { try await isRefused("a", ["--path", path]) }
        try await isRefused(spelling, [])
        let status = try await owner.run(["status"])
        #expect(
            status.standardError.contains("has 1 certificate that the ledger does not know"),
            "\(status.standardError)"
        )
        let probed = try await owner.run(["status", "--probe", "a"])
        #expect(probed.status == .exited(5) && probed.standardOutput.contains("`bootstrap revoke`"))
        let byName = try await owner.run(["doctor", "a"])
        #expect(!byName.succeeded && byName.standardOutput.contains("--reinstate"), "\(byName.standardOutput)")
        #expect(!byName.standardOutput.contains("bootstrap renew a"), "\(byName.standardOutput)")
        #expect(try owner.devices.record(named: "a")?.revokedAt == nil, "looking changes nothing")
        #expect(try await owner.run(["revoke", "--list-only"]).succeeded)
        #expect(try owner.devices.record(named: "a")?.revokedAt != nil)
    }

    /// One certificate, by the ledger alone: its list was not written.
    @Test func theLedgerHoldsWithoutAList() async throws {
        let devices = try await TwoDevices()
        let owner = devices.owner
        let serial = try #require(devices.b.serial)
        let (process, conversation) = try await connect(devices, to: "b")
        _ = try owner.devices.ledger.revoke(RevocationOrder(serials: [serial], reason: "leaked", by: "revoke"))
        #expect(try await conversation.end(finishing: false).1 == .broken(ECONNRESET))
        _ = try await process.standardError.line(containing: "was revoked")
        await process.stop()
        let again = try await owner.run(["connect", "b", "-W", "localhost:\(devices.backend.port)"])
        #expect(again.status == .exited(4) && again.standardError.contains("was revoked"), "\(again.standardError)")
        let probed = try await owner.run(["status", "--probe", "b"])
        #expect(!probed.succeeded && probed.standardOutput.contains("was revoked"), "\(probed.standardOutput)")
        #expect(!FileManager.default.fileExists(atPath: owner.bootstrapHome + "/ca/ca-crl.pem"))
        // With another certificate it is trusted again.
        #expect(try await owner.run(["renew", "b"]).succeeded)
        try await eventually("b is reached again") { try await owner.run(["status", "--probe", "b"]).succeeded }
    }

    /// A device that has a stream to the issuer open, and says nothing.
    @Test func theIssuerCutsADeviceThatIsRevoked() async throws {
        let devices = try await TwoDevices()
        let owner = devices.owner
        let issuer = try start(owner, ["ca", "serve", "--listen", "127.0.0.1:0"])
        let ready = try await issuer.standardOutput.line(containing: "ready issuer")
        let address = try Authority(parsing: try #require(ready.split(separator: " ").last.map(String.init)))
        let own = try CredentialDirectory("\(devices.a.agent.state)/identity").load()
        // Half a day ago: a renewal that is not due would get no stream.
        let changed = try await ChildProcess.run(
            "python3",
            [
                "-c",
                """
                import sqlite3, sys
                with sqlite3.connect(sys.argv[1]) as ledger:
                    ledger.execute("UPDATE certificates SET issued_at = issued_at - 43200")
                """,
                owner.devices.ledger.path,
            ]
        )
        try #require(changed.succeeded, "\(changed.standardError)")
        let client = try await HBONEClient(credentials: .fixed(own))
        let peer = HBONEPeer(address, expecting: .anyTrusted)
        let issuance = try Authority(parsing: "issuer.bootstrap:15012")
        let error = await #expect(throws: (any Error).self) {
            try await client.withStream(to: issuance, through: peer) { stream in
                _ = try owner.devices.ledger.revokeDevice(named: "a", reason: "stolen", by: "revoke")
                // On the connection that stands a stream is denied; another connection is refused in its handshake.
                try await eventually("the connection is cut") {
                    do {
                        try await client.withStream(to: issuance, through: peer) { _ in }
                        return false
                    } catch let failure as ConnectFailure {
                        return failure.error.code == .authentication
                    }
                }
                while try await stream.read() != nil {}
            }
        }
        #expect(error is StreamError, "\(error.map { "\($0)" } ?? "")")
        await client.shutDown()
        await issuer.stop()
    }
}

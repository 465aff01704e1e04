import Fleet
import Foundation
import MeshIdentity
import Platform
import TestDevices
import TestPeers
import Testing

/// A revocation that a wrong clock, a lost record or one certificate alone must not undo, prevent or hide.
@Suite(.serialized, .timeLimit(.minutes(5))) struct RevocationRemedyTests {
    /// The same operator, with a clock that runs ahead.
    private func run(_ owner: Operator, ahead seconds: Int, _ arguments: [String]) async throws -> ChildProcess.Output {
        let library = try #require(
            ["x86_64", "aarch64"].map { "/usr/lib/\($0)-linux-gnu/faketime/libfaketime.so.1" }
                .first { FileManager.default.fileExists(atPath: $0) },
            "libfaketime is not installed: scripts/install-dependencies.sh test"
        )
        return try await ChildProcess.run(
            "setsid",
            ["--wait", TestTools.bootstrap] + arguments,
            environment: [
                "HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil,
                "LD_PRELOAD": library, "FAKETIME": "+\(seconds)s", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_NO_CACHE": "1",
            ]
        )
    }

    /// A day and two hours: its own list keeps what has ended by then. Forty days: the devices keep it.
    @Test func anOperatorsClockThatRunsAheadTakesNothingBack() async throws {
        let devices = try await TwoDevices()
        let owner = devices.owner
        let out = owner.home.path("issued")
        #expect(try await owner.run(["ca", "issue", "--id", "ns/prod/sa/x", "--out", out]).succeeded)
        let serial = try CredentialDirectory(out).load().leaf.serialNumber
        #expect(try await owner.run(["revoke", "--serial", serial]).succeeded)
        let list = owner.bootstrapHome + "/ca/ca-crl.pem"
        let atDevices = [devices.a, devices.b].map { "\($0.agent.state)/identity/ca-crl.pem" }
        for (seconds, ownList) in [(26 * 3600, [serial]), (40 * 86_400, [])] as [(Int, Set<String>)] {
            let told = try await run(owner, ahead: seconds, ["revoke"])
            #expect(told.succeeded, "\(told.standardOutput)\(told.standardError)")
            #expect(told.standardError.contains("warning: a: device clock is "), "\(told.standardError)")
            #expect(told.standardError.contains("where it is this machine's, run `bootstrap revoke` again then"))
            #expect(try revokedSerials(at: list) == ownList)
            for path in atDevices { #expect(try revokedSerials(at: path) == [serial], "\(seconds)") }
        }
        // The clock is right again.
        let told = try await owner.run(["revoke"])
        #expect(told.succeeded && !told.standardError.contains("clock"), "\(told.standardError)")
        #expect(try revokedSerials(at: list) == [serial])
        for path in atDevices {
            #expect(try AtomicFile.read(path) == AtomicFile.read(list), "one list, as the CA has it")
        }
    }

    @Test func whatIsNotRecordedIsRevokedByName() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        let record = try await owner.enrolled(on: server)
        let serial = try #require(record.serial)
        let forgotten = try await owner.run(["unenroll", "dev7", "--forget"])
        #expect(forgotten.standardOutput.contains("serial \(serial)"), "\(forgotten.standardOutput)")
        #expect(
            forgotten.standardOutput.contains("bootstrap revoke dev7 ends that before"),
            "\(forgotten.standardOutput)"
        )
        let list = owner.bootstrapHome + "/ca/ca-crl.pem"
        let revoked = try await owner.run(["revoke", "dev7"])
        #expect(revoked.succeeded, "\(revoked.standardError)")
        #expect(
            revoked.standardOutput.contains("Revoked \(record.identity), serial \(serial)"),
            "\(revoked.standardOutput)"
        )
        #expect(try revokedSerials(at: list) == [serial])
        let again = try await owner.run(["revoke", "\(record.identity)"])
        #expect(again.succeeded && again.standardOutput.contains("was revoked"), "\(again.standardError)")

        // An enrolment that was killed when its machine had the certificate.
        let id = try SPIFFEID("spiffe://test.example/ns/default/sa/dev8")
        let issuer = RecordingIssuer(
            try EmbeddedCA.load(directory: owner.bootstrapHome + "/ca"),
            ledger: owner.devices.ledger,
            command: "enroll",
            claim: try owner.devices.ledger.claim("dev8")
        )
        let issued = try await issuer.issue(
            CertificateRequest.create(key: PrivateKey.generate(), id: id),
            id: id,
            options: IssuanceOptions()
        )
        let cut = try #require(issued.leaf?.serialNumber)
        for command in ["status", "doctor"] {
            let said = try await owner.run(
                [command] + (command == "doctor" ? ["--agent-binary", TestTools.bootstrap] : [])
            )
            let text = said.standardOutput + said.standardError
            #expect(text.contains("dev8: its enrolment is under way or was cut") && text.contains(cut), "\(text)")
        }
        #expect(try await owner.run(["revoke", "dev8"]).succeeded)
        #expect(try revokedSerials(at: list) == [serial, cut])
        let status = try await owner.run(["status"])
        #expect(status.succeeded && !status.standardError.contains("dev8"), "\(status.standardError)")
    }

    @Test func aRevokedCertificateIsShownAndRenewed() async throws {
        let devices = try await TwoDevices()
        let owner = devices.owner
        let serial = try #require(devices.a.serial)
        #expect(try await owner.run(["revoke", "--serial", serial]).succeeded)
        let status = try await owner.run(["status"])
        #expect(status.standardOutput.contains("CERT-REVOKED"), "\(status.standardOutput)")
        let remedy = "the certificate of a (serial \(serial)) is revoked, and everybody refuses it"
        let probed = try await owner.run(["status", "--probe", "a"])
        #expect(probed.standardOutput.contains("attention: \(remedy): bootstrap renew a"), "\(probed.standardOutput)")
        let doctor = try await owner.run(["doctor", "a", "--agent-binary", TestTools.bootstrap])
        #expect(doctor.standardOutput.contains(remedy), "\(doctor.standardOutput)")
        #expect(!doctor.standardOutput.contains("bootstrap enroll a"), "\(doctor.standardOutput)")
        let renewed = try await owner.run(["renew", "--due"])
        #expect(
            renewed.succeeded && renewed.standardOutput.contains("a  renewed"),
            "\(renewed.standardOutput)\(renewed.standardError)"
        )
        #expect(!renewed.standardOutput.contains("b  renewed"), "\(renewed.standardOutput)")
        let after = try await owner.run(["status", "--probe"])
        #expect(after.succeeded, "\(after.standardOutput)\(after.standardError)")
    }
}

import Fleet
import Foundation
import MeshIdentity
import Platform
import TestDevices
import TestPeers
import Testing

/// `revoke` where something is in its way, and what becomes of a revocation that was cut.
@Suite(.serialized, .timeLimit(.minutes(10))) struct RevocationCommandTests {
    private func issue(_ owner: Operator, _ name: String, _ more: [String] = []) async throws -> String {
        let out = owner.home.path("issued-\(name)")
        let made = try await owner.run(["ca", "issue", "--id", "ns/prod/sa/\(name)", "--out", out] + more)
        try #require(made.succeeded, "\(made.standardError)")
        return try CredentialDirectory(out).load().leaf.serialNumber
    }

    private func listPath(_ owner: Operator) -> String { owner.bootstrapHome + "/ca/ca-crl.pem" }

    private func listed(_ owner: Operator) -> Set<String> {
        (try? revokedSerials(at: listPath(owner))) ?? []
    }

    private func isMarked(_ serial: String, _ owner: Operator) throws -> Bool {
        try owner.devices.ledger.liveRevocations().contains { $0.serial == serial }
    }

    /// Killed when the ledger has it and the list has not.
    @Test func whatWasCutIsShownAndSetRight() async throws {
        let owner = try await Operator()
        let (first, second, third) = (
            try await issue(owner, "a"), try await issue(owner, "b"), try await issue(owner, "c")
        )
        func cut(_ serial: String) async throws {
            let lock = try FileLock(directory: owner.bootstrapHome + "/ca", patience: .seconds(1))
            let process = try ChildProcess(
                TestTools.bootstrap,
                ["revoke", "--serial", serial],
                environment: ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil]
            )
            try await eventually("the ledger has it") { try isMarked(serial, owner) }
            process.signal(SIGKILL)
            _ = try await process.exit()
            lock.unlock()
            #expect(!listed(owner).contains(serial))
        }
        try await cut(first)
        let status = try await owner.run(["status"])
        #expect(status.succeeded)
        #expect(
            status.standardError.contains("warning: no device refuses 1 certificate yet"),
            "\(status.standardError)"
        )
        let doctor = try await owner.run(["doctor"])
        #expect(doctor.standardOutput.contains("no device refuses 1 certificate yet"), "\(doctor.standardOutput)")
        // The same command again.
        let again = try await owner.run(["revoke", "--serial", first])
        #expect(again.succeeded, "\(again.standardError)")
        #expect(again.standardOutput.contains("serial \(first), was revoked at "), "\(again.standardOutput)")
        #expect(listed(owner) == [first])
        #expect(try await !owner.run(["status"]).standardError.contains("warning"))

        // Whoever signs next, and whoever serves.
        try await cut(second)
        _ = try await issue(owner, "d")
        #expect(listed(owner) == [first, second])
        try await cut(third)
        let issuer = try ChildProcess(
            TestTools.bootstrap,
            ["ca", "serve", "--listen", "127.0.0.1:0"],
            environment: ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome]
        )
        _ = try await issuer.standardOutput.line(containing: "ready issuer")
        #expect(listed(owner) == [first, second, third])
        let fourth = try await issue(owner, "e")
        _ = try owner.devices.ledger.revoke(RevocationOrder(serials: [fourth], reason: "test", by: "revoke"))
        try await eventually("the issuer writes it") { listed(owner).contains(fourth) }
        await issuer.stop()
    }

    /// Another process has the lock for longer than anybody waits.
    @Test func whatIsOnlyMarkedIsSaid() async throws {
        let owner = try await Operator()
        let serial = try await issue(owner, "a")
        let lock = try FileLock(directory: owner.bootstrapHome + "/ca", patience: .seconds(1))
        let revoked = try await owner.run(["revoke", "--serial", serial, "--list-only"])
        withExtendedLifetime(lock) {}
        lock.unlock()
        #expect(revoked.status == .exited(1))
        for part in [
            "error: another process is writing", "marked as revoked in the ledger", "no device refuses it yet",
            "`bootstrap revoke`, without a name",
        ] {
            #expect(revoked.standardError.contains(part), "\(revoked.standardError)")
        }
        #expect(try isMarked(serial, owner) && listed(owner).isEmpty)
        let told = try await owner.run(["revoke"])
        #expect(told.succeeded && listed(owner) == [serial], "\(told.standardError)")
    }

    @Test func allThatIsNamedOrNothing() async throws {
        let owner = try await Operator()
        let serial = try await issue(owner, "a")
        for (arguments, part) in [
            (["--serial", serial, "--serial", "00"], "no certificate in the ledger has the serial number 00"),
            (["nobody", "--serial", serial], "'nobody' is not enrolled"),
            (["--serial", serial, "--password-file", owner.home.path("missing")], "missing"),
            (["--serial", serial, "--passphrase-file", owner.home.path("missing")], "missing"),
        ] {
            let output = try await owner.run(["revoke", "--list-only"] + arguments)
            #expect(output.status == .exited(2) && output.standardError.contains(part), "\(output.standardError)")
            #expect(try !isMarked(serial, owner), "\(arguments)")
        }
        for text in ["zz", "", "5e:5g", "serial="] {
            let output = try await owner.run(["revoke", "--serial", text])
            #expect(output.status == .exited(2))
            #expect(
                output.standardError.hasPrefix("error: --serial \(text) is not a serial number."),
                "\(output.standardError)"
            )
        }
        let upper = serial.uppercased()
        let revoked = try await owner.run(["revoke", "--list-only", "--serial", "serial=\(upper)"])
        #expect(revoked.succeeded && listed(owner) == [serial], "\(revoked.standardError)")
    }

    /// What an operator who has lost a CA, or has another issuer, cannot have refused.
    @Test func whatComesOnNoListIsNamed() async throws {
        let owner = try await Operator()
        let (old, second) = (try await issue(owner, "a"), try await issue(owner, "a2"))
        try FileManager.default.moveItem(atPath: owner.bootstrapHome + "/ca", toPath: owner.home.path("lost"))
        // No CA at all, as with an issuer that is a program.
        let without = try await owner.run(["revoke", "--serial", old])
        #expect(without.status == .exited(1))
        #expect(try isMarked(old, owner))
        #expect(try await owner.run(["ca", "init", "--trust-domain", "test.example"]).succeeded)
        let new = try await issue(owner, "b")
        let both = try await owner.run(["revoke", "--serial", old, "--serial", new])
        #expect(both.status == .exited(1), "\(both.standardOutput)\(both.standardError)")
        for output in [without, both] {
            let said = output.standardError
            #expect(said.contains("error: 1 revoked certificate can be put on no list"), "\(said)")
            #expect(said.contains("serial \(old) of spiffe://test.example/ns/prod/sa/a, accepted until "), "\(said)")
        }
        #expect(listed(owner) == [new])
        let fresh = try await owner.run(["revoke", "--serial", second])
        #expect(
            fresh.status == .exited(1) && fresh.standardError.contains("serial \(second) of "),
            "\(fresh.standardError)"
        )
        let told = try await owner.run(["revoke"])
        #expect(told.succeeded && told.standardError.contains("warning: 2 revoked certificates can be put on no list"))

        // The CA's key alone is gone.
        let third = try await issue(owner, "c")
        let key = owner.bootstrapHome + "/ca/ca-key.pem"
        try FileManager.default.moveItem(atPath: key, toPath: owner.home.path("key"))
        let keyless = try await owner.run(["revoke", "--serial", third])
        #expect(keyless.status == .exited(1) && keyless.standardError.contains("ca-key.pem"))
        #expect(keyless.standardError.contains("no device refuses it yet"), "\(keyless.standardError)")
        #expect(try isMarked(third, owner))
        try FileManager.default.moveItem(atPath: owner.home.path("key"), toPath: key)
        #expect(try await owner.run(["revoke"]).succeeded)
        #expect(listed(owner) == [new, third])
    }

    @Test(arguments: ["garbage", ""]) func aDamagedListStopsNoRevocation(_ text: String) async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try await owner.enrolled(on: server)
        let (first, second) = (try await issue(owner, "a"), try await issue(owner, "b"))
        #expect(try await owner.run(["revoke", "--serial", first]).succeeded)
        let atTheDevice = owner.state + "/identity/ca-crl.pem"
        let good = try AtomicFile.read(atTheDevice)
        try AtomicFile.write(Array(text.utf8), to: listPath(owner))

        let revoked = try await owner.run(["revoke", "--serial", second])
        #expect(revoked.status == .exited(1))
        for part in [
            "ca-crl.pem cannot be used", "no device refuses it yet", "mv \(listPath(owner)) \(listPath(owner)).damaged",
        ] {
            #expect(revoked.standardError.contains(part), "\(revoked.standardError)")
        }
        #expect(try isMarked(second, owner))
        #expect(try AtomicFile.read(listPath(owner)) == Array(text.utf8))
        // Nobody gets it: neither a device that has a list, nor a new certificate.
        let renewed = try await owner.run(["renew", "dev7"])
        #expect(
            renewed.succeeded && renewed.standardError.contains("ca-crl.pem cannot be used"),
            "\(renewed.standardError)"
        )
        #expect(try AtomicFile.read(atTheDevice) == good)
        let out = owner.home.path("new")
        let issued = try await owner.run(["ca", "issue", "--id", "ns/prod/sa/new", "--out", out])
        #expect(!issued.succeeded && issued.standardError.contains("ca-crl.pem cannot be used"))
        #expect(!FileManager.default.fileExists(atPath: out + "/cert-chain.pem"))
        #expect(try await owner.run(["status"]).standardError.contains("ca-crl.pem cannot be used"))
        try FileManager.default.removeItem(atPath: listPath(owner))
        try #require(mkfifo(listPath(owner), 0o600) == 0)
        let piped = try await owner.run(["revoke", "--serial", second])
        #expect(piped.status == .exited(1) && piped.standardError.contains("mv \(listPath(owner))"))

        // The way back, as it is said.
        try FileManager.default.moveItem(atPath: listPath(owner), toPath: listPath(owner) + ".damaged")
        let told = try await owner.run(["revoke"])
        #expect(told.succeeded && told.standardOutput.contains("dev7  told"), "\(told.standardError)")
        #expect(listed(owner) == [first, second])
    }

    /// A certificate that its device has replaced was used: a renewal by name sets it right, one by a time-table does
    /// not hide it.
    @Test func aRenewalByNameSettlesAnAlarm() async throws {
        let devices = try await TwoDevices()
        let (owner, a, b) = (devices.owner, devices.a, devices.b)
        #expect(try await owner.run(["renew", "a"]).succeeded)
        let old = try #require(a.serial)
        let present = try #require(try owner.devices.record(named: "a")?.serial)
        let issuer = try EmbeddedCA.load(directory: owner.bootstrapHome + "/ca").certificate.subjectKeyIdentifier
        #expect(throws: LedgerError.self) {
            try owner.devices.ledger.admitRenewal(
                of: a.identity.description,
                showing: CertificateName(issuer: issuer ?? "", serial: old),
                by: "ca serve"
            )
        }
        let alarmed = try await owner.run(["status"])
        #expect(alarmed.standardOutput.contains("bootstrap renew a"), "\(alarmed.standardOutput)")
        let due = try await owner.run(["renew", "--due"])
        #expect(due.succeeded)
        #expect(try owner.devices.ledger.alarms().count == 1)

        let renewed = try await owner.run(["renew", "a"])
        #expect(renewed.succeeded, "\(renewed.standardError)")
        #expect(renewed.standardError.contains("a: earlier certificates are revoked"), "\(renewed.standardError)")
        #expect(renewed.standardOutput.contains("b  told"), "\(renewed.standardOutput)")
        #expect(try owner.devices.ledger.alarms().isEmpty)
        #expect(listed(owner) == [old, present])
        let atB = try RevocationList.all(pem: AtomicFile.read("\(b.agent.state)/identity/ca-crl.pem"))
        #expect(atB.first?.serials == [old, present])
        #expect(try await owner.run(["status", "--probe"]).succeeded)
    }

    /// Each has a CA and a ledger of his own, and they do not know of each other: the device has one of the two
    /// identities, and who did not give it is told.
    @Test func twoOperatorsOfOneDevice() async throws {
        let server = try await OpenSSHServer()
        let owners = [try await Operator(), try await Operator(trustDomain: "other.example")]
        let base = TemporaryDirectory()
        let state = base.path("bootstrap/state")
        defer { LocalDevice.stopNode(state: state) }
        for owner in owners { try owner.know(server) }
        let outcomes = try await withThrowingTaskGroup(of: (Int, ChildProcess.Output).self) { group in
            for (index, owner) in owners.enumerated() {
                group.addTask {
                    let more = ["--name", "dev7", "--base", base.path]
                    return (index, try await owner.enroll(server, more))
                }
            }
            return try await group.reduce(into: [Int: ChildProcess.Output]()) { $0[$1.0] = $1.1 }
        }
        let winners = outcomes.filter(\.value.succeeded).map(\.key)
        let said = outcomes.values.map { $0.standardOutput + $0.standardError }.joined(separator: "\n---\n")
        try #require(winners.count == 1, "\(said)")
        let (winner, loser) = (owners[winners[0]], owners[1 - winners[0]])
        let credential = try CredentialDirectory(state + "/identity").load()
        #expect(try winner.devices.record(named: "dev7")?.serial == credential.leaf.serialNumber, "\(said)")
        #expect(try winner.devices.record(named: "dev7")?.identity == credential.id)
        #expect(try loser.devices.record(named: "dev7") == nil, "\(said)")
        #expect(outcomes[1 - winners[0]]?.standardError.contains("dev7: ") == true, "\(said)")
        // Nor later, without a word that it is meant.
        let later = try await loser.enroll(server, ["--name", "dev7", "--base", base.path])
        #expect(later.status == .exited(5) && later.standardError.contains("already"), "\(later.standardError)")
        #expect(try CredentialDirectory(state + "/identity").load().leaf == credential.leaf)
    }
}

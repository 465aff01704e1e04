import Fleet
import Foundation
import MeshIdentity
import SSHSignal
import TestDevices
import TestPeers
import Testing

/// What others may reach on a device, from its enrolment on.
@Suite(.serialized, .timeLimit(.minutes(10))) struct AllowedPortsTests {
    @Test func whatIsAllowedStaysUntilItIsDenied() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        let destination = "\(OpenSSHServer.user)@127.0.0.1:\(server.port)"
        let first = try await owner.enroll(
            server,
            ["--name", "dev7", "--allow-port", "80"]
        )
        #expect(first.succeeded, "\(first.standardError)")
        func allowed() throws -> [String]? { try owner.devices.record(named: "dev7")?.allowed }
        #expect(try allowed() == ["80"])
        let file = owner.state + "/node.yaml"
        let before = try String(contentsOfFile: file, encoding: .utf8)

        // By its name: as whom, where to log in and where it is installed is known, and nothing is dropped.
        let again = try await owner.run([
            "enroll", "dev7", "--agent-binary", TestTools.bootstrap,
        ])
        #expect(again.succeeded, "\(again.standardOutput)\(again.standardError)")
        #expect(try owner.devices.all().map(\.destination) == [destination])
        #expect(try String(contentsOfFile: file, encoding: .utf8) == before, "address and port, too")
        #expect(again.standardOutput.contains("unchanged: configuration"), "\(again.standardOutput)")

        let status = try await owner.run(["status", "dev7"])
        #expect(status.standardOutput.contains("allows        80"), "\(status.standardOutput)")
        // Denied, with the remedy.
        let denied = try await owner.run(["connect", "dev7", "--path", "h2", "-W", "127.0.0.1:\(server.port)"])
        #expect(denied.status == .exited(5), "\(denied.standardError)")
        let remedy =
            "dev7 does not allow port \(server.port) (allowed: 80). Add it: bootstrap allow dev7 \(server.port)"
        #expect(denied.standardError.contains(remedy), "\(denied.standardError)")

        // Another address of this machine stands for another host behind it.
        let service = try await OpenSSHServer(address: "127.0.0.2")
        let other = "127.0.0.2:\(service.port)"
        let serial = try owner.devices.record(named: "dev7")?.serial
        let allow = try await owner.run(["allow", "dev7", "\(server.port)", other])
        #expect(allow.succeeded, "\(allow.standardOutput)\(allow.standardError)")
        #expect(allow.standardOutput == "dev7  allows 80, \(server.port), \(other)\n")
        #expect(allow.standardError == "")
        #expect(try allowed() == ["80", "\(server.port)", other])
        for place in ["127.0.0.1:\(server.port)", other] {
            let reached = try await owner.run(["connect", "dev7", "--path", "h2", "-W", place])
            #expect(reached.standardOutput.hasPrefix("SSH-2.0-"), "\(place) \(reached.standardError)")
        }
        let deny = try await owner.run(["deny", "dev7", "80", other])
        #expect(deny.succeeded, "\(deny.standardError)")
        #expect(try allowed() == ["\(server.port)"])
        #expect(deny.standardOutput == "dev7  allows \(server.port)\n")
        let idle = try await owner.run(["deny", "dev7", "81", other])
        #expect(idle.succeeded, "\(idle.standardError)")
        #expect(
            idle.standardOutput
                == "dev7  did not allow 81, \(other): nothing was changed\ndev7  allows \(server.port)\n"
        )
        let twice = try await owner.run(["allow", "dev7", "\(server.port)"])
        #expect(
            twice.standardOutput
                == "dev7  allowed \(server.port) already: nothing was changed\ndev7  allows \(server.port)\n"
        )
        // Nothing else has changed, and the history has what did.
        #expect(try owner.devices.record(named: "dev7")?.serial == serial)
        #expect(try owner.devices.ledger.certificates(of: "dev7").count == 2)
        let history = try await owner.run(["status", "dev7"])
        for text in ["allow by ", ": allowed \(server.port), \(other)", "deny by ", ": denied 80, \(other)"] {
            #expect(history.standardOutput.contains(text), "\(history.standardOutput)")
        }
        let quiet = try await owner.run(["allow", "-q", "dev7", "443"])
        #expect(quiet.succeeded && quiet.standardOutput == "" && quiet.standardError == "", "\(quiet)")
        #expect(try allowed() == ["443", "\(server.port)"])

        // One whose certificate has ended gets another on the way; of what was done there is one line all the same.
        try owner.devices.update("dev7", by: "test", "ended") { $0.notAfter = 1 }
        let late = try await owner.run(["deny", "dev7", "443", "--agent-binary", TestTools.bootstrap])
        #expect(late.standardOutput == "dev7  allows \(server.port)\n", "\(late.standardOutput)\(late.standardError)")
        #expect(try owner.devices.record(named: "dev7")?.serial != serial)
        let events = try owner.devices.ledger.events(of: "dev7")
        #expect(events.first?.command == "deny" && events.first?.what == "denied 443", "\(events.prefix(3))")
    }

    /// The issuer that was installed is offered to every device, and a certificate that nobody renews is said.
    @Test func aDeviceThatReachesTheIssuerRenewsThere() async throws {
        let server = try await OpenSSHServer()
        // Whoever accepts there.
        let issuer = server
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        try owner.home.write("bootstrap/issuer.address", "*:\(issuer.port)\n")
        let enrolled = try await owner.enroll(server, ["--name", "dev7"])
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        #expect(try owner.devices.record(named: "dev7")?.renewFrom == "127.0.0.1:\(issuer.port)")
        let yaml = try String(contentsOfFile: owner.state + "/node.yaml", encoding: .utf8)
        #expect(yaml.contains("renewal: {from: \"127.0.0.1:\(issuer.port)\"}"), "\(yaml)")
        let none = ["--name", "dev7", "--renew-from", "none"]
        #expect(try await owner.enroll(server, none).succeeded)
        #expect(try owner.devices.record(named: "dev7")?.renewFrom == nil)
        // That holds until somebody is named again.
        #expect(try await owner.enroll(server, ["--name", "dev7"]).succeeded)
        #expect(try owner.devices.record(named: "dev7")?.renewFrom == nil)
        let named = ["--name", "dev7", "--renew-from", "127.0.0.1:\(issuer.port)"]
        #expect(try await owner.enroll(server, named).succeeded)
        #expect(try owner.devices.record(named: "dev7")?.renewFrom == "127.0.0.1:\(issuer.port)")

        let fresh = try await owner.run(["connect", "dev7", "--path", "h2", "-W", "127.0.0.1:1"])
        #expect(!fresh.standardError.contains("certificate of dev7"), "\(fresh.standardError)")
        try owner.devices.update("dev7", by: "test", "ends") {
            $0.notAfter = Int64(Date().timeIntervalSince1970) + 3600
        }
        let ending = try await owner.run(["connect", "dev7", "--path", "h2", "-W", "127.0.0.1:1"])
        #expect(
            ending.standardError.contains("warning: the certificate of dev7 ends in")
                && ending.standardError.contains("bootstrap renew dev7"),
            "\(ending.standardError)"
        )

        // One that runs is told when it comes to that, and once.
        try owner.devices.update("dev7", by: "test", "renewed") {
            $0.notAfter = Int64(Date().timeIntervalSince1970) + 86_000
        }
        let running = try ChildProcess(
            TestTools.bootstrap,
            ["connect", "dev7", "--path", "h2", "-L", "0:127.0.0.1:1"],
            environment: ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil]
        )
        _ = try await running.standardOutput.line(containing: "path h2: ")
        #expect(!running.standardError.text.contains("certificate of dev7"), "\(running.standardError.text)")
        try owner.devices.update("dev7", by: "test", "ends") {
            $0.notAfter = Int64(Date().timeIntervalSince1970) + 3600
        }
        let warning = try await running.standardError.line(containing: "the certificate of dev7 ends in")
        #expect(warning.hasPrefix("warning: ") && warning.contains("bootstrap renew dev7"), "\(warning)")
        running.signal(SIGTERM)
        #expect(try await running.exit() == .exited(0))
    }

    /// What `enroll` says comes next works as it stands there, with ports that are allowed and without.
    @Test func whatComesNextWorksAsItIsPrinted() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        for more in [[], ["--allow-host", "127.0.0.1:\(server.port)"], ["--allow-port", "\(server.port)"]] {
            let enrolled = try await owner.enroll(server, ["--name", "dev7"] + more)
            #expect(enrolled.succeeded, "\(enrolled.standardError)")
            var reached = 0
            let commands = enrolled.standardOutput.split(separator: "\n").drop { !$0.hasPrefix("Next: ") }.map { line in
                line.dropFirst(6).prefix { $0 != "\n" }.replacingOccurrences(of: "    ", with: "\n").split(
                    separator: "\n"
                )[0]
            }
            #expect(commands.last == "bootstrap renew --watch", "\(commands)")
            for command in commands.dropLast() {
                // A port of this machine that nobody has.
                let port = FreePort.next()
                var words = command.split(separator: " ").dropFirst().map {
                    $0.hasPrefix("8080:") ? "\(port)\($0.dropFirst(4))" : String($0)
                }
                guard words[0] == "connect" else {
                    let output = try await owner.run(words)
                    #expect(output.succeeded, "\(command): \(output.standardError)")
                    continue
                }
                words += ["--path", "h2"]
                let connect = try ChildProcess(
                    TestTools.bootstrap,
                    words,
                    environment: ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil]
                )
                _ = try await connect.standardOutput.line(containing: "path h2: ")
                let (received, _) = try await TCPClient.exchange(
                    port: port,
                    sending: Array("SSH-2.0-x\r\nnonsense\r\n".utf8)
                )
                #expect(String(decoding: received, as: UTF8.self).hasPrefix("SSH-2.0-"), "\(command)")
                connect.signal(SIGTERM)
                _ = try await connect.exit()
                reached += 1
            }
            #expect(reached == 1, "\(commands)")
            #expect(try await owner.run(["deny", "dev7", "\(server.port)", "127.0.0.1:\(server.port)"]).succeeded)
        }
    }

    @Test func theServiceIsCheckedBeforeAnythingIsUploaded() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        try owner.know(server)
        let output = try await owner.enroll(server, ["--service", "procd"])
        #expect(output.status == .exited(1), "\(output.standardError)")
        #expect(output.standardError.contains("--service procd: procd does not run there"), "\(output.standardError)")
        #expect(!FileManager.default.fileExists(atPath: owner.base.path("bootstrap")))
        #expect(try owner.devices.ledger.certificates() == [])
    }

    @Test func anIdentityThatNobodyHasIsNotIssued() async throws {
        let owner = try await Operator()
        for id in ["web", "spiffe://test.example/web", "ns/web", "ns/a/sa"] {
            let refused = try await owner.run(["ca", "issue", "--id", id, "--out", owner.home.path("out")])
            #expect(refused.status == .exited(2), "\(refused.standardError)")
            #expect(refused.standardError.contains("ns/prod/sa/db"), "\(refused.standardError)")
        }
        #expect(!FileManager.default.fileExists(atPath: owner.home.path("out")))
        #expect(try owner.devices.ledger.certificates() == [])
    }
}

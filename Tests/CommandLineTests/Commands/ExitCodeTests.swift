import Foundation
import TestPeers
import Testing

/// Exit codes that scripts rely on, and errors that say what to do.
@Suite(.timeLimit(.minutes(5))) struct ExitCodeTests {
    @Test(arguments: [
        (["connect", "device1"], "-L"),
        (["connect", "device1", "-L", "nonsense"], "8080:localhost:80"),
        (["node", "--config", "does-not-exist.yaml"], "does-not-exist.yaml"),
        (["frobnicate"], "frobnicate"),
        (["enroll", "nowhere.invalid", "--name", "a b"], "'a b' is no device name"),
        (["enroll", "nowhere.invalid", "--name", "../x"], "'../x' is no device name"),
    ])
    func usageIs2(arguments: [String], mention: String) async throws {
        let journey = try await Journey()
        let output = try await journey.run(arguments)
        #expect(output.status == .exited(2))
        #expect(output.standardError.contains(mention), "\(output.standardError)")
        #expect(output.standardError.hasPrefix("error: ") || arguments[0] == "node", "\(output.standardError)")
        await journey.stop()
    }

    @Test func aConfigurationWithAnUnknownKeyNamesTheLine() async throws {
        let journey = try await Journey()
        let file = try journey.directory.write("node.yaml", "identity: /nowhere\nlisteners: []\nendpionts: []\n")
        let output = try await journey.run(["node", "--check", "--config", file])
        #expect(output.status == .exited(2))
        #expect(output.standardError.contains("node.yaml:3:"), "\(output.standardError)")
        #expect(output.standardError.contains("endpoints"))
        await journey.stop()
    }

    @Test func anUnknownHostKeyIs3() async throws {
        let journey = try await Journey(knowsHost: false)
        let output = try await journey.run(
            ["connect", journey.destination, "-L", "0:localhost:1"] + journey.sshOptions
        )
        #expect(output.status == .exited(3), "\(output.standardError)")
        #expect(output.standardError.contains("SHA256:"))
        #expect(!journey.sshd.log.contains("Accepted publickey"))
        await journey.stop()
    }

    @Test func aChangedHostKeyIs3AndNothingIsSent() async throws {
        let journey = try await Journey()
        let other = try await OpenSSHServer()
        let key = try other.directory.read("host_ed25519.pub").split(separator: " ").prefix(2).joined(separator: " ")
        try journey.directory.write("home/.ssh/known_hosts", "[127.0.0.1]:\(journey.sshd.port) \(key)\n")
        let output = try await journey.run(
            ["connect", journey.destination, "-L", "0:localhost:1"] + journey.sshOptions
                + ["-o", "StrictHostKeyChecking=no"]
        )
        #expect(output.status == .exited(3), "\(output.standardError)")
        #expect(output.standardError.contains("HOST KEY CHANGED"))
        #expect(!journey.sshd.log.contains("Accepted publickey"))
        await other.stop()
        await journey.stop()
    }

    @Test func aKeyThatIsNotAcceptedIs4() async throws {
        let journey = try await Journey()
        let other = try await OpenSSHServer()
        let output = try await journey.run(
            ["connect", journey.destination, "-L", "0:localhost:1"] + journey.sshOptions.dropLast(4)
                + ["-i", other.userKey] + journey.sshOptions.suffix(2)
        )
        #expect(output.status == .exited(4), "\(output.standardError)")
        await other.stop()
        await journey.stop()
    }

    @Test func nobodyThereIs6() async throws {
        let journey = try await Journey()
        let output = try await journey.run(
            ["connect", "\(OpenSSHServer.user)@127.0.0.1:\(FreePort.next())", "-L", "0:localhost:1"]
                + journey.sshOptions
        )
        #expect(output.status == .exited(6), "\(output.standardError)")
        #expect(output.standardError.contains("refused"))
        await journey.stop()
    }

    @Test func aPortInUseNamesItAndHowToFindItsOwner() async throws {
        let journey = try await Journey()
        let taken = try EchoServer()
        let output = try await journey.run(
            ["connect", journey.destination, "-L", "\(taken.port):localhost:1"] + journey.sshOptions
        )
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains("127.0.0.1:\(taken.port)"))
        #expect(output.standardError.contains("ss -ltnp"))
        await journey.stop()
    }
}

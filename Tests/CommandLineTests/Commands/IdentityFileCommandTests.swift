import Foundation
import TestPeers
import Testing

/// Key files that are found by themselves, and what is said of those that are not used.
@Suite struct IdentityFileCommandTests {
    /// A default identity that others may read is worth no more than one that is named.
    @Test func aDefaultIdentityThatOthersMayRead() async throws {
        let journey = try await Journey()
        let key = journey.directory.path("home/.ssh/id_ed25519")
        try FileManager.default.copyItem(atPath: journey.sshd.userKey, toPath: key)
        func exec() async throws -> ChildProcess.Output {
            try await journey.run(
                ["exec", journey.destination, "-F", journey.directory.path("ssh_config"), "--", "echo in"]
            )
        }
        chmod(key, 0o644)
        let refused = try await exec()
        #expect(refused.status == .exited(4), "\(refused.standardError)")
        #expect(refused.standardError.contains("UNPROTECTED PRIVATE KEY FILE"), "\(refused.standardError)")
        chmod(key, 0o600)
        let output = try await exec()
        #expect(output.succeeded && output.standardOutput == "in\n", "\(output.standardError)")
        await journey.stop()
    }

    /// It would be recorded for every later login.
    @Test func aMissingOneEnrolsNothing() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        let refused = try await journey.enroll(allow: 1, extra: ["-i", "/nonexistent/id"])
        #expect(refused.status == .exited(2), "\(refused)")
        let text = "device1: the key /nonexistent/id: No such file or directory"
        #expect(refused.standardError.contains(text), "\(refused.standardError)")
        #expect(refused.standardError.contains("name the private key"), "\(refused.standardError)")
        let status = try await journey.run(["status", "device1"])
        #expect(status.status == .exited(2), "\(status)")
        await journey.stop()
    }

    @Test(arguments: ["libssh2", "openssh"]) func aMissingOneIsSaidOnce(engine: String) async throws {
        let journey = try await Journey()
        let output = try await journey.run(
            ["exec", journey.destination, "-i", "/nonexistent/id", "--ssh-engine", engine] + journey.sshOptions
                + ["--", "echo in"]
        )
        #expect(output.succeeded && output.standardOutput == "in\n", "\(output.standardError)")
        let text = "Identity file /nonexistent/id not accessible: No such file or directory"
        #expect(output.standardError.components(separatedBy: text).count == 2, "\(output.standardError)")
        await journey.stop()
    }
}

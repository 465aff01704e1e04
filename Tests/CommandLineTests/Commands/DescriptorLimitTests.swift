import TestPeers
import Testing

/// Commands that may have few files open.
@Suite(.timeLimit(.minutes(5))) struct DescriptorLimitTests {
    @Test("an error that says so, or success, and no crash")
    func few() async throws {
        let journey = try await Journey()
        let command = [TestTools.bootstrap, "exec", journey.destination] + journey.sshOptions + ["--", "true"]
        for limit in [8, 9, 10, 12, 14, 16, 18, 20, 24] {
            let output = try await ChildProcess.run(
                "/bin/sh",
                ["-c", "ulimit -n \(limit); exec \"$@\"", "sh"] + command,
                within: .seconds(60)
            )
            guard case .exited(let code) = output.status else {
                Issue.record("\(output.status) with \(limit) descriptors: \(output.standardError)")
                continue
            }
            #expect(code == 0 || output.standardError.contains("error: "), "\(limit): \(output.standardError)")
            if limit == 8 { #expect(output.standardError.contains("ulimit -n")) }
        }
        await journey.stop()
    }
}

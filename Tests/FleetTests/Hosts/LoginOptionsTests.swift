import Fleet
import SSHSignal
import Testing

/// How a machine is logged in to: what was recorded, and what the command line says.
@Suite struct LoginOptionsTests {
    private let recorded = SSHArguments(
        configurationFile: "/config",
        options: ["ConnectTimeout=5", "Compression=yes"],
        identityFiles: ["/recorded"],
        port: 2299,
        jump: "gate",
        engine: .openSSH,
        hostKey: "SHA256:recorded"
    )

    private func arguments(_ typed: SSHArguments, _ recorded: SSHArguments?) -> SSHArguments {
        LoginOptions(typed, prompts: SSHLogin.Prompts(warn: { _ in })).arguments(recorded: recorded)
    }

    @Test func whatWasRecordedHoldsBesideWhatIsTyped() {
        let typed = SSHArguments(options: ["ConnectTimeout=9", "Compression=yes"], identityFiles: ["/typed"])
        var expected = recorded
        // The first one counts, as with ssh.
        expected.options = ["ConnectTimeout=9", "Compression=yes", "ConnectTimeout=5"]
        expected.identityFiles = ["/typed", "/recorded"]
        #expect(arguments(typed, recorded) == expected)
        #expect(arguments(SSHArguments(), recorded) == recorded)
        #expect(arguments(typed, nil) == typed)
    }

    @Test func whatIsTypedCountsWhereThereIsOneOnly() {
        let typed = SSHArguments(
            configurationFile: "none",
            port: 22,
            jump: "none",
            engine: .libssh2,
            hostKey: "SHA256:typed"
        )
        var expected = typed
        (expected.options, expected.identityFiles) = (recorded.options, recorded.identityFiles)
        #expect(arguments(typed, recorded) == expected)
    }
}

import Foundation
import TestPeers
import Testing

/// `SSH_ASKPASS` asks where there is no terminal, as for `ssh`.
@Suite(.timeLimit(.minutes(10))) struct AskPassTests {
    @Test func aProgramAsksForThePassphrase() async throws {
        let journey = try await Journey()
        let key = journey.directory.path("encrypted")
        try await OpenSSHServer.makeKey("ed25519", key, passphrase: "right horse")
        try journey.sshd.authorize(key + ".pub")
        let asked = journey.directory.path("asked")
        let program = try journey.directory.write(
            "askpass",
            "#!/bin/sh\necho \"$1\" >>\(asked)\necho 'right horse'\n",
            permissions: 0o700
        )
        func run(_ require: String) async throws -> ChildProcess.Output {
            try await ChildProcess.run(
                "setsid",
                ["--wait", TestTools.bootstrap, "exec"]
                    + journey.sshOptions.map { $0 == journey.sshd.userKey ? key : $0 }
                    + [journey.destination, "--", "echo in"],
                environment: [
                    "HOME": journey.home, "SSH_AUTH_SOCK": nil, "DISPLAY": nil, "WAYLAND_DISPLAY": nil,
                    "SSH_ASKPASS": program, "SSH_ASKPASS_REQUIRE": require,
                ]
            )
        }
        let answered = try await run("force")
        #expect(answered.standardOutput == "in\n", "\(answered.standardError)")
        #expect(try journey.directory.read("asked").contains("Passphrase for \(key)"))
        // Without a display nobody is asked by a window.
        for require in ["never", "prefer"] {
            #expect(try await run(require).status == .exited(4))
        }
        await journey.stop()
    }
}

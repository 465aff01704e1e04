import Foundation
import TestPeers
import Testing

/// `ProxyCommand bootstrap connect -W %h:%p GATEWAY`, for the programs that people use it with.
@Suite(.timeLimit(.minutes(10))) struct ProxyCommandTests {
    /// ssh, and what starts it, with the mesh as the way.
    private struct Way {
        let journey: Journey
        /// `-S` of the gateway's paths, where there are any.
        let command: String

        init(_ journey: Journey, gateway: [String]) throws {
            self.journey = journey
            let words = [TestTools.bootstrap, "connect", "-W", "%h:%p"] + gateway
            command =
                "env HOME=\(journey.home) BOOTSTRAP_HOME=\(journey.home)/.bootstrap \(words.joined(separator: " "))"
            try journey.directory.write(
                "through",
                """
                Host far
                  HostName 127.0.0.1
                  Port \(journey.sshd.port)
                  User \(OpenSSHServer.user)
                  IdentityFile \(journey.sshd.userKey)
                  IdentitiesOnly yes
                  UserKnownHostsFile \(journey.directory.path("home/.ssh/known_hosts"))
                  ProxyCommand \(command)

                """
            )
        }

        var file: String { journey.directory.path("through") }

        func run(_ program: String, _ arguments: [String]) async throws -> ChildProcess.Output {
            try await ChildProcess.run(
                program,
                arguments,
                environment: [
                    "GIT_SSH_COMMAND": "ssh -F \(file)", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
                    "SSH_AUTH_SOCK": nil,
                ],
                within: .seconds(90)
            )
        }
    }

    private static func has(_ program: String) -> Bool {
        (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").contains {
            access("\($0)/\(program)", X_OK) == 0
        }
    }

    /// By itself, and over the paths of a process that is there already, which logs in once for all.
    @Test(arguments: [false, true]) func theProgramsOfEveryDay(isShared: Bool) async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: journey.sshd.port).succeeded)
        let socket = journey.directory.path("cm")
        let master = isShared ? try journey.start(["connect", "device1", "-S", socket]) : nil
        if let master { _ = try await master.standardOutput.line(containing: "path h2") }
        let way = try Way(journey, gateway: isShared ? ["-S", socket, "device1"] : ["device1"])
        let (here, there) = (journey.directory.path("here"), journey.directory.path("there"))
        try journey.directory.write("here/file", Pattern.bytes(3_000_000, seed: 5))
        try journey.directory.makeDirectory("there")

        let echo = try await way.run("ssh", ["-F", way.file, "far", "echo it is there; exit 7"])
        #expect(echo.status == .exited(7), "\(echo)")
        #expect(echo.standardOutput == "it is there\n")
        let copied = try await way.run("scp", ["-q", "-F", way.file, "\(here)/file", "far:\(there)/copied"])
        #expect(copied.succeeded, "\(copied)")
        #expect(FileManager.default.contentsEqual(atPath: "\(here)/file", andPath: "\(there)/copied"))
        if Self.has("rsync") {
            let synced = try await way.run(
                "rsync",
                ["-a", "-e", "ssh -F \(way.file)", "\(here)/", "far:\(there)/synced/"]
            )
            #expect(synced.succeeded, "\(synced)")
            #expect(FileManager.default.contentsEqual(atPath: "\(here)/file", andPath: "\(there)/synced/file"))
        }
        if Self.has("git") {
            let repository = journey.directory.path("there/repository.git")
            #expect(try await way.run("git", ["init", "-q", "--bare", repository]).succeeded)
            let work = journey.directory.path("work")
            #expect(try await way.run("git", ["clone", "-q", "far:\(repository)", work]).succeeded)
            try journey.directory.write("work/file", Pattern.bytes(500_000, seed: 6))
            let person = ["-C", work, "-c", "user.name=a", "-c", "user.email=a@example.org"]
            #expect(try await way.run("git", person + ["add", "file"]).succeeded)
            #expect(try await way.run("git", person + ["commit", "-q", "-m", "one"]).succeeded)
            let pushed = try await way.run("git", person + ["push", "-q", "origin", "HEAD:refs/heads/main"])
            #expect(pushed.succeeded, "\(pushed)")
            let seen = try await way.run("git", ["-C", repository, "log", "--format=%s", "main"])
            #expect(seen.standardOutput == "one\n", "\(seen)")
        }
        // A port that the device does not allow is no way for ssh either.
        try journey.directory.write(
            "through",
            try journey.directory.read("through").replacing("Port \(journey.sshd.port)", with: "Port 1")
        )
        let denied = try await way.run("ssh", ["-F", way.file, "far", "true"])
        #expect(denied.status == .exited(255))
        #expect(denied.standardError.contains("error: 127.0.0.1:1"), "\(denied)")
        await master?.stop()
        await journey.stop()
    }

    /// As ssh writes it for a host of any kind.
    @Test func bracketsAroundAName() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let output = try await journey.run(
            ["connect", journey.destination, "-W", "[localhost]:\(backend.port)"] + journey.sshOptions,
            input: Array("hello".utf8)
        )
        #expect(output.succeeded && output.standardOutput == "hello", "\(output)")
        await journey.stop()
    }
}

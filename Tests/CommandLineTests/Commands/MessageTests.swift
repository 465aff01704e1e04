import Fleet
import Foundation
import MeshIdentity
import Streams
import TestPeers
import Testing

/// What commands say, and what they keep to themselves.
@Suite(.timeLimit(.minutes(10))) struct MessageTests {
    // MARK: The command line

    /// Errors have one style, also those of the command line; a command that was probably meant is named.
    @Test(arguments: [
        (["conect", "dev"], "did you mean 'connect'?"), (["statsu"], "did you mean 'status'?"),
        (["ca", "isue"], "did you mean 'issue'?"), (["frobnicate"], "connect, copy"),
        (["status", "--nonsense"], "--nonsense"), (["status", "-q", "-v"], "-q and -v"),
        // Before what else is missing.
        (["connect", "foo", "-o", "Nonsense=1"], "bad configuration option 'Nonsense'"),
        (["copy", "/nowhere/to-be-found", "foo:/x", "-o", "Nonsense=1"], "bad configuration option 'Nonsense'"),
    ])
    func aCommandLineThatMakesNoSense(arguments: [String], mention: String) async throws {
        let journey = try await Journey()
        let output = try await journey.run(arguments)
        #expect(output.status == .exited(2))
        #expect(output.standardError.hasPrefix("error: "), "\(output.standardError)")
        #expect(!output.standardError.contains("Error:"), "\(output.standardError)")
        #expect(output.standardError.contains(mention), "\(output.standardError)")
        await journey.stop()
    }

    /// As ssh has them: values that are attached to their letter, letters together, and `-N`.
    @Test func flagsAsSSHHasThem() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let port = FreePort.next()
        let connect = try journey.start(
            [
                "connect", "-N", "-L\(port):localhost:\(backend.port)", "-p\(journey.sshd.port)",
                "-i\(journey.sshd.userKey)",
                "-F\(journey.directory.path("ssh_config"))",
                "-oUserKnownHostsFile=\(journey.directory.path("home/.ssh/known_hosts"))",
                "\(OpenSSHServer.user)@127.0.0.1",
            ]
        )
        _ = try await connect.standardOutput.line(containing: "path ssh: ")
        let (received, _) = try await TCPClient.exchange(port: port, sending: Array("hello".utf8))
        #expect(received == Array("hello".utf8))
        connect.signal(SIGTERM)
        #expect(try await connect.exit() == .exited(0))
        await journey.stop()
    }

    // MARK: Loud and quiet

    /// `-W` says nothing on success; `-v` says how it came about.
    @Test func standardForwardIsSilentOnSuccess() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: backend.port).succeeded)
        for name in ["device1", journey.destination] {
            let arguments = ["connect", name, "-W", "localhost:\(backend.port)"] + journey.sshOptions
            let silent = try await journey.run(arguments, input: Array("hello".utf8))
            #expect(silent.succeeded)
            #expect(silent.standardOutput == "hello")
            #expect(silent.standardError == "")
            let loud = try await journey.run(arguments + ["-v"], input: Array("hello".utf8))
            #expect(loud.standardOutput == "hello")
            #expect(loud.standardError.contains("path "), "\(loud.standardError)")
        }
        await journey.stop()
    }

    @Test func verboseSaysHowAndQuietNothing() async throws {
        let journey = try await Journey(knowsHost: false)
        let options = journey.sshOptions + ["-o", "StrictHostKeyChecking=accept-new"]
        let quiet = try await journey.run(["exec", journey.destination, "-q"] + options + ["--", "true"])
        #expect(quiet.succeeded)
        #expect(quiet.standardError == "")
        let verbose = try await journey.run(["exec", journey.destination, "-vv"] + options + ["--", "true"])
        #expect(verbose.succeeded)
        #expect(verbose.standardError.contains("port \(journey.sshd.port)"), "\(verbose.standardError)")
        #expect(verbose.standardError.contains("host key"), "\(verbose.standardError)")
        await journey.stop()
    }

    private struct Help: Decodable {
        struct Command: Decodable {
            struct Argument: Decodable {
                struct Name: Decodable { var name: String }
                var names: [Name]?
            }
            var commandName: String
            var shouldDisplay: Bool
            var arguments: [Argument]?
            var subcommands: [Command]?
        }
        var command: Command
    }

    /// Every command that people use, without options; that each has `-q` is checked on the way.
    private func commands() async throws -> Set<String> {
        let dump = try await ChildProcess.run(TestTools.bootstrap, ["--experimental-dump-help"])
        let help = try JSONDecoder().decode(Help.self, from: Data(dump.standardOutput.utf8))
        var found: Set<String> = []
        func walk(_ command: Help.Command, _ path: [String]) {
            guard command.shouldDisplay, command.commandName != "help" else { return }
            let below = (command.subcommands ?? []).filter { $0.commandName != "help" }
            for next in below { walk(next, path + [next.commandName]) }
            guard below.isEmpty else { return }
            let options = (command.arguments ?? []).flatMap { $0.names ?? [] }.map(\.name)
            #expect(options.contains("q"), "\(path)")
            found.insert(path.joined(separator: " "))
        }
        walk(help.command, [])
        return found
    }

    /// `-q`: errors only, and what was asked for, such as a certificate or the status.
    @Test func quietCommandsSayNothingThatWasNotAskedFor() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let port = FreePort.next()
        let options = journey.sshOptions
        let request = try await ChildProcess.run(
            "openssl",
            [
                "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/",
                "-keyout", journey.directory.path("key"),
            ]
        )
        let key = journey.directory.path("user.pub")
        try FileManager.default.copyItem(atPath: journey.sshd.userKey + ".pub", toPath: key)
        let yaml = try journey.directory.write(
            "node.yaml",
            "identity: \(journey.directory.path("issued"))\nlisteners:\n- {name: h, bind: \"127.0.0.1:0\", protocol: hbone}\n"
        )
        var missing = try await commands()
        func quiet(_ arguments: [String], says asked: Bool = false, input: String = "") async throws {
            let output = try await journey.run(
                arguments + (arguments.contains("--") ? [] : ["-q"]),
                input: Array(input.utf8)
            )
            #expect(output.succeeded, "\(arguments): \(output.standardOutput)\(output.standardError)")
            #expect(output.standardOutput.isEmpty == !asked, "\(arguments): \(output.standardOutput)")
            #expect(output.standardError == "", "\(arguments): \(output.standardError)")
            let words = arguments.prefix { !$0.hasPrefix("-") }
            for count in 1...3 { missing.remove(words.prefix(count).joined(separator: " ")) }
        }
        try await quiet(["ca", "init", "--trust-domain", "journey.example"])
        try await quiet(["ca", "bundle"], says: true)
        try await quiet(["ca", "issue", "--id", "ns/a/sa/b", "--out", journey.directory.path("issued")])
        try await quiet(["ca", "sign", "--id", "ns/a/sa/c"], says: true, input: request.standardOutput)
        try await quiet(["ca", "ssh", "sign", "--user", "--principal", "root", key])
        try await quiet(["ca", "ssh", "ca"], says: true)
        try await quiet(
            [
                "enroll", journey.destination, "--name", "device1", "--allow-port", "\(backend.port)", "--base",
                journey.directory.path("device"), "--hbone-port", "\(journey.hbonePort)", "--hbone-address",
                "127.0.0.1",
                "--agent-binary", TestTools.bootstrap, "--service", "none",
            ] + options
        )
        try await quiet(["allow", "device1", "80"])
        try await quiet(["deny", "device1", "80"])
        try await quiet(["renew", "device1"])
        try await quiet(["renew", "--due"])
        try await quiet(["status"], says: true)
        try await quiet(["status", "device1"], says: true)
        try await quiet(["exec", "device1", "-q", "--", "true"])
        try await quiet([
            "exec", "device1", "-q", "--put", "/etc/passwd:\(journey.directory.path("put"))", "--", "true",
        ])
        try await quiet(["copy", "/etc/passwd", "device1:\(journey.directory.path("copied"))"])
        try await quiet(["doctor"])
        try await quiet(["doctor", "device1"])
        try await quiet(["trace", "device1"], says: true)
        try await quiet(["connect", "device1", "-W", "localhost:\(backend.port)"], says: true, input: "hello")
        let connect = try journey.start(["connect", "device1", "-q", "-L", "\(port):localhost:\(backend.port)"])
        try await eventually("it listens") {
            (try? await TCPClient.exchange(port: port, sending: [1]).received) == [1]
        }
        connect.signal(SIGTERM)
        #expect(try await connect.exit() == .exited(0))
        #expect(connect.standardOutput.text == "" && connect.standardError.text == "")
        try await quiet(["node", "--check", "--config", yaml])
        let place = ["--directory", journey.directory.path("mesh.yaml")]
        let endpoints = try journey.directory.write("first.yaml", "endpoints: [{match: a, direct: true}]\n")
        try await quiet(["mesh", "put", endpoints] + place)
        try await quiet(["mesh", "get"] + place, says: true)
        try await quiet(["ca", "rotate"])
        try await quiet(["ca", "rotate", "--status"], says: true)
        try await quiet(["revoke", "device1"])
        try await quiet(["unenroll", "device1"])
        try await quiet(["unenroll", "--forget", "device1"])
        // Says nothing but what was asked for, with or without it; and serves until it is stopped.
        missing.subtract(["explain", "ca serve", "mesh watch"])
        // In a network of their own: CaptureCommandTests.
        missing.subtract(["capture install", "capture verify", "capture remove"])
        #expect(missing.isEmpty)
        await journey.stop()
    }

    // MARK: Outages

    /// Twenty connections while nothing is reached: a line when it begins, a line when it ends, with their number. A
    /// local program that hangs up is nobody's business.
    @Test func anOutageIsTwoLines() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let relay = try RelayServer(to: journey.sshd.port)
        let key = try journey.sshd.directory.read("host_ed25519.pub").split(separator: " ").prefix(2)
        let hosts = try journey.directory.write(
            "hosts",
            "[127.0.0.1]:\(relay.port) \(key.joined(separator: " "))\n"
        )
        let port = FreePort.next()
        let connect = try journey.start([
            "connect", "\(OpenSSHServer.user)@127.0.0.1:\(relay.port)", "-L", "\(port):localhost:\(backend.port)",
            "-i", journey.sshd.userKey, "-F", journey.directory.path("ssh_config"), "-o", "UserKnownHostsFile=\(hosts)",
        ])
        _ = try await connect.standardOutput.line(containing: "path ssh: ")
        // Hangs up with a reset, in the middle.
        let rude = try await ChildProcess.run(
            "python3",
            [
                "-c",
                """
                import socket, struct, sys
                s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
                s.sendall(b"x")
                s.recv(1)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.close()
                """, "\(port)",
            ]
        )
        #expect(rude.succeeded, "\(rude.standardError)")
        let (received, _) = try await TCPClient.exchange(port: port, sending: Array("hello".utf8))
        #expect(received == Array("hello".utf8))
        #expect(!connect.standardError.text.contains("warning"), "\(connect.standardError.text)")

        relay.close()
        for _ in 0..<20 {
            let (_, ending) = try await TCPClient.exchange(port: port, sending: [])
            #expect(ending == .broken(ECONNRESET))
        }
        let warnings = connect.standardError.text.split(separator: "\n").filter { !$0.contains("is not enrolled") }
        #expect(warnings.count == 1, "\(connect.standardError.text)")
        #expect(warnings.first?.hasPrefix("warning: unreachable on every path") == true)
        let back = Lock<RelayServer?>(nil)
        try await eventually("the port is free again") {
            back.withLock { back in
                if back == nil { back = try? RelayServer(to: journey.sshd.port, port: relay.port) }
                return back != nil
            }
        }
        let (again, _) = try await TCPClient.exchange(port: port, sending: Array("again".utf8))
        #expect(again == Array("again".utf8))
        let end = try await connect.standardOutput.line(containing: "unreachable for ")
        #expect(end.contains("connections were refused"), "\(end)")
        connect.signal(SIGTERM)
        #expect(try await connect.exit() == .exited(0))
        await journey.stop()
    }

    // MARK: What stands on the screen

    @Test func statusFitsEightyColumns() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        let enrolled = try await journey.enroll(allow: 1)
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        // What comes next, and how long it lasts; one warning for what starts the node again.
        #expect(enrolled.standardOutput.contains("Next: bootstrap connect device1 "), "\(enrolled.standardOutput)")
        #expect(enrolled.standardOutput.contains("bootstrap renew --watch"))
        #expect(enrolled.standardOutput.contains("certificate until "), "\(enrolled.standardOutput)")
        let status = try await journey.run(["status"])
        #expect(status.succeeded, "\(status.standardError)")
        let lines = status.standardOutput.split(separator: "\n")
        #expect(lines.count == 2)
        #expect(lines.allSatisfy { $0.count <= 80 }, "\(status.standardOutput)")
        let probe = try await journey.run(["status", "--probe"])
        let rows: [Substring] = probe.standardOutput.split(separator: "\n")
        #expect(rows.prefix(2).allSatisfy { $0.count <= 80 }, "\(probe.standardOutput)")
        await journey.stop()
    }

    /// A login that asks somebody is explained before it asks.
    @Test func aFallbackThatAsksSaysWhy() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: 1).succeeded)
        kill(try #require(journey.node), SIGKILL)
        let key = journey.directory.path("protected")
        for end in ["", ".pub"] {
            try FileManager.default.copyItem(atPath: journey.sshd.userKey + end, toPath: key + end)
        }
        let locked = try await ChildProcess.run("ssh-keygen", ["-p", "-P", "", "-N", "secret", "-f", key])
        try #require(locked.succeeded, "\(locked.standardError)")
        let output = try await TerminalPerson.play(
            "ctrl-c",
            [
                "connect", "device1", "-L", "0:localhost:1", "-F", journey.directory.path("ssh_config"), "-i", key,
                "-o",
                "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=\(journey.directory.path("home/.ssh/known_hosts"))",
            ],
            journey
        )
        let text = output.standardOutput
        let reason = try #require(text.range(of: "logging in by SSH instead"), "\(text)")
        let question = try #require(text.range(of: "Passphrase for"), "\(text)")
        #expect(reason.lowerBound < question.lowerBound)
        await journey.stop()
    }

    // MARK: Completion

    /// bash completes file names where nothing better is known, and the names of devices.
    /// Not hidden behind what else is missing.
    @Test func aMisspeltOptionOfConnectIsNamed() async throws {
        for option in ["--standbye", "-Z"] {
            let output = try await ChildProcess.run(TestTools.bootstrap, ["connect", "a", option])
            #expect(output.status == .exited(2) && output.standardError.contains("'\(option)'"), "\(output)")
        }
        let nothing = try await ChildProcess.run(TestTools.bootstrap, ["connect", "a"])
        #expect(nothing.status == .exited(2) && nothing.standardError.contains("give at least one of -L"), "\(nothing)")
    }

    @Test func completionKnowsFilesAndDevices() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: 1).succeeded)
        let script = try await journey.run(["--generate-completion-script", "bash"])
        #expect(script.standardOutput.contains("\ncomplete -o default "), "\(script.standardOutput.suffix(300))")
        let file = try journey.directory.write("completion.bash", script.standardOutput)
        let completed = try await ChildProcess.run(
            "bash",
            [
                "-c",
                """
                source "$1"
                COMP_WORDS=("$2" connect dev); COMP_CWORD=2; COMP_LINE="bootstrap connect dev"; COMP_POINT=21
                _bootstrap bootstrap dev connect; printf '%s\\n' "${COMPREPLY[@]}"
                """, "bash", file, TestTools.bootstrap,
            ],
            environment: ["HOME": journey.home, "BOOTSTRAP_HOME": journey.directory.path("home/.bootstrap")]
        )
        #expect(completed.standardOutput.contains("device1"), "\(completed.standardOutput)\(completed.standardError)")
        try journey.directory.write("devices.conf", "")
        try journey.directory.makeDirectory("devout")
        let copied = try await ChildProcess.run(
            "bash",
            [
                "-c",
                """
                source "$1"; cd "$3"
                COMP_WORDS=("$2" copy dev); COMP_CWORD=2; COMP_LINE="bootstrap copy dev"; COMP_POINT=18
                _bootstrap bootstrap dev copy; printf '%s\\n' "${COMPREPLY[@]}"
                """, "bash", file, TestTools.bootstrap, journey.directory.path,
            ],
            environment: ["HOME": journey.home, "BOOTSTRAP_HOME": journey.directory.path("home/.bootstrap")]
        )
        let words = Set(copied.standardOutput.split(separator: "\n").map(String.init))
        #expect(words.isSuperset(of: ["device1:", "devices.conf", "devout/"]), "\(copied)")
        await journey.stop()
    }

    // MARK: Selection and JSON

    private struct Outcome: Decodable {
        var name: String
        var ok: Bool
        var exit: Int?
        var stdout: String?
        var error: String?
        var reason: String?
    }

    private func outcomes(_ output: ChildProcess.Output) throws -> [Outcome] {
        try output.standardOutput.split(separator: "\n").map {
            try JSONDecoder().decode(Outcome.self, from: Data($0.utf8))
        }
    }

    @Test func machinesBySelectionAndResultsAsJSON() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        let inventory = try journey.directory.write(
            "hosts.yaml",
            """
            - {host: "\(journey.destination)", name: north, labels: {site: berlin, floor: "1"}}
            - {host: "\(journey.destination)", name: south, labels: {site: berlin, floor: "2"}}
            - {host: "\(OpenSSHServer.user)@127.0.0.1:\(FreePort.next())", name: gone, labels: {site: paris}}
            """
        )
        let enrolled = try await journey.run(
            [
                "enroll", "--inventory", inventory, "--agentless", "--accept-known-machine", "--credential-dir",
                journey.directory.path("device") + "/{name}",
            ] + journey.sshOptions
        )
        #expect(enrolled.status == .exited(6), "\(enrolled.standardOutput)\(enrolled.standardError)")

        let all = try await journey.run(["exec", "--all", "--", "echo", "here"])
        #expect(all.succeeded, "\(all.standardError)")
        #expect(all.standardOutput.split(separator: "\n").sorted() == ["north  here", "south  here"])
        let some = try await journey.run(
            ["exec", "--label", "site=berlin", "--label", "floor=2", "--output", "json", "--", "echo here; exit 3"]
        )
        #expect(some.status == .exited(1))
        let outcome = try #require(try outcomes(some).first)
        #expect(try outcomes(some).count == 1)
        #expect((outcome.name, outcome.ok, outcome.exit, outcome.stdout) == ("south", false, 3, "here\n"))
        let listed = try await journey.run(
            ["exec", "--inventory", inventory, "--label", "site=paris", "--output", "json"] + journey.sshOptions + [
                "--", "true",
            ]
        )
        #expect(listed.status == .exited(6))
        #expect(try outcomes(listed).map(\.reason) == ["unreachable"])
        let nobody = try await journey.run(["exec", "--label", "site=rome", "--", "true"])
        #expect(nobody.status == .exited(2))

        let renewed = try await journey.run(["renew", "--label", "floor=1", "--output", "json"])
        #expect(renewed.succeeded, "\(renewed.standardError)")
        #expect(try outcomes(renewed).map(\.name) == ["north"])
        let revoked = try await journey.run(["revoke", "south", "--list-only", "--output", "json"])
        #expect(revoked.succeeded, "\(revoked.standardError)")
        #expect(revoked.standardOutput.contains("\"revoked\":\"spiffe://journey.example/ns/default/sa/south\""))
        #expect(
            revoked.standardOutput.split(separator: "\n").allSatisfy { $0.hasPrefix("{") },
            "\(revoked.standardOutput)"
        )
        await journey.stop()
    }

    /// Colour is for terminals, and not where NO_COLOR says so.
    @Test(arguments: [nil, "1"]) func failuresHaveColourOnTerminals(noColour: String?) async throws {
        let output = try await ChildProcess.run(
            "script",
            ["-qec", "\(TestTools.bootstrap) frobnicate", "/dev/null"],
            environment: ["NO_COLOR": noColour, "TERM": "xterm"]
        )
        #expect(
            output.standardOutput.contains("\u{1B}[31merror:\u{1B}[0m") == (noColour == nil),
            "\(output.standardOutput)"
        )
        let piped = try await ChildProcess.run(TestTools.bootstrap, ["frobnicate"], environment: ["TERM": "xterm"])
        #expect(!piped.standardError.contains("\u{1B}"))
    }
}

import Foundation
import SSHSignal
import TestPeers
import Testing

@testable import Agent

/// The files that init systems are given, read by the real programs, as far as a machine has them that was started by
/// something else. What these do with them is in ``ServiceTests``, with stand-ins.
@Suite struct ServiceDefinitionTests {
    private let directory = TemporaryDirectory()

    private static let analyze = "/usr/bin/systemd-analyze"
    private static let hasAnalyze = FileManager.default.isExecutableFile(atPath: analyze)

    private func descriptions() throws -> [ServiceDescription] {
        let (state, home) = (try directory.makeDirectory("state"), try directory.makeDirectory("home"))
        let authority = try directory.makeDirectory("ca")
        return [
            ServiceDescription(program: TestTools.bootstrap, state: state),
            ServiceDescription(
                issuer: TestTools.bootstrap,
                options: [
                    "--listen", "0.0.0.0:15012", "--ttl", "3600s", "--skew-ok", "--ca", authority, "--passphrase-file",
                    directory.path("passphrase"),
                ],
                home: home,
                authority: authority
            ),
        ]
    }

    /// What systemd says of a unit; it warns of keys that it does not know, and of values that it cannot read.
    private func verify(_ text: String, as name: String, isUser: Bool) async throws -> (said: String, succeeded: Bool) {
        let file = try directory.write(name, text)
        let output = try await ChildProcess.run(
            Self.analyze,
            ["verify", "--recursive-errors=no", "--man=no"] + (isUser ? ["--user"] : []) + [file],
            environment: ["XDG_RUNTIME_DIR": directory.path, "HOME": directory.path]
        )
        return (output.standardError + output.standardOutput, output.succeeded)
    }

    @Test(.enabled(if: hasAnalyze, "apt-get install systemd"), arguments: [false, true])
    func unitsAsSystemdReadsThem(isUser: Bool) async throws {
        for description in try descriptions() {
            let service = SystemdService(description: description, isUser: isUser)
            let (said, succeeded) = try await verify(service.text, as: service.unit, isUser: isUser)
            #expect(succeeded && !said.contains(service.unit), "\(said)\n\(service.text)")
            // It would say so.
            let wrong = service.text.replacingOccurrences(of: "RestartSec=2", with: "RestartSec=two\nRestrat=always")
            let complaint = try await verify(wrong, as: service.unit, isUser: isUser).said
            #expect(complaint.contains("Restrat") && complaint.contains("two"), "\(complaint)")
        }
    }

    /// OpenRC and procd read theirs with the machine's shell, mostly BusyBox's.
    @Test(arguments: [["dash"], ["bash"], ["busybox", "sh"]])
    func scriptsAsShellsReadThem(shell: [String]) async throws {
        let node = try descriptions()[0]
        for text in [OpenRCService(description: node).text, ProcdService(description: node).text] {
            let file = try directory.write("script", text)
            let parsed = try await ChildProcess.run(shell[0], Array(shell.dropFirst()) + ["-n", file])
            #expect(parsed.succeeded && parsed.standardError == "", "\(parsed.standardError)\n\(text)")
        }
        // With what rc.common has for it, written down.
        let script = try directory.write("procd", ProcdService(description: node).text)
        let started = try await ChildProcess.run(
            shell[0],
            Array(shell.dropFirst()) + [
                "-c",
                """
                for f in open_instance close_instance; do eval "procd_$f() { echo $f; }"; done
                procd_set_param() { echo "$*"; }
                . "$0"; start_service; echo "$START $STOP $USE_PROCD"
                """, script,
            ]
        )
        #expect(
            started.standardOutput == """
                open_instance
                command \(node.arguments.joined(separator: " "))
                respawn 3600 5 0
                term_timeout 20
                close_instance
                95 10 1

                """,
            "\(started)"
        )
        let openrc = try directory.write("openrc", OpenRCService(description: node).text)
        let read = try await ChildProcess.run(
            shell[0],
            Array(shell.dropFirst()) + [
                "-c",
                """
                use() { echo "use $*"; }; after() { echo "after $*"; }; RC_SVCNAME=x
                . "$0"; depend; echo "$command $command_args $command_background $pidfile $retry"
                """, openrc,
            ]
        )
        #expect(
            read.standardOutput == """
                use net
                after firewall bootmisc
                \(node.arguments.joined(separator: " ")) yes /run/x.pid TERM/20/KILL/5

                """,
            "\(read)"
        )
    }
}

package import Agent
import Fleet
import Foundation
import MeshIdentity
package import SSHSignal
package import TestPeers

/// A device on this machine as `enroll` leaves it, with releases beside each other, on a machine whose init system is a
/// stand-in: nothing here can be process number 1. The stand-ins record their calls and start what they are told to.
package final class InstalledDevice: Sendable {
    package let device: LocalDevice
    package let directory = TemporaryDirectory()
    package var root: String { directory.path("bootstrap") }
    package var state: String { root + "/state" }
    /// `/etc` and `/run` of the machine.
    package var etc: String { directory.path("etc") }

    package static let first = "0.1.0-aaaaaaaaaaaa"
    package static let second = "0.1.0-bbbbbbbbbbbb"

    package init() throws {
        device = try LocalDevice()
        try directory.makeDirectory("bootstrap")
        try directory.makeDirectory("tools")
        for name in ["etc/systemd/system", "etc/init.d", "run/openrc", "user"] { try directory.makeDirectory(name) }
        try directory.write("run/openrc/softlevel", "default\n")
        try directory.write("run/user/bus", "")
        try directory.write("etc/passwd", String(contentsOfFile: "/etc/passwd", encoding: .utf8))
        try directory.write("calls", "")
    }

    deinit {
        // The supervisor first: it would start the node again.
        for word in ["supervise", "node"] {
            for process in ProcessList.all {
                let arguments = ProcessList.arguments(of: process)
                if arguments.contains(word), arguments.contains(where: { $0.hasPrefix(state) }) {
                    kill(process, SIGKILL)
                }
            }
        }
    }

    /// Puts this program there, under the name of a release. Where it cannot be linked another process makes the copy:
    /// see ``TestPeers/TemporaryDirectory/writeProgram(_:_:)``.
    package func addRelease(_ name: String) async throws {
        try directory.makeDirectory("bootstrap/\(name)")
        let path = "\(root)/\(name)/bootstrap"
        if link(TestTools.bootstrap, path) != 0 {
            let copied = try await ChildProcess.run("cp", [TestTools.bootstrap, path])
            guard copied.succeeded else { throw DeadlineExceeded(copied.standardError) }
        }
        // Long ago: nobody is just installing it.
        utimensat(
            AT_FDCWD,
            "\(root)/\(name)",
            [timespec(tv_sec: 1_000_000_000, tv_nsec: 0), timespec(tv_sec: 1_000_000_000, tv_nsec: 0)],
            0
        )
    }

    package func standIn(_ name: String, _ text: String) async throws {
        try await directory.writeProgram(
            "tools/\(name)",
            """
            d='\(directory.path)'
            [ $# = 0 ] && exit 0
            echo "\(name) $*" >>"$d/calls"
            run() { setsid "$@" >>"$d/journal" 2>&1 </dev/null & echo $! >"$d/main.pid"; }
            end() { p=$(cat "$d/main.pid") || return 0; kill "$p" 2>/dev/null; while [ -d "/proc/$p" ]; do sleep 0.02; done; }
            \(text)
            """
        )
    }

    /// Which calls the stand-ins got since the last time.
    package func calls() throws -> [String] {
        let calls = try directory.read("calls").split(separator: "\n").map(String.init)
        try directory.write("calls", "")
        return calls
    }

    /// The agent of a release as the far end of an SSH session, on this machine.
    package func signal(_ release: String) throws -> LocalChannel {
        try run(["\(root)/\(release)/bootstrap", "signal", "--state", state])
    }

    package func shell(_ kind: FarShell) throws -> LocalChannel { try run(kind.command + ["-s"]) }

    private func run(_ command: [String]) throws -> LocalChannel {
        let script = """
            mount --bind '\(etc)' /etc
            mount --bind '\(directory.path("run"))' /run
            export PATH='\(directory.path("tools"))':"$PATH" XDG_RUNTIME_DIR=/run/user XDG_CONFIG_HOME='\(directory.path("user"))'
            exec "$@"
            """
        return try LocalChannel(
            "unshare",
            ["--mount", "sh", "-ec", script, "sh"] + command,
            environment: ["HOME": directory.path]
        )
    }

    package func enroll(
        _ release: String,
        service: String?,
        ports: [UInt16] = [22],
        channel: LocalChannel? = nil
    ) async throws -> SignalMessage.Acknowledgement {
        let order = SignalMessage.Enroll(
            id: device.id.description,
            node: .init(bind: "127.0.0.1", port: 0, allowPorts: ports),
            service: service
        )
        return try await device.conversation(over: channel ?? signal(release)).run(.enroll(order)).ack
    }

    package var node: NodeProcess { NodeProcess(state: state, executable: root + "/current/bootstrap") }
    package var current: String? { try? FileManager.default.destinationOfSymbolicLink(atPath: root + "/current") }

    /// The node of this number is one of that release.
    package func release(of process: Int32?) -> String? {
        process.flatMap(ProcessList.program).map { $0.split(separator: "/").dropLast().last.map(String.init) ?? "" }
    }
}

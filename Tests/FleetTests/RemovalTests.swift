import Agent
import Foundation
import TestDevices
import TestPeers
import Testing

@testable import Fleet
@testable import SSHSignal

@Suite struct RemovalTests {
    private func remove(
        _ machine: InstalledDevice,
        _ shell: FarShell = .dash,
        keepsAgent: Bool = false,
        bases: [String]? = nil
    ) async throws -> DeviceRemoval.Outcome {
        let removal = DeviceRemoval(name: "dev", bases: bases ?? [machine.directory.path], keepsAgent: keepsAgent)
        return try await removal.remove(over: try machine.shell(shell))
    }

    @Test(arguments: FarShell.allCases)
    func leavesNothing(shell: FarShell) async throws {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        try await machine.addRelease(InstalledDevice.second)
        _ = try await machine.enroll(InstalledDevice.first, service: "none")
        let node = try #require(machine.node.runningProcess)
        // What a probe has left whose operator was killed.
        _ = FileManager.default.createFile(atPath: machine.root + "/.bootstrap-probe.7", contents: nil)
        let outcome = try await remove(machine, shell)
        #expect(outcome.left == [])
        #expect(outcome.removed.contains("process \(node) (node)"))
        for path in [machine.state, machine.root, "\(machine.root)/\(InstalledDevice.second)"] {
            #expect(outcome.removed.contains(path), "\(outcome.removed)")
        }
        #expect(!FileManager.default.fileExists(atPath: machine.root))
        #expect(NodeProcess.all(state: machine.state) == [])
        #expect(try await remove(machine, shell) == DeviceRemoval.Outcome(), "nothing is left to do")
    }

    /// A container's processes are listed as well, and may have the same paths: they are of another machine.
    @Test(.enabled(if: getuid() == 0), arguments: FarShell.allCases, [["--mount"], ["--mount", "--pid", "--fork"]])
    func nodesOfContainersStay(shell: FarShell, namespaces: [String]) async throws {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        _ = try await machine.enroll(InstalledDevice.first, service: "none")
        let node = try #require(machine.node.runningProcess)
        let other = try machine.directory.makeDirectory("other")
        try machine.directory.write("other/state/node.yaml", "")
        // Its cmdline is a node's, and it sees another directory of that path. It ends with its input.
        let container = try ChildProcess(
            "unshare",
            namespaces + [
                "sh", "-c",
                "mount --bind \"$1\" \"$2\" && exec sh -c 'echo ready; read -r line' node --config \"$2/state/node.yaml\"",
                "sh", other, machine.root,
            ],
            keepsInputOpen: true
        )
        _ = try await container.standardOutput.line(containing: "ready")
        #expect(NodeProcess.all(state: machine.state) == [node])
        let outcome = try await remove(machine, shell)
        #expect(outcome.removed.filter { $0.hasPrefix("process") } == ["process \(node) (node)"])
        #expect(ProcessList.arguments(of: node) == [])
        try container.write(Array("end\n".utf8))
        #expect(try await container.exit(within: .seconds(60)) == .exited(0))
    }

    /// The same where what the removal would compare is gone.
    @Test(.enabled(if: getuid() == 0), arguments: FarShell.allCases)
    func aNodeIsEndedWhoseStateIsGone(shell: FarShell) async throws {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        _ = try await machine.enroll(InstalledDevice.first, service: "none")
        let node = try #require(machine.node.runningProcess)
        let container = try ChildProcess(
            "unshare",
            [
                "--pid", "--fork", "sh", "-c",
                "exec sh -c 'echo ready; read -r line' node --config \"$1/node.yaml\"", "sh", machine.state,
            ],
            keepsInputOpen: true
        )
        _ = try await container.standardOutput.line(containing: "ready")
        try FileManager.default.removeItem(atPath: machine.state)
        #expect(NodeProcess.all(state: machine.state) == [node])
        let outcome = try await remove(machine, shell)
        #expect(outcome.removed.contains("process \(node) (node)"), "\(outcome.removed)")
        try container.write(Array("end\n".utf8))
        #expect(try await container.exit(within: .seconds(60)) == .exited(0))
    }

    @Test(arguments: [ServiceKind.systemd, .systemdUser, .openrc, .procd, .cron])
    func takesTheServiceAway(kind: ServiceKind) async throws {
        let machine = try await InstalledDevice.machine(kind)
        let cron = kind == .cron ? try await machine.startCronDaemon() : nil
        _ = try await machine.enroll(InstalledDevice.first, service: kind.rawValue)
        let supervisor = try #require(Supervisor.running(state: machine.state))
        // The agent cannot help.
        unlink("\(machine.root)/\(InstalledDevice.first)/bootstrap")
        let outcome = try await remove(machine)
        #expect(outcome.left == [])
        #expect(ProcessList.arguments(of: supervisor) == [])
        #expect(NodeProcess.all(state: machine.state) == [])
        let name = ServiceName(state: machine.state).description
        let left = try FileManager.default.subpathsOfDirectory(atPath: machine.directory.path).filter {
            $0.contains(name) || $0 == "enabled" || $0.hasPrefix("bootstrap")
        }
        #expect(left == [], "\(outcome.removed)")
        if kind == .cron {
            #expect(try machine.directory.read("crontab") == "# mine\n\n0 4 * * * backup %H\n")
        }
        withExtendedLifetime(cron) {}
    }

    @Test func keepsTheAgentWhenAsked() async throws {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        _ = try await machine.enroll(InstalledDevice.first, service: "none")
        _ = try await remove(machine, keepsAgent: true)
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: machine.root).sorted() == [
                InstalledDevice.first, "current",
            ]
        )
        #expect(try await machine.enroll(InstalledDevice.first, service: "none").node == "started")
    }

    @Test func whatIsNotOursStays() async throws {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        try machine.directory.write("bootstrap/notes.txt", "mine")
        try machine.directory.write("bootstrap/\(InstalledDevice.first)/notes.txt", "mine")
        _ = try await machine.enroll(InstalledDevice.first, service: "none")
        let outcome = try await remove(machine)
        #expect(outcome.left == ["\(machine.root)/\(InstalledDevice.first)", machine.root])
        #expect(try machine.directory.read("bootstrap/notes.txt") == "mine")
        // A directory of that name that nothing was installed in is not looked at.
        try machine.directory.write("other/bootstrap/file", "mine")
        #expect(try await remove(machine, bases: [machine.directory.path("other")]) == DeviceRemoval.Outcome())
        #expect(try machine.directory.read("other/bootstrap/file") == "mine")
    }

    /// What the record does not name is named, and stays.
    @Test func anotherInstallationIsNamed() async throws {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        let second = machine.directory.path("second")
        try machine.directory.write("second/bootstrap/state/node.yaml", "")
        var removal = DeviceRemoval(name: "dev", bases: [machine.directory.path])
        removal.otherBases = [second, machine.directory.path, machine.directory.path("third")]
        let outcome = try await removal.remove(over: try machine.shell(.dash))
        #expect(outcome.others == [second])
        #expect(outcome.removed.contains(machine.root))
        #expect(FileManager.default.fileExists(atPath: "\(second)/bootstrap/state/node.yaml"))
        // Also where nothing was removed.
        #expect(try await removal.remove(over: try machine.shell(.dash)).others == [second])
    }

    @Test func installationUnderWayIsNotDisturbed() async throws {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        let holder = try machine.shell(.dash)
        defer { holder.close() }
        let installer = AgentInstaller(
            shell: RemoteShell(holder, name: "dev"),
            plan: InstallationPlan(root: machine.root)
        )
        _ = try await installer.lock()
        let error = await #expect(throws: SignalError.self) { try await remove(machine) }
        #expect(error?.message.contains("another bootstrap") == true)
        #expect(FileManager.default.fileExists(atPath: "\(machine.root)/\(InstalledDevice.first)/bootstrap"))
    }

    /// A device that names another directory than it was asked for does not get it removed anywhere.
    @Test(arguments: ["/etc/bootstrap", "/opt/../etc/bootstrap", "relative/bootstrap", "/opt/bootstrap/x"])
    func pathsOfTheDeviceAreChecked(path: String) async throws {
        final class Liar: RemoteChannel {
            let lower: LocalChannel
            let path: String
            init(_ lower: LocalChannel, _ path: String) { (self.lower, self.path) = (lower, path) }
            func read() async throws -> [UInt8]? { try await lower.read() }
            func write(_ bytes: [UInt8]) async throws {
                let text = String(decoding: bytes, as: UTF8.self)
                let lie = text.replacingOccurrences(of: "for base in", with: "echo 'root.\(path)=1'; for base in")
                try await lower.write(Array(lie.utf8))
            }
            func finish() async { await lower.finish() }
            func close() { lower.close() }
            func standardErrorText() async -> String { await lower.standardErrorText() }
        }
        let home = TemporaryDirectory()
        let channel = Liar(try LocalChannel.shell(FarShell.dash.command, home: home.path), path)
        let error = await #expect(throws: SignalError.self) {
            try await DeviceRemoval(name: "dev", bases: ["/opt"]).remove(over: channel)
        }
        #expect(error?.code == .malformed)
    }
}

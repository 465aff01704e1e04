import Foundation
import TestDevices
import TestPeers
import Testing

@testable import Agent
@testable import SSHSignal

@Suite struct UpgradeTests {
    /// The agent of another release that serves the conversation and cannot run a node: its file is a script by then.
    private func broken(_ machine: InstalledDevice, _ release: String) async throws -> LocalChannel {
        let channel = try machine.signal(release)
        let program = "\(machine.root)/\(release)/bootstrap"
        try await eventually("the agent has started") {
            ProcessList.all.contains { ProcessList.program(of: $0) == program }
        }
        // The hello shows that it knows its own path.
        try await eventually("it says hello") { !channel.process.standardOutput.bytes.isEmpty }
        unlink(program)
        try await machine.directory.writeProgram(
            "bootstrap/\(release)/bootstrap",
            "echo 'Illegal instruction' >&2; exit 132"
        )
        return channel
    }

    @Test func newReleaseTakesTheSocketsOver() async throws {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        let before = try await machine.enroll(InstalledDevice.first, service: "none")
        let old = try #require(machine.node.runningProcess)
        try await machine.addRelease(InstalledDevice.second)
        try await machine.addRelease("0.0.9-cccccccccccc")
        // Somebody may just be installing this one.
        try machine.directory.write("bootstrap/0.2.0-dddddddddddd/bootstrap", "")
        let after = try await machine.enroll(InstalledDevice.second, service: "none")
        #expect(after.node == "restarted")
        #expect(after.listener == before.listener)
        #expect(machine.current == InstalledDevice.second)
        #expect(machine.release(of: machine.node.runningProcess) == InstalledDevice.second)
        try await eventually("the old one ends with its last stream") { ProcessList.program(of: old) == nil }
        let releases = try FileManager.default.contentsOfDirectory(atPath: machine.root).filter { $0.contains("-") }
        #expect(Set(releases) == [InstalledDevice.first, InstalledDevice.second, "0.2.0-dddddddddddd"])
    }

    @Test(arguments: ["none", "cron"])
    func releaseThatDoesNotComeUpChangesNothing(service: String) async throws {
        let machine = try InstalledDevice()
        try await machine.standIn("crontab", "case \"$1\" in -) cat >/dev/null;; esac")
        let cron = try await machine.startCronDaemon()
        defer { withExtendedLifetime(cron) {} }
        try await machine.addRelease(InstalledDevice.first)
        let before = try await machine.enroll(InstalledDevice.first, service: service)
        let old = try #require(machine.node.runningProcess)
        let configuration = try machine.directory.read("bootstrap/state/node.yaml")
        try await machine.addRelease(InstalledDevice.second)
        let channel = try await broken(machine, InstalledDevice.second)
        let error = await #expect(throws: SignalError.self) {
            try await machine.enroll(InstalledDevice.second, service: service, ports: [22, 80], channel: channel)
        }
        #expect(error?.code == .node)
        let text = error?.message ?? ""
        #expect(text.contains("the new agent \(InstalledDevice.second) did not come up"), "\(text)")
        #expect(text.contains("Illegal instruction"), "\(text)")
        #expect(text.contains("The previous one, \(InstalledDevice.first), runs on"), "\(text)")
        #expect(machine.current == InstalledDevice.first)
        #expect(machine.node.runningProcess == old)
        #expect(NodeProcess.accepts(before.listener))
        #expect(try machine.directory.read("bootstrap/state/node.yaml") == configuration)
        // The next one that works is taken.
        try FileManager.default.removeItem(atPath: "\(machine.root)/\(InstalledDevice.second)")
        try await machine.addRelease(InstalledDevice.second)
        let repaired = try await machine.enroll(InstalledDevice.second, service: service, ports: [22, 80])
        #expect(repaired.listener == before.listener)
        #expect(machine.current == InstalledDevice.second)
    }

    @Test func nodeThatWasGoneIsStartedFromTheReleaseBefore() async throws {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        _ = try await machine.enroll(InstalledDevice.first, service: "none")
        LocalDevice.stopNode(state: machine.state)
        try await machine.addRelease(InstalledDevice.second)
        let channel = try await broken(machine, InstalledDevice.second)
        let error = await #expect(throws: SignalError.self) {
            try await machine.enroll(InstalledDevice.second, service: "none", channel: channel)
        }
        #expect(error?.message.contains("was started again") == true, "\(error?.message ?? "")")
        #expect(machine.release(of: machine.node.runningProcess) == InstalledDevice.first)
        #expect(machine.current == InstalledDevice.first)
    }

    /// One supervisor for each state, and none without its node when it is told to end.
    @Test func supervisorIsAloneAndEndsWithItsNode() async throws {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        _ = try await machine.enroll(InstalledDevice.first, service: "none")
        let plain = try #require(machine.node.runningProcess)
        let supervisor = try ChildProcess("\(machine.root)/current/bootstrap", ["supervise", "--state", machine.state])
        try await eventually("its node has taken over from the one without a supervisor") {
            machine.node.runningProcess.map { $0 != plain } ?? false
        }
        let other = try await ChildProcess.run(
            "\(machine.root)/current/bootstrap",
            ["supervise", "--state", machine.state]
        )
        #expect(other.status == .exited(1))
        #expect(other.standardError.contains("another supervisor runs"))
        supervisor.signal(SIGTERM)
        #expect(try await supervisor.exit() == .exited(0))
        #expect(NodeProcess.all(state: machine.state) == [])
        #expect(Supervisor.running(state: machine.state) == nil)
    }
}

import Foundation
import TestDevices
import TestPeers
import Testing

@testable import Agent
@testable import SSHSignal

/// Init systems are stand-ins (``InstalledDevice``): systemd, OpenRC and procd want to be the first process of a
/// machine.
@Suite struct ServiceTests {
    @Test(arguments: [ServiceKind.systemd, .systemdUser, .openrc, .procd, .cron])
    func installsOnceAndKeepsTheNodeAlive(kind: ServiceKind) async throws {
        let machine = try await InstalledDevice.machine(kind)
        let cron = kind == .cron ? try await machine.startCronDaemon() : nil
        let first = try await machine.enroll(InstalledDevice.first, service: kind.rawValue)
        #expect(first.node == "started")
        #expect(first.service?.kind == kind.rawValue)
        #expect(first.service?.change == "installed")
        #expect(first.warnings ?? [] == [])
        #expect(machine.current == InstalledDevice.first)
        let supervisor = try #require(Supervisor.running(state: machine.state))
        let node = try #require(machine.node.runningProcess)
        #expect(machine.release(of: node) == InstalledDevice.first)
        #expect(NodeProcess.accepts(first.listener))
        let calls = try machine.calls().joined(separator: "\n")
        let name = ServiceName(state: machine.state).description
        switch kind {
        case .systemd:
            #expect(calls.contains("systemctl daemon-reload") && calls.contains("systemctl enable \(name).service"))
        case .systemdUser:
            #expect(calls.contains("systemctl --user enable \(name).service"))
            #expect(calls.contains("loginctl enable-linger"))
        case .openrc: #expect(calls.contains("rc-update add \(name) default"))
        case .procd: #expect(calls.contains("\(name) enable\n\(name) start"))
        case .cron, .none:
            let table = try machine.directory.read("crontab")
            #expect(
                table.hasPrefix(
                    "# mine\n\n0 4 * * * backup %H\n@reboot exec \(machine.root)/current/bootstrap supervise"
                )
            )
        }

        // Again: nothing is written, nothing restarted.
        let second = try await machine.enroll(InstalledDevice.first, service: kind.rawValue)
        #expect(second.node == "running")
        #expect(second.service?.change == "unchanged")
        #expect(machine.node.runningProcess == node)
        #expect(Supervisor.running(state: machine.state) == supervisor)
        let again = try machine.calls().joined(separator: "\n")
        for word in ["daemon-reload", "restart", "enable ", " add ", " start", "crontab -\n"] {
            #expect(!again.contains(word), "\(again)")
        }
        // `auto` keeps what is there, and another configuration is taken over by a node beside the first.
        let changed = try await machine.enroll(InstalledDevice.first, service: "auto", ports: [22, 80])
        #expect(changed.node == "restarted")
        #expect(changed.service?.kind == kind.rawValue)
        #expect(changed.listener == first.listener, "the socket was handed over")
        #expect(Supervisor.running(state: machine.state) == supervisor)

        // A node that dies is started again.
        let dying = try #require(machine.node.runningProcess)
        #expect(dying != node)
        kill(dying, SIGKILL)
        try await eventually("there is another node", within: .seconds(120)) {
            machine.node.runningProcess.map { $0 != dying && NodeProcess.accepts(machine.node.listener ?? "") } ?? false
        }

        // And `none` takes it away.
        let without = try await machine.enroll(InstalledDevice.first, service: "none", ports: [22, 80])
        #expect(without.service?.kind == "none")
        #expect(Supervisor.running(state: machine.state) == nil)
        #expect(machine.node.runningProcess != nil)
        let left = try FileManager.default.subpathsOfDirectory(atPath: machine.directory.path).filter {
            $0.contains(name) || $0 == "enabled"
        }
        #expect(left == [])
        if kind == .cron {
            #expect(try machine.directory.read("crontab") == "# mine\n\n0 4 * * * backup %H\n")
        }
        withExtendedLifetime(cron) {}
    }

    @Test func automaticTakesTheFirstThereIs() async throws {
        let machine = try await InstalledDevice.machine(.openrc)
        #expect(try await machine.enroll(InstalledDevice.first, service: "auto").service?.kind == "openrc")
    }

    @Test func withoutAnythingTheNodeRunsAndAWarningSaysSo() async throws {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        // Whatever this machine has, it does not run.
        try await machine.standIn("systemctl", "echo offline; exit 1")
        try await machine.standIn("crontab", "exit 1")
        unlink(machine.directory.path("run/openrc/softlevel"))
        let ack = try await machine.enroll(InstalledDevice.first, service: "auto")
        guard ack.service?.kind == "none" else {
            // A cron daemon of the machine that the tests run on.
            #expect(ack.service?.kind == "cron")
            return
        }
        #expect(ack.warnings?.first?.contains("nothing starts the node again") == true)
        // With the remedy, and not with everything that the machine does not have.
        #expect(ack.warnings?.first?.contains("install cron there") == true, "\(ack.warnings ?? [])")
        #expect(ack.warnings?.first?.contains("systemd") == false, "\(ack.warnings ?? [])")
        #expect(machine.node.runningProcess != nil)
        #expect(Supervisor.running(state: machine.state) == nil)
    }

    @Test func whatIsAskedForAndCannotBeHadIsRefused() async throws {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        for (kind, reason) in [("procd", "there is no procd"), ("launchd", "knows no service 'launchd'")] {
            let error = await #expect(throws: SignalError.self) {
                try await machine.enroll(InstalledDevice.first, service: kind)
            }
            #expect(error?.code == .node)
            #expect(error?.message.contains(reason) == true, "\(error?.message ?? "")")
        }
    }

    @Test func lingeringThatIsRefusedIsSaid() async throws {
        let machine = try await InstalledDevice.machine(.systemdUser)
        try await machine.standIn("loginctl", "echo 'Access denied' >&2; exit 1")
        try await machine.standIn("sudo", "exit 1")
        let ack = try await machine.enroll(InstalledDevice.first, service: "systemd-user")
        #expect(ack.warnings?.first?.contains("loginctl enable-linger") == true, "\(ack.warnings ?? [])")
    }

    /// systemd's own opinion of the units. It complains about a program that does not exist, so there is one.
    @Test(arguments: [true, false], [true, false])
    func unitsAreValid(isUser: Bool, isIssuer: Bool) async throws {
        let directory = TemporaryDirectory()
        let program = try directory.write("current/bootstrap", "#!/bin/sh\n", permissions: 0o755)
        let state = directory.path("state")
        let service = SystemdService(
            description: isIssuer
                ? ServiceDescription(
                    issuer: program,
                    options: ["--listen", "0.0.0.0:15012"],
                    home: state,
                    authority: directory.path("ca")
                )
                : ServiceDescription(program: program, state: state),
            isUser: isUser
        )
        if isIssuer {
            #expect(service.unit == "bootstrap-ca.service")
            #expect(isUser || service.text.contains("\nReadWritePaths=\(state) \(directory.path("ca"))\n"))
            #expect(
                service.text.contains(
                    "\nEnvironment=BOOTSTRAP_HOME=\(state)\nExecStart=\(program) ca serve --listen 0.0.0.0:15012\n"
                )
            )
        } else {
            #expect(service.text.contains("\nType=simple\nExecStart=\(program) supervise --state \(state)\n"))
        }
        let unit = try directory.write("bootstrap-node.service", service.text)
        guard try await ChildProcess.run("sh", ["-c", "command -v systemd-analyze"]).succeeded else { return }
        let output = try await ChildProcess.run(
            "systemd-analyze",
            ["verify", isUser ? "--user" : "--system", unit],
            environment: ["XDG_RUNTIME_DIR": directory.path]
        )
        let complaints = output.standardError.split(separator: "\n").filter { $0.contains("bootstrap-node") }
        #expect(complaints == [], "\(output.standardError)")
        let broken = try directory.write(
            "broken.service",
            service.text.replacingOccurrences(of: "Restart=", with: "Restrat=")
        )
        let refused = try await ChildProcess.run(
            "systemd-analyze",
            ["verify", isUser ? "--user" : "--system", broken],
            environment: ["XDG_RUNTIME_DIR": directory.path]
        )
        #expect(refused.standardError.contains("Restrat"))
    }

    @Test func scriptsAreShell() async throws {
        let directory = TemporaryDirectory()
        let description = ServiceDescription(program: "/opt/bootstrap/current/bootstrap", state: "/opt/bootstrap/state")
        #expect(description.name == "bootstrap-node")
        let scripts = [ProcdService(description: description).text, OpenRCService(description: description).text]
        for script in scripts {
            let file = try directory.write("script", script)
            for shell in FarShell.allCases {
                #expect(
                    try await ChildProcess.run(shell.command[0], shell.command.dropFirst() + ["-n", file]).succeeded
                )
            }
        }
        #expect(!ServiceDescription(program: "/opt/a b/bootstrap", state: "/opt/a b/state").isPlain)
    }

    @Test func anIssuerWritesToItsAuthority() {
        func writable(_ authority: String) -> [String]? {
            let description = ServiceDescription(issuer: "/opt/b", options: [], home: "/root/h", authority: authority)
            return description.isPlain ? description.writable : nil
        }
        #expect(writable("/root/h/ca") == ["/root/h"])
        #expect(writable("/srv/ca") == ["/root/h", "/srv/ca"])
        #expect(writable("/root/h/../ca") == ["/root/h", "/root/h/../ca"])
        #expect(writable("/srv/a b") == nil)
    }
}

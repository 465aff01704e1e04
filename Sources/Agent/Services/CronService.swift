import Glibc
import Platform
import SSHSignal

/// A supervisor in the background, and a line in the account's crontab that starts it with the machine.
struct CronService: DeviceService {
    let description: ServiceDescription

    var kind: ServiceKind { .cron }
    var place: String { "crontab of \(LocalAccount.current().user)" }

    /// What it is found by.
    private var mark: String { "# \(description.name)" }
    var line: String {
        "@reboot exec \(description.arguments.joined(separator: " ")) >/dev/null 2>&1 \(mark)"
    }

    var obstacle: String? {
        guard DeviceProgram.find("crontab") != nil else { return "there is no crontab" }
        return Self.runsDaemon ? nil : "no cron daemon runs"
    }

    private static var runsDaemon: Bool {
        ProcessList.all.contains {
            ["cron", "crond", "dcron", "fcron"].contains(ProcessList.name(of: $0) ?? "") && ProcessList.sees("/", $0)
        }
    }

    func install() throws(DeviceProgram.Failure) -> (changed: Bool, warnings: [String]) {
        var lines = try present()
        guard lines.filter({ $0.hasSuffix(mark) }) != [line] else { return (false, []) }
        lines = lines.filter { !$0.hasSuffix(mark) } + [line]
        try replace(lines)
        return (true, [])
    }

    func start() throws(DeviceProgram.Failure) { try Supervisor.startDetached(description) }

    func remove() throws(DeviceProgram.Failure) {
        let lines = try present()
        if lines.contains(where: { $0.hasSuffix(mark) }) { try replace(lines.filter { !$0.hasSuffix(mark) }) }
        Supervisor.stop(state: description.state)
    }

    /// An account without a crontab makes `crontab -l` fail.
    private func present() throws(DeviceProgram.Failure) -> [String] {
        let output = try DeviceProgram().run(["crontab", "-l"])
        guard output.status == 0 else { return [] }
        guard output.bytes.count < DeviceProgram.outputLimit else {
            throw DeviceProgram.Failure(message: "the crontab is too long to be edited")
        }
        var lines = String(decoding: output.bytes, as: UTF8.self)
            .split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        if lines.last == "" { lines.removeLast() }
        return lines
    }

    private func replace(_ lines: [String]) throws(DeviceProgram.Failure) {
        try DeviceProgram().check(["crontab", "-"], input: Array(lines.map { $0 + "\n" }.joined().utf8))
    }
}

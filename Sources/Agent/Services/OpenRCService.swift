import Glibc
import SSHSignal

/// A script in `/etc/init.d` for OpenRC; for root.
struct OpenRCService: DeviceService {
    let description: ServiceDescription

    var kind: ServiceKind { .openrc }
    var place: String { "/etc/init.d/\(description.name)" }

    var obstacle: String? {
        guard geteuid() == 0 else { return "an init script is for root" }
        for program in ["openrc-run", "rc-service", "rc-update"] where DeviceProgram.find(program) == nil {
            return "there is no OpenRC (\(program))"
        }
        // Installed beside another init system it starts nothing.
        return access("/run/openrc/softlevel", F_OK) == 0 ? nil : "OpenRC did not start this machine"
    }

    func install() throws(DeviceProgram.Failure) -> (changed: Bool, warnings: [String]) {
        let program = DeviceProgram()
        let changed = try write(text, to: place, mode: 0o755)
        let shown = try program.run(["rc-update", "show", "default"]).bytes
        if String(decoding: shown, as: UTF8.self).split(whereSeparator: \.isWhitespace)
            .contains(Substring(description.name))
        {
            return (changed, [])
        }
        try program.check(["rc-update", "add", description.name, "default"])
        return (true, [])
    }

    func start() throws(DeviceProgram.Failure) {
        let program = DeviceProgram(timeout: .seconds(40))
        // What it believes to run and does not, it would not start.
        _ = try? program.run(["rc-service", description.name, "zap"])
        try program.check(["rc-service", description.name, "start"])
    }

    func remove() throws(DeviceProgram.Failure) {
        guard access(place, F_OK) == 0 else { return }
        let program = DeviceProgram(timeout: .seconds(40))
        _ = try? program.run(["rc-service", description.name, "stop"])
        _ = try? program.run(["rc-update", "del", description.name])
        unlink(place)
    }

    var text: String {
        """
        #!/sbin/openrc-run
        # Written by `bootstrap enroll`; `bootstrap unenroll` removes it.
        description="bootstrap: mesh node of \(description.state)"
        command="\(description.program)"
        command_args="supervise --state \(description.state)"
        command_background="yes"
        pidfile="/run/${RC_SVCNAME}.pid"
        retry="TERM/20/KILL/5"

        depend() {
        \tuse net
        \tafter firewall bootmisc
        }

        """
    }
}

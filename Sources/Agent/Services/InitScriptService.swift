import Glibc
import SSHSignal

/// A script in `/etc/init.d`, for OpenRC or procd.
struct InitScriptService: DeviceService {
    let description: ServiceDescription
    let isProcd: Bool

    var kind: ServiceKind { isProcd ? .procd : .openrc }
    var place: String { "/etc/init.d/\(description.name)" }
    /// What OpenWrt's sysupgrade carries over to the next firmware.
    private var keepFile: String { "/lib/upgrade/keep.d/\(description.name)" }

    var obstacle: String? {
        guard geteuid() == 0 else { return "an init script is for root" }
        if isProcd {
            guard access("/etc/rc.common", F_OK) == 0, DeviceProgram.find("procd") != nil else {
                return "there is no procd"
            }
            return nil
        }
        for program in ["openrc-run", "rc-service", "rc-update"] where DeviceProgram.find(program) == nil {
            return "there is no OpenRC (\(program))"
        }
        // Installed beside another init system it starts nothing.
        return access("/run/openrc/softlevel", F_OK) == 0 ? nil : "OpenRC did not start this machine"
    }

    func install() throws(DeviceProgram.Failure) -> (changed: Bool, warnings: [String]) {
        let program = DeviceProgram()
        var changed = try write(isProcd ? procdText : openRCText, to: place, mode: 0o755)
        if isProcd {
            if access("/lib/upgrade/keep.d", W_OK) == 0 {
                let kept = "\(description.state)\n\(place)\n"
                changed = try write(kept, to: keepFile) || changed
            }
            if try program.run([place, "enabled"]).status != 0 {
                try program.check([place, "enable"])
                changed = true
            }
        } else if !String(decoding: try program.run(["rc-update", "show", "default"]).bytes, as: UTF8.self)
            .split(whereSeparator: \.isWhitespace).contains(Substring(description.name))
        {
            try program.check(["rc-update", "add", description.name, "default"])
            changed = true
        }
        return (changed, [])
    }

    func start() throws(DeviceProgram.Failure) {
        let program = DeviceProgram(timeout: .seconds(40))
        if isProcd {
            try program.check([place, "start"])
        } else {
            // What it believes to run and does not, it would not start.
            _ = try? program.run(["rc-service", description.name, "zap"])
            try program.check(["rc-service", description.name, "start"])
        }
    }

    func remove() throws(DeviceProgram.Failure) {
        guard access(place, F_OK) == 0 else { return }
        let program = DeviceProgram(timeout: .seconds(40))
        if isProcd {
            _ = try? program.run([place, "stop"])
            _ = try? program.run([place, "disable"])
            unlink(keepFile)
        } else {
            _ = try? program.run(["rc-service", description.name, "stop"])
            _ = try? program.run(["rc-update", "del", description.name])
        }
        unlink(place)
    }

    var openRCText: String {
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

    var procdText: String {
        """
        #!/bin/sh /etc/rc.common
        # Written by `bootstrap enroll`; `bootstrap unenroll` removes it.
        START=95
        STOP=10
        USE_PROCD=1

        start_service() {
        \tprocd_open_instance
        \tprocd_set_param command \(description.arguments.joined(separator: " "))
        \tprocd_set_param respawn 3600 5 0
        \tprocd_set_param term_timeout 20
        \tprocd_close_instance
        }

        """
    }
}

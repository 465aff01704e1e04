import Glibc
import SSHSignal

/// A script in `/etc/init.d` for procd (OpenWrt); for root.
struct ProcdService: DeviceService {
    let description: ServiceDescription

    var kind: ServiceKind { .procd }
    var place: String { "/etc/init.d/\(description.name)" }
    /// What OpenWrt's sysupgrade carries over to the next firmware.
    private var keepFile: String { "/lib/upgrade/keep.d/\(description.name)" }

    var obstacle: String? {
        guard geteuid() == 0 else { return "an init script is for root" }
        guard access("/etc/rc.common", F_OK) == 0, DeviceProgram.find("procd") != nil else {
            return "there is no procd"
        }
        return nil
    }

    func install() throws(DeviceProgram.Failure) -> (changed: Bool, warnings: [String]) {
        let program = DeviceProgram()
        var changed = try write(text, to: place, mode: 0o755)
        if access("/lib/upgrade/keep.d", W_OK) == 0 {
            changed = try write("\(description.state)\n\(place)\n", to: keepFile) || changed
        }
        guard try program.run([place, "enabled"]).status != 0 else { return (changed, []) }
        try program.check([place, "enable"])
        return (true, [])
    }

    func start() throws(DeviceProgram.Failure) {
        try DeviceProgram(timeout: .seconds(40)).check([place, "start"])
    }

    func remove() throws(DeviceProgram.Failure) {
        guard access(place, F_OK) == 0 else { return }
        let program = DeviceProgram(timeout: .seconds(40))
        _ = try? program.run([place, "stop"])
        _ = try? program.run([place, "disable"])
        unlink(keepFile)
        unlink(place)
    }

    var text: String {
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

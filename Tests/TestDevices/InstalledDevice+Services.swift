import Agent
import Foundation
package import SSHSignal
package import TestPeers

/// Stand-ins for init systems.
extension InstalledDevice {
    private static let systemctl = """
        units=/etc/systemd/system
        [ "$1" = --user ] && { shift; units="$XDG_CONFIG_HOME/systemd/user"; }
        case "$1" in
        is-system-running) echo running;;
        is-enabled) [ -e "$d/enabled" ];;
        enable) touch "$d/enabled";;
        disable) rm "$d/enabled"; end;;
        restart) end 2>/dev/null; run $(sed -n 's/^ExecStart=//p' "$units/$2");;
        esac
        """
    private static let rcService = """
        script="/etc/init.d/$1"
        case "$2" in
        zap) ;;
        start) command=; command_args=; . "$script"; run $command $command_args;;
        stop) end;;
        esac
        """
    private static let rcUpdate = """
        case "$1" in
        show) cat "$d/enabled" 2>/dev/null; true;;
        add) echo " $2 | default" >"$d/enabled";;
        del) rm "$d/enabled";;
        esac
        """
    /// What `/etc/rc.common` does with `/etc/init.d/NAME COMMAND`, as far as it matters.
    private static let rcCommon = """
        d='%'
        echo "${1##*/} $2" >>"$d/calls"
        procd_open_instance() { :; }
        procd_close_instance() { :; }
        procd_set_param() { [ "$1" = command ] || return 0; shift; setsid "$@" >>"$d/journal" 2>&1 </dev/null & echo $! >"$d/main.pid"; }
        . "$1"
        case "$2" in
        enabled) [ -e "$d/enabled" ];;
        enable) touch "$d/enabled";;
        disable) rm "$d/enabled";;
        start) start_service;;
        stop) p=$(cat "$d/main.pid"); kill "$p"; while [ -d "/proc/$p" ]; do sleep 0.02; done;;
        esac
        """

    /// With the first release, and an init system of this kind.
    package static func machine(_ kind: ServiceKind) async throws -> InstalledDevice {
        let machine = try InstalledDevice()
        try await machine.addRelease(InstalledDevice.first)
        switch kind {
        case .systemd, .systemdUser:
            try await machine.standIn("systemctl", Self.systemctl)
            try await machine.standIn("loginctl", "exit 0")
        case .openrc:
            try await machine.standIn("openrc-run", "exit 0")
            try await machine.standIn("rc-service", Self.rcService)
            try await machine.standIn("rc-update", Self.rcUpdate)
        case .procd:
            try await machine.standIn("procd", "exit 0")
            let text = Self.rcCommon.replacingOccurrences(of: "%", with: machine.directory.path)
            try machine.directory.write("etc/rc.common", text)
        case .cron:
            let text =
                "case \"$1\" in -l) cat \"$d/crontab\";; -) cat >\"$d/crontab.new\"; mv \"$d/crontab.new\" \"$d/crontab\";; esac"
            try await machine.standIn("crontab", text)
            try machine.directory.write("crontab", "# mine\n\n0 4 * * * backup %H\n")
        case .none: break
        }
        return machine
    }

    /// A process that is called crond.
    package func startCronDaemon() async throws -> ChildProcess {
        // Not a copy: what another thread forks while a copy is being written holds it open for writing, and then it
        // cannot be run.
        let program = directory.path("crond")
        try FileManager.default.createSymbolicLink(atPath: program, withDestinationPath: "/bin/sleep")
        let process = try ChildProcess(program, ["600"])
        try await eventually("it runs") { ProcessList.name(of: process.pid) == "crond" }
        return process
    }
}

import Glibc
import Platform
import SSHSignal

/// A systemd unit: the machine's for root, else of the user's own systemd.
struct SystemdService: DeviceService {
    let description: ServiceDescription
    let isUser: Bool

    var kind: ServiceKind { isUser ? .systemdUser : .systemd }
    var unit: String { "\(description.name).service" }

    var place: String { "\(directory)/\(unit)" }

    private var directory: String {
        guard isUser else { return "/etc/systemd/system" }
        let account = LocalAccount.current()
        let configuration = account.environment["XDG_CONFIG_HOME"].flatMap { $0.hasPrefix("/") ? $0 : nil }
        return "\(configuration ?? account.home + "/.config")/systemd/user"
    }

    /// A login over SSH without PAM has no `$XDG_RUNTIME_DIR`, and may have a bus all the same.
    private var runtimeDirectory: String {
        getenv("XDG_RUNTIME_DIR").map { String(cString: $0) } ?? "/run/user/\(getuid())"
    }

    private var control: [String] { isUser ? ["systemctl", "--user"] : ["systemctl"] }

    private func runner(_ timeout: Duration = .seconds(20)) -> DeviceProgram {
        DeviceProgram(environment: isUser ? ["XDG_RUNTIME_DIR": runtimeDirectory] : [:], timeout: timeout)
    }

    var obstacle: String? {
        guard DeviceProgram.find("systemctl") != nil else { return "there is no systemctl" }
        guard isUser || geteuid() == 0 else { return "a system unit is for root" }
        if isUser, access("\(runtimeDirectory)/bus", F_OK) != 0,
            access("\(runtimeDirectory)/systemd/private", F_OK) != 0
        {
            return "the account has no systemd of its own that runs (\(runtimeDirectory))"
        }
        let output = try? runner(.seconds(5)).run(control + ["is-system-running"])
        let state = output?.text ?? "no answer"
        // With units that failed it is as good as without; while it starts it takes orders, too.
        guard ["running", "degraded", "starting", "initializing", "maintenance"].contains(state) else {
            return "systemd does not run (\(state))"
        }
        return nil
    }

    func install() throws(DeviceProgram.Failure) -> (changed: Bool, warnings: [String]) {
        let changed = try write(text, to: place)
        if changed { try runner().check(control + ["daemon-reload"]) }
        let isEnabled = try runner().run(control + ["is-enabled", unit])
        if isEnabled.status != 0 { try runner().check(control + ["enable", unit]) }
        return (changed || isEnabled.status != 0, isUser ? linger() : [])
    }

    /// Without it the user's systemd, and the node with it, ends with the last login.
    private func linger() -> [String] {
        let user = LocalAccount.current().user
        if access("/var/lib/systemd/linger/\(user)", F_OK) == 0 { return [] }
        var complaint = "there is no loginctl"
        for command in [["loginctl", "enable-linger", user], ["sudo", "-n", "loginctl", "enable-linger", user]] {
            do throws(DeviceProgram.Failure) {
                try runner().check(command)
                return []
            } catch {
                complaint = error.message
            }
        }
        return [
            """
            \(unit) (\(description.purpose)) ends when \(user) is logged out, and does not start with the machine: \
            lingering cannot be enabled (\(complaint)). Have root run: loginctl enable-linger \(user)
            """
        ]
    }

    func start() throws(DeviceProgram.Failure) {
        // One that failed too often would be refused.
        _ = try? runner().run(control + ["reset-failed", unit])
        try runner(.seconds(30)).check(control + ["restart", unit])
    }

    func remove() throws(DeviceProgram.Failure) {
        guard access(place, F_OK) == 0 else { return }
        _ = try? runner(.seconds(30)).run(control + ["disable", "--now", unit])
        unlink(place)
        _ = try? runner().run(control + ["daemon-reload"])
    }

    /// `Type=simple`: the supervisor says itself, to whoever waits, when the node is up. `KillMode=mixed`: it hands the
    /// signal on and lets streams end.
    var text: String {
        """
        # \(description.origin)
        [Unit]
        Description=bootstrap: \(description.purpose)
        \(isUser ? "" : "Wants=network-online.target\nAfter=network-online.target\n")StartLimitIntervalSec=0

        [Service]
        Type=simple
        \(description.environment.sorted { $0.key < $1.key }.map { "Environment=\($0.key)=\($0.value)\n" }.joined())\
        ExecStart=\(description.arguments.joined(separator: " "))
        Restart=always
        RestartSec=2
        KillMode=mixed
        TimeoutStopSec=20
        NoNewPrivileges=yes
        LockPersonality=yes
        RestrictRealtime=yes
        RestrictSUIDSGID=yes
        SystemCallArchitectures=native
        RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
        \(isUser ? "" : """
            ProtectSystem=full
            ReadWritePaths=\(description.writable.joined(separator: " "))
            ProtectKernelTunables=yes
            ProtectKernelModules=yes
            ProtectKernelLogs=yes
            ProtectControlGroups=yes
            ProtectClock=yes
            ProtectHostname=yes

            """)
        [Install]
        WantedBy=\(isUser ? "default.target" : "multi-user.target")

        """
    }
}

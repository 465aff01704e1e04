import Platform
import SSHSignal

extension DeviceFacts {
    /// What the agent finds around it on a machine: its init system, who the account can be, which programs are there.
    /// The machine's own word, for people and for choices that the agent checks again when it makes them.
    package struct Surroundings: Hashable, Sendable {
        /// What starts services.
        package enum InitSystem: String, Hashable, Sendable {
            case systemd
            case procd
            case openrc
            case runit
            case s6
            case other
        }

        /// Whether the account is root's, or can be without asking anybody.
        package enum Privilege: String, Hashable, Sendable {
            case root
            case sudo
            case doas
            case none
        }

        /// `Debian GNU/Linux 12 (bookworm)`; nil where no os-release says it.
        package var distribution: String?
        /// `/etc/machine-id`; nil where there is none. It survives reboots and is copied by careless cloning.
        package var machineID: String?
        package var initSystem: InitSystem
        /// What `systemctl is-system-running` answers: `running`, `degraded`, … `offline` where systemd is installed
        /// and does not run. nil without systemctl.
        package var systemdState: String?
        /// The account has a systemd of its own that can be talked to.
        package var hasUserBus: Bool
        /// That systemd runs while nobody is logged in.
        package var lingers: Bool
        /// Somebody reads what `crontab` writes.
        package var runsCron: Bool
        package var privilege: Privilege
        /// Whether a program for SFTP is where sshd looks for it, or sshd's configuration has its own.
        package var hasSFTP: Bool
        package var hasOpenSSL: Bool
        /// The login comes from this very machine: nothing is slow, and compressing would only cost.
        package var isLoopback: Bool

        init(_ values: [String: String]) {
            func text(_ key: String, limit: Int) -> String? {
                values[key].flatMap { $0.isEmpty ? nil : Printable.clean($0, limit: limit) }
            }
            distribution = text("distribution", limit: 80)
            machineID = text("machine", limit: 64)
            initSystem = values["init"].flatMap(InitSystem.init) ?? .other
            systemdState = text("systemd", limit: 30)
            hasUserBus = values["userbus"] == "1"
            lingers = values["linger"] == "1"
            runsCron = values["crond"] == "1" && values["tool.crontab"] == "1"
            privilege = values["uid"] == "0" ? .root : values["privilege"].flatMap(Privilege.init) ?? .none
            hasSFTP = values["sftp"] == "1"
            hasOpenSSL = values["tool.openssl"] == "1"
            isLoopback = Self.isLoopback(values["connection"] ?? "")
        }

        /// `$SSH_CONNECTION`: "client port server port".
        private static func isLoopback(_ connection: String) -> Bool {
            let words = connection.split(separator: " ")
            return words.count == 4 && words[0] == words[2]
        }

        /// In a few words, for the line that says what was found.
        var summary: String {
            var parts: [String] = []
            switch initSystem {
            case .systemd: parts.append("systemd \(systemdState ?? "not answering")")
            case .other: parts.append("no init system that is known")
            default: parts.append(initSystem.rawValue)
            }
            if hasUserBus { parts.append(lingers ? "user systemd with linger" : "user systemd") }
            if runsCron { parts.append("cron") }
            if privilege == .sudo || privilege == .doas { parts.append("\(privilege.rawValue) without a password") }
            parts.append(hasSFTP ? "sftp" : "no sftp")
            parts.append(hasOpenSSL ? "openssl" : "no openssl")
            return parts.joined(separator: ", ")
        }
    }
}

extension DeviceFacts {
    /// What a kind of service needs and the machine does not have; nil where it has all of it.
    func lack(for service: ServiceKind) -> String? {
        let system: Surroundings.InitSystem? =
            switch service {
            case .systemd: .systemd
            case .openrc: .openrc
            case .procd: .procd
            default: nil
            }
        if let system {
            guard surroundings.initSystem == system else { return "\(system.rawValue) does not run there" }
            return userID == 0 ? nil : "it is for root, and the login is \(user)'s"
        }
        switch service {
        case .systemdUser where !surroundings.hasUserBus: return "the account has no systemd of its own that answers"
        case .cron where !tools.contains("crontab"): return "there is no crontab"
        default: return nil
        }
    }
}

/// The part of ``ProbeScript`` that looks around. It starts as few programs as it can: on a small device each takes
/// milliseconds.
enum SurroundingsScript {
    /// Uses `has`, `say`, `uid` and `user` of the script it is part of.
    static let text = """
        say connection "$SSH_CONNECTION"
        # Nothing in there is run: the file is the machine's, its syntax the shell's.
        while IFS='=' read -r key value; do
          if [ "$key" = PRETTY_NAME ]; then value=${value#[\\"\\']}; say distribution "${value%[\\"\\']}"; break; fi
        done 2>/dev/null </etc/os-release
        { read -r machine </etc/machine-id || read -r machine </var/lib/dbus/machine-id; } 2>/dev/null && say machine "$machine"
        # A bus that hangs must not hang the probe.
        limit=; has timeout && limit='timeout 5'
        init=other
        if has systemctl; then
          # As sd_booted(3): without this directory it is not what runs here, and need not be asked.
          state=offline; [ -d /run/systemd/system ] && state=$($limit systemctl is-system-running 2>/dev/null)
          say systemd "$state"
          case "$state" in running|degraded|starting|initializing|maintenance) init=systemd;; esac
        fi
        comm=; read -r comm 2>/dev/null </proc/1/comm
        if [ $init != systemd ]; then
          case "$comm" in
            procd) init=procd;;
            runit|runsvdir) init=runit;;
            s6-svscan) init=s6;;
            systemd) ;;
            *) if [ -x /sbin/openrc-run ] && [ -e /run/openrc/softlevel ]; then init=openrc; fi;;
          esac
        fi
        say init $init
        [ -S "${XDG_RUNTIME_DIR:-/run/user/$uid}/bus" ] && has systemctl && say userbus 1
        [ -e "/var/lib/systemd/linger/$user" ] && say linger 1
        for c in /proc/[0-9]*/comm; do
          name=; read -r name <"$c"
          case "$name" in cron|crond|dcron|fcron) say crond 1; break;; esac
        done 2>/dev/null
        if [ "$uid" != 0 ]; then
          if has sudo && $limit sudo -n true >/dev/null 2>&1 </dev/null; then say privilege sudo
          elif has doas && $limit doas -n true >/dev/null 2>&1 </dev/null; then say privilege doas; fi
        fi
        sftp=
        for f in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server /usr/lib/ssh/sftp-server /usr/libexec/sftp-server \\
          /usr/lib/sftp-server /usr/lib/misc/sftp-server; do [ -x "$f" ] && sftp=1 && break; done
        [ -n "$sftp" ] || { grep -i '^[[:space:]]*subsystem[[:space:]]*sftp' /etc/ssh/sshd_config >/dev/null 2>&1 && sftp=1; }
        [ -n "$sftp" ] && say sftp 1
        """
}

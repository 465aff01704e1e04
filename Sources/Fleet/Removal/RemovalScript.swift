import Platform
import SSHSignal

/// Takes away what `enroll` put on a machine, with nothing but a shell: the agent may be broken, or gone.
///
/// It says `removed=PATH` for each thing, and `left=PATH` for what could not be removed or is not ours. What is not
/// there is no error.
enum RemovalScript {
    /// - Parameters:
    ///   - root: `BASE/bootstrap`, absolute.
    ///   - keepsAgent: the releases stay, ready for another enrolment.
    static func text(root: String, keepsAgent: Bool) -> String {
        """
        export LC_ALL=C
        PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        root=\(ShellScript.quote(root))
        name=\(ServiceName(state: root + "/state"))
        state="$root/state"
        has() { command -v "$1" >/dev/null 2>&1; }
        remove() {
          for f; do
            if [ -e "$f" ] || [ -L "$f" ]; then
              if rm -rf "$f" 2>/dev/null; then echo "removed=$f"; else echo "left=$f"; fi
            fi
          done
        }
        \(services)
        \(processes)
        \(files)
        \(keepsAgent ? "rm -rf \"$root/.lock\"" : releases)
        true
        """
    }

    private static let services = """
        f=/etc/systemd/system/$name.service
        if [ -e "$f" ]; then
          systemctl disable --now "$name.service" >/dev/null 2>&1
          remove "$f" "/etc/systemd/system/multi-user.target.wants/$name.service"
          systemctl daemon-reload >/dev/null 2>&1
        fi
        f=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user/$name.service
        if [ -e "$f" ]; then
          export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"
          systemctl --user disable --now "$name.service" >/dev/null 2>&1
          remove "$f" "${f%/*}/default.target.wants/$name.service"
          systemctl --user daemon-reload >/dev/null 2>&1
        fi
        f=/etc/init.d/$name
        if [ -e "$f" ]; then
          if grep -q rc.common "$f"; then
            "$f" stop >/dev/null 2>&1; "$f" disable >/dev/null 2>&1
          else
            rc-service "$name" stop >/dev/null 2>&1; rc-update del "$name" >/dev/null 2>&1
          fi
          remove "$f" "/lib/upgrade/keep.d/$name"
        fi
        if has crontab && crontab -l 2>/dev/null | grep -q " # $name\\$"; then
          crontab -l 2>/dev/null | grep -v " # $name\\$" | crontab - && echo "removed=@reboot line of the crontab"
        fi
        """

    /// The supervisor first: it would start the node again. The arguments of a process are separated by NULs, which
    /// `read` leaves out.
    ///
    /// A container's are listed, too, and may have the same paths: theirs are other directories. Where the state is
    /// gone, or nobody may look at what a process sees, one in a process namespace of its own is not ours.
    private static let processes = """
        ours() {
          if [ -e "$state" ] && [ -e "/proc/$1/root/" ]; then [ "/proc/$1/root$state" -ef "$state" ]; return; fi
          [ ! -e "/proc/$1/root/" ] || [ "/proc/$1/root/" -ef / ] || return 1
          while read -r key number more; do
            case "$key" in NSpid:) [ -z "$more" ]; return;; esac
          done <"/proc/$1/status"
          true
        }
        running() {
          for c in /proc/[0-9]*/cmdline; do
            line=; read -r line <"$c"
            p=${c%/cmdline}
            p=${p#/proc/}
            case "$line" in
              *"$1$2"|*"$1$2"--*) if ours "$p"; then echo "$p"; fi;;
            esac
          done 2>/dev/null
        }
        end() {
          found=$(running "$1" "$2")
          [ -n "$found" ] || return 0
          kill $found 2>/dev/null
          n=0
          while [ -n "$(running "$1" "$2")" ] && [ $n -lt 18 ]; do sleep 1; n=$((n+1)); done
          left=$(running "$1" "$2")
          [ -z "$left" ] || kill -9 $left 2>/dev/null
          for p in $found; do echo "removed=process $p ($3)"; done
        }
        end supervise--state "$state" supervisor
        end node--config "$state/node.yaml" node
        end signal--state "$state" signal
        """

    private static let files = """
        remove "$state"
        """

    /// Only what looks like a release: whatever else is in there is somebody else's.
    private static let releases = """
        remove "$root/current"
        for d in "$root"/[0-9]*-????????????; do
          [ -d "$d" ] || continue
          rm -f "$d/bootstrap" "$d"/bootstrap.part.*
          if rmdir "$d" 2>/dev/null; then echo "removed=$d"; else echo "left=$d"; fi
        done
        rm -rf "$root"/.lock "$root"/.lock.stale.* "$root"/.current.* "$root"/.bootstrap-probe.*
        if [ -d "$root" ]; then
          if rmdir "$root" 2>/dev/null; then echo "removed=$root"; else echo "left=$root"; fi
        fi
        """

    /// Says `root=PATH` for each of the candidates that holds an installation.
    static func find(bases: [String]) -> String {
        let candidates = bases.map { base in
            base == "~" || base.hasPrefix("~/")
                ? "\"$HOME\"" + ShellScript.quote(String(base.dropFirst())) : ShellScript.quote(base)
        }
        return """
            for base in \(candidates.joined(separator: " ")); do
              root="${base%/}/bootstrap"
              [ -d "$root" ] || continue
              for f in "$root/state" "$root/current" "$root"/[0-9]*-????????????; do
                if [ -e "$f" ] || [ -L "$f" ]; then echo "root.$root=1"; break; fi
              done
            done
            true
            """
    }
}

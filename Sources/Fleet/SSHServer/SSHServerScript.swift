import Platform
import SSHSignal

/// What a device's root shell is told about its sshd: look, change, keep or take back. POSIX shell, and the tools of
/// busybox.
///
/// A change is made beside a directory that says how to undo it, `.bootstrap-certificates` next to sshd_config:
///
///     pid          the shell that is at it, and the boot it runs in
///     list         "N PATH" for each file that was touched
///     old.N        what the file was before; missing: it did not exist
///     reloaded     sshd was told
///
/// The directory is the lock as well. It goes when the change was confirmed, or was taken back: by the operator, by the
/// shell when its input ends, or by the next run where the machine lost its power in between.
enum SSHServerScript {
    static let dropInName = "50-bootstrap.conf"
    static let blockBegin = "# BEGIN bootstrap: SSH certificates"
    static let blockEnd = "# END bootstrap: SSH certificates"

    private static let prelude = """
        export LC_ALL=C
        PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        umask 022
        has() { command -v "$1" >/dev/null 2>&1; }
        say() { echo "$1=$2"; }
        effective() {
          "$sshd" -T -f "$config" 2>&1 || "$sshd" -T -C user=root,host=localhost,addr=127.0.0.1 -f "$config" 2>&1
        }
        """

    /// Finds out how the account becomes root. It says `privilege=root`, `sudo`, `doas` or `none`.
    static let privilege = """
        PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        limit=; command -v timeout >/dev/null 2>&1 && limit='timeout 5'
        if [ "$(id -u)" = 0 ]; then echo privilege=root
        elif command -v sudo >/dev/null 2>&1 && $limit sudo -n true >/dev/null 2>&1; then echo privilege=sudo
        elif command -v doas >/dev/null 2>&1 && $limit doas -n true >/dev/null 2>&1; then echo privilege=doas
        else echo privilege=none; fi
        """

    /// Looks at the sshd that serves this very session; read-only.
    ///
    /// - Parameter configuration: sshd_config, absolute; nil: what the running sshd was started with.
    static func find(configuration: String?) -> String {
        """
        \(prelude)
        refuse() { echo "error=$1"; exit 1; }
        # From this shell up: the last sshd on the way is the one that waits for connections, or, where something else does, the session's.
        pid=$$; top=; n=0
        while [ "${pid:-0}" -gt 1 ] && [ $n -lt 40 ]; do
          comm=; read -r comm 2>/dev/null <"/proc/$pid/comm" || break
          case "$comm" in sshd*) top=$pid;; dropbear*) say server dropbear; exit 0;; esac
          pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null)
          n=$((n+1))
        done
        [ -n "$top" ] || { say server unknown; exit 0; }
        say server openssh
        line=$(tr '\\000' ' ' <"/proc/$top/cmdline" 2>/dev/null)
        listener=
        case "$line" in
          "sshd: "*"[listener]"*) listener=$top;;
          sshd*": "*) ;;
          *) listener=$top;;
        esac
        sshd=$(readlink "/proc/$top/exe" 2>/dev/null); sshd=${sshd% (deleted)}
        case "$sshd" in */sshd) [ -x "$sshd" ] || sshd=;; *) sshd=;; esac
        [ -n "$sshd" ] || sshd=$(command -v sshd) || refuse "there is no sshd program in PATH to test a configuration with"
        config=\(ShellScript.quote(configuration ?? ""))
        if [ -z "$config" ]; then
          config=/etc/ssh/sshd_config
          if [ -n "$listener" ]; then
            before=
            set -f
            for word in $line; do
              case "$before" in -f|-[46DdeiqtT]*f) config=$word;; esac
              case "$word" in -f?*) config=${word#-f};; esac
              before=$word
            done
            set +f
          fi
        fi
        [ -r "$config" ] || refuse "$config cannot be read; name the file of this sshd with --sshd-config"
        lines=$(effective) || refuse "sshd does not accept its present configuration: $lines"
        if [ -z "$listener" ]; then
          f=$(echo "$lines" | sed -n 's/^pidfile //p')
          p=; [ -f "$f" ] && read -r p 2>/dev/null <"$f" || p=
          comm=; read -r comm 2>/dev/null <"/proc/${p:-0}/comm"
          [ "$comm" = sshd ] && listener=$p
        fi
        say sshd "$sshd"
        say config "$config"
        say listener "$listener"
        i=0
        echo "$lines" | sed -n 's/^hostkey //p' | while read -r f; do
          say "key.$i.file" "$f"
          if [ -f "$f.pub" ] && [ -r "$f.pub" ]; then say "key.$i.public" "$(cat "$f.pub")"
          elif [ -r "$f" ]; then say "key.$i.public" "$(ssh-keygen -y -P '' -f "$f" 2>/dev/null </dev/null)"; fi
          [ -f "$f-cert.pub" ] && [ -r "$f-cert.pub" ] && say "key.$i.certificate" "$(cat "$f-cert.pub")"
          i=$((i+1))
        done
        i=0
        echo "$lines" | sed -n 's/^hostcertificate //p' | while read -r f; do say "certificate.$i" "$f"; i=$((i+1)); done
        say users "$(echo "$lines" | sed -n 's/^trustedusercakeys //p')"
        grep -q '^\(blockBegin)$' "$config" && say block 1
        # A directory that is included before any Match: what stands there counts for everybody.
        set -f
        while read -r key rest || [ -n "$key" ]; do
          case "$key" in
            [Mm][Aa][Tt][Cc][Hh]) break;;
            [Ii][Nn][Cc][Ll][Uu][Dd][Ee])
              for word in $rest; do
                word=${word#\\"}; word=${word%\\"}
                case "$word" in */\\*.conf|*/\\*) d=${word%/*};; *) continue;; esac
                case "$d" in /*) ;; *) d="/etc/ssh/$d";; esac
                if [ -d "$d" ]; then say dropin "$d/\(dropInName)"; break 2; fi
              done;;
          esac
        done <"$config"
        set +f
        say done 1
        """
    }

    /// One file that is to be as said, or to go.
    enum Change: Hashable, Sendable {
        /// Mode 0644, replaced by a rename.
        case write(path: String, content: String)
        case remove(path: String)
        /// The marked lines of sshd_config itself; nil takes them away. All other lines stay as they are.
        case block(String?)
    }

    /// Definitions that the scripts below share.
    private static func setup(_ server: SSHServerFacts) -> String {
        """
        \(prelude)
        sshd=\(ShellScript.quote(server.program))
        config=\(ShellScript.quote(server.configuration))
        listener=\(server.listener.map { "\($0)" } ?? "")
        config=$(readlink -f "$config" 2>/dev/null || echo "$config")
        work="${config%/*}/.bootstrap-certificates"
        boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
        service() {
          [ -n "$listener" ] || return 1
          if has systemctl; then
            for u in ssh sshd; do
              [ "$(systemctl show -p MainPID "$u.service" 2>/dev/null)" = "MainPID=$listener" ] && systemctl "$1" "$u.service" >/dev/null 2>&1 && return 0
            done
          fi
          if has rc-service && [ -e /run/openrc/softlevel ]; then
            for f in /run/sshd.pid /var/run/sshd.pid; do
              p=; [ -f "$f" ] && read -r p 2>/dev/null <"$f" || continue
              [ "$p" = "$listener" ] && rc-service sshd "$1" >/dev/null 2>&1 && return 0
            done
          fi
          return 1
        }
        # Without a listener every connection has an sshd of its own, which reads the configuration anew.
        reload() {
          [ -n "$listener" ] || return 0
          if kill -0 "$listener" 2>/dev/null; then service reload || kill -HUP "$listener"; return; fi
          service restart || "$sshd" -f "$config"
        }
        undo() {
          [ -d "$work" ] || return 0
          bad=
          if [ -e "$work/list" ]; then
            while read -r i path; do
              rm -f "$path.bootstrap-new"
              if [ -e "$work/old.$i" ]; then
                { cp -p "$work/old.$i" "$path.bootstrap-old" && mv -f "$path.bootstrap-old" "$path"; } || bad="$bad $path"
              else
                rm -f "$path" || bad="$bad $path"
              fi
            done <"$work/list"
          fi
          if [ -e "$work/reloaded" ]; then reload || bad="$bad (sshd was not reloaded)"; fi
          if [ -n "$bad" ]; then echo "left=$bad"; return 1; fi
          rm -rf "$work"
        }
        """
    }

    /// Makes the changes, tests them, and has sshd read them. When anything fails everything is as it was before.
    ///
    /// - Parameter effective: Lines that `sshd -T` must have then.
    static func apply(_ changes: [Change], effective: [String], _ server: SSHServerFacts) -> String {
        var script = """
            \(setup(server))
            refuse() { undo; echo "error=$1"; exit 1; }
            if ! why=$(mkdir "$work" 2>&1); then
              [ -d "$work" ] || { echo "error=$work cannot be made: $why"; exit 1; }
              read -r other otherboot 2>/dev/null <"$work/pid" || other=
              if [ -n "$other" ] && [ "$otherboot" = "$boot" ] && kill -0 "$other" 2>/dev/null; then
                echo "error=another bootstrap (process $other) is changing this sshd"; exit 1
              fi
              # One that was cut: what it did was never confirmed.
              undo && mkdir "$work" || { echo "error=what an earlier run left in $work could not be undone"; exit 1; }
            fi
            chmod 700 "$work"
            echo "$$ $boot" >"$work/pid" || refuse "$work/pid cannot be written (disk full?)"
            touch_file() {
              if [ -e "$2" ] || [ -L "$2" ]; then cp -p "$2" "$work/old.$1" || refuse "$2 cannot be kept"; fi
              echo "$1 $2" >>"$work/list" || refuse "$work/list cannot be written"
            }
            put() {
              touch_file "$1" "$2"
              why=$( { cp -p "$3" "$2.bootstrap-new" && cat "$work/new.$1" >"$2.bootstrap-new" && mv -f "$2.bootstrap-new" "$2"; } 2>&1 ) || refuse "$2 cannot be written: $why"
            }

            """
        for (index, change) in changes.enumerated() {
            switch change {
            case .write(let path, let content):
                script += """
                    printf '%s' \(ShellScript.quote(content)) >"$work/new.\(index)" || refuse "$work cannot be written (disk full?)"
                    chmod 644 "$work/new.\(index)"
                    put \(index) \(ShellScript.quote(path)) "$work/new.\(index)"

                    """
            case .remove(let path):
                script += """
                    f=\(ShellScript.quote(path))
                    if [ -e "$f" ]; then touch_file \(index) "$f"; rm -f "$f" || refuse "$f cannot be removed"; echo "removed=$f"; fi

                    """
            case .block(let text):
                script += """
                    had=; grep -q '^\(blockBegin)$' "$config" && had=1
                    sed '/^\(blockBegin)$/,/^\(blockEnd)$/d' "$config" >"$work/rest" || refuse "$config cannot be read"

                    """
                script +=
                    text.map { block($0, index) } ?? """
                        if [ -n "$had" ]; then cp "$work/rest" "$work/new.\(index)" && put \(index) "$config" "$config"; echo "removed=lines of $config"; fi

                        """
            }
        }
        script += """
            why=$("$sshd" -t -f "$config" 2>&1) || refuse "sshd -t refuses the new configuration, so nothing was changed: $why"
            lines=$(effective)

            """
        for line in effective {
            script += """
                echo "$lines" | grep -qxF \(ShellScript.quote(line)) || refuse \(ShellScript.quote("'\(line)' has no effect: another line of sshd's configuration decides"))

                """
        }
        return script + """
            : >"$work/reloaded"
            reload || refuse "sshd was not reloaded"
            sleep 1
            true
            """
    }

    /// At the end, or before the first `Match`: what stands behind one counts for that alone.
    private static func block(_ text: String, _ index: Int) -> String {
        """
        printf '%s' \(ShellScript.quote("\(blockBegin)\n\(text)\(blockEnd)\n")) >"$work/block"
        m=$(grep -n -i '^[[:space:]]*match[[:space:]=]' "$work/rest" | sed -n '1s/:.*//p')
        if [ -n "$m" ]; then
          { [ "$m" -eq 1 ] || sed "$((m-1))q" "$work/rest"; cat "$work/block"; sed -n "$m,\\$p" "$work/rest"; } >"$work/new.\(index)"
        else
          { cat "$work/rest"; [ -z "$(tail -c 1 "$work/rest")" ] || echo; cat "$work/block"; } >"$work/new.\(index)"
        fi || refuse "$work cannot be written (disk full?)"
        put \(index) "$config" "$config"

        """
    }

    /// Leaves a change alone that another shell is at.
    private static let isOurs = """
        owner=; read -r owner rest 2>/dev/null <"$work/pid"
        [ "$owner" = "$$" ] || exit 0
        """

    /// What is done when nobody has confirmed a change. It says `left=…` for what could not be taken back.
    static func undo(_ server: SSHServerFacts) -> String { "\(setup(server))\n\(isOurs)\nundo" }

    /// The change stays.
    static func keep(_ server: SSHServerFacts) -> String { "\(setup(server))\n\(isOurs)\nrm -rf \"$work\"" }
}

import Platform
import SSHSignal

/// The script that finds out what a machine is and where the agent could live: one round trip, read-only but for a file
/// that is written, run and removed in each candidate directory.
enum ProbeScript {
    /// - Parameters:
    ///   - bases: candidate directories, best first; `~/` stands for the home directory there.
    ///   - release: the directory name of the release to be installed (see ``AgentRelease``).
    ///   - interpreter: what the agent needs to be started with; empty for a static one.
    ///   - libraries: shared libraries it needs.
    ///   - libraryPaths: absolute directories it looks in, beside the system's.
    static func text(
        bases: [String],
        release: String,
        interpreter: String?,
        libraries: [String],
        libraryPaths: [String]
    ) -> String {
        let candidates = bases.map { base in
            base == "~" || base.hasPrefix("~/")
                ? "\"$HOME\"" + ShellScript.quote(String(base.dropFirst())) : ShellScript.quote(base)
        }
        return """
            export LC_ALL=C
            PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            umask 077
            has() { command -v "$1" >/dev/null 2>&1; }
            say() { echo "$1=$2"; }
            # In the order of uname(1), whatever the order of the flags. Each program that is started costs a small machine milliseconds.
            read -r os host kernel arch rest <<END
            $(uname -snrm)
            END
            say os "$os"
            say arch "$arch"
            say kernel "$kernel"
            uid=$(id -u)
            user=$(id -un 2>/dev/null)
            say uid "$uid"
            say user "$user"
            say home "$HOME"
            say host "$host"
            say epoch "$(date +%s)"
            boot=; read -r boot 2>/dev/null </proc/sys/kernel/random/boot_id
            say boot "$boot"
            case "$arch" in
              x86_64|aarch64|i?86|riscv64|loongarch64) say endian 1;;
              # The sixth byte of an ELF file: 1 is little endian, 2 big.
              *) say endian "$(dd if=/bin/sh bs=1 skip=5 count=1 2>/dev/null | od -An -tu1 2>/dev/null | tr -d ' ')";;
            esac
            if has getconf && v=$(getconf GNU_LIBC_VERSION 2>/dev/null); then say libc "$v"
            else for f in /lib/ld-musl-*; do [ -e "$f" ] && say libc musl; done; fi
            for t in sha256sum openssl ssh-keygen base64 crontab timeout; do has $t && say "tool.$t" 1; done
            # One that is there may not run, or not undo what it does not make (busybox): it has to undo "ab".
            undoes() { has $1 && [ "$(printf "$2" | $1 -dc 2>/dev/null)" = ab ] && say "tool.$1" 1; }
            undoes gzip '\\037\\213\\010\\000\\000\\000\\000\\000\\002\\003\\113\\114\\002\\000\\155\\110\\203\\236\\002\\000\\000\\000'
            undoes xz '\\375\\067\\172\\130\\132\\000\\000\\001\\151\\042\\336\\066\\002\\000\\041\\001\\034\\000\\000\\000\\020\\317\\130\\314\\001\\000\\001\\141\\142\\000\\000\\000\\155\\110\\203\\236\\000\\001\\026\\002\\320\\141\\020\\322\\220\\102\\231\\015\\001\\000\\000\\000\\000\\001\\131\\132'
            undoes zstd '\\050\\265\\057\\375\\004\\130\\021\\000\\000\\141\\142\\141\\112\\320\\222'
            for f in /etc/ssh/ssh_host_*_key.pub; do
              [ -f "$f" ] && [ -r "$f" ] && read -r type key rest 2>/dev/null <"$f" && say hostkey "$type $key"
            done
            [ "$(printf ab | head -c 1 2>/dev/null)" = a ] && say tool.head 1
            \(SurroundingsScript.text)
            interpreter=\(ShellScript.quote(interpreter ?? ""))
            if [ -n "$interpreter" ]; then
              [ -x "$interpreter" ] || echo "missing.interpreter=$interpreter"
              for l in \(libraries.map(ShellScript.quote).joined(separator: " ")); do
                found=
                for d in \((libraryPaths.map(ShellScript.quote)).joined(separator: " ")) /lib /usr/lib /lib64 /usr/lib64 /lib/*-linux-gnu /usr/lib/*-linux-gnu /usr/local/lib; do
                  [ -e "$d/$l" ] && found=1 && break
                done
                [ -n "$found" ] || echo "missing.$l=1"
              done
            fi
            sum() {
              # OpenSSL uses the processor's instructions for it, and takes a quarter of the time.
              sum=$( { openssl dgst -sha256 -r "$1" || sha256sum "$1"; } 2>/dev/null )
              echo "${sum%% *}"
            }
            \(StrictDirectories.functions)
            n=0
            for base in \(candidates.joined(separator: " ")); do
              say "base.$n" "$base"
              root="$base/bootstrap"
              # What does not exist yet is made in the nearest directory that does.
              at=$(nearest "$root")
              say "base.$n.at" "$at"
              # One that a power cut has left. That the operator is gone (HUP, PIPE) leaves none: see the end of this.
              for f in "$at"/.bootstrap-probe.*; do
                [ -e "$f" ] && [ ! -d "/proc/${f##*.}" ] && rm -f "$f" 2>/dev/null
              done
              trap '' HUP PIPE
              f="$at/.bootstrap-probe.$$"
              others=
              [ "$uid" = 0 ] && others=$(foreign "$at")
              if [ -n "$others" ]; then
                say "base.$n.why" "$others"
              elif why=$( { printf '#!/bin/sh\\necho ran\\n' >"$f" && chmod 700 "$f"; } 2>&1 ) && [ -s "$f" ]; then
                say "base.$n.write" 1
                why=$("$f" 2>&1)
                if [ "$why" = ran ]; then say "base.$n.exec" 1; else say "base.$n.why" "$why"; fi
              else
                # What some shells say of a file that was made, and took no byte.
                case "$why" in ''|*"I/O error"*) [ ! -e "$f" ] || [ -s "$f" ] || why="No space left on device";; esac
                say "base.$n.why" "$why"
              fi
              rm -f "$f" 2>/dev/null
              trap - HUP PIPE
              # FILESYSTEM BLOCKS USED FREE CAPACITY% MOUNT, in the last line; a directory's name may have anything in it.
              line=$(df -Pk "$at" 2>/dev/null)
              line="${line##*
            }"
              free="${line%%%*}"; free="${free%[ ]*}"
              while [ "${free%[ ]}" != "$free" ]; do free="${free%[ ]}"; done
              say "base.$n.free" "${free##*[ ]}"
              case "$line" in tmpfs*|ramfs*) say "base.$n.volatile" 1;; esac
              agent="$root/"\(ShellScript.quote(release))/bootstrap
              [ -f "$agent" ] && say "base.$n.agent" "$(sum "$agent")"
              [ -L "$root/current" ] && say "base.$n.current" "$(readlink "$root/current" 2>/dev/null || echo unknown)"
              # See AgentInstaller: one installer at a time, and what it leaves when it is cut.
              if [ -d "$root/.lock" ]; then
                pid=; theirs=; [ -f "$root/.lock/owner" ] && read -r pid theirs rest 2>/dev/null <"$root/.lock/owner"
                if [ -n "$pid" ] && [ "$theirs" = "$boot" ] && [ -d "/proc/$pid" ]; then say "base.$n.installer" "$pid"
                else say "base.$n.cut" 1; fi
              fi
              for f in "$root"/*/bootstrap.part.*; do [ -e "$f" ] && say "base.$n.cut" 1 && break; done
              if [ -f "$root/state/node.pid" ] && read -r pid <"$root/state/node.pid" 2>/dev/null && [ -d "/proc/$pid" ]; then say "base.$n.node" "$pid"; fi
              n=$((n+1))
            done
            say done 1
            """
    }
}

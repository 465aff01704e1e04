/// Shell functions that find out whether others can put something of theirs in a place.
enum StrictDirectories {
    /// `foreign PATH`: as sshd's StrictModes, says what is wrong with the first place on the way to the absolute `PATH`
    /// at which others than root may put something else: a directory that they can write to, or a link of theirs. What
    /// a link names is on the way, too. A sticky directory keeps what is root's. Nothing where nothing is wrong.
    /// `nearest PATH`: the nearest directory that exists.
    static let functions = """
        nearest() {
          at="$1"
          while [ ! -d "$at" ] && [ -n "$at" ]; do
            [ -e "$at" ] && break
            at="${at%/*}"
          done
          echo "${at:-/}"
        }
        foreign() {
          d=; rest="${1#/}"; hops=0
          set -- /
          # As the kernel goes: each name in the directory that was reached, each link where it leads.
          while [ -n "$rest" ]; do
            name="${rest%%/*}"
            case "$rest" in */*) rest="${rest#*/}";; *) rest=;; esac
            case "$name" in
              ''|.) continue;;
              ..) d="${d%/*}"; continue;;
            esac
            d="$d/$name"; set -- "$@" "$d"
            [ -L "$d" ] || continue
            hops=$((hops+1))
            to=$(readlink "$d" 2>/dev/null)
            [ -n "$to" ] && [ $hops -le 40 ] || { echo "where the link $d leads cannot be told"; return; }
            case "$to" in /*) d=;; *) d="${d%/*}";; esac
            rest="$to/$rest"
          done
          # One program for all of them; another for each only where something is wrong.
          ls -ldn "$@" 2>/dev/null | strict $# || for d in "$@"; do
            line=$(ls -ldn "$d" 2>/dev/null)
            [ -n "$line" ] || { echo "who can write into $d cannot be told: ls -ldn $d says nothing"; return; }
            echo "$line" | strict 1 && continue
            if [ -L "$d" ]; then echo "the link $d is not root's (ls -ld $d)"
            else echo "others than root can write into $d (ls -ld $d)"; fi
            return
          done
        }
        # Of "$1" directories and links. One that ls(1) says nothing of is not known to be root's.
        strict() {
          seen=0
          while read -r mode links owner more; do
            seen=$((seen+1))
            [ "$owner" = 0 ] || return 1
            case "$mode" in l*|?????-??-*|?????????[tT]*) ;; *) return 1;; esac
          done
          [ $seen -ge "$1" ]
        }
        """
}

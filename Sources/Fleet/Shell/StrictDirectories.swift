/// Shell functions that find out whether others can put something of theirs in a place.
enum StrictDirectories {
    /// `foreign DIR`: as sshd's StrictModes, says what is wrong with the first directory on the way to `DIR` in which
    /// others than root may put something else into the place of what is below. A sticky one keeps what is root's.
    /// Nothing where nothing is wrong. `nearest PATH`: the nearest directory that exists.
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
          rest=$(cd "$1" 2>/dev/null && pwd -P) || return
          set -- /
          d=; rest="${rest#/}"
          while [ -n "$rest" ]; do
            d="$d/${rest%%/*}"; set -- "$@" "$d"
            case "$rest" in */*) rest="${rest#*/}";; *) rest=;; esac
          done
          # One program for all of them; another for each only where something is wrong.
          ls -ldn "$@" 2>/dev/null | strict $# || for d in "$@"; do
            line=$(ls -ldn "$d" 2>/dev/null)
            [ -n "$line" ] || { echo "who can write into $d cannot be told: ls -ldn $d says nothing"; return; }
            echo "$line" | strict 1 || { echo "others than root can write into $d (ls -ld $d)"; return; }
          done
        }
        # Of "$1" directories. One that ls(1) says nothing of is not known to be root's.
        strict() {
          seen=0
          while read -r mode links owner more; do
            seen=$((seen+1))
            [ "$owner" = 0 ] || return 1
            case "$mode" in ?????-??-*|?????????[tT]*) ;; *) return 1;; esac
          done
          [ $seen -ge "$1" ]
        }
        """
}

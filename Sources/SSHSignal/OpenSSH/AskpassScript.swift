import Platform

/// What answers the questions of an `ssh` whose password is in a file (ssh(1), SSH_ASKPASS): the destination's question
/// for the password with the file's first line, any other at the terminal.
///
/// The password itself is in no argument and no environment. A jump host's `ssh` inherits the variables, and is not
/// answered: its questions name another account.
struct AskpassScript: Hashable {
    /// Of the password; its first line counts.
    let file: String
    /// The account, as `ssh` names it in its questions.
    let user: String
    /// As `ssh` names it there: the alias of its key comes before its name.
    let host: String
    /// Whether there is no other `ssh` on the way that might ask: servers' own questions name no account before
    /// OpenSSH 8.5.
    let isDirect: Bool

    var text: String {
        let account = "\(user)@\(host)"
        // Some releases of ssh cut both in `USER@HOST's password: `.
        let cut = "\(user.prefix(30))@\(host.prefix(128))"
        var questions = (account == cut ? [account] : [account, cut]).map { name in
            "\(ShellScript.quote(name))\"'s password: \""
        }
        questions.append("'('\(ShellScript.quote(account))') '*[Pp]assword*")
        if isDirect { questions.append("[Pp]assword*") }
        return """
            #!/bin/sh
            case "$1" in
            \(questions.joined(separator: "|")))
              IFS= read -r line <\(ShellScript.quote(file)) || [ -n "$line" ] || exit 1;;
            *)
              { exec 3<>/dev/tty; } 2>/dev/null || exit 1
              printf '%s' "$1" >&3
              case "$SSH_ASKPASS_PROMPT$1" in confirm*|*yes/no*) ;; *) stty -echo <&3; trap 'stty echo <&3' EXIT INT TERM;; esac
              IFS= read -r line <&3 || exit 1;;
            esac
            printf '%s\\n' "$line"

            """
    }

    /// For the `ssh` that asks it.
    static func environment(_ path: String, _ environment: [String: String]) -> [String: String] {
        var environment = environment
        environment["SSH_ASKPASS"] = path
        // OpenSSH 8.4 and newer; older ones ask it where there is no terminal.
        environment["SSH_ASKPASS_REQUIRE"] = "force"
        if environment["DISPLAY"] == nil { environment["DISPLAY"] = ":0" }
        return environment
    }
}

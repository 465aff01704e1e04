import TestPeers

/// A terminal, which Python's pty plays, and the person at it, who does not answer.
enum TerminalPerson {
    /// Starts a program on a terminal of its own, waits for a question, and presses a key or sends a signal. Prints
    /// what was on the terminal, and whether it echoes afterwards; ends with the program's code.
    private static let person = """
        import os, signal, sys, termios
        what, program = sys.argv[1], sys.argv[2:]
        terminal, mine = os.openpty()
        pid = os.fork()
        if pid == 0:
            os.close(terminal)
            os.login_tty(os.dup(mine))
            os.closerange(3, 64)
            os.execvp(program[0], program)
        seen, asked = b"", False
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            import select
            if select.select([terminal], [], [], 0.05)[0]:
                seen += os.read(terminal, 4096)
            if not asked and seen.rstrip(b" ").endswith((b":", b"?")):
                asked = True
                sys.stdout.write("echo before: %s\\n" % bool(termios.tcgetattr(mine)[3] & termios.ECHO))
                if what == "ctrl-c":
                    os.write(terminal, b"\\x03")
                else:
                    os.kill(pid, getattr(signal, what))
        while select.select([terminal], [], [], 0)[0]:
            seen += os.read(terminal, 4096)
        sys.stdout.write("echo after: %s\\n" % bool(termios.tcgetattr(mine)[3] & termios.ECHO))
        sys.stdout.write(seen.decode())
        sys.stdout.flush()
        code = os.waitstatus_to_exitcode(status)
        sys.exit(code if code >= 0 else 200 - code)
        """

    static func play(_ what: String, _ arguments: [String], _ journey: Journey) async throws -> ChildProcess.Output {
        try await ChildProcess.run(
            "python3",
            ["-c", person, what, TestTools.bootstrap] + arguments,
            environment: [
                "HOME": journey.home, "BOOTSTRAP_HOME": journey.directory.path("home/.bootstrap"), "SSH_AUTH_SOCK": nil,
            ],
            within: .seconds(60)
        )
    }
}

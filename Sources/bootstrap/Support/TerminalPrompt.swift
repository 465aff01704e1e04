import Glibc
import MeshIdentity

/// Questions to the person at the terminal. They go to /dev/tty, so that stdin and stdout stay free for data.
enum TerminalPrompt {
    /// Asks for a passphrase without showing it; nil if there is no terminal, or the input ends.
    ///
    /// The terminal echoes again afterwards, also when the question is interrupted by a signal that ends the process.
    static func passphrase(_ question: String) -> Passphrase? {
        let terminal = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)
        guard terminal >= 0 else { return nil }
        defer { close(terminal) }
        var before = termios()
        guard tcgetattr(terminal, &before) == 0 else { return nil }
        // Signals wait until the echo is back: Ctrl-C then ends the process as always, on a terminal that works.
        var (signals, unblocked) = (sigset_t(), sigset_t())
        sigemptyset(&signals)
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP] { sigaddset(&signals, signal) }
        pthread_sigmask(SIG_BLOCK, &signals, &unblocked)
        defer { pthread_sigmask(SIG_SETMASK, &unblocked, nil) }
        var silent = before
        silent.c_lflag &= ~tcflag_t(ECHO | ECHOE | ECHOK | ISIG)
        guard tcsetattr(terminal, TCSAFLUSH, &silent) == 0 else { return nil }
        defer {
            tcsetattr(terminal, TCSAFLUSH, &before)
            put("\n", on: terminal)
        }
        put(question, on: terminal)
        var line: [UInt8] = []
        defer { for index in line.indices { line[index] = 0 } }
        var byte: UInt8 = 0
        while true {
            let count = read(terminal, &byte, 1)
            if count < 0, errno == EINTR { continue }
            // 3 is Ctrl-C, which is a byte like any other while signals are off.
            guard count == 1, byte != 3, line.count < 4096 else { return nil }
            if byte == UInt8(ascii: "\n") { return Passphrase(line) }
            line.append(byte)
        }
    }

    private static func put(_ text: String, on terminal: Int32) {
        var text = text
        _ = text.withUTF8 { write(terminal, $0.baseAddress, $0.count) }
    }
}

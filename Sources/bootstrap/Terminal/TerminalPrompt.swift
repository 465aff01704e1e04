import CLinux
import Glibc
import MeshIdentity
import Platform
import Streams

/// Questions to the person at the terminal. They go to /dev/tty, so that stdin and stdout stay free for data.
///
/// One question at a time, whoever asks: the logins of a fleet wait for each other here.
enum TerminalPrompt {
    private static let turn = Lock(())

    /// Whether there is a person to ask.
    static var isAvailable: Bool {
        let terminal = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)
        guard terminal >= 0 else { return false }
        close(terminal)
        return true
    }

    /// Asks for a passphrase without showing it; nil if there is no terminal, or the input ends.
    ///
    /// The terminal echoes again afterwards, also when the question is interrupted by a signal that ends the process.
    static func passphrase(_ question: String) -> Passphrase? {
        turn.withLock { _ in ask(question, isSecret: true) }
    }

    /// Asks a question whose answer may be seen; nil if there is no terminal, or the input ends.
    static func line(_ question: String) -> String? {
        turn.withLock { _ in ask(question, isSecret: false) }?.withBytes { String(decoding: $0, as: UTF8.self) }
    }

    /// The same from async code: a person takes minutes, so a thread of its own waits for the answer.
    static func answer(_ question: String, isSecret: Bool) async -> Passphrase? {
        await withCheckedContinuation { continuation in
            let request = Request(question: question, isSecret: isSecret) { continuation.resume(returning: $0) }
            var thread = pthread_t()
            let context = Unmanaged.passRetained(request)
            guard pthread_create(&thread, nil, requestThread, context.toOpaque()) == 0 else {
                context.release()
                return continuation.resume(returning: nil)
            }
            pthread_detach(thread)
        }
    }

    private static func ask(_ question: String, isSecret: Bool) -> Passphrase? {
        let terminal = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)
        guard terminal >= 0 else { return nil }
        defer { close(terminal) }
        guard isSecret else {
            put(question, on: terminal)
            return readLine(terminal)
        }
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
        return readLine(terminal)
    }

    private static func readLine(_ terminal: Int32) -> Passphrase? {
        var line: [UInt8] = []
        defer { for index in line.indices { line[index] = 0 } }
        // No reallocation leaves a copy behind.
        line.reserveCapacity(4096)
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
        var text = Printable.cleanText(text)
        _ = text.withUTF8 { write(terminal, $0.baseAddress, $0.count) }
    }

    fileprivate final class Request: Sendable {
        let question: String
        let isSecret: Bool
        let completion: @Sendable (Passphrase?) -> Void

        init(question: String, isSecret: Bool, completion: @escaping @Sendable (Passphrase?) -> Void) {
            self.question = question
            self.isSecret = isSecret
            self.completion = completion
        }

        func run() { completion(turn.withLock { _ in ask(question, isSecret: isSecret) }) }
    }
}

private let requestThread: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = { argument in
    guard let argument else { return nil }
    Unmanaged<TerminalPrompt.Request>.fromOpaque(argument).takeRetainedValue().run()
    return nil
}

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
    /// The terminal of a question that nobody has answered yet, and how it was before.
    private static let open = Lock<(terminal: Int32, before: termios?)?>(nil)

    /// Whether there is a person to ask.
    static var isAvailable: Bool {
        let terminal = Glibc.open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)
        guard terminal >= 0 else { return false }
        close(terminal)
        return true
    }

    /// Asks for a passphrase without showing it; nil if there is no terminal, or the input ends.
    ///
    /// The terminal echoes again afterwards, also when a signal interrupts the question. Ctrl-C ends the process with
    /// 130, or whatever the command does with it.
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

    /// The process ends: a terminal that was silent for a question echoes again. A signal that a command traps may not
    /// have come to the question at all.
    ///
    /// - Returns: Whether there was a question.
    static func abandon() -> Bool {
        open.withLock { asked in
            guard let (terminal, before) = asked else { return false }
            asked = nil
            settle(terminal, before)
            return true
        }
    }

    /// After a question that was not answered, or whose answer was not seen.
    private static func settle(_ terminal: Int32, _ before: termios?) {
        if var before { tcsetattr(terminal, TCSAFLUSH, &before) }
        put("\n", on: terminal)
    }

    private static func ask(_ question: String, isSecret: Bool) -> Passphrase? {
        let terminal = Glibc.open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)
        guard terminal >= 0 else { return nil }
        defer { close(terminal) }
        while !PromptSignals.wereInterrupted {
            let (answer, signals) = askOnce(question, isSecret: isSecret, on: terminal)
            // A question that was stopped with Ctrl-Z is asked again by whoever continues.
            for signal in signals { PromptSignals.deliver(signal) }
            guard signals.contains(SIGTSTP), answer == nil else { return answer }
        }
        return nil
    }

    /// - Returns: With the signals that came meanwhile: the first has ended the question.
    private static func askOnce(
        _ question: String,
        isSecret: Bool,
        on terminal: Int32
    ) -> (answer: Passphrase?, signals: [Int32]) {
        guard let kept = PromptSignals.keep() else { return (nil, []) }
        guard begin(terminal, isSecret: isSecret) else { return (nil, PromptSignals.release(kept)) }
        put(question, on: terminal)
        let answer = readLine(terminal, until: kept.reader)
        open.withLock { asked in
            guard let (terminal, before) = asked else { return }
            asked = nil
            if isSecret || answer == nil { settle(terminal, before) }
        }
        return (answer, PromptSignals.release(kept))
    }

    private static func begin(_ terminal: Int32, isSecret: Bool) -> Bool {
        open.withLock { asked in
            guard isSecret else {
                asked = (terminal, nil)
                return true
            }
            var before = termios()
            guard tcgetattr(terminal, &before) == 0 else { return false }
            var silent = before
            silent.c_lflag &= ~tcflag_t(ECHO | ECHOE | ECHOK)
            asked = (terminal, before)
            guard tcsetattr(terminal, TCSAFLUSH, &silent) == 0 else {
                asked = nil
                return false
            }
            return true
        }
    }

    /// nil when the input ends, or `interruption` becomes readable.
    private static func readLine(_ terminal: Int32, until interruption: Int32) -> Passphrase? {
        var line: [UInt8] = []
        defer { for index in line.indices { line[index] = 0 } }
        // No reallocation leaves a copy behind.
        line.reserveCapacity(4096)
        var byte: UInt8 = 0
        while true {
            var ready = [
                pollfd(fd: terminal, events: Int16(POLLIN), revents: 0),
                pollfd(fd: interruption, events: Int16(POLLIN), revents: 0),
            ]
            guard poll(&ready, nfds_t(ready.count), -1) > 0 else {
                guard errno == EINTR else { return nil }
                continue
            }
            guard ready[1].revents == 0 else { return nil }
            let count = read(terminal, &byte, 1)
            if count < 0, errno == EINTR { continue }
            guard count == 1, line.count < 4096 else { return nil }
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

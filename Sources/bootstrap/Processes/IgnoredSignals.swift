import CLinux
import Glibc
import UnixSignals

/// Whether this process was started with the signal ignored.
func isIgnored(_ number: Int32) -> Bool {
    var action = sigaction()
    guard sigaction(number, nil, &action) == 0 else { return false }
    return unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) == unsafeBitCast(SIG_IGN, to: Int.self)
}

/// Those of `signals` that end a command in order. One that whoever started it has it ignore stays ignored (`nohup`).
func trappable(_ signals: [UnixSignal]) -> [UnixSignal] {
    signals.filter { !isIgnored($0.rawValue) }
}

import Fleet
import Glibc
import Platform
import Synchronization

/// How far a copy has come, in a line of the terminal that is drawn over; the last of each file stays. Nothing
/// elsewhere.
final class TransferBar: Sendable {
    private struct State {
        var meter = TransferMeter()
        var name: String?
        var start = ContinuousClock.now
        var drawn: ContinuousClock.Instant?
    }

    private let isShown: Bool
    private let state = Mutex(State())

    init(isShown: Bool) { self.isShown = isShown && isatty(STDERR_FILENO) == 1 }

    func draw(_ name: String, _ done: UInt64, of total: UInt64) {
        guard isShown else { return }
        state.withLock { state in
            let now = ContinuousClock.now
            if state.name != name { state = State(name: name, start: now) }
            state.meter.add(done, of: total, at: now - state.start)
            guard state.drawn.map({ now - $0 >= .milliseconds(100) }) ?? true else { return }
            state.drawn = now
            put("\r\(state.meter.line(Printable.clean(name, limit: 40)))\u{1B}[K")
        }
    }

    /// The last line of a file stays.
    func finish(_ name: String) {
        guard isShown else { return }
        state.withLock { state in
            let elapsed = ContinuousClock.now - state.start
            if state.name == name {
                put("\r\(state.meter.summary(Printable.clean(name, limit: 40), elapsed))\u{1B}[K\n")
            }
            state.name = nil
        }
    }

    /// Makes room for another line.
    func clear() {
        guard isShown else { return }
        state.withLock { state in
            if state.name != nil { put("\r\u{1B}[K") }
            state.name = nil
        }
    }

    private func put(_ text: String) {
        var text = text
        text.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}

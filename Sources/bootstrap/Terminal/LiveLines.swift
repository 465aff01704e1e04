import Glibc
import Platform
import Synchronization

/// The last lines of a terminal: one for each machine that is being worked on, redrawn in place; what is finished
/// scrolls away above them.
///
/// Without a terminal nothing is drawn, and only finished lines appear.
final class LiveLines: Sendable {
    private struct State {
        /// In the order in which work on them began.
        var active: [(name: String, text: String)] = []
        var drawn = 0
        /// Questions that are being asked on the terminal.
        var pauses = 0
    }

    private let state = Mutex(State())
    private let descriptor: Int32
    let isEnabled: Bool

    /// - Parameter descriptor: Of the terminal.
    init(isEnabled: Bool, descriptor: Int32 = STDERR_FILENO) {
        self.descriptor = descriptor
        self.isEnabled = isEnabled && isatty(descriptor) == 1
    }

    func update(_ name: String, _ text: String) {
        guard isEnabled else { return }
        state.withLock { state in
            if let index = state.active.firstIndex(where: { $0.name == name }) {
                state.active[index].text = text
            } else {
                state.active.append((name, text))
            }
            redraw(&state)
        }
    }

    /// These lines, and no others.
    func show(_ lines: [String]) {
        guard isEnabled else { return }
        state.withLock { state in
            state.active = lines.map { ("", $0) }
            redraw(&state)
        }
    }

    func end(_ name: String) {
        guard isEnabled else { return }
        state.withLock { state in
            state.active.removeAll { $0.name == name }
            redraw(&state)
        }
    }

    /// Runs `print`, which writes whole lines, above the live ones.
    func above(_ print: () -> Void) {
        guard isEnabled else { return print() }
        state.withLock { state in
            put(clear(&state))
            print()
            redraw(&state)
        }
    }

    /// Runs `body`, during which nothing is drawn.
    func paused<Result: Sendable>(_ body: () async -> Result) async -> Result {
        pause()
        defer { resume() }
        return await body()
    }

    private func pause() {
        state.withLock { state in
            if isEnabled { put(clear(&state)) }
            state.pauses += 1
        }
    }

    private func resume() {
        state.withLock { state in
            state.pauses -= 1
            if isEnabled { redraw(&state) }
        }
    }

    private func clear(_ state: inout State) -> String {
        defer { state.drawn = 0 }
        return state.drawn > 0 ? "\r\u{1B}[\(state.drawn)A\u{1B}[J" : ""
    }

    private func redraw(_ state: inout State) {
        guard state.pauses == 0 else { return }
        var window = winsize()
        let known = ioctl(descriptor, UInt(TIOCGWINSZ), &window) == 0 && window.ws_col > 0
        let (columns, rows) = known ? (Int(window.ws_col), Int(window.ws_row)) : (80, 24)
        var text = clear(&state)
        // More than the screen has cannot be drawn over.
        let shown = state.active.prefix(max(1, rows - 2))
        for line in shown {
            text +=
                String(
                    Printable.cleanLine(
                        (line.name.isEmpty ? line.text : "\(line.name)  \(line.text)").utf8,
                        limit: columns
                    ).prefix(columns - 1)
                )
                + "\n"
        }
        state.drawn = shown.count
        put(text)
    }

    private func put(_ text: String) {
        var text = text
        text.withUTF8 { bytes in
            var rest = UnsafeRawBufferPointer(bytes)
            while !rest.isEmpty {
                let count = write(descriptor, rest.baseAddress, rest.count)
                guard count > 0 else { return }
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            }
        }
    }
}

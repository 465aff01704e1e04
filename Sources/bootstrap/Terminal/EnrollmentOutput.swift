import ArgumentParser
import Fleet
import Glibc
import Platform
import SSHSignal
import Synchronization

/// What `enroll` shows: a line for each step, a progress bar while there is one device and a terminal, a result for
/// each device.
final class EnrollmentOutput: EnrollmentReport {
    private let format: ResultFormat
    private let nameWidth: Int
    private let showsBar: Bool
    /// The percentage that the bar shows; nil while there is no bar on the line.
    private let bar = Mutex<Int?>(nil)
    private let succeeded = Mutex<[Device]>([])
    /// A line for each device that is under way.
    private let live: LiveLines

    /// Nobody can dial the devices: `connect` does not go where they are reached.
    private let isReverse: Bool

    init(format: ResultFormat, names: [String], isReverse: Bool = false) {
        self.format = format
        self.isReverse = isReverse
        nameWidth = names.map(\.count).max() ?? 0
        showsBar = names.count == 1 && isatty(STDERR_FILENO) == 1
        live = LiveLines(isEnabled: names.count > 1)
    }

    func progress(_ progress: EnrollmentProgress, of device: String) {
        guard Verbosity.current >= .normal else { return }
        switch progress {
        case .step(let step, let text, let duration):
            let time = duration.map { "  \(Int($0 / .milliseconds(1))) ms" } ?? ""
            if live.isEnabled { return live.update(pad(device, nameWidth), "\(pad(step, 8))  \(text)") }
            line("\(pad(device, nameWidth))  \(pad(step, 8))  \(text)\(time)")
        case .warning(let text): warning(text)
        case .uploading(let sent, let total):
            guard live.isEnabled, total > 0 else { return draw(sent, total) }
            live.update(pad(device, nameWidth), "upload    \(sent * 100 / total) % of \(total >> 10) KiB")
        }
    }

    /// The same logins; while somebody is asked, nothing is drawn over the question.
    func asking(for logins: LoginOptions) -> LoginOptions {
        var logins = logins
        if let ask = logins.prompts.hostKey {
            logins.prompts.hostKey = { [live] question in await live.paused { await ask(question) } }
        }
        if let ask = logins.prompts.passphrase {
            logins.prompts.passphrase = { [live] request in await live.paused { await ask(request) } }
        }
        if let show = logins.prompts.banner {
            logins.prompts.banner = { [self] text in
                clearBar()
                live.above { show(text) }
            }
        }
        return logins
    }

    /// For people: on stdout, unless that belongs to JSON. Not with `-q`.
    func line(_ text: String) {
        guard Verbosity.current >= .normal else { return }
        clearBar()
        live.above {
            if format == .text { printLine(text) } else { printNotice(text) }
        }
    }

    func warning(_ text: String) {
        clearBar()
        live.above { printWarning(text) }
    }

    func succeeded(_ record: Device) {
        live.end(pad(record.name, nameWidth))
        let left = describe(seconds: max(0, record.notAfter - WallClock.system.seconds))
        line(
            "\(pad(record.name, nameWidth))  \(pad("enrolled", 8))  \(record.identity), certificate until \(describe(time: record.notAfter)) (\(left))"
        )
        succeeded.withLock { $0.append(record) }
        json(Outcome(name: record.name, destination: record.destination, ok: true, record: record))
    }

    func failed(_ error: HostError, _ device: EnrollmentTarget) {
        clearBar()
        live.end(pad(device.name, nameWidth))
        live.above { printError("error: \(error.message)") }
        json(
            Outcome(
                name: device.name,
                destination: device.text,
                ok: false,
                reason: error.reason.rawValue,
                error: error.message
            )
        )
    }

    /// How many, and once more each that failed: the reasons have scrolled away.
    func summary(_ failures: [EnrollmentFailure], of count: Int) {
        defer { next() }
        guard count > 1 else { return }
        let failed = failures.isEmpty ? "" : ", \(failures.count) failed; --resume tries those again:"
        line("\(count - failures.count) of \(count) devices enrolled\(failed)")
        let width = failures.map(\.error.reason.rawValue.count).max() ?? 0
        for failure in failures.sorted(by: { $0.name < $1.name }) {
            line(
                "  \(pad(failure.name, nameWidth))  \(pad(failure.error.reason.rawValue, width))  \(failure.error.message)"
            )
        }
    }

    /// What comes next.
    private func next() {
        guard format == .text, let device = succeeded.withLock({ $0.first }) else {
            return
        }
        let reach =
            isReverse
            ? [("bootstrap status --probe \(device.name)", "see whether its connection to the gateway is there")]
            : device.advice
        let advice =
            reach + [
                ("bootstrap renew --watch", "keep certificates fresh; bootstrap status says how long they last")
            ]
        let width = advice.map(\.command.count).max() ?? 0
        for (index, (command, what)) in advice.enumerated() {
            line("\(index == 0 ? "Next: " : "      ")\(pad(command, width))    \(what)")
        }
    }

    private struct Outcome: Encodable {
        var name: String
        var destination: String
        var ok: Bool
        var reason: String?
        var error: String?
        var record: Device?
    }

    private func json(_ outcome: Outcome) {
        guard format == .json else { return }
        printJSON(outcome)
    }

    // MARK: Progress bar

    private func draw(_ sent: Int, _ total: Int) {
        guard showsBar, total > 0 else { return }
        let percent = sent * 100 / total
        bar.withLock { shown in
            guard shown != percent else { return }
            shown = percent
            let filled = percent * 30 / 100
            let picture = String(repeating: "#", count: filled) + String(repeating: ".", count: 30 - filled)
            put("\r[\(picture)] \(percent) %  \(sent >> 10) of \(total >> 10) KiB ")
        }
    }

    private func clearBar() {
        bar.withLock { shown in
            guard shown != nil else { return }
            shown = nil
            put("\r\u{1B}[K")
        }
    }

    private func put(_ text: String) {
        var text = text
        _ = text.withUTF8 { write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }

    private func pad(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }
}

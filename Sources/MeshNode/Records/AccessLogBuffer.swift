import Glibc
import Platform
import Streams

/// One loop's lines of the access log, handed over many at a time: a stream costs its line and nothing else, no lock
/// and no wake-up of another thread. Confined to its loop.
final class AccessLogBuffer {
    let log: AccessLog
    private let loop: EventLoop
    private var bytes = LineWriter()
    private var text = RecordText()
    private var lines = 0
    private var timer: LoopTimer?
    /// The second that ``clockText`` says.
    private var clockSecond: Int64 = .min
    /// The beginning of a line, up to the fractions of the second.
    private var clockText: [UInt8] = []

    /// A line is seen this much later at most.
    private static let delay: Duration = .milliseconds(50)
    /// For how long the texts of the last lines are kept.
    private static let memory: Duration = .seconds(1)
    private static let size = 32 << 10

    init(_ log: AccessLog, on loop: EventLoop) {
        self.log = log
        self.loop = loop
        timer = LoopTimer(on: loop) { [weak self] in self?.rest() }
    }

    func append(_ record: StreamRecord) {
        writeTime()
        text.write(record, into: &bytes)
        lines += 1
        if bytes.count >= Self.size { return flush() }
        if lines == 1 { timer?.schedule(after: Self.delay) }
    }

    func flush() {
        timer?.cancel()
        guard lines > 0 else { return }
        let count = lines
        lines = 0
        log.append(bytes.take(), lines: count)
    }

    /// The lines of late have waited long enough, or there were none.
    private func rest() {
        guard lines == 0 else {
            flush()
            timer?.schedule(after: Self.memory)
            return
        }
        text.forget()
        bytes.shrink()
    }

    /// With milliseconds; the part before them is made once a second.
    private func writeTime() {
        let now = WallClock.system.milliseconds
        let second = now / 1000
        if second != clockSecond {
            clockSecond = second
            clockText = Array("{\"time\":\"\(describe(time: second).dropLast()).".utf8)
        }
        bytes.append(clockText)
        bytes.append(UInt64(truncatingIfNeeded: now - second * 1000), digits: 3)
        bytes.append("Z\",\"id\":")
    }
}

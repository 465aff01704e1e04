import Glibc
import Platform
import Streams

/// One loop's lines of the access log, handed over many at a time: a stream costs its line and nothing else, no lock
/// and no wake-up of another thread. Confined to its loop.
final class AccessLogBuffer {
    let log: AccessLog
    private let loop: EventLoop
    private var json = JSONWriter()
    private var text = RecordText()
    private var lines = 0
    private var timer: LoopTimer?
    /// The second that ``clockText`` says.
    private var clockSecond: Int64 = .min
    private var clockText: [UInt8] = []

    /// A line is seen this much later at most.
    private static let delay: Duration = .milliseconds(50)
    private static let size = 16 << 10

    init(_ log: AccessLog, on loop: EventLoop) {
        self.log = log
        self.loop = loop
        timer = LoopTimer(on: loop) { [weak self] in
            self?.flush()
            self?.text.forget()
        }
    }

    func append(_ record: StreamRecord) {
        write(record)
        lines += 1
        if json.bytes.count >= Self.size { return flush() }
        if lines == 1 { timer?.schedule(after: Self.delay) }
    }

    func flush() {
        timer?.cancel()
        guard lines > 0 else { return }
        let count = lines
        lines = 0
        log.append(json.take(), lines: count)
        json.reserve(Self.size + Self.size / 8)
    }

    // MARK: A line

    private func write(_ record: StreamRecord) {
        let ticket = record.ticket
        json.object { json in
            json.key("time")
            json.raw(time())
            text.write(ticket, into: &json)
            json.key("sent")
            json.number(record.sent)
            json.key("received")
            json.number(record.received)
            if ticket.isOpen {
                json.key("open")
                json.seconds(nanoseconds: ticket.opened &- ticket.began)
            }
            json.key("duration")
            json.seconds(nanoseconds: record.ended &- ticket.began)
            switch record.outcome {
            case .ended: json.member("outcome", "ended")
            case .cut: json.member("outcome", "cut")
            case .refused: json.member("outcome", "refused")
            }
            switch record.endedBy {
            case .client: json.member("by", "client")
            case .destination: json.member("by", "destination")
            case .node: json.member("by", "node")
            }
            if let status = record.status {
                json.key("status")
                json.number(status)
            }
            if let failure = record.failure {
                json.key("code")
                json.string(failure.code.description)
                json.key("reason")
                json.string(failure.message)
            }
        }
        json.endLine()
    }

    /// Quoted, with milliseconds; the part before them is made once a second.
    private func time() -> [UInt8] {
        let now = WallClock.system.milliseconds
        let second = now / 1000
        if second != clockSecond {
            clockSecond = second
            clockText = Array("\"\(describe(time: second).dropLast()).000Z\"".utf8)
        }
        let digits = clockText.count - 5
        clockText[digits] = 0x30 + UInt8(truncatingIfNeeded: now / 100 % 10)
        clockText[digits + 1] = 0x30 + UInt8(truncatingIfNeeded: now / 10 % 10)
        clockText[digits + 2] = 0x30 + UInt8(truncatingIfNeeded: now % 10)
        return clockText
    }
}

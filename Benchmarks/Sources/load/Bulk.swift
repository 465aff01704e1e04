import Glibc

/// Bytes per second over `connections` connections, in one or both directions, each byte checked.
struct Bulk {
    enum Direction: String {
        case up = "u"
        case down = "d"
        case both = "b"
    }

    struct Result {
        /// Megabytes (10^6 bytes) per second in the measured time.
        var up = 0.0
        var down = 0.0
        /// Bytes moved in all, the warm-up too.
        var total: UInt64 = 0
    }

    private final class Connection {
        let socket: Int32
        var writer = BlockWriter()
        var reader = BlockReader()
        var answer: [UInt8] = []
        var isDone = false
        var hasAskedToStop = false

        init(_ socket: Int32) {
            self.socket = socket
        }
    }

    var port: UInt16
    var direction: Direction
    var connections: Int
    var warmUp: Double
    var seconds: Double

    func run() -> Result {
        let poller = Poller()
        var all: [Int32: Connection] = [:]
        let interest: UInt32 =
            switch direction {
            case .up: Poller.writable | Poller.readable
            case .down: Poller.readable
            case .both: Poller.readable | Poller.writable
            }
        for _ in 0..<connections {
            let socket = open(port: port)
            var mode = direction.rawValue.utf8.first!
            guard send(socket, &mode, 1, Int32(MSG_NOSIGNAL)) == 1 else { fail("cannot send: \(errorText())") }
            setNonBlocking(socket)
            all[socket] = Connection(socket)
            poller.add(socket, interest)
        }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: blockSize, alignment: 4096)
        defer { buffer.deallocate() }

        func sums() -> (up: UInt64, down: UInt64) {
            all.values.reduce(into: (0, 0)) {
                $0.0 += $1.writer.total
                $0.1 += $1.reader.total
            }
        }
        let start = now()
        let measureFrom = start + UInt64(warmUp * 1e9)
        let measureTo = measureFrom + UInt64(seconds * 1e9)
        let deadline = measureTo + 60_000_000_000
        var from: (at: UInt64, sums: (up: UInt64, down: UInt64))?
        var result: Result?
        var left = connections

        while left > 0 {
            poller.wait(100) { descriptor, events in
                guard let connection = all[descriptor] else { return }
                if direction != .down, events & Poller.writable != 0 {
                    guard connection.writer.write(descriptor) else { fail("a bulk connection broke: \(errorText())") }
                    if connection.writer.isFinished {
                        poller.change(descriptor, Poller.readable)
                    }
                }
                if events & (Poller.readable | Poller.failed) != 0 {
                    receive(connection, buffer)
                    if connection.isDone {
                        poller.remove(descriptor)
                        close(descriptor)
                        left -= 1
                    }
                }
            }
            let time = now()
            if from == nil, time >= measureFrom {
                from = (time, sums())
            } else if let begin = from, result == nil, time >= measureTo {
                let end = sums()
                let elapsed = Double(time - begin.at) / 1e9
                result = Result(
                    up: Double(end.up - begin.sums.up) / 1e6 / elapsed,
                    down: Double(end.down - begin.sums.down) / 1e6 / elapsed
                )
                for connection in all.values {
                    connection.writer.shouldEnd = true
                    if direction == .down {
                        var stop = UInt8(ascii: "s")
                        send(connection.socket, &stop, 1, Int32(MSG_NOSIGNAL))
                    }
                }
            }
            if time > deadline {
                fail("bulk did not end within a minute of its time")
            }
        }
        let end = sums()
        guard var result else { fail("a bulk connection ended before the time was over") }
        result.total = end.up + end.down
        return result
    }

    private func receive(_ connection: Connection, _ buffer: UnsafeMutableRawBufferPointer) {
        let count = recv(connection.socket, buffer.baseAddress, buffer.count, 0)
        if count < 0, errno == EAGAIN { return }
        guard count > 0 else { fail("a bulk connection ended early: \(count < 0 ? errorText() : "end of stream")") }
        var rest = UnsafeRawBufferPointer(rebasing: buffer[..<count])
        if direction != .up {
            let used = connection.reader.check(rest)
            rest = UnsafeRawBufferPointer(rebasing: rest[used...])
            guard !connection.reader.isCorrupt else { fail("wrong bytes after \(connection.reader.total)") }
            if direction == .down {
                connection.isDone = connection.reader.isFinished
                return
            }
        }
        connection.answer.append(contentsOf: rest)
        if connection.answer.count == 8 {
            let received = connection.answer.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
            guard received == connection.writer.total else {
                fail("sent \(connection.writer.total) bytes, the far end got \(received) (all bits set: wrong bytes)")
            }
            connection.isDone = true
        }
    }
}

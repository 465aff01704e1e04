import Glibc

/// Round trips of small messages, one at a time on each connection.
struct PingPong {
    struct Result {
        var p50 = 0.0
        var p99 = 0.0
        /// Round trips per second over all connections.
        var rate = 0.0
        var count = 0
    }

    var port: UInt16
    var connections: Int
    var size: Int
    var warmUp: Double
    var seconds: Double

    func run() -> Result {
        connections == 1 ? runOne() : runMany()
    }

    /// Blocking calls: nothing of an event loop in the figure.
    private func runOne() -> Result {
        let socket = open(port: port)
        defer { close(socket) }
        let message = [UInt8](repeating: UInt8(ascii: "e"), count: size)
        var answer = [UInt8](repeating: 0, count: size)
        var latencies: [UInt32] = []
        latencies.reserveCapacity(1 << 20)
        let measureFrom = now() + UInt64(warmUp * 1e9)
        let measureTo = measureFrom + UInt64(seconds * 1e9)
        var time = now()
        while time < measureTo {
            guard send(socket, message, size, Int32(MSG_NOSIGNAL)) == size else { fail("ping-pong: \(errorText())") }
            var received = 0
            while received < size {
                let count = answer.withUnsafeMutableBytes {
                    recv(socket, $0.baseAddress! + received, size - received, 0)
                }
                guard count > 0 else { fail("ping-pong ended early: \(count < 0 ? errorText() : "end of stream")") }
                received += count
            }
            guard answer == message else { fail("ping-pong: wrong bytes came back") }
            let end = now()
            if time >= measureFrom {
                latencies.append(UInt32(clamping: end - time))
            }
            time = end
        }
        return summary(&latencies)
    }

    private func runMany() -> Result {
        struct Turn {
            var sentAt: UInt64
            var received = 0
        }
        let poller = Poller()
        var turns: [Int32: Turn] = [:]
        let message = [UInt8](repeating: UInt8(ascii: "e"), count: size)
        var answer = [UInt8](repeating: 0, count: size)
        for _ in 0..<connections {
            let socket = open(port: port)
            setNonBlocking(socket)
            poller.add(socket, Poller.readable)
            turns[socket] = Turn(sentAt: now())
            send(socket, message, size, Int32(MSG_NOSIGNAL))
        }
        var latencies: [UInt32] = []
        latencies.reserveCapacity(1 << 21)
        let measureFrom = now() + UInt64(warmUp * 1e9)
        let measureTo = measureFrom + UInt64(seconds * 1e9)
        var last = now()
        while now() < measureTo {
            poller.wait(100) { socket, _ in
                guard var turn = turns[socket] else { return }
                let count = recv(socket, &answer, size - turn.received, 0)
                if count < 0, errno == EAGAIN { return }
                guard count > 0 else { fail("ping-pong ended early: \(count < 0 ? errorText() : "end of stream")") }
                turn.received += count
                last = now()
                if turn.received == size {
                    if last >= measureFrom {
                        latencies.append(UInt32(clamping: last - turn.sentAt))
                    }
                    turn = Turn(sentAt: last)
                    guard send(socket, message, size, Int32(MSG_NOSIGNAL)) == size else {
                        fail("ping-pong: \(errorText())")
                    }
                }
                turns[socket] = turn
            }
            if now() > last + 30_000_000_000 {
                fail("ping-pong: nothing came back for 30 s")
            }
        }
        for socket in turns.keys {
            close(socket)
        }
        return summary(&latencies)
    }

    private func summary(_ latencies: inout [UInt32]) -> Result {
        guard !latencies.isEmpty else { fail("ping-pong: not one round trip in the measured time") }
        latencies.sort()
        func percentile(_ part: Double) -> Double {
            Double(latencies[min(latencies.count - 1, Int(Double(latencies.count) * part))]) / 1000
        }
        return Result(
            p50: percentile(0.5),
            p99: percentile(0.99),
            rate: Double(latencies.count) / seconds,
            count: latencies.count
        )
    }
}

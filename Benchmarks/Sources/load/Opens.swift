import Glibc

/// Connections opened, used for one byte each way, and closed: how many per second, `concurrency` at a time.
struct Opens {
    var port: UInt16
    var concurrency: Int
    var warmUp: Double
    var seconds: Double

    func run() -> Double {
        let poller = Poller()
        var opened: UInt32 = 0
        /// How far each connection is.
        enum Step {
            case connecting
            /// CONNECT is sent; the start of the answer.
            case tunnelling([UInt8])
            case sent
        }
        var steps: [Int32: Step] = [:]
        func open() {
            // Sixty addresses to come from: the closed connections of the last minute do not run out of ports.
            let socket = connect(port: port, source: 2 + opened % 60, nonBlocking: true)
            opened += 1
            steps[socket] = .connecting
            poller.add(socket, Poller.writable)
        }
        func sendByte(_ socket: Int32) {
            var byte = UInt8(ascii: "e")
            guard send(socket, &byte, 1, Int32(MSG_NOSIGNAL)) == 1 else { fail("open: \(errorText())") }
            steps[socket] = .sent
        }
        for _ in 0..<concurrency {
            open()
        }
        let measureFrom = now() + UInt64(warmUp * 1e9)
        let measureTo = measureFrom + UInt64(seconds * 1e9)
        var done = 0
        var last = now()
        while now() < measureTo {
            poller.wait(100) { socket, _ in
                switch steps[socket] {
                case .connecting:
                    poller.change(socket, Poller.readable)
                    if connectRequest.isEmpty {
                        sendByte(socket)
                    } else {
                        send(socket, connectRequest, connectRequest.count, Int32(MSG_NOSIGNAL))
                        steps[socket] = .tunnelling([])
                    }
                case .tunnelling(var response):
                    var chunk = [UInt8](repeating: 0, count: 1024)
                    let count = recv(socket, &chunk, chunk.count, 0)
                    guard count > 0 else { fail("open: no answer to CONNECT") }
                    response += chunk[..<count]
                    if response.ends(with: "\r\n\r\n") {
                        guard response.isSuccess else { fail("open: CONNECT was refused") }
                        sendByte(socket)
                    } else {
                        steps[socket] = .tunnelling(response)
                    }
                case .sent:
                    var byte: UInt8 = 0
                    let count = recv(socket, &byte, 1, 0)
                    guard count == 1, byte == UInt8(ascii: "e") else {
                        fail("open: \(count < 0 ? errorText() : "the connection ended without its byte")")
                    }
                    poller.remove(socket)
                    close(socket)
                    steps[socket] = nil
                    last = now()
                    if last >= measureFrom {
                        done += 1
                    }
                    open()
                case nil:
                    break
                }
            }
            if now() > last + 30_000_000_000 {
                fail("open: nothing came back for 30 s")
            }
        }
        for socket in steps.keys {
            close(socket)
        }
        return Double(done) / seconds
    }
}

/// Holds `count` connections open, each proven by one byte there and back, until standard input ends.
func holdIdle(port: UInt16, count: Int) {
    var sockets: [Int32] = []
    for index in 0..<count {
        let socket = open(port: port, source: 2 + UInt32(index % 60))
        var byte = UInt8(ascii: "e")
        guard send(socket, &byte, 1, Int32(MSG_NOSIGNAL)) == 1, recv(socket, &byte, 1, 0) == 1 else {
            fail("idle: connection \(index + 1) of \(count): \(errorText())")
        }
        sockets.append(socket)
    }
    print("ready")
    fflush(nil)
    var byte: UInt8 = 0
    while read(0, &byte, 1) > 0 {}
    for socket in sockets {
        close(socket)
    }
}

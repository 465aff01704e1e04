import CEpoll
import Glibc

/// The far end of every measurement. What a connection is for is its first byte: `e` sends everything back, the `e`
/// too; `u` receives blocks and answers with their byte count; `d` sends blocks until one more byte comes; `b` does
/// both at once and ends when the received blocks end. An HTTP/1.1 CONNECT before it is answered with 200, for peers
/// that are HTTP proxies.
final class Server {
    private final class Connection {
        let socket: Int32
        var mode: UInt8 = 0
        /// A CONNECT request as far as it has come.
        var head: [UInt8] = []
        var reader = BlockReader()
        var writer = BlockWriter()
        /// Bytes to send back, or the count at the end.
        var pending: [UInt8] = []
        var pendingOffset = 0
        var hasAnswered = false
        var interest = Poller.readable

        init(_ socket: Int32) {
            self.socket = socket
        }
    }

    private let poller = Poller()
    private let listener: Int32
    private var connections: [Int32: Connection] = [:]
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: blockSize, alignment: 4096)

    init(port: UInt16) {
        listener = listen(port: port)
        setNonBlocking(listener)
        poller.add(listener, Poller.readable)
        _ = pattern
    }

    func run() -> Never {
        print("ready")
        fflush(nil)
        while true {
            poller.wait(-1) { descriptor, events in
                if descriptor == listener {
                    acceptAll()
                } else if let connection = connections[descriptor] {
                    serve(connection, events)
                }
            }
        }
    }

    private func acceptAll() {
        while true {
            let socket = accept(listener, nil, nil)
            guard socket >= 0 else { return }
            setNonBlocking(socket)
            setNoDelay(socket)
            connections[socket] = Connection(socket)
            poller.add(socket, Poller.readable)
        }
    }

    private func serve(_ connection: Connection, _ events: UInt32) {
        if events & (Poller.readable | Poller.failed) != 0 {
            let count = recv(connection.socket, buffer.baseAddress, buffer.count, 0)
            if count > 0 {
                received(connection, UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            } else if count == 0 || errno != EAGAIN {
                return close(connection)
            }
        }
        guard send(connection) else { return close(connection) }
        var interest = Poller.readable
        let isSending = connection.mode == UInt8(ascii: "d") || connection.mode == UInt8(ascii: "b")
        if !connection.pending.isEmpty || (isSending && !connection.writer.isFinished) {
            interest |= Poller.writable
        }
        if interest != connection.interest {
            connection.interest = interest
            poller.change(connection.socket, interest)
        }
    }

    private func received(_ connection: Connection, _ bytes: UnsafeRawBufferPointer) {
        var bytes = bytes
        if connection.mode == 0 {
            if bytes[0] == UInt8(ascii: "C") || !connection.head.isEmpty {
                connection.head += bytes
                if connection.head.ends(with: "\r\n\r\n") {
                    connection.head = []
                    connection.pending += Array("HTTP/1.1 200 OK\r\n\r\n".utf8)
                }
                return
            }
            connection.mode = bytes[0]
            if connection.mode != UInt8(ascii: "e") {
                bytes = UnsafeRawBufferPointer(rebasing: bytes[1...])
            }
        }
        switch connection.mode {
        case UInt8(ascii: "e"):
            if connection.pending.isEmpty {
                // The common case: what came fits into the socket at once.
                let sent = Glibc.send(connection.socket, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL))
                if sent < bytes.count {
                    connection.pending.append(contentsOf: bytes[max(sent, 0)...])
                }
            } else {
                connection.pending.append(contentsOf: bytes)
            }
        case UInt8(ascii: "u"), UInt8(ascii: "b"):
            _ = connection.reader.check(bytes)
            if connection.reader.isFinished {
                connection.writer.shouldEnd = true
            }
        default:
            if !bytes.isEmpty {
                connection.writer.shouldEnd = true
            }
        }
    }

    /// Sends what there is to send. False when the connection broke.
    private func send(_ connection: Connection) -> Bool {
        if connection.mode == UInt8(ascii: "d") || connection.mode == UInt8(ascii: "b"), !connection.writer.isFinished {
            guard connection.writer.write(connection.socket) else { return false }
        }
        let receives = connection.mode == UInt8(ascii: "u") || connection.mode == UInt8(ascii: "b")
        let mayAnswer = connection.mode == UInt8(ascii: "u") || connection.writer.isFinished
        if receives, mayAnswer, connection.reader.isFinished, !connection.hasAnswered {
            connection.hasAnswered = true
            // A count that no one sent says that the bytes were wrong.
            let answer = connection.reader.isCorrupt ? UInt64.max : connection.reader.total
            withUnsafeBytes(of: answer.littleEndian) { connection.pending.append(contentsOf: $0) }
        }
        while connection.pendingOffset < connection.pending.count {
            let sent = connection.pending.withUnsafeBytes {
                Glibc.send(
                    connection.socket,
                    $0.baseAddress! + connection.pendingOffset,
                    $0.count - connection.pendingOffset,
                    Int32(MSG_NOSIGNAL)
                )
            }
            if sent < 0 {
                return errno == EAGAIN
            }
            connection.pendingOffset += sent
        }
        connection.pending.removeAll(keepingCapacity: true)
        connection.pendingOffset = 0
        return true
    }

    private func close(_ connection: Connection) {
        poller.remove(connection.socket)
        connections[connection.socket] = nil
        Glibc.close(connection.socket)
    }
}

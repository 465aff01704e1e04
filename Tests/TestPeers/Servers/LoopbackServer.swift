import CLinux
import Foundation
import Streams

/// What passed over one accepted connection, seen from the server.
public struct Transfer: Equatable, Sendable {
    public enum Ending: Equatable, Sendable {
        /// The client sent its end of stream.
        case endOfStream
        /// The connection broke; the associated value is the `errno`.
        case broken(Int32)
    }

    /// Bytes received.
    public var received: Int
    /// SHA-256 of the bytes received, in hexadecimal.
    public var checksum: String
    public var ending: Ending

    public init(received: Int, checksum: String, ending: Ending) {
        self.received = received
        self.checksum = checksum
        self.ending = ending
    }
}

/// A TCP server on 127.0.0.1, made of blocking sockets and one thread per connection: it shares no code with what it
/// tests.
public class LoopbackServer: @unchecked Sendable {
    // Sendable: `state` guards all that changes; the rest is set once.
    private struct State {
        var connections: Set<Int32> = []
        var accepted = 0
        var transfers: [Transfer] = []
        var isClosed = false
    }

    public let port: UInt16
    /// `127.0.0.1:PORT`.
    public var authority: String { "127.0.0.1:\(port)" }

    private let listener: Int32
    private let state = Lock(State())

    /// - Parameter port: 0 for any free one. Nobody else of this process has it before or after.
    public init(port: UInt16 = 0) throws {
        let wanted = port == 0 ? FreePort.next() : port
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        listener = descriptor
        var yes: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        var address = loopbackAddress(port: wanted)
        guard withSocketAddress(&address, { bind(descriptor, $0, $1) }) == 0, listen(descriptor, 1024) == 0 else {
            let failure = POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO)
            Glibc.close(descriptor)
            throw failure
        }
        self.port = wanted
        let thread = Thread { [weak self] in
            while true {
                let connection = CloseOnExec.accept(descriptor)
                if connection < 0 {
                    if errno == EINTR || errno == ECONNABORTED { continue }
                    break
                }
                guard let server = self else {
                    Glibc.close(connection)
                    break
                }
                server.start(connection)
            }
            Glibc.close(descriptor)
        }
        thread.start()
    }

    deinit {
        close()
    }

    /// Stops accepting and breaks the open connections.
    public func close() {
        state.withLock { state in
            guard !state.isClosed else { return }
            state.isClosed = true
            // Wakes the accepting thread, which closes the descriptor.
            shutdown(listener, Int32(SHUT_RDWR))
            for connection in state.connections {
                shutdown(connection, Int32(SHUT_RDWR))
            }
        }
    }

    /// Connections accepted so far.
    public var accepted: Int { state.withLock { $0.accepted } }
    /// Connections open now.
    public var open: Int { state.withLock { $0.connections.count } }
    /// The connections that ended, in the order of their ends.
    public var transfers: [Transfer] { state.withLock { $0.transfers } }

    /// Waits until `count` connections have ended and returns what passed over them.
    public func transfers(_ count: Int, within limit: Duration = .seconds(90)) async throws -> [Transfer] {
        try await eventually("\(count) connections ended at \(authority)", within: limit) {
            transfers.count >= count
        }
        return transfers
    }

    /// Serves one connection on a thread of its own until it ends. The caller closes the descriptor.
    func serve(_ connection: Int32) -> Transfer {
        preconditionFailure("a subclass serves")
    }

    private func start(_ connection: Int32) {
        let isWelcome = state.withLock { state in
            guard !state.isClosed else { return false }
            state.connections.insert(connection)
            state.accepted += 1
            return true
        }
        guard isWelcome else {
            Glibc.close(connection)
            return
        }
        var yes: Int32 = 1
        setsockopt(connection, Int32(IPPROTO_TCP), TCP_NODELAY, &yes, socklen_t(MemoryLayout<Int32>.size))
        let thread = Thread { [self] in
            let transfer = serve(connection)
            state.withLock { state in
                state.connections.remove(connection)
                state.transfers.append(transfer)
            }
            Glibc.close(connection)
        }
        thread.start()
    }
}

/// Reads to the end of the stream, hands each chunk to `chunk` and returns what came.
func receiveAll(
    _ connection: Int32,
    _ chunk: (UnsafeRawBufferPointer) throws -> Void = { _ in }
) -> Transfer {
    var checksum = Checksum()
    var received = 0
    var ending = Transfer.Ending.endOfStream
    var buffer = [UInt8](repeating: 0, count: 256 << 10)
    buffer.withUnsafeMutableBytes { buffer in
        while true {
            let count = recv(connection, buffer.baseAddress, buffer.count, 0)
            if count > 0 {
                let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<count])
                received += count
                checksum.update(bytes)
                do {
                    try chunk(bytes)
                } catch {
                    ending = .broken((error as? POSIXError)?.code.rawValue ?? EIO)
                    return
                }
            } else if count == 0 {
                return
            } else if errno != EINTR {
                ending = .broken(errno)
                return
            }
        }
    }
    return Transfer(received: received, checksum: checksum.finish(), ending: ending)
}

/// Sends all of `bytes`, without a signal where the other side is gone.
func sendAll(_ connection: Int32, _ bytes: UnsafeRawBufferPointer) throws {
    var offset = 0
    while offset < bytes.count {
        let count = send(connection, bytes.baseAddress! + offset, bytes.count - offset, Int32(MSG_NOSIGNAL))
        if count > 0 {
            offset += count
        } else if errno != EINTR {
            throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO)
        }
    }
}

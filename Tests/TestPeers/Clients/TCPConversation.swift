import CLinux
import Foundation

/// A TCP connection that a test keeps open and uses now and then. Each call blocks a thread of its own, for 2 min at
/// most.
public final class TCPConversation: Sendable {
    private let descriptor: Int32

    /// Connects to 127.0.0.1:`port`.
    public init(port: UInt16) async throws {
        descriptor = try await TCPClient.onThread { try TCPClient.connect(port, limit: 120) }
    }

    deinit { close(descriptor) }

    /// Sends all of `bytes`, and reads as many back.
    public func echo(_ bytes: [UInt8]) async throws -> [UInt8] {
        try await TCPClient.onThread { [descriptor] in
            Thread { _ = TCPClient.sendAndFinish(descriptor, bytes, staysOpen: true) }.start()
            var received: [UInt8] = []
            var chunk = [UInt8](repeating: 0, count: 1 << 16)
            while received.count < bytes.count {
                let count = recv(descriptor, &chunk, min(chunk.count, bytes.count - received.count), 0)
                guard count > 0 else {
                    let reason = count == 0 ? "the end" : String(cString: strerror(errno))
                    throw TCPClient.Failure(description: "\(reason) after \(received.count) of \(bytes.count) bytes")
                }
                received += chunk[..<count]
            }
            return received
        }
    }

    /// Resets the connection when this object goes, in the place of an end.
    public func resetWhenGone() {
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
    }

    /// Ends this direction where `finishing`, and reads to the end.
    public func end(finishing: Bool = true) async throws -> (received: Int, TCPClient.Ending) {
        try await TCPClient.onThread { [descriptor] in
            if finishing { shutdown(descriptor, Int32(SHUT_WR)) }
            var total = 0
            var chunk = [UInt8](repeating: 0, count: 1 << 16)
            while true {
                let count = recv(descriptor, &chunk, chunk.count, 0)
                if count == 0 { return (total, .endOfStream) }
                guard count > 0 else { return (total, .broken(errno)) }
                total += count
            }
        }
    }
}

import CLinux
import Foundation

/// Sends back what it receives; after the client's end of stream it ends its own side.
public final class EchoServer: LoopbackServer, @unchecked Sendable {
    override func serve(_ connection: Int32) -> Transfer {
        receiveAll(connection) { try sendAll(connection, $0) }
    }
}

/// Receives to the end of the stream, then answers with one line `SHA256 COUNT` and ends its side.
///
/// The answer comes after the client's end of stream, so it arrives only where half-close works.
public final class SinkServer: LoopbackServer, @unchecked Sendable {
    override func serve(_ connection: Int32) -> Transfer {
        let transfer = receiveAll(connection)
        let answer = Array("\(transfer.checksum) \(transfer.received)\n".utf8)
        answer.withUnsafeBytes { try? sendAll(connection, $0) }
        return transfer
    }
}

/// Sends the first `count` bytes of `Pattern(seed:)`, ends its side, and receives to the end of the stream.
public final class SourceServer: LoopbackServer, @unchecked Sendable {
    private let count: Int
    private let seed: UInt64

    public init(port: UInt16 = 0, count: Int, seed: UInt64 = 1) throws {
        self.count = count
        self.seed = seed
        try super.init(port: port)
    }

    override func serve(_ connection: Int32) -> Transfer {
        var pattern = Pattern(seed: seed)
        var chunk = [UInt8](repeating: 0, count: 256 << 10)
        var left = count
        chunk.withUnsafeMutableBytes { buffer in
            while left > 0 {
                let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<min(left, buffer.count)])
                pattern.fill(part)
                guard (try? sendAll(connection, UnsafeRawBufferPointer(part))) != nil else { return }
                left -= part.count
            }
        }
        shutdown(connection, Int32(SHUT_WR))
        return receiveAll(connection)
    }
}

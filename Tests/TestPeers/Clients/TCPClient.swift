import CLinux
import Foundation

/// A blocking TCP client, on a thread of its own.
public enum TCPClient {
    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    /// How a conversation ended.
    public enum Ending: Equatable, Sendable {
        case endOfStream
        /// The `errno` of the call that failed.
        case broken(Int32)
    }

    /// Sends `bytes`, ends its direction unless `staysOpen`, and reads to the end. `progress` hears how many bytes have
    /// been read so far, on another thread.
    public static func exchange(
        port: UInt16,
        sending bytes: [UInt8],
        staysOpen: Bool = false,
        limit: Int = 120,
        progress: (@Sendable (Int) -> Void)? = nil
    ) async throws -> (received: [UInt8], Ending) {
        try await onThread {
            let descriptor = try connect(port, limit: limit)
            defer { close(descriptor) }
            if bytes.count <= 64 << 10 {
                // What fits into the socket is sent here: a reset is told to one call only, and in another thread it
                // would be that of the sender, while the reader sees an end.
                if let failure = sendAndFinish(descriptor, bytes, staysOpen: staysOpen) {
                    return ([], .broken(failure))
                }
            } else {
                Thread { _ = sendAndFinish(descriptor, bytes, staysOpen: staysOpen) }.start()
            }
            var received: [UInt8] = []
            var chunk = [UInt8](repeating: 0, count: 1 << 18)
            while true {
                let count = recv(descriptor, &chunk, chunk.count, 0)
                if count == 0 { return (received, .endOfStream) }
                guard count > 0 else { return (received, .broken(errno)) }
                received += chunk[..<count]
                progress?(received.count)
            }
        }
    }

    /// Returns the `errno` of a `send` that failed.
    static func sendAndFinish(_ descriptor: Int32, _ bytes: [UInt8], staysOpen: Bool) -> Int32? {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            guard count > 0 else { return errno }
            rest = rest.dropFirst(count)
        }
        if !staysOpen { shutdown(descriptor, Int32(SHUT_WR)) }
        return nil
    }

    static func connect(_ port: UInt16, limit: Int) throws -> Int32 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var timeout = timeval(tv_sec: limit, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else {
            close(descriptor)
            throw Failure(description: "connect: \(String(cString: strerror(errno)))")
        }
        return descriptor
    }

    static func onThread<Success: Sendable>(
        _ body: @escaping @Sendable () throws -> Success
    ) async throws -> Success {
        try await withCheckedThrowingContinuation { continuation in
            Thread { continuation.resume(with: Result { try body() }) }.start()
        }
    }
}

import CLinux
import Glibc
import Streams

/// Standard input and output as one byte stream of an event loop.
///
/// Both may be files or terminals that other processes share, so they are never made non-blocking: two threads carry
/// the bytes between them and a socket pair, whose other end is the stream. The end of the input finishes the reading
/// side; finishing the stream ends the output.
struct StandardStreams: Sendable {
    /// Reads standard input, writes standard output.
    let stream: LoopBound<ByteStream>
    private let output: Task<Int32, Never>

    /// - Parameters:
    ///   - input: false: there is none; reading finds the end at once.
    ///   - loop: Where the stream lives.
    init(input: Bool = true, on loop: EventLoop) async throws {
        var pair: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &pair) == 0 else {
            throw StreamError(.system, "socketpair: \(String(cString: strerror(errno)))")
        }
        let (near, far) = (pair[0], pair[1])
        _ = fcntl(near, F_SETFL, fcntl(near, F_GETFL) | O_NONBLOCK)
        stream = try await loop.execute { LoopBound<ByteStream>(try Socket(adopting: near, on: loop), on: loop) }
        if input {
            EventLoop(name: "stdin").submit {
                _ = Self.carry(from: STDIN_FILENO, to: far)
                shutdown(far, Int32(SHUT_WR))
            }
        } else {
            shutdown(far, Int32(SHUT_WR))
        }
        output = Task {
            let thread = EventLoop(name: "stdout")
            return (try? await thread.execute { Self.carry(from: far, to: STDOUT_FILENO) }) ?? EIO
        }
    }

    /// Returns when everything that was written to the stream before its end is written out.
    ///
    /// - Returns: 0, or the error number of the write that failed (EPIPE: whoever read the output is gone).
    func written() async -> Int32 { await output.value }

    /// Blocks until the end of `source`; returns the error number of a failed write.
    private static func carry(from source: Int32, to target: Int32) -> Int32 {
        withUnsafeTemporaryAllocation(byteCount: 64 << 10, alignment: 16) { buffer in
            while true {
                let count = read(source, buffer.baseAddress, buffer.count)
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else { return 0 }
                var done = 0
                while done < count {
                    let written = write(target, buffer.baseAddress.map { $0 + done }, count - done)
                    if written < 0 && errno == EINTR { continue }
                    guard written > 0 else { return errno }
                    done += written
                }
            }
        }
    }
}

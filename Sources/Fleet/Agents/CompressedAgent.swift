import CZlib
import SSHSignal
import Streams

/// A program's bytes in the gzip format. They are made when they are first asked for, and once, however many devices
/// they are for.
final class CompressedAgent: Sendable {
    private let plain: [UInt8]
    private let work = Lock<Task<[UInt8], Never>?>(nil)

    init(_ plain: [UInt8]) { self.plain = plain }

    func bytes() async -> [UInt8] {
        let task = work.withLock { work in
            if let work { return work }
            let started = Task.detached { [plain] in Self.gzip(plain) }
            work = started
            return started
        }
        return await task.value
    }

    /// Of the agent's 19.6 MB level 1 leaves 8.9 (0.3 s), 4 leaves 8.4 (0.4 s) and 6 leaves 8.1 (0.9 s); the far side's
    /// gunzip takes 0.1 s.
    private static let level: Int32 = 4

    static func gzip(_ plain: [UInt8]) -> [UInt8] {
        var stream = z_stream()
        precondition(czlib_gzip_init(&stream, level) == Z_OK, "zlib has no memory")
        defer { deflateEnd(&stream) }
        let bound = Int(deflateBound(&stream, UInt(plain.count)))
        return [UInt8](unsafeUninitializedCapacity: bound) { output, count in
            plain.withUnsafeBufferPointer { input in
                // zlib counts in 32 bits, and an agent is at most 1 GiB; it does not write to its input.
                stream.next_in = UnsafeMutablePointer(mutating: input.baseAddress)
                stream.avail_in = UInt32(input.count)
                stream.next_out = output.baseAddress
                stream.avail_out = UInt32(bound)
                let result = deflate(&stream, Z_FINISH)
                precondition(result == Z_STREAM_END, "the output has the size that zlib asked for")
                count = bound - Int(stream.avail_out)
            }
        }
    }
}

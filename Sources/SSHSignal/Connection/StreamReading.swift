import Streams

/// Why ``ByteStream/readAll(while:_:)`` has stopped.
enum ReadingStop {
    /// Nothing more now, or nothing more is wanted.
    case paused
    /// The peer's end.
    case end
    case failed
}

extension ByteStream {
    /// Reads what has arrived, piece by piece, for what takes its bytes at once.
    ///
    /// - Parameters:
    ///   - isWanted: Asked before each piece.
    ///   - take: Gets a piece, which is valid until it returns.
    func readAll(while isWanted: () -> Bool, _ take: (UnsafeRawBufferPointer) -> Void) -> ReadingStop {
        let buffer = loop.buffers.take(.medium)
        defer { loop.buffers.give(buffer) }
        while isWanted() {
            switch read(into: buffer.writable) {
            case .bytes(let count): take(UnsafeRawBufferPointer(start: buffer.base, count: count))
            case .wouldBlock: return .paused
            case .end: return .end
            case .failed: return .failed
            }
        }
        return .paused
    }
}

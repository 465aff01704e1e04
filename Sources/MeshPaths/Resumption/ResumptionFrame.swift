import CLinux

/// What goes over a carrier of a resumable stream: a kind in one byte, a length in three, then so many bytes.
enum ResumptionFrame: Hashable {
    /// Bytes of the stream follow.
    case data(Int)
    /// Everything before this position was taken.
    case acknowledgement(UInt64)
    /// No bytes follow this position.
    case end(UInt64)

    static let headerSize = 4
    /// Of a frame without the stream's bytes.
    static let controlSize = 12
    static let longestData = 1 << 20

    /// Writes the header of a frame with `count` bytes.
    static func writeData(_ count: Int, to space: UnsafeMutableRawBufferPointer) {
        space.storeBytes(of: UInt32(count).bigEndian, as: UInt32.self)
    }

    /// Writes a frame of twelve bytes.
    static func write(_ kind: Kind, _ position: UInt64, to space: UnsafeMutableRawBufferPointer) {
        space.storeBytes(of: (UInt32(kind.rawValue) << 24 | 8).bigEndian, as: UInt32.self)
        space.storeBytes(of: position.bigEndian, toByteOffset: 4, as: UInt64.self)
    }

    enum Kind: UInt8 {
        case data = 0
        case acknowledgement = 1
        case end = 2
    }
}

/// Reads frames as they come, in whatever pieces. It keeps no byte of the stream.
struct ResumptionFrameReader {
    /// Bytes of the stream that come next; whoever hands them on takes them off here.
    private(set) var dataLeft = 0
    private var header: UInt64 = 0
    private var word: UInt32 = 0
    /// Of the header, and of the position behind it.
    private var count = 0

    /// Takes bytes from the front of `bytes`, up to the end of a header.
    ///
    /// - Returns: The frame that is complete; nil: more is needed. After `data`, so many bytes are the stream's.
    mutating func read(
        _ bytes: inout UnsafeRawBufferPointer
    ) throws(ResumptionViolation) -> ResumptionFrame? {
        // All of it is there, as nearly always.
        if count == 0, bytes.count >= ResumptionFrame.headerSize {
            let first = UInt32(bigEndian: bytes.loadUnaligned(as: UInt32.self))
            if first >> 24 == ResumptionFrame.Kind.data.rawValue {
                word = first
                bytes = UnsafeRawBufferPointer(rebasing: bytes[ResumptionFrame.headerSize...])
                return try checkHeader()
            }
            if bytes.count >= ResumptionFrame.controlSize, first & 0xFF_FFFF == 8,
                let kind = ResumptionFrame.Kind(rawValue: UInt8(truncatingIfNeeded: first >> 24))
            {
                let position = UInt64(
                    bigEndian: bytes.loadUnaligned(fromByteOffset: ResumptionFrame.headerSize, as: UInt64.self)
                )
                bytes = UnsafeRawBufferPointer(rebasing: bytes[ResumptionFrame.controlSize...])
                return kind == .acknowledgement ? .acknowledgement(position) : .end(position)
            }
        }
        var used = 0
        defer { bytes = UnsafeRawBufferPointer(rebasing: bytes[used...]) }
        while count < ResumptionFrame.headerSize {
            guard used < bytes.count else { return nil }
            word = word << 8 | UInt32(bytes[used])
            used += 1
            count += 1
            if count == ResumptionFrame.headerSize, let data = try checkHeader() { return data }
        }
        while count < ResumptionFrame.controlSize {
            guard used < bytes.count else { return nil }
            header = header << 8 | UInt64(bytes[used])
            used += 1
            count += 1
        }
        let kind = word >> 24
        defer { reset() }
        return kind == ResumptionFrame.Kind.acknowledgement.rawValue ? .acknowledgement(header) : .end(header)
    }

    /// The header is there. Returns the frame where that is all of it.
    private mutating func checkHeader() throws(ResumptionViolation) -> ResumptionFrame? {
        let length = Int(word & 0xFF_FFFF)
        switch ResumptionFrame.Kind(rawValue: UInt8(word >> 24)) {
        case .data?:
            guard length > 0, length <= ResumptionFrame.longestData else {
                throw ResumptionViolation("sends a frame with \(length) bytes")
            }
            dataLeft = length
            reset()
            return .data(length)
        case .acknowledgement?, .end?:
            guard length == 8 else { throw ResumptionViolation("sends a position of \(length) bytes") }
            return nil
        case nil: throw ResumptionViolation("sends a frame of the unknown kind \(word >> 24)")
        }
    }

    private mutating func reset() {
        count = 0
        word = 0
        header = 0
    }

    mutating func took(_ count: Int) { dataLeft -= count }
}

/// A header, or a frame of twelve bytes, that leaves in as many pieces as the carrier likes.
struct StagedFrame {
    private var first: UInt64 = 0
    private var second: UInt32 = 0
    private var next = 0
    private var count = 0

    var isEmpty: Bool { next == count }

    mutating func stage(data length: Int) {
        withBytes { ResumptionFrame.writeData(length, to: $0) }
        (next, count) = (0, ResumptionFrame.headerSize)
    }

    mutating func stage(_ kind: ResumptionFrame.Kind, _ position: UInt64) {
        withBytes { ResumptionFrame.write(kind, position, to: $0) }
        (next, count) = (0, ResumptionFrame.controlSize)
    }

    mutating func read(into space: UnsafeMutableRawBufferPointer) -> Int {
        let length = min(space.count, count - next)
        let start = next
        withBytes { space.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<start + length])) }
        next += length
        return length
    }

    private mutating func withBytes(_ body: (UnsafeMutableRawBufferPointer) -> Void) {
        withUnsafeTemporaryAllocation(byteCount: ResumptionFrame.controlSize, alignment: 8) { space in
            space.storeBytes(of: first, as: UInt64.self)
            space.storeBytes(of: second, toByteOffset: 8, as: UInt32.self)
            body(space)
            first = space.load(as: UInt64.self)
            second = space.load(fromByteOffset: 8, as: UInt32.self)
        }
    }
}

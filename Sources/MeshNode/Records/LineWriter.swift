import Glibc
import H2Transport

/// Lines, in one piece of memory that they are written into as they come: no array that asks at each piece whether it
/// is its own. Each call makes sure that what it writes has room.
struct LineWriter: ~Copyable {
    private var start: UnsafeMutablePointer<UInt8>
    private var capacity: Int
    /// Bytes that are written.
    private(set) var count = 0

    private static let smallest = 4096

    init() {
        capacity = Self.smallest
        start = .allocate(capacity: capacity)
    }

    deinit { start.deallocate() }

    var isEmpty: Bool { count == 0 }

    /// What is written, and begins anew.
    mutating func take() -> [UInt8] {
        defer { count = 0 }
        return Array(UnsafeBufferPointer(start: start, count: count))
    }

    /// Gives memory back that many lines have taken up.
    mutating func shrink() {
        guard isEmpty, capacity > Self.smallest else { return }
        start.deallocate()
        capacity = Self.smallest
        start = .allocate(capacity: capacity)
    }

    /// Where the next `length` bytes go; the caller writes all of them.
    @inline(__always)
    private mutating func place(for length: Int) -> UnsafeMutablePointer<UInt8> {
        if capacity - count < length { grow(by: length) }
        defer { count += length }
        return start + count
    }

    @inline(never)
    private mutating func grow(by length: Int) {
        while capacity - count < length { capacity *= 2 }
        let memory = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
        memory.initialize(from: start, count: count)
        start.deallocate()
        start = memory
    }

    @inline(__always)
    mutating func append(_ text: StaticString) {
        let length = text.utf8CodeUnitCount
        place(for: length).update(from: text.utf8Start, count: length)
    }

    mutating func append(_ bytes: [UInt8]) {
        let place = self.place(for: bytes.count)
        bytes.withUnsafeBufferPointer { bytes in
            if let base = bytes.baseAddress { place.update(from: base, count: bytes.count) }
        }
    }

    mutating func append(_ trace: TraceParent) { trace.write(to: place(for: TraceParent.length)) }

    /// In decimal.
    mutating func append(_ number: UInt64) {
        var (length, bound) = (1, 10 as UInt64)
        while length < 20, number >= bound {
            length += 1
            bound = bound &* 10
        }
        append(number, digits: length)
    }

    /// Seconds with six digits after the point.
    mutating func append(nanoseconds: UInt64) {
        append(nanoseconds / 1_000_000_000)
        append(".")
        append(nanoseconds % 1_000_000_000 / 1000, digits: 6)
    }

    /// The last digits of a number, zeros in front.
    mutating func append(_ number: UInt64, digits: Int) {
        let place = self.place(for: digits)
        var (rest, index) = (number, digits)
        while index > 1 {
            let pair = Int(truncatingIfNeeded: rest % 100)
            rest /= 100
            index -= 2
            place[index] = Self.pairs.utf8Start[2 * pair]
            place[index + 1] = Self.pairs.utf8Start[2 * pair + 1]
        }
        if index == 1 { place[0] = 0x30 + UInt8(truncatingIfNeeded: rest % 10) }
    }

    /// Two digits at once: half of the divisions.
    private static var pairs: StaticString {
        """
        00010203040506070809101112131415161718192021222324252627282930313233343536373839\
        40414243444546474849505152535455565758596061626364656667686970717273747576777879\
        8081828384858687888990919293949596979899
        """
    }
}

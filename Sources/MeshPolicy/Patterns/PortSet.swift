/// A set of TCP ports.
struct PortSet: Hashable, Sendable {
    private var words = [UInt64](repeating: 0, count: 1024)

    mutating func insert(_ range: ClosedRange<UInt16>) {
        let (low, high) = (Int(range.lowerBound), Int(range.upperBound))
        for word in low >> 6...high >> 6 {
            let first: UInt64 = word == low >> 6 ? .max << UInt64(low & 63) : .max
            let last: UInt64 = word == high >> 6 ? .max >> UInt64(63 - high & 63) : .max
            words[word] |= first & last
        }
    }

    func contains(_ port: UInt16) -> Bool { words[Int(port >> 6)] >> UInt64(port & 63) & 1 == 1 }
}

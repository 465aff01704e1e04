/// Times in buckets, as Prometheus has them: fixed bounds, so that what many loops and nodes have counted can be added.
struct Histogram: Hashable, Sendable {
    /// The upper bounds of the buckets, in nanoseconds: from what loopback needs to the longest timeout.
    static let bounds: [UInt64] = [
        50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000,
        100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000,
        30_000_000_000,
    ]

    /// Of each bucket alone; the last one has no bound.
    private(set) var counts = [UInt64](repeating: 0, count: bounds.count + 1)
    /// In nanoseconds.
    private(set) var sum: UInt64 = 0

    var count: UInt64 { counts.reduce(0, &+) }

    mutating func record(nanoseconds: UInt64) {
        var index = 0
        while index < Self.bounds.count, nanoseconds > Self.bounds[index] { index += 1 }
        counts[index] &+= 1
        sum &+= nanoseconds
    }

    mutating func add(_ other: Histogram) {
        for index in counts.indices { counts[index] &+= other.counts[index] }
        sum &+= other.sum
    }
}

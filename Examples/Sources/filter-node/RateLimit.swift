import Streams

/// Lets so many bytes a second through, each way: a token bucket for each direction, on the loop's clock. Half a
/// second's worth may go at once.
final class RateLimit: StreamFilter {
    private struct Bucket {
        var tokens: Double
        var filledAt: UInt64?
    }

    private let rate: Double
    private let burst: Double
    private var buckets: [StreamDirection: Bucket] = [:]
    private var control: FilterControl?

    init(bytesPerSecond: Int) {
        rate = Double(bytesPerSecond)
        burst = max(1, rate / 2)
    }

    func begin(_ control: FilterControl) { self.control = control }

    func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict {
        guard let now = control?.now else { return .pass(bytes.count) }
        var bucket = buckets[direction] ?? Bucket(tokens: burst)
        if let before = bucket.filledAt {
            bucket.tokens = min(burst, bucket.tokens + Double(now - before) * rate / 1e9)
        }
        bucket.filledAt = now
        defer { buckets[direction] = bucket }
        // One byte after the other would be a system call for each.
        let worthwhile = min(Double(bytes.count), burst / 4)
        guard bucket.tokens >= max(1, worthwhile) else {
            let missing = (max(1, worthwhile) - bucket.tokens) / rate
            // Nothing is kept here: the sender has to wait.
            return .wait(.nanoseconds(Int64((missing * 1e9).rounded(.up))))
        }
        let count = min(bytes.count, Int(bucket.tokens))
        bucket.tokens -= Double(count)
        return .pass(count)
    }
}

/// What a transfer has done and what is left of it, in numbers for people. A value without a clock.
package struct TransferMeter {
    private var done: UInt64 = 0
    private var total: UInt64 = 0
    /// Bytes a second, of late.
    package private(set) var rate = 0.0
    private var measured: (bytes: UInt64, at: Duration) = (0, .zero)

    package init() {}

    /// - Parameter at: Since it began.
    package mutating func add(_ done: UInt64, of total: UInt64, at: Duration) {
        self.done = done
        self.total = total
        let passed = (at - measured.at) / .seconds(1)
        guard passed >= 0.5 || measured.at == .zero && passed > 0.05 else { return }
        let now = Double(done - min(done, measured.bytes)) / passed
        // A second old counts a third.
        let weight = measured.at == .zero ? 1 : min(1, passed * 0.66)
        rate = rate * (1 - weight) + now * weight
        measured = (done, at)
    }

    /// `NAME  42 %  12.3 MiB  4.5 MiB/s  0:12 left`.
    package func line(_ name: String) -> String {
        let percent = total > 0 ? min(100, done * 100 / total) : 0
        var text = "\(name)  \(percent) %  \(Self.size(Double(done)))"
        guard rate > 0 else { return text }
        text += "  \(Self.size(rate))/s"
        if total > done { text += "  \(Self.time(Double(total - done) / rate)) left" }
        return text
    }

    /// `NAME  100 %  12.3 MiB  4.5 MiB/s  0:03`, with the mean rate.
    package func summary(_ name: String, _ elapsed: Duration) -> String {
        let seconds = elapsed / .seconds(1)
        let rate = seconds > 0 ? "  \(Self.size(Double(done) / seconds))/s" : ""
        return "\(name)  100 %  \(Self.size(Double(done)))\(rate)  \(Self.time(seconds))"
    }

    package static func size(_ bytes: Double) -> String {
        var (value, unit) = (bytes, 0)
        let units = ["B", "KiB", "MiB", "GiB", "TiB"]
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        guard unit > 0, value < 100 else { return "\(Int(value)) \(units[unit])" }
        let tenths = Int(value * 10)
        return "\(tenths / 10).\(tenths % 10) \(units[unit])"
    }

    package static func time(_ seconds: Double) -> String {
        let all = Int(min(seconds, 360_000_000).rounded(.up))
        func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let (hours, minutes) = (all / 3600, all / 60 % 60)
        return hours > 0 ? "\(hours):\(two(minutes)):\(two(all % 60))" : "\(minutes):\(two(all % 60))"
    }
}

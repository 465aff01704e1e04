import CoreMetrics
import Streams

/// What a connection has handed over to its ``H2Metrics``: it counts in plain integers, and hands over the differences.
struct MetricsExport {
    /// Often enough for anyone who looks, and nothing beside a second of traffic.
    static var interval: Duration { .seconds(1) }

    /// What goes up and down.
    struct Levels: Hashable {
        var streams = 0
        var queuedBytes = 0
        /// Of the last PING.
        var roundTripTime: Duration?
    }

    let isEnabled: Bool
    private var counters = H2ConnectionCounters()
    private var levels = Levels()
    /// The next hand-over is on its way, or there is never one.
    private var isScheduled: Bool

    init(isEnabled: Bool) {
        self.isEnabled = isEnabled
        isScheduled = !isEnabled
    }

    /// Something was received: it is counted within a second. Returns whether a timer has to be set for that.
    mutating func schedule() -> Bool {
        defer { isScheduled = true }
        return !isScheduled
    }

    /// The timer has fired.
    mutating func isDue() { isScheduled = false }

    /// Hands over what has changed.
    mutating func export(_ counters: H2ConnectionCounters, _ levels: Levels, to: H2Metrics.Instruments) {
        let last = self.counters
        func add(_ counter: Counter, _ count: (H2ConnectionCounters) -> UInt64) {
            let change = count(counters) - count(last)
            if change > 0 { counter.increment(by: change) }
        }
        func move(_ meter: Meter, from old: Int, to new: Int) {
            if new > old { meter.increment(by: Double(new - old)) }
            if new < old { meter.decrement(by: Double(old - new)) }
        }
        add(to.streamsOpened) { $0.streamsOpened }
        add(to.streamsRefused) { $0.requestsRefused }
        add(to.bytesReceived) { $0.bytesReceived }
        add(to.bytesSent) { $0.bytesSent }
        for reset in to.resets { add(reset.counter, reset.count) }
        add(to.windowStalls) { $0.windowStalls }
        add(to.inputPauses) { $0.inputPauses }
        add(to.floods) { $0.floods }
        add(to.sendWindowStalls) { $0.sendWindowStalls }
        add(to.retiredForAge) { $0.retiredForAge }
        add(to.retiredExpired) { $0.retiredExpired }
        move(to.streams, from: self.levels.streams, to: levels.streams)
        move(to.queuedBytes, from: self.levels.queuedBytes, to: levels.queuedBytes)
        if let time = levels.roundTripTime, time != self.levels.roundTripTime {
            to.roundTripTime.recordNanoseconds(time.nanoseconds)
        }
        self.counters = counters
        self.levels = levels
    }
}

extension H2Metrics.Instruments {
    func connectionOpened() { connections.increment() }

    func connectionClosed() { connections.decrement() }
}

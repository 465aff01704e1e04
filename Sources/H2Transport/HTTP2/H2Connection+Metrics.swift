import CoreMetrics
import Streams

/// What a connection has handed over to its ``H2Metrics``.
struct ExportedMetrics {
    var counters = H2ConnectionCounters()
    var streams = 0
    var queued = 0
    var roundTripTime: Duration?
    var timer: LoopTimer?
    /// The next hand-over is on its way, or there is never one.
    var isScheduled = true
}

extension H2Connection {
    /// Often enough for anyone who looks, and nothing beside a second of traffic.
    private static var metricsInterval: Duration { .seconds(1) }

    func startMetrics() {
        guard configuration.metrics.isEnabled else { return }
        configuration.metrics.instruments(role).connections.increment()
        exported.timer = LoopTimer(on: loop) { [weak self] in
            self?.exported.isScheduled = false
            self?.exportMetrics()
        }
        exported.isScheduled = false
    }

    /// Something was received: it is counted within a second. An idle connection sets no timer.
    func scheduleMetrics() {
        exported.isScheduled = true
        exported.timer?.schedule(after: Self.metricsInterval)
    }

    func stopMetrics() {
        guard configuration.metrics.isEnabled else { return }
        exported.timer?.cancel()
        exported.isScheduled = true
        exportMetrics()
        configuration.metrics.instruments(role).connections.decrement()
    }

    private func exportMetrics() {
        let to = configuration.metrics.instruments(role)
        let last = exported.counters
        func add(_ counter: Counter, _ count: (H2ConnectionCounters) -> UInt64) {
            let change = count(counters) - count(last)
            if change > 0 { counter.increment(by: change) }
        }
        func move(_ meter: Meter, from old: inout Int, to new: Int) {
            if new > old { meter.increment(by: Double(new - old)) }
            if new < old { meter.decrement(by: Double(old - new)) }
            old = new
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
        move(to.streams, from: &exported.streams, to: streams.count)
        move(to.queuedBytes, from: &exported.queued, to: isClosed ? 0 : queuedBytes)
        if let time = roundTripTime, time != exported.roundTripTime {
            exported.roundTripTime = time
            to.roundTripTime.recordNanoseconds(time.nanoseconds)
        }
        exported.counters = counters
    }
}

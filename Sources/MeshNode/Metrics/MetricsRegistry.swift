import CoreMetrics
import Streams
import Synchronization

/// swift-metrics' backend of a node: what the transport counts, kept until somebody asks.
///
/// The transport makes its handlers once and hands over once a second, so nothing here is on the way of a byte. Timers
/// become histograms in seconds, `NAME_seconds`. Safe from any thread.
final class MetricsRegistry: MetricsFactory {
    private struct Key: Hashable, Sendable {
        let name: String
        let labels: [[String]]
    }

    private enum Handler: Sendable {
        case counter(RegisteredCounter)
        case meter(RegisteredMeter)
        case timer(RegisteredTimer)
    }

    private struct State: Sendable {
        var order: [Key] = []
        var handlers: [Key: Handler] = [:]
    }

    private let state = Lock(State())

    /// A series that is asked for again is the same one.
    private func handler(
        _ label: String,
        _ dimensions: [(String, String)],
        _ new: @autoclosure () -> Handler
    ) -> Handler {
        let key = Key(name: label, labels: dimensions.map { [$0.0, $0.1] })
        return state.withLock { state in
            if let present = state.handlers[key] { return present }
            let handler = new()
            state.order.append(key)
            state.handlers[key] = handler
            return handler
        }
    }

    func write(to text: inout PrometheusText) {
        let (order, handlers) = state.withLock { ($0.order, $0.handlers) }
        for key in order {
            let labels = key.labels.map { (name: $0[0], value: $0[1]) }
            switch handlers[key] {
            case .counter(let counter): text.add(key.name, labels, counter.value)
            case .meter(let meter): text.add(key.name, labels, meter.value)
            case .timer(let timer): text.add("\(key.name)_seconds", labels, timer.histogram)
            case nil: break
            }
        }
    }

    // MARK: MetricsFactory

    func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        if case .counter(let counter) = handler(label, dimensions, .counter(RegisteredCounter())) { return counter }
        return RegisteredCounter()
    }

    func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        if case .meter(let meter) = handler(label, dimensions, .meter(RegisteredMeter())) { return meter }
        return RegisteredMeter()
    }

    func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        if case .timer(let timer) = handler(label, dimensions, .timer(RegisteredTimer())) { return timer }
        return RegisteredTimer()
    }

    /// The transport has none.
    func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        NOOPMetricsHandler.instance
    }

    // Handlers live as long as the node.
    func destroyCounter(_ handler: any CounterHandler) {}
    func destroyMeter(_ handler: any MeterHandler) {}
    func destroyRecorder(_ handler: any RecorderHandler) {}
    func destroyTimer(_ handler: any TimerHandler) {}
}

private final class RegisteredCounter: CounterHandler {
    private let count = Atomic<Int64>(0)

    var value: Int64 { count.load(ordering: .relaxed) }

    func increment(by amount: Int64) { count.wrappingAdd(amount, ordering: .relaxed) }

    /// A counter of Prometheus only goes up.
    func reset() {}
}

private final class RegisteredMeter: MeterHandler {
    private let level = Lock(0.0)

    var value: Double { level.withLock { $0 } }

    func set(_ value: Int64) { set(Double(value)) }
    func set(_ value: Double) { level.withLock { $0 = value } }
    func increment(by amount: Double) { level.withLock { $0 += amount } }
    func decrement(by amount: Double) { level.withLock { $0 -= amount } }
}

private final class RegisteredTimer: TimerHandler {
    private let times = Lock(Histogram())

    var histogram: Histogram { times.withLock { $0 } }

    func recordNanoseconds(_ duration: Int64) {
        times.withLock { $0.record(nanoseconds: UInt64(max(0, duration))) }
    }
}

public import CoreMetrics
package import Streams

/// Where the transport counts what happens, as swift-metrics has it. Names and units are in `docs/metrics.md`.
///
/// The handlers are made once, here. Connections count in plain integers on their loops and hand over the differences
/// at most once a second and when they end, so nothing is looked up or allocated for a byte or a frame.
///
/// Compared by identity. Safe from any thread.
public final class H2Metrics: Sendable, Hashable {
    /// Uses `MetricsSystem`'s backend. Made with the first connection: bootstrap `MetricsSystem` before.
    public static let process = H2Metrics(factory: MetricsSystem.factory)

    /// Nothing is counted.
    package static let none = H2Metrics(factory: NOOPMetricsHandler.instance)

    /// False where there is no backend: connections then hand over nothing.
    let isEnabled: Bool
    private let server: Instruments
    private let client: Instruments

    /// - Parameter factory: The backend.
    public init(factory: any MetricsFactory) {
        isEnabled = !(factory is NOOPMetricsHandler)
        server = Instruments("server", factory)
        client = Instruments("client", factory)
    }

    func instruments(_ role: H2Role) -> Instruments { role == .server ? server : client }

    /// A client asked again for a stream, on another connection.
    func countRepeatedRequest() {
        guard isEnabled else { return }
        instruments(.client).repeatedRequests.increment()
    }

    /// A connection got as far as a verified peer, or failed before.
    ///
    /// - Parameter nanoseconds: How long it took, where it is known.
    package func countHandshake(_ role: H2Role, nanoseconds: UInt64? = nil, failure: StreamError? = nil) {
        guard isEnabled else { return }
        let instruments = instruments(role)
        guard let failure else {
            if let nanoseconds { instruments.handshakeTime.recordNanoseconds(nanoseconds) }
            return instruments.handshakes.increment()
        }
        (instruments.failedHandshakes[failure.code] ?? instruments.otherFailedHandshakes).increment()
    }

    public static func == (one: H2Metrics, other: H2Metrics) -> Bool { one === other }

    public func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }
}

extension H2Metrics {
    /// What one side counts.
    struct Instruments: Sendable {
        let handshakes: Counter
        let failedHandshakes: [StreamError.Code: Counter]
        let otherFailedHandshakes: Counter
        let connections: Meter
        let streams: Meter
        let streamsOpened: Counter
        let streamsRefused: Counter
        let bytesReceived: Counter
        let bytesSent: Counter
        let resets: [Reset]
        let windowStalls: Counter
        let inputPauses: Counter
        let floods: Counter
        let sendWindowStalls: Counter
        let retiredForAge: Counter
        let retiredExpired: Counter
        let repeatedRequests: Counter
        let queuedBytes: Meter
        let roundTripTime: Timer
        let handshakeTime: Timer

        /// A reason for resets, and where a connection counts it.
        struct Reset: Sendable {
            let counter: Counter
            let count: @Sendable (H2ConnectionCounters) -> UInt64
        }

        init(_ role: String, _ factory: any MetricsFactory) {
            func counter(_ name: String, _ dimensions: (String, String)...) -> Counter {
                Counter(label: "bootstrap_h2_\(name)", dimensions: [("role", role)] + dimensions, factory: factory)
            }
            func meter(_ name: String) -> Meter {
                Meter(label: "bootstrap_h2_\(name)", dimensions: [("role", role)], factory: factory)
            }
            func reset(_ reason: String, _ count: @escaping @Sendable (H2ConnectionCounters) -> UInt64) -> Reset {
                Reset(counter: counter("resets_total", ("reason", reason)), count: count)
            }
            handshakes = counter("handshakes_total", ("result", "ok"))
            let codes: [StreamError.Code] = [
                .authentication, .timedOut, .reset, .truncated, .protocolViolation, .refused, .unreachable, .limit,
                .draining, .closed,
            ]
            failedHandshakes = Dictionary(
                uniqueKeysWithValues: codes.map { ($0, counter("handshakes_total", ("result", $0.description))) }
            )
            otherFailedHandshakes = counter("handshakes_total", ("result", "other"))
            connections = meter("connections")
            streams = meter("streams")
            streamsOpened = counter("streams_opened_total")
            streamsRefused = counter("streams_refused_total")
            bytesReceived = counter("received_bytes_total")
            bytesSent = counter("sent_bytes_total")
            resets = [
                reset("received") { $0.resetsReceived }, reset("sent") { $0.resetsSent },
                reset("early") { $0.earlyResetsReceived }, reset("provoked") { $0.provokedResets },
                reset("stalled") { $0.stalledStreams }, reset("memory") { $0.memoryResets },
            ]
            windowStalls = counter("window_stalls_total")
            inputPauses = counter("input_pauses_total")
            floods = counter("floods_total")
            sendWindowStalls = counter("send_window_stalls_total")
            retiredForAge = counter("retired_total", ("reason", "age"))
            retiredExpired = counter("retired_total", ("reason", "expired"))
            repeatedRequests = counter("repeated_requests_total")
            queuedBytes = meter("queued_bytes")
            func timer(_ name: String) -> Timer {
                Timer(label: "bootstrap_h2_\(name)", dimensions: [("role", role)], factory: factory)
            }
            roundTripTime = timer("round_trip_time")
            handshakeTime = timer("handshake_time")
        }
    }
}

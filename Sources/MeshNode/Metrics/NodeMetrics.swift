import MeshPaths
import MeshPolicy
import Streams

/// What a node has of the mesh's directory.
struct DirectoryFigures: Sendable {
    /// 0: nothing.
    var revision: Int64 = 0
    var hasProblem = false
    var changes: UInt64 = 0
    var refused: UInt64 = 0
}

/// What a node shows Prometheus.
struct NodeMetrics: Sendable {
    let report: WorkerReport
    let isDraining: Bool
    let certificateRemaining: Int64
    let accessLogLines: UInt64
    let accessLogDropped: UInt64
    let directory: DirectoryFigures
    let process: ProcessFigures

    func text(with registry: MetricsRegistry) -> String {
        var text = PrometheusText()
        for metric in MetricCatalog.all { text.declare(metric.name, metric.kind, help: metric.help) }
        for front in report.fronts { Self.write(front, into: &text) }
        writeNode(into: &text)
        registry.write(to: &text)
        writeProcess(into: &text)
        return text.text
    }

    private static func name(_ way: FrontStatistics.Way) -> String { way?.rawValue ?? "direct" }

    private static func write(_ statistics: FrontStatistics, into text: inout PrometheusText) {
        let front: PrometheusText.Labels = [
            ("listener", statistics.front.listener), ("protocol", statistics.front.protocol),
        ]
        for (way, histogram) in statistics.opened.sorted(by: { name($0.key) < name($1.key) }) {
            let labels = front + [("transport", name(way))]
            text.add("bootstrap_streams", labels, statistics.live[way] ?? 0)
            text.add("bootstrap_streams_opened_total", labels, histogram.count)
            text.add("bootstrap_stream_open_seconds", labels, histogram)
        }
        for (code, count) in statistics.refused.sorted(by: { $0.key.description < $1.key.description }) {
            text.add("bootstrap_streams_refused_total", front + [("reason", code.description)], count)
        }
        for (end, count) in statistics.ended {
            let reason = end.code?.description ?? "ok"
            let labels = front + [("transport", name(end.way)), ("reason", reason), ("by", end.party.rawValue)]
            text.add("bootstrap_streams_ended_total", labels, count)
        }
        for (code, count) in statistics.failedHandshakes.sorted(by: { $0.key.description < $1.key.description }) {
            text.add("bootstrap_handshake_failures_total", front + [("reason", code.description)], count)
        }
        text.add("bootstrap_stream_bytes_total", front + [("direction", "sent")], statistics.sent)
        text.add("bootstrap_stream_bytes_total", front + [("direction", "received")], statistics.received)
    }

    private func writeNode(into text: inout PrometheusText) {
        text.add("bootstrap_clients_waiting", report.newcomers)
        text.add("bootstrap_reverse_connections", [("by", "peer")], report.held.count { $0.isReady })
        text.add("bootstrap_reverse_connections", [("by", "node")], report.gateways.count { $0.isHeld })
        var inUse: [Transport: Int] = [:]
        for path in report.peers.flatMap(\.paths) where path.state == .inUse {
            inUse[path.path.transport, default: 0] += 1
        }
        for transport in Transport.allCases {
            text.add("bootstrap_paths_in_use", [("transport", transport.rawValue)], inUse[transport] ?? 0)
        }
        var changes: [String: [String: UInt64]] = [:]
        for (change, count) in report.pathChanges {
            let (kind, transport) =
                switch change {
                case .chosen(let transport): ("chosen", transport.rawValue)
                case .switched(_, let transport): ("switched", transport.rawValue)
                case .unreachable: ("unreachable", "none")
                case .refused: ("refused", "none")
                }
            changes[kind, default: [:]][transport, default: 0] += count
        }
        for (kind, counts) in changes {
            for (transport, count) in counts {
                text.add("bootstrap_path_changes_total", [("change", kind), ("transport", transport)], count)
            }
        }
        text.add("bootstrap_certificate_remaining_seconds", certificateRemaining)
        text.add("bootstrap_draining", isDraining ? 1 : 0)
        text.add("bootstrap_access_log_lines_total", accessLogLines)
        text.add("bootstrap_access_log_dropped_lines_total", accessLogDropped)
        text.add("bootstrap_directory_revision", directory.revision)
        text.add("bootstrap_directory_problem", directory.hasProblem ? 1 : 0)
        text.add("bootstrap_directory_changes_total", directory.changes)
        text.add("bootstrap_directory_refused_total", directory.refused)
    }

    private func writeProcess(into text: inout PrometheusText) {
        if let bytes = process.residentBytes { text.add("process_resident_memory_bytes", bytes) }
        if let bytes = process.virtualBytes { text.add("process_virtual_memory_bytes", bytes) }
        if let count = process.openDescriptors { text.add("process_open_fds", count) }
        if let limit = process.descriptorLimit { text.add("process_max_fds", limit) }
        if let seconds = process.processorSeconds { text.add("process_cpu_seconds_total", seconds) }
        if let time = process.startTime { text.add("process_start_time_seconds", time) }
        if let count = process.threads { text.add("process_threads", count) }
    }
}

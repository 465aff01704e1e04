/// Every metric of a node: its name, its kind and what it says. docs/metrics.md says the same, and a test compares
/// them.
struct MetricCatalog {
    struct Metric: Hashable, Sendable {
        let name: String
        let kind: PrometheusText.Kind
        let help: String
        let labels: [String]
    }

    static let all = node + transport + process

    private static func counter(_ name: String, _ labels: [String] = [], _ help: String) -> Metric {
        Metric(name: name, kind: .counter, help: help, labels: labels)
    }

    private static func gauge(_ name: String, _ labels: [String] = [], _ help: String) -> Metric {
        Metric(name: name, kind: .gauge, help: help, labels: labels)
    }

    private static func histogram(_ name: String, _ labels: [String] = [], _ help: String) -> Metric {
        Metric(name: name, kind: .histogram, help: help, labels: labels)
    }

    private static let front = ["listener", "protocol"]

    static let node: [Metric] = [
        gauge("bootstrap_streams", front + ["transport"], "Streams that are open."),
        counter("bootstrap_streams_opened_total", front + ["transport"], "Streams that were opened."),
        counter("bootstrap_streams_refused_total", front + ["reason"], "Streams that were asked for and never open."),
        counter(
            "bootstrap_streams_ended_total",
            front + ["transport", "reason", "by"],
            "Streams that were open and are over."
        ),
        counter(
            "bootstrap_stream_bytes_total",
            front + ["direction"],
            "Bytes of streams: sent to destinations, received from them."
        ),
        histogram(
            "bootstrap_stream_open_seconds",
            front + ["transport"],
            "From the request of a stream until it could carry bytes."
        ),
        counter(
            "bootstrap_handshake_failures_total",
            front + ["reason"],
            "TLS handshakes with clients of tls and https listeners that failed."
        ),
        gauge("bootstrap_clients_waiting", "Clients that have connected and not said yet what they want."),
        gauge(
            "bootstrap_reverse_connections",
            ["by"],
            "Connections that peers hold to this node, and that this node holds to gateways."
        ),
        gauge(
            "bootstrap_paths_in_use",
            ["transport"],
            "Paths to peers that new streams take, one for each event loop."
        ),
        counter("bootstrap_path_changes_total", ["change", "transport"], "What became of the paths to peers."),
        gauge("bootstrap_certificate_remaining_seconds", "Until the node's certificate ends; negative after that."),
        gauge("bootstrap_draining", "1 while the node takes nothing new, else 0."),
        counter("bootstrap_access_log_lines_total", "Lines that were written to the access log."),
        counter("bootstrap_access_log_dropped_lines_total", "Lines that the access log could not take."),
        gauge("bootstrap_directory_revision", "Of the mesh's directory that holds; 0 without one."),
        gauge(
            "bootstrap_directory_problem",
            "1 while the directory cannot be asked, or what it says is refused, else 0."
        ),
        counter("bootstrap_directory_changes_total", "Changes of the directory that were taken."),
        counter("bootstrap_directory_refused_total", "Changes of the directory that were refused."),
    ]

    static let transport: [Metric] = [
        counter("bootstrap_h2_handshakes_total", ["role", "result"], "TLS handshakes."),
        histogram("bootstrap_h2_handshake_time_seconds", ["role"], "How long handshakes took that succeeded."),
        gauge("bootstrap_h2_connections", ["role"], "HTTP/2 connections that are open."),
        gauge("bootstrap_h2_streams", ["role"], "HTTP/2 streams that are open or being opened."),
        counter("bootstrap_h2_streams_opened_total", ["role"], "Requests answered 2xx."),
        counter("bootstrap_h2_streams_refused_total", ["role"], "Requests answered otherwise, or that failed."),
        counter("bootstrap_h2_received_bytes_total", ["role"], "HTTP/2 frames received, before TLS."),
        counter("bootstrap_h2_sent_bytes_total", ["role"], "HTTP/2 frames sent, before TLS."),
        counter("bootstrap_h2_resets_total", ["role", "reason"], "RST_STREAM frames."),
        counter("bootstrap_h2_window_stalls_total", ["role"], "The connection window was withheld from a peer."),
        counter("bootstrap_h2_input_pauses_total", ["role"], "Reading stopped: the peer does not take its answers."),
        counter("bootstrap_h2_floods_total", ["role"], "Connections cut off because of a rate."),
        counter("bootstrap_h2_send_window_stalls_total", ["role"], "The peer's connection window was used up."),
        counter("bootstrap_h2_retired_total", ["role", "reason"], "Connections given up in order."),
        counter("bootstrap_h2_repeated_requests_total", ["role"], "Requests asked again on another connection."),
        gauge("bootstrap_h2_queued_bytes", ["role"], "Bytes received and not yet taken by their readers."),
        histogram("bootstrap_h2_round_trip_time_seconds", ["role"], "Round-trip times of PINGs."),
    ]

    static let process: [Metric] = [
        gauge("process_resident_memory_bytes", "Resident memory."),
        gauge("process_virtual_memory_bytes", "Virtual memory."),
        gauge("process_open_fds", "Open file descriptors."),
        gauge("process_max_fds", "The most file descriptors that may be open."),
        counter("process_cpu_seconds_total", "Processor time, user and system."),
        gauge("process_start_time_seconds", "When the process started, in seconds since 1970."),
        gauge("process_threads", "Threads."),
    ]
}

extension MetricCatalog {
    private static func counter(_ name: String, _ help: String) -> Metric { counter(name, [], help) }
    private static func gauge(_ name: String, _ help: String) -> Metric { gauge(name, [], help) }
}

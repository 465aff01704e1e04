import H2Transport
import Platform

/// What came with a stream that says where it belongs, and what its answer said: for the access log and the page of
/// live streams. Others have written all of it; nothing is decided by it.
struct StreamMetadata {
    /// Of whoever asks.
    var baggage: String?
    /// The one that goes on with the stream.
    var trace: TraceParent?
    /// The network that whoever asks is in.
    var network: String?
    /// Of the answer.
    var answer: String?

    private static let longestNetwork = 253
    /// Of what is written of each baggage, in bytes of keys and values; the rest is left out.
    private static let longest = 1024

    /// - Parameters:
    ///   - request: As it came.
    ///   - headers: As they go on; nil: they do not.
    init(_ request: ConnectRequest, goingOnWith headers: HeaderFields? = nil) {
        baggage = request.baggage
        trace = TraceParent(parsing: headers?["traceparent"] ?? request.traceparent)
        if let name = request.headers["x-forwarded-network"], name.utf8.count <= Self.longestNetwork { network = name }
    }

    init(trace: TraceParent?) { self.trace = trace }

    func write(into json: inout JSONWriter) {
        if let trace {
            json.key("traceparent")
            json.string(trace.description)
        }
        if let network {
            json.key("network")
            json.string(network)
        }
        Self.write("baggage", baggage, into: &json)
        Self.write("answerBaggage", answer, into: &json)
    }

    private static func write(_ key: StaticString, _ field: String?, into json: inout JSONWriter) {
        let baggage = Baggage(parsing: field)
        guard !baggage.isEmpty else { return }
        var room = longest
        json.key(key)
        json.object { json in
            for member in baggage.members {
                room -= member.key.utf8.count + member.value.utf8.count
                guard room >= 0 else { return }
                json.key(member.key)
                json.string(member.value)
            }
        }
    }
}

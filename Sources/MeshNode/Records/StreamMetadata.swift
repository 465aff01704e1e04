import H2Transport
import Platform

/// What came with a stream that says where it belongs, and what its answer said: for the access log and the page of
/// live streams. Others have written all of it; nothing is decided by it.
///
/// Most peers say the same with each of their streams.
struct StreamMetadata: Equatable {
    /// Of whoever asks.
    var baggage: String?
    /// The network that whoever asks is in.
    var network: String?
    /// Of the answer.
    var answer: String?

    private static let longestNetwork = 253
    /// Of what is written of each baggage, in bytes of keys and values; the rest is left out.
    private static let longest = 1024

    /// Nothing.
    init() {}

    /// Of a request; nil: nothing came with it.
    init?(_ request: ConnectRequest) {
        baggage = request.baggage
        if let name = request.headers["x-forwarded-network"], name.utf8.count <= Self.longestNetwork { network = name }
        if baggage == nil, network == nil { return nil }
    }

    func write(into json: inout JSONWriter) {
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

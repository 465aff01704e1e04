import H2Transport
import MeshPolicy
import Platform

/// The header fields that a gateway sends to the next node. They are made here, from what may go on: whatever else a
/// peer writes ends at the first node, or it would be read at the next one as this node's word.
enum HopHeaders {
    /// How long a name may be that goes on as it came.
    private static let longestService = 260

    /// - Parameter trace: What goes on as it came, or begins here: a node records no step of its own, and the next one
    ///   would miss its parent.
    static func next(_ request: ConnectRequest, for plan: StreamPlan, in trace: TraceParent) -> HeaderFields {
        var headers = HeaderFields()
        if let field = baggage(request.headers) { headers.append("baggage", field) }
        headers.append("traceparent", trace.description)
        if let name = request.service, name.utf8.count <= longestService { headers.append("x-service", name) }
        // TLS inside, from end to end: only its own end may take this away, and change nothing of it.
        if let destination = request.tunnelDestination { headers.append("x-tun", destination) }
        let asked = plan.request
        headers.append("forwarded", asked.hops.field(from: asked.sourceIP, through: plan.own))
        return headers
    }

    /// What may go on of a `baggage` field; nil for nothing.
    static func baggage(_ headers: HeaderFields) -> String? {
        guard let field = headers["baggage"] else { return nil }
        let baggage = Baggage(parsing: field)
        return baggage.isEmpty ? nil : baggage.description
    }
}

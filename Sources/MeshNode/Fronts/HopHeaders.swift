import H2Transport
import MeshPolicy
import Platform

/// The header fields that a gateway sends to the next node. They are made here, from what may go on: whatever else a
/// peer writes ends at the first node, or it would be read at the next one as this node's word.
enum HopHeaders {
    /// What goes on as it came, and how long it may be. W3C Baggage §3.3.2 and W3C Trace Context §3.2.2 give the
    /// lengths.
    private static let passedOn = [("baggage", 8192), ("traceparent", 55), ("x-service", 260)]

    static func next(_ request: ConnectRequest, for plan: StreamPlan) -> HeaderFields {
        var headers = HeaderFields()
        for (name, limit) in passedOn {
            guard let value = request.headers[name], value.utf8.count <= limit else { continue }
            headers.append(name, value)
        }
        // TLS inside, from end to end: only its own end may take this away, and change nothing of it.
        if let destination = request.tunnelDestination { headers.append("x-tun", destination) }
        let asked = plan.request
        headers.append("forwarded", asked.hops.field(from: asked.sourceIP, through: plan.own))
        return headers
    }
}

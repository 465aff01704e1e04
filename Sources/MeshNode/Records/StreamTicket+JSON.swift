import H2Transport
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

// What is written of a stream, in the access log and on the page of live streams.
extension StreamTicket {
    /// Members of an object: who wants to go where, how it goes on, and which rule says so.
    func write(into json: inout JSONWriter) {
        json.key("id")
        json.number(id)
        writeFront(into: &json)
        writeSource(into: &json)
        writeClient(into: &json)
        writeDestination(into: &json)
        writeWay(into: &json)
        if let trace {
            json.key("traceparent")
            json.string(trace.description)
        }
        metadata?.write(into: &json)
        writeDecision(into: &json)
    }

    func writeFront(into json: inout JSONWriter) {
        json.key("listener")
        json.string(front.listener)
        json.key("protocol")
        json.string(front.protocol)
    }

    func writeSource(into json: inout JSONWriter) {
        json.key("source")
        Self.write(plan.request.source, into: &json)
    }

    func writeClient(into json: inout JSONWriter) {
        json.key("address")
        if let client { Self.write(client, into: &json) } else { json.string(plan.request.sourceIP.description) }
    }

    func writeDestination(into json: inout JSONWriter) {
        let request = plan.request
        if let transport = request.transport {
            json.key("over")
            json.string(transport.rawValue)
        }
        json.key("destination")
        Self.write(request.destination, into: &json)
        if let details = request.details { Self.write(details, into: &json) }
        if case .peer(let route, _) = plan.outcome, route.authority != request.destination {
            json.key("authority")
            Self.write(route.authority, into: &json)
        }
        if !request.hops.elements.isEmpty {
            json.key("forwarded")
            json.string(request.hops.elements.joined(separator: ", "))
        }
    }

    private static func write(_ authority: Authority, into json: inout JSONWriter) {
        json.string(host: authority.host, port: authority.port)
    }

    private static func write(_ address: SocketAddress, into json: inout JSONWriter) {
        guard let ip = address.address else { return json.string(address.description) }
        json.string(host: ip.description, port: address.port)
    }

    private static func write(_ source: StreamRequest.Source, into json: inout JSONWriter) {
        switch source {
        case .peer(let peer): json.string("spiffe://", peer.principal)
        case .localUser: json.string("local user")
        case .unauthenticated: json.string("unauthenticated")
        }
    }

    private static func write(_ details: RequestDetails, into json: inout JSONWriter) {
        if let method = details.method {
            json.key("method")
            json.string(method)
        }
        if let path = details.path {
            json.key("requestPath")
            json.string(path)
        }
        if let principal = details.principal {
            json.key("principal")
            json.string(principal)
        }
    }

    /// How it went on; nothing where it did not.
    func writeWay(into json: inout JSONWriter) {
        guard isOpen else { return }
        json.key("path")
        json.string(pathNow?.transport.rawValue ?? "direct")
        if history.count > 0 {
            json.key("resumptions")
            json.number(history.count)
            json.key("resumed")
            json.string(history.lastReason ?? "")
        }
        if let path = pathNow, !path.qualifier.isEmpty {
            json.key("way")
            json.string(path.qualifier)
        }
        if let dialled {
            json.key("dialled")
            Self.write(dialled, into: &json)
        }
        if let peer {
            json.key("peer")
            json.string("spiffe://", peer.principal)
        }
    }

    func writeDecision(into json: inout JSONWriter) {
        json.key("policy")
        guard let rule = plan.decision.rule else { return json.string("default") }
        json.string(rule.policy.name)
        json.key("rule")
        json.number(rule.index + 1)
    }
}

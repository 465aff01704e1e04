import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

// What is written of a stream, in the access log and on the page of live streams.
extension StreamTicket {
    /// Members of an object: who wants to go where, how it goes on, and which rule says so.
    func write(into json: inout JSONWriter) {
        let request = plan.request
        json.key("id")
        json.number(id)
        json.key("listener")
        json.string(front.listener)
        json.key("protocol")
        json.string(front.protocol)
        json.key("source")
        Self.write(request.source, into: &json)
        json.key("address")
        if let client { Self.write(client, into: &json) } else { json.string(request.sourceIP.description) }
        if let transport = request.transport {
            json.key("over")
            json.string(transport.rawValue)
        }
        json.key("destination")
        Self.write(request.destination, into: &json)
        if let details = request.details { Self.write(details, into: &json) }
        writeWay(into: &json)
        writeDecision(into: &json)
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

    /// How it went on, or would have.
    private func writeWay(into json: inout JSONWriter) {
        if case .peer(let route, _) = plan.outcome, route.authority != plan.request.destination {
            json.key("authority")
            Self.write(route.authority, into: &json)
        }
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

    private func writeDecision(into json: inout JSONWriter) {
        json.key("policy")
        guard let rule = plan.decision.rule else { return json.string("default") }
        json.string(rule.policy.name)
        json.key("rule")
        json.number(rule.index + 1)
    }
}

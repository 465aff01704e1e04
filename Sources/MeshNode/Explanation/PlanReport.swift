package import MeshPolicy
import Platform

/// What becomes of a stream, and why, for programs.
package struct PlanReport: Encodable {
    var allowed: Bool
    var from: String
    var sourceIP: String
    var transport: String
    var to: String
    /// Absent for a stream without HTTP.
    var method: String?
    var path: String?
    var requestPrincipal: String?
    var policy: Policy
    var route: Path

    struct Policy: Encodable {
        var allowed: Bool
        /// Absent when the default decided.
        var name: String?
        /// Counted from 1.
        var rule: Int?
        var place: String?
        var reason: String
        var notes: [String]
    }

    struct Path: Encodable {
        var kind: String
        var description: String
        var authority: String?
        var transports: [String]?
        /// Of the peer; absent where none is known.
        var servers: [String]?
    }

    package init(_ plan: StreamPlan) {
        let decision = plan.decision
        route = Path(kind: "refused", description: plan.routeDescription)
        switch plan.route.action {
        case .refused: break
        case .direct(let target, _): (route.kind, route.authority) = ("direct", target.description)
        case .listen(let place): (route.kind, route.authority) = ("listen", place.description)
        case .mesh(let mesh):
            (route.kind, route.authority) = ("mesh", mesh.authority.description)
            route.transports = plan.candidates.map(\.id.transport.rawValue)
            if !mesh.peer.servers.isEmpty { route.servers = mesh.peer.servers.map(\.description) }
        }
        allowed = plan.isAllowed
        from = plan.request.sourceDescription
        sourceIP = plan.request.sourceIP.description
        transport = plan.request.decidedTransport.rawValue
        to = plan.request.destination.description
        method = plan.request.details?.method
        path = plan.request.details?.path
        requestPrincipal = plan.request.details?.principal
        policy = Policy(
            allowed: decision.isAllowed,
            name: decision.rule?.policy.name,
            rule: decision.rule.map { $0.index + 1 },
            place: plan.rulePlace,
            reason: decision.reason,
            notes: decision.notes
        )
    }
}

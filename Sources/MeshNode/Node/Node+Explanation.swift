import MeshIdentity
import MeshPolicy
import Platform
import Streams

// The pages of the administration about what is decided, and why.
extension Node {
    /// What would become of a stream, by what holds now. Nothing is opened, and nothing is noted down.
    func explainPage(_ request: OperationRequest) async -> OperationResponse {
        guard let snapshot = await snapshot() else { return unavailable }
        do throws(PolicyQuestion.Mistake) {
            let question = try PolicyQuestion(query: request.query)
            let plan = snapshot.planner.plan(
                try question.request(own: snapshot.credential.id, snapshot.configuration)
            )
            guard let bytes = try? JSONText.encode(PlanReport(plan)) else { return .stopping }
            return OperationResponse(type: Self.json, body: bytes + [UInt8(ascii: "\n")])
        } catch {
            return OperationResponse(error.isRefusal ? 404 : 400, error.description)
        }
    }

    /// Where streams go: the first that matches says.
    func routesPage(_ request: OperationRequest) async -> OperationResponse {
        guard let limit = Self.limit(of: request) else { return Self.noLimit }
        guard let snapshot = await snapshot() else { return unavailable }
        let (configuration, own) = (snapshot.configuration, snapshot.credential.id)
        return Self.page { json in
            json.key("total")
            json.number(configuration.endpoints.count + (snapshot.directory?.table.count ?? 0))
            json.key("default")
            json.string(configuration.unmatched.rawValue)
            json.key("routes")
            json.array { json in
                for endpoint in snapshot.rules.prefix(limit) {
                    Self.write(endpoint, own: own, file: configuration.file, into: &json)
                }
            }
        }
    }

    private static func write(
        _ endpoint: MeshPolicy.Endpoint,
        own: SPIFFEID,
        file: String,
        into json: inout JSONWriter
    ) {
        json.object { json in
            json.key("match")
            json.string(endpoint.match.description)
            if let address = endpoint.address {
                json.key("address")
                json.string(endpoint.keepsPort ? "\(address.host):*" : address.description)
            }
            switch endpoint.way {
            case .direct(let tls):
                json.key("kind")
                json.string("direct")
                if let tls {
                    json.key("tls")
                    json.string(tls.serverName ?? "the host that is asked for")
                }
            case .peer(let peer):
                json.key("kind")
                json.string("mesh")
                json.key("ways")
                json.array { json in
                    for candidate in peer.candidates { json.string(candidate.description) }
                }
                json.key("expects")
                json.string(peer.expectation(own: own).description)
            }
            json.key("place")
            json.string(endpoint.source ?? endpoint.position.map { "\(file):\($0)" } ?? file)
        }
    }

    /// The policies, how often each of their rules has decided since they hold, and the last decisions.
    func policyPage() async -> OperationResponse {
        guard let snapshot = await snapshot() else { return unavailable }
        var counts: [DecisionLog.RuleName: DecisionLog.Count] = [:]
        var byDefault = DecisionLog.Count()
        var entries: [DecisionLog.Entry] = []
        for worker in state.withLock({ $0.workers }) {
            let part = try? await worker.loop.execute {
                worker.withValue { worker in
                    let decisions = worker.records.decisions
                    return (decisions.counts, decisions.byDefault, decisions.entries)
                }
            }
            guard let (some, unruled, last) = part else { continue }
            counts.merge(some) { $0 + $1 }
            byDefault = byDefault + unruled
            entries += last
        }
        entries.sort { ($0.plan.request.now, $0.number) > ($1.plan.request.now, $1.number) }
        let configuration = snapshot.configuration
        return Self.page { json in
            json.key("default")
            Self.write(byDefault, into: &json)
            json.key("policies")
            json.array { json in
                for policy in configuration.policy ?? [] {
                    Self.write(policy, counts, file: configuration.file, into: &json)
                }
            }
            json.key("decisions")
            json.array { json in
                for entry in Self.last(entries) { Self.write(entry, into: &json) }
            }
        }
    }

    /// Of all loops as many as of one, the latest first.
    private static func last(_ entries: [DecisionLog.Entry]) -> [DecisionLog.Entry] {
        var room = [true: DecisionLog.kept, false: DecisionLog.kept]
        return entries.filter { entry in
            room[entry.plan.isAllowed, default: 0] -= 1
            return room[entry.plan.isAllowed, default: 0] >= 0
        }
    }

    private static func write(_ count: DecisionLog.Count, into json: inout JSONWriter) {
        json.object { json in write(members: count, into: &json) }
    }

    private static func write(members count: DecisionLog.Count, into json: inout JSONWriter) {
        json.key("allowed")
        json.number(count.allowed)
        json.key("denied")
        json.number(count.denied)
    }

    private static func write(
        _ policy: AuthorizationPolicy,
        _ counts: [DecisionLog.RuleName: DecisionLog.Count],
        file: String,
        into json: inout JSONWriter
    ) {
        json.object { json in
            json.key("name")
            json.string(policy.name)
            json.key("action")
            json.string(policy.action.rawValue)
            json.key("dryRun")
            json.bool(policy.dryRun)
            json.key("rules")
            json.array { json in
                for (index, rule) in policy.rules.enumerated() {
                    json.object { json in
                        json.key("rule")
                        json.number(index + 1)
                        json.key("place")
                        let source = policy.importedFrom ?? policy.holder ?? file
                        json.string(rule.position.map { "\(source):\($0)" } ?? source)
                        let name = DecisionLog.RuleName(policy: policy.name, rule: index + 1)
                        write(members: counts[name] ?? DecisionLog.Count(), into: &json)
                    }
                }
            }
        }
    }

    private static func write(_ entry: DecisionLog.Entry, into json: inout JSONWriter) {
        let (plan, request) = (entry.plan, entry.plan.request)
        json.object { json in
            json.key("time")
            json.string(describe(time: request.now))
            json.key("listener")
            json.string(entry.listener)
            json.key("source")
            json.string(request.sourceDescription)
            json.key("address")
            json.string(request.sourceIP.description)
            json.key("over")
            json.string(request.decidedTransport.rawValue)
            json.key("destination")
            json.string(request.destination.description)
            json.key("allowed")
            json.bool(plan.isAllowed)
            json.key("reason")
            if case .refused(let refusal) = plan.outcome {
                json.string(refusal.description)
            } else {
                json.string(plan.decision.reason)
            }
            if let place = plan.rulePlace {
                json.key("place")
                json.string(place)
            }
        }
    }
}

extension DecisionLog.Count {
    fileprivate static func + (left: Self, right: Self) -> Self {
        Self(allowed: left.allowed &+ right.allowed, denied: left.denied &+ right.denied)
    }
}

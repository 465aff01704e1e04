import MeshPolicy
import Platform

/// The last things that policy and routes have decided on one event loop, and how often each rule was the reason.
/// Bounded; costs a stream a place in a ring and a count. Confined to its loop.
struct DecisionLog {
    struct Entry: Sendable {
        let plan: StreamPlan
        let listener: String
        /// Of those of the same loop, the later one has the higher number.
        let number: UInt64
    }

    /// Of a rule, or of the default.
    struct Count: Hashable, Sendable {
        var allowed: UInt64 = 0
        var denied: UInt64 = 0
    }

    /// Which rule: by the name of its policy, and from 1. nil: none, the default has decided.
    struct RuleName: Hashable, Sendable {
        let policy: String
        let rule: Int
    }

    /// The oldest makes room.
    private struct Ring {
        private(set) var entries: [Entry] = []
        private var next = 0

        mutating func keep(_ entry: Entry) {
            guard entries.count == DecisionLog.kept else { return entries.append(entry) }
            entries[next] = entry
            next = (next + 1) % DecisionLog.kept
        }
    }

    /// A flood of either must not wash away the others.
    static let kept = 50

    private var allowed = Ring()
    private var denied = Ring()
    private var number: UInt64 = 0
    /// Each is an object, which its plans hand around: to hash what it says costs more than to count.
    private var rules: [(rule: RuleReference, count: Count)] = []
    /// Of each in ``rules``, which keeps it alive.
    private var places: [ObjectIdentifier: Int] = [:]
    /// The one that has decided last: nearly always the next, too.
    private var lastPlace = 0
    private(set) var byDefault = Count()

    mutating func note(_ plan: StreamPlan, at listener: String) {
        let entry = Entry(plan: plan, listener: listener, number: number)
        number &+= 1
        let isAllowed = plan.isAllowed
        if isAllowed { allowed.keep(entry) } else { denied.keep(entry) }
        let decision = plan.decision
        if let rule = decision.rule {
            Self.count(decision.isAllowed, in: &rules[place(of: rule)].count)
        } else {
            Self.count(decision.isAllowed, in: &byDefault)
        }
    }

    private mutating func place(of rule: RuleReference) -> Int {
        if lastPlace < rules.count, rules[lastPlace].rule === rule { return lastPlace }
        if let place = places[ObjectIdentifier(rule)] {
            lastPlace = place
        } else {
            lastPlace = rules.count
            places[ObjectIdentifier(rule)] = lastPlace
            rules.append((rule, Count()))
        }
        return lastPlace
    }

    private static func count(_ isAllowed: Bool, in count: inout Count) {
        if isAllowed { count.allowed &+= 1 } else { count.denied &+= 1 }
    }

    /// Other rules hold from now on: what the ones before were asked is past.
    mutating func rulesChanged() {
        (rules, places) = ([], [:])
        byDefault = Count()
    }

    /// The latest first.
    var entries: [Entry] { (allowed.entries + denied.entries).sorted { $0.number > $1.number } }

    var counts: [RuleName: Count] {
        var counts: [RuleName: Count] = [:]
        for (rule, count) in rules {
            let name = RuleName(policy: rule.policy.name, rule: rule.index + 1)
            counts[name, default: Count()].allowed &+= count.allowed
            counts[name, default: Count()].denied &+= count.denied
        }
        return counts
    }
}

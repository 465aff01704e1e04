import Testing

@testable import Agent

@Suite struct NodePlanTests {
    private let healthy = NodePlan.Facts(process: 7, isCurrent: true, handsOver: true, listener: "127.0.0.1:15008")

    private func with(_ change: (inout NodePlan.Facts) -> Void) -> NodePlan {
        var facts = healthy
        change(&facts)
        return NodePlan(facts)
    }

    @Test func aHealthyNodeIsLeftAlone() {
        #expect(NodePlan(healthy) == .leave(listener: "127.0.0.1:15008"))
        #expect(with { ($0.hasService, $0.supervisor) = (true, 8) } == .leave(listener: "127.0.0.1:15008"))
    }

    @Test func whatIsNewIsStartedBesideIt() {
        #expect(with { $0.isConfigurationChanged = true } == .start(stopping: nil))
        #expect(with { $0.isCurrent = false } == .start(stopping: nil))
        #expect(with { $0.listener = nil } == .start(stopping: nil))
        // A service that is new, or whose supervisor died, has to have a node of its own.
        #expect(with { $0.hasService = true } == .start(stopping: nil))
        #expect(NodePlan(.init()) == .start(stopping: nil))
    }

    @Test func aSupervisorStartsItItself() {
        #expect(with { ($0.hasService, $0.supervisor, $0.isCurrent) = (true, 8, false) } == .replace(supervisor: 8))
        #expect(with { ($0.hasService, $0.supervisor, $0.process) = (true, 8, nil) } == .replace(supervisor: 8))
    }

    @Test func oneThatCannotHandOverIsStoppedBefore() {
        #expect(with { ($0.isCurrent, $0.handsOver) = (false, false) } == .start(stopping: 7))
        #expect(with { ($0.hasService, $0.handsOver) = (true, false) } == .start(stopping: 7))
    }
}

import Testing

@testable import Agent

@Suite struct NodeStartTests {
    private let begin = ContinuousClock.now

    private func verdict(
        _ output: String,
        accepts: Bool = true,
        hasEnded: Bool = false,
        isWanted: Bool = true,
        after time: Duration = .zero
    ) -> NodeStart.Verdict {
        let seen = NodeStart.Observation(
            output: output,
            accepts: { _ in accepts },
            hasEnded: { hasEnded },
            isWanted: isWanted
        )
        return NodeStart(at: begin).verdict(seen, at: begin + time)
    }

    @Test func itIsReadyWhenItSaysSoAndAccepts() {
        let output = "ready socks 127.0.0.1:1080\nready hbone 0.0.0.0:15008\n"
        #expect(verdict(output) == .ready(listener: "0.0.0.0:15008"))
        #expect(verdict(output, accepts: false) == .wait)
        // One that is up is up, however late.
        #expect(verdict(output, after: .seconds(60)) == .ready(listener: "0.0.0.0:15008"))
    }

    @Test(arguments: ["", "ready socks 127.0.0.1:1080\n", "ready hbone\n", "hbone 127.0.0.1:1 ready\n"])
    func anythingElseIsWaitedFor(output: String) {
        #expect(verdict(output) == .wait)
        #expect(verdict(output, after: NodeStart.limit - .milliseconds(1)) == .wait)
        #expect(verdict(output, after: NodeStart.limit) == .late)
        #expect(verdict(output, isWanted: false) == .late)
        #expect(verdict(output, hasEnded: true) == .ended)
    }
}

import Streams

/// Calls a closure when the event loop comes round, outside of whatever runs now.
final class LoopCall: TurnTask {
    private let body: () -> Void

    @discardableResult
    init(on loop: EventLoop, _ body: @escaping () -> Void) {
        self.body = body
        loop.nextTurn(self)
    }

    func runTurn() { body() }
}

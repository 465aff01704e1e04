import CLinux
import Synchronization

/// A fixed set of event loops, one thread each.
public final class EventLoopGroup: Sendable {
    /// All of them, at least one.
    public let loops: [EventLoop]
    private let turn = Atomic<Int>(0)

    /// - Parameter count: how many loops, at least one.
    public init(count: Int) {
        precondition(count >= 1, "an event loop group needs at least one loop")
        loops = (0..<count).map { EventLoop(name: "loop-\($0)") }
    }

    /// Processors that this process may use: fewer than there are where it is confined (taskset, cpuset). At least one.
    public static var availableProcessors: Int { max(1, Int(clinux_available_processors())) }

    /// The next loop, round robin.
    public func next() -> EventLoop {
        loops[(turn.wrappingAdd(1, ordering: .relaxed).oldValue & Int.max) % loops.count]
    }

    /// Stops every loop. See ``EventLoop/shutDown(timeToDepart:)``.
    public func shutDown(timeToDepart: Duration = .seconds(1)) async {
        await withTaskGroup(of: Void.self) { group in
            for loop in loops { group.addTask { await loop.shutDown(timeToDepart: timeToDepart) } }
        }
    }
}

/// Carries an object that is confined to an event loop through `@Sendable` closures.
public struct LoopBound<Value>: @unchecked Sendable {
    // @unchecked Sendable, the proof: the value is reachable only through `withValue`, which traps off the loop, so
    // only one thread ever touches it. (Its reference count is atomic, so the last release may happen anywhere; types
    // whose deinit touches loop state must be closed on the loop first.)
    /// Where the value may be used.
    public let loop: EventLoop
    private let value: Value

    /// May be called anywhere; from then on the value is used on `loop` only.
    public init(_ value: Value, on loop: EventLoop) {
        self.value = value
        self.loop = loop
    }

    /// Traps when not called on the loop.
    public func withValue<Result>(_ body: (Value) throws -> Result) rethrows -> Result {
        loop.preconditionInLoop()
        return try body(value)
    }
}

/// Calls a handler once, on its event loop, after a delay. Confined to the loop.
///
/// A scheduled timer is retained by its loop, so its handler should not retain the owner.
public final class LoopTimer {
    private let loop: EventLoop
    private let handler: () -> Void
    fileprivate var deadline: UInt64 = 0
    /// Orders timers of one deadline by when they were scheduled.
    fileprivate var sequence: UInt64 = 0
    /// The place in the queue's heap; −1 when not scheduled.
    fileprivate var heapIndex = -1

    /// Not scheduled yet.
    ///
    /// - Parameters:
    ///   - loop: Where the timer lives: every method is called here.
    ///   - handler: Called on the loop, once for each ``schedule(after:)`` that is not replaced or cancelled.
    public init(on loop: EventLoop, _ handler: @escaping () -> Void) {
        self.loop = loop
        self.handler = handler
    }

    /// Whether the handler is still to be called.
    public var isScheduled: Bool { heapIndex >= 0 }

    /// Replaces an earlier schedule. `delay` counts from the start of the loop's turn; the handler runs no earlier.
    public func schedule(after delay: Duration) {
        loop.cancel(self)
        // At least one nanosecond, so that a handler that reschedules itself with no delay lets the turn end.
        loop.schedule(self, at: loop.now &+ max(1, delay.nanoseconds))
    }

    /// The handler is not called. Does nothing when it was not scheduled.
    public func cancel() { loop.cancel(self) }

    func fire() { handler() }
}

extension Duration {
    /// Whole nanoseconds, clamped to what 64 bits hold; negative durations are zero.
    package var nanoseconds: UInt64 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        // Half of the range is 146 years, and leaves room to add to the clock.
        guard seconds < Int64.max / 2_000_000_000 else { return UInt64(Int64.max / 2) }
        return UInt64(seconds) * 1_000_000_000 + UInt64(attoseconds / 1_000_000_000)
    }

    /// Up to whole milliseconds: what was measured has nine decimals otherwise, which are nothing for people.
    package var wholeMilliseconds: Duration { .milliseconds(Int64((nanoseconds + 999_999) / 1_000_000)) }
}

/// A binary heap of timers that knows where each one is, so that rescheduling an idle timeout costs O(log n).
struct TimerQueue {
    private var heap: ContiguousArray<LoopTimer> = []
    private var scheduled: UInt64 = 0

    /// For epoll: rounded up, so that a timer never fires early; −1 without timers.
    func millisecondsToNext(now: UInt64) -> Int32 {
        guard let first = heap.first else { return -1 }
        guard first.deadline > now else { return 0 }
        return Int32(clamping: (first.deadline - now + 999_999) / 1_000_000)
    }

    mutating func insert(_ timer: LoopTimer, deadline: UInt64) {
        scheduled &+= 1
        timer.deadline = deadline
        timer.sequence = scheduled
        timer.heapIndex = heap.count
        heap.append(timer)
        siftUp(heap.count - 1)
    }

    mutating func remove(_ timer: LoopTimer) {
        let index = timer.heapIndex
        guard index >= 0 else { return }
        timer.heapIndex = -1
        let last = heap.removeLast()
        guard index < heap.count else { return }
        heap[index] = last
        last.heapIndex = index
        siftDown(index)
        siftUp(index)
    }

    /// Forgets every timer; returns them, so that the caller releases them.
    mutating func removeAll() -> ContiguousArray<LoopTimer> {
        defer { heap = [] }
        for timer in heap { timer.heapIndex = -1 }
        return heap
    }

    mutating func popExpired(now: UInt64) -> LoopTimer? {
        guard let first = heap.first, first.deadline <= now else { return nil }
        remove(first)
        return first
    }

    private mutating func siftUp(_ start: Int) {
        var index = start
        while index > 0 {
            let parent = (index - 1) / 2
            guard isEarlier(index, parent) else { return }
            exchange(index, parent)
            index = parent
        }
    }

    private mutating func siftDown(_ start: Int) {
        var index = start
        while true {
            var smallest = index
            let left = 2 * index + 1
            if left < heap.count && isEarlier(left, smallest) { smallest = left }
            if left + 1 < heap.count && isEarlier(left + 1, smallest) { smallest = left + 1 }
            guard smallest != index else { return }
            exchange(index, smallest)
            index = smallest
        }
    }

    private func isEarlier(_ a: Int, _ b: Int) -> Bool {
        (heap[a].deadline, heap[a].sequence) < (heap[b].deadline, heap[b].sequence)
    }

    private mutating func exchange(_ a: Int, _ b: Int) {
        heap.swapAt(a, b)
        heap[a].heapIndex = a
        heap[b].heapIndex = b
    }
}

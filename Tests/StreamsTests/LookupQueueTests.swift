import Testing

@testable import Streams

@Suite("the queue of names") struct LookupQueueTests {
    /// The value behind a reference, since `#expect` takes only those that do not change.
    private final class Subject {
        private var queue: LookupQueue

        init(_ queue: LookupQueue) { self.queue = queue }

        var isEmpty: Bool { queue.isEmpty }
        func ask(_ name: String, for requester: String) -> Bool { queue.ask(name, for: requester) }
        func next() -> String? { queue.next() }
        func ended(_ name: String) { queue.ended(name) }
        func abandon(_ name: String) { queue.abandon(name) }
        func answered(_ requester: String) { queue.answered(requester) }
    }

    private func queue(_ change: (inout LookupLimits) -> Void = { _ in }) -> Subject {
        var limits = LookupLimits()
        change(&limits)
        return Subject(LookupQueue(limits))
    }

    private func started(_ queue: Subject) -> [String] {
        var names: [String] = []
        while let name = queue.next() { names.append(name) }
        return names
    }

    @Test("those who ask take turns, whoever asked first and most")
    func turns() {
        let queue = queue { $0.atOnce = 1 }
        for name in ["a1", "a2", "a3"] { #expect(queue.ask(name, for: "a")) }
        #expect(queue.ask("b1", for: "b"))
        var order: [String] = []
        while let name = queue.next() {
            order.append(name)
            queue.ended(name)
        }
        #expect(order == ["a1", "b1", "a2", "a3"])
    }

    @Test("one who asks for what nobody answers leaves room for the others")
    func shares() {
        let queue = queue {
            $0.atOnce = 4
            $0.atOnceEach = 2
        }
        for number in 0..<10 { #expect(queue.ask("a\(number)", for: "a")) }
        #expect(started(queue) == ["a0", "a1"])
        #expect(queue.ask("b0", for: "b"))
        #expect(started(queue) == ["b0"])
        queue.ended("a0")
        #expect(started(queue) == ["a2"])
    }

    @Test("a name that several ask for is looked up once, with the first of their turns")
    func once() {
        let queue = queue { $0.atOnce = 1 }
        for name in ["a1", "a2", "shared"] { #expect(queue.ask(name, for: "a")) }
        #expect(queue.ask("shared", for: "b"))
        #expect(queue.next() == "a1")
        #expect(queue.ask("a1", for: "b"))
        queue.ended("a1")
        #expect(queue.next() == "shared")
        queue.ended("shared")
        #expect(queue.next() == "a2")
        queue.ended("a2")
        #expect(queue.next() == nil)
        for requester in ["a", "a", "a", "b", "b"] { queue.answered(requester) }
        #expect(queue.isEmpty)
    }

    @Test("questions are limited, for each requester and for all")
    func limits() {
        let queue = queue {
            $0.questionsEach = 2
            $0.questions = 3
        }
        #expect(queue.ask("n1", for: "a"))
        #expect(queue.ask("n1", for: "a"))
        #expect(!queue.ask("n1", for: "a"))
        #expect(queue.ask("n1", for: "b"))
        #expect(!queue.ask("n1", for: "c"))
        queue.answered("a")
        #expect(queue.ask("n2", for: "c"))
    }

    @Test("what nobody waits for any more is not looked up")
    func abandoned() {
        let queue = queue { $0.atOnce = 1 }
        for name in ["n1", "n2", "n3"] { #expect(queue.ask(name, for: "a")) }
        #expect(queue.next() == "n1")
        queue.abandon("n2")
        queue.answered("a")
        queue.ended("n1")
        #expect(queue.next() == "n3")
        queue.ended("n3")
        #expect(queue.next() == nil)
        queue.answered("a")
        queue.answered("a")
        #expect(queue.isEmpty)
    }
}

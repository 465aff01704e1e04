/// What waits for an answer, and for how long.
package struct LookupLimits: Sendable {
    /// Names that are looked up at a time.
    package var atOnce = 128
    /// The same for each requester.
    package var atOnceEach = 32
    /// Questions that are not answered yet, for all requesters.
    package var questions = 16_384
    /// The same for each requester.
    package var questionsEach = 1_024
    /// Programs that run at a time, for the sources that only they can ask.
    package var programs = 16
    /// From the question to the answer, with the time in the queue.
    package var patience: Duration = .seconds(30)

    package init() {}
}

/// Which name is looked up next. A value without I/O.
///
/// Each requester has a queue of its own, and they take turns: whoever asks for a thousand names that nobody answers
/// waits for itself. A name that several ask for is looked up once, with the first of their turns.
struct LookupQueue {
    private struct Requester {
        var waiting: ArraySlice<String> = []
        /// The same, to have each once.
        var names: Set<String> = []
        var underWay = 0
        var questions = 0
    }

    private enum State {
        case waiting
        /// At the cost of this requester.
        case underWay(String)
    }

    let limits: LookupLimits
    private var requesters: [String: Requester] = [:]
    /// Those with names that wait, the next one first.
    private var turns: ArraySlice<String> = []
    private var states: [String: State] = [:]
    private var underWay = 0
    private var questions = 0

    init(_ limits: LookupLimits) { self.limits = limits }

    var isEmpty: Bool { requesters.isEmpty && states.isEmpty && turns.isEmpty }

    /// Returns false when there are too many questions. Each question that is taken is to be told as ``answered(_:)``.
    mutating func ask(_ name: String, for requester: String) -> Bool {
        guard questions < limits.questions, requesters[requester]?.questions ?? 0 < limits.questionsEach else {
            return false
        }
        // Taken out while it is changed: a copy of its queue for each question would be dear.
        var entry = requesters.removeValue(forKey: requester) ?? Requester()
        questions += 1
        entry.questions += 1
        if case .underWay = states[name] {
        } else {
            states[name] = .waiting
            if entry.names.insert(name).inserted {
                if entry.waiting.isEmpty { turns.append(requester) }
                entry.waiting.append(name)
            }
        }
        requesters[requester] = entry
        return true
    }

    /// The name to look up now; nil: none. To be told as ``ended(_:)`` afterwards.
    mutating func next() -> String? {
        guard underWay < limits.atOnce else { return nil }
        for _ in 0..<turns.count {
            guard let requester = turns.popFirst(), var entry = requesters.removeValue(forKey: requester) else {
                continue
            }
            let name = entry.underWay < limits.atOnceEach ? take(from: &entry) : nil
            if let name {
                entry.underWay += 1
                underWay += 1
                states[name] = .underWay(requester)
            }
            requesters[requester] = entry
            if entry.waiting.isEmpty { dropIfIdle(requester) } else { turns.append(requester) }
            if let name { return name }
        }
        return nil
    }

    /// Its first name that still waits: others have been looked up for somebody else meanwhile.
    private func take(from entry: inout Requester) -> String? {
        while let name = entry.waiting.popFirst() {
            entry.names.remove(name)
            if case .waiting = states[name] { return name }
        }
        return nil
    }

    /// A name that ``next()`` has given is looked up.
    mutating func ended(_ name: String) {
        guard case .underWay(let requester) = states.removeValue(forKey: name) else { return }
        underWay -= 1
        requesters[requester]?.underWay -= 1
        dropIfIdle(requester)
    }

    /// Nobody waits for the name any more, which waits for its turn.
    mutating func abandon(_ name: String) {
        if case .waiting = states[name] { states[name] = nil }
    }

    /// A question has its answer, or nobody waits for it.
    mutating func answered(_ requester: String) {
        questions -= 1
        requesters[requester]?.questions -= 1
        dropIfIdle(requester)
    }

    private mutating func dropIfIdle(_ requester: String) {
        guard let entry = requesters[requester], entry.underWay == 0, entry.questions == 0, entry.waiting.isEmpty
        else { return }
        requesters[requester] = nil
    }
}

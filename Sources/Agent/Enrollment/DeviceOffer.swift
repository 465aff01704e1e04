import MeshIdentity
import Platform
import SSHSignal

/// What `bootstrap signal` says of how this machine is reached, and what becomes of it. Two files below the state:
///
///     offer      what was said last, with its generation
///     outcome    how the last operator to say so has reached this machine
struct DeviceOffer {
    let state: String
    /// Seconds since 1970.
    let now: Int64

    /// More than an operator dials.
    private static let mostTrials = 64

    private var last: String { "\(state)/offer" }

    /// - Parameters:
    ///   - question: The operator's.
    ///   - facts: All that there is to say.
    func answer(to question: SignalMessage.Offer, saying facts: SignalMessage.Offer) -> SignalMessage.Offer {
        let generation = generation(of: facts)
        if let generation, question.known == generation { return .init(generation: generation, unchanged: true) }
        var answer = facts
        answer.generation = generation
        return answer
    }

    /// nil where it cannot be kept: then it must not be named either, since something else would have the same next.
    private func generation(of facts: SignalMessage.Offer) -> Int64? {
        let before = (try? AtomicFile.read(last)).flatMap { try? JSONText.decode(SignalMessage.Offer.self, from: $0) }
        let generation = before?.generation ?? 0
        if generation > 0, var before {
            before.generation = nil
            if before == facts { return generation }
        }
        // Where the file was lost, none that was named before comes again.
        var next = facts
        next.generation = max(generation &+ 1, now)
        do {
            try AtomicFile.write(try JSONText.encode(next), to: last, mode: 0o600)
        } catch {
            return nil
        }
        return next.generation
    }

    private struct Noted: Encodable {
        var at: Int64
        var outcome: SignalMessage.Outcome
    }

    /// For people; the operator's word, and nothing is decided by it.
    func note(_ outcome: SignalMessage.Outcome) {
        guard outcome.tried.count <= Self.mostTrials else { return }
        func clean(_ text: String) -> String { Printable.clean(text, limit: 300) }
        var noted = outcome
        noted.reason = clean(outcome.reason)
        noted.chosen = outcome.chosen.map(clean)
        for index in noted.tried.indices {
            noted.tried[index].transport = clean(noted.tried[index].transport)
            noted.tried[index].address = clean(noted.tried[index].address)
        }
        // A word for people only: nothing depends on it.
        guard let text = try? JSONText.encode(Noted(at: now, outcome: noted), isIndented: true) else { return }
        try? AtomicFile.write(text, to: "\(state)/outcome", mode: 0o600)
    }
}

import SSHSignal

/// The steps of a login, made of what it has told.
struct LoginTrace {
    /// Each host on the way, nearest first.
    let way: [String]
    private let began: ContinuousClock.Instant

    init(_ way: [String], began: ContinuousClock.Instant) {
        self.way = way
        self.began = began
    }

    /// Before anything is known.
    static func plan(_ way: [String]) -> [TraceStep] { way.indices.flatMap { plan(way, hop: $0) } }

    private static func plan(_ way: [String], hop: Int) -> [TraceStep] {
        let place = way.count > 1 ? way[hop] : nil
        let first: [TraceStep.Kind] = hop == 0 ? [.names, .connection] : [.channel]
        return (first + [.keyExchange, .hostKey, .login]).map { TraceStep($0, at: place) }
    }

    /// - Parameters:
    ///   - progress: What the login has told, in order.
    ///   - failure: Why it failed, at `end`; nil: it did not.
    func steps(_ progress: [LoginProgress], failure: SSHError?, end: ContinuousClock.Instant) -> [TraceStep] {
        var steps = Self.plan(way)
        var next = 0
        var last = began
        for event in progress {
            switch event.event {
            case .began(let hop):
                // Tried again: what came of the times before is past.
                next = Self.plan(Array(way[..<hop])).count
                let fresh = Self.plan(way)
                steps.replaceSubrange(next..., with: fresh[next...])
            case .passed(let step):
                guard next < steps.count else { break }
                steps[next].outcome = .passed
                steps[next].duration = event.time - last
                steps[next].detail = Self.detail(step)
                next += 1
            case .program(let name):
                var step = TraceStep(.program)
                step.outcome = failure.map { .failed(.ssh($0)) } ?? .passed
                step.duration = end - event.time
                step.detail = failure == nil ? "by the program \(name), which does not tell its steps" : nil
                return [step]
            }
            last = event.time
        }
        guard let failure, next < steps.count else { return steps }
        steps[next].outcome = .failed(.ssh(failure))
        steps[next].duration = end - last
        return steps
    }

    private static func detail(_ step: LoginStep) -> String? {
        switch step {
        case .resolved(let addresses): list(addresses)
        case .connected(let address): address
        case .exchanged(let version): version
        case .verified(let key): "\(key)"
        case .loggedIn: nil
        }
    }

    /// A name may have many.
    static func list(_ addresses: [String]) -> String {
        let shown = addresses.prefix(4).joined(separator: ", ")
        return addresses.count > 4 ? "\(shown) and \(addresses.count - 4) more" : shown
    }
}

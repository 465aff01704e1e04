package import Streams

/// Does one thing with many hosts, some at a time: the one parallel loop of everything that the operator does with
/// many.
///
/// What fails at one host stops no other. A task that is cancelled begins no further host; what is under way sees the
/// cancellation.
package struct HostRun: Sendable {
    /// How many hosts at a time.
    package let width: Int

    /// - Parameter width: At least 1.
    package init(width: Int) {
        precondition(width > 0, "no host can be worked on")
        self.width = width
    }

    /// What came of one host.
    package struct Outcome<Host: Sendable, Value: Sendable>: Sendable {
        package let host: Host
        package let result: Result<Value, HostError>

        package var value: Value? { try? result.get() }

        package var error: HostError? {
            if case .failure(let error) = result { error } else { nil }
        }
    }

    /// - Parameters:
    ///   - hosts: In the order in which they are begun.
    ///   - body: The sessions of a host live on the event loop that it is given.
    /// - Returns: What came of each that was begun, in the order of `hosts`.
    package func callAsFunction<Host: Sendable, Value: Sendable>(
        _ hosts: [Host],
        _ body: @escaping @Sendable (Host, EventLoop) async throws(HostError) -> Value
    ) async -> [Outcome<Host, Value>] {
        guard !hosts.isEmpty else { return [] }
        let loops = EventLoopGroup(count: min(hosts.count, width, EventLoopGroup.availableProcessors))
        let outcomes = await withTaskGroup(of: (Int, Outcome<Host, Value>).self) { group in
            var outcomes: [Outcome<Host, Value>?] = Array(repeating: nil, count: hosts.count)
            var waiting = hosts.indices[...]
            func beginNext() {
                guard !Task.isCancelled, let index = waiting.popFirst() else { return }
                group.addTask {
                    let host = hosts[index]
                    do throws(HostError) {
                        return (index, Outcome(host: host, result: .success(try await body(host, loops.next()))))
                    } catch {
                        return (index, Outcome(host: host, result: .failure(error)))
                    }
                }
            }
            for _ in 0..<width { beginNext() }
            while let (index, outcome) = await group.next() {
                outcomes[index] = outcome
                beginNext()
            }
            return outcomes
        }
        await loops.shutDown()
        return outcomes.compactMap { $0 }
    }
}

/// Where it is told what happens at the hosts. Called from any task.
package struct HostReport: Sendable {
    /// A result, or a line about all.
    package var say: @Sendable (String) -> Void
    /// Something that the user should know.
    package var warn: @Sendable (String) -> Void
    /// Why a host failed.
    package var complain: @Sendable (String) -> Void
    /// What came of each host, for programs.
    package var outcome: @Sendable (HostOutcome) -> Void = { _ in }

    package init(
        say: @escaping @Sendable (String) -> Void,
        warn: @escaping @Sendable (String) -> Void,
        complain: @escaping @Sendable (String) -> Void
    ) {
        self.say = say
        self.warn = warn
        self.complain = complain
    }
}

/// What came of one host, for programs.
package struct HostOutcome: Encodable, Sendable {
    package var name: String
    package var ok: Bool
    /// What was done, for people.
    package var result: String?
    /// The kind of failure.
    package var reason: String?
    package var error: String?

    package init(_ name: String, result: String) {
        self.name = name
        ok = true
        self.result = result
    }

    package init(_ name: String, _ error: HostError) {
        self.name = name
        ok = false
        reason = error.reason.rawValue
        self.error = error.message
    }
}

/// How many hosts failed, and what of.
package struct HostFailures: Hashable, Sendable {
    package var count: Int
    /// Theirs, where they all have the same.
    package var reason: HostError.Reason

    /// nil when nothing failed.
    package init?(_ reasons: [HostError.Reason]) {
        guard let reason = HostError.Reason.common(of: reasons) else { return nil }
        count = reasons.count
        self.reason = reason
    }
}

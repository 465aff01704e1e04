import H2Transport
import Platform
import Streams

/// A ``TunnelSource`` that is established when a stream through it is wanted: who asks waits until it is up. Confined
/// to its event loop.
final class TunnelOnDemand {
    typealias Completion = (Result<ByteStream, PathFailure>) -> Void

    private struct Waiting {
        let authority: Authority
        let headers: HeaderFields
        let completion: Completion
    }

    let source: TunnelSource
    /// Told before those who wait.
    var events = PathEvents()
    private(set) var isUp = false
    private var waiting: [Waiting] = []

    private static let mostWaiting = 4096

    init(_ source: TunnelSource) {
        self.source = source
        source.events = PathEvents(
            up: { [weak self] in self?.cameUp() },
            down: { [weak self] error, wasUsed in self?.wentDown(error, wasUsed) },
            rest: { [weak self] in self?.rested() },
            idle: { [weak self] in self?.becameIdle() }
        )
    }

    /// Streams that are open, being opened, or waited for.
    var streamCount: Int { waiting.count + source.streamCount }

    func establish() { source.establish() }

    /// `completion` is called once, on the loop.
    func open(to authority: Authority, headers: HeaderFields, completion: @escaping Completion) {
        if isUp { return source.open(to: authority, headers: headers, completion: completion) }
        guard waiting.count < Self.mostWaiting else {
            let error = StreamError(.limit, "\(waiting.count) requests wait for a connection that is being made")
            return source.loop.later { completion(.failure(.refused(error))) }
        }
        waiting.append(Waiting(authority: authority, headers: headers, completion: completion))
        source.establish()
    }

    /// Drops everything.
    func reset() {
        isUp = false
        source.reset()
        fail(StreamError(.closed, "the path was closed"))
    }

    /// As of ``PathSource``.
    func distrust() -> Bool {
        isUp = false
        let keeps = source.distrust()
        fail(StreamError(.closed, "the path was closed"))
        return keeps
    }

    private func cameUp() {
        isUp = true
        events.up()
        let opening = waiting
        waiting = []
        for stream in opening { open(to: stream.authority, headers: stream.headers, completion: stream.completion) }
    }

    private func wentDown(_ error: StreamError, _ wasUsed: Bool) {
        isUp = false
        // Who is told may ask again: that is for what comes after this failure.
        let failed = waiting
        waiting = []
        events.down(error, wasUsed || !failed.isEmpty)
        for stream in failed { stream.completion(.failure(.pathLost(error))) }
    }

    private func fail(_ error: StreamError) {
        let failed = waiting
        waiting = []
        for stream in failed { stream.completion(.failure(.pathLost(error))) }
    }

    private func rested() {
        isUp = false
        if waiting.isEmpty { events.rest() } else { source.establish() }
    }

    private func becameIdle() {
        if waiting.isEmpty { events.idle() }
    }
}

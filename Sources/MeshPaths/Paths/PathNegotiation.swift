import Logging
import MeshPolicy
package import Platform
import SSHSignal
import Streams

/// Asks a peer over its SSH session where it is reached, so that a better path may be found than that session, and
/// tells it later what became of that. Confined to its event loop.
///
/// It is asked where an SSH session is open anyway and `h2` is not there: no login is made for it. What the peer has
/// said before is kept, with its generation: a session that comes later asks whether it still holds.
final class PathNegotiation {
    private let command: String
    private let own: SignalMessage.Offer
    private unowned let paths: PeerPaths
    private let loop: EventLoop
    /// What the peer has said last.
    private(set) var offer: PeerOffer?
    private var isAsking = false
    /// When it may be asked again over the same session, on the loop's clock.
    private var asksAgainAt: UInt64 = 0
    private var pause = PathNegotiation.firstPause
    /// The peer has not been told yet what became of its offer.
    private var owesOutcome = false
    private var timer: LoopTimer?

    /// Doubles: a path that fails again and again is no reason to start a program there again and again.
    private static let firstPause: Duration = .seconds(30)
    private static let longestPause: Duration = .seconds(3600)
    /// How long the addresses of an offer have to show what they are worth: a better path is used only once it has
    /// proven stable.
    private static let trial: Duration = .seconds(15)

    /// - Parameters:
    ///   - command: Runs the peer's agent on its machine, for signaling.
    ///   - transports: Those that this side may use.
    ///   - paths: The owner.
    init(_ command: String, transports: [Transport], of paths: PeerPaths) {
        self.command = command
        self.paths = paths
        loop = paths.loop
        own = SignalMessage.Offer(
            alpn: ["h2"],
            reverse: false,
            transports: transports.map(\.rawValue),
            candidates: []
        )
        timer = LoopTimer(on: loop) { [weak self] in self?.tellOutcome() }
    }

    /// An SSH session is open, and `h2` is not there.
    ///
    /// - Parameter isNew: The session has been opened just now.
    func ask(over session: any SSHConnection, isNew: Bool) {
        if isNew { (pause, asksAgainAt) = (Self.firstPause, 0) }
        guard !isAsking, loop.now >= asksAgainAt else { return }
        isAsking = true
        asksAgainAt = loop.now &+ pause.nanoseconds
        pause = min(pause * 2, Self.longestPause)
        NegotiationExchange.start(command, over: session, NegotiationOperator(.offer(own), after: offer)) {
            [weak self] result in
            self?.answered(result)
        }
    }

    private func answered(_ result: Result<NegotiationExchange.Outcome, SignalError>) {
        isAsking = false
        switch result {
        case .success(.offered(let offer)):
            let isNews = offer != self.offer
            self.offer = offer
            paths.take(offer)
            guard isNews else { return }
            owesOutcome = true
            timer?.schedule(after: Self.trial)
        case .success(.unsupported):
            paths.logger.debug("the peer's agent negotiates no paths", metadata: ["peer": "\(paths.access.name)"])
        case .success(.told): break
        case .failure(let error):
            paths.logger.debug("no negotiation", metadata: ["peer": "\(paths.access.name)", "reason": "\(error)"])
        }
    }

    /// New streams go over another path: where it is the best one, there is nothing more to wait for.
    func pathChanged(to path: PathID) {
        guard owesOutcome, path.transport == .h2 else { return }
        tellOutcome()
    }

    private func tellOutcome() {
        guard owesOutcome, let session = paths.openSession else { return }
        timer?.cancel()
        owesOutcome = false
        let outcome = paths.outcome(of: offer)
        NegotiationExchange.start(command, over: session, NegotiationOperator(.outcome(outcome))) { _ in }
    }

    func stop() {
        timer?.cancel()
        owesOutcome = false
    }
}

/// What a peer has said of how it is reached, and what was made of it, for people.
package struct NegotiatedAddresses: Hashable, Sendable, CustomStringConvertible {
    package let generation: Int64?
    /// Those that were not known before.
    package let new: [Authority]
    package let known: Int
    /// Those that are not dialled, and why.
    package let declined: [String]
    /// It can be reached through these, as it says.
    package let gateways: [Authority]
    /// Those that are not dialled, and why.
    package var declinedGateways: [String] = []

    package var description: String {
        func list(_ places: [Authority]) -> String { places.map(\.description).joined(separator: ", ") }
        var parts = [new.isEmpty ? "no new address" : "new addresses: \(list(new))"]
        if known > 0 { parts.append("\(known) known") }
        if !declined.isEmpty { parts.append("not dialled: \(declined.joined(separator: ", "))") }
        if !gateways.isEmpty { parts.append("gateways: \(list(gateways))") }
        if !declinedGateways.isEmpty {
            parts.append("gateways not dialled: \(declinedGateways.joined(separator: ", "))")
        }
        return "negotiated over SSH\(generation.map { " (generation \($0))" } ?? ""): \(parts.joined(separator: "; "))"
    }
}

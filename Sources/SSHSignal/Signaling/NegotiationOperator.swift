/// The operator's side of a negotiation: what the device brought in, what to do out. A value without I/O.
///
/// ```
/// awaitingHello ─(hello) hello, offer→ awaitingOffer ─(offer) bye→ over
///               └(hello) hello, outcome, bye→ over
/// ```
///
/// A device that does not know the word gets a `bye`, and everything is as it was without. Whatever else it says ends
/// the conversation; what the operator knew before stays.
package struct NegotiationOperator: Sendable {
    package enum Purpose: Hashable, Sendable {
        /// Says what this side can do, and asks for the same.
        case offer(SignalMessage.Offer)
        /// Says what became of it.
        case outcome(SignalMessage.Outcome)
    }

    package enum Action: Hashable, Sendable {
        case send(SignalMessage)
        /// What the device has said, checked.
        case offered(PeerOffer)
        /// The outcome was told.
        case told
        /// Its agent is older than this conversation.
        case unsupported
        case failed(SignalError)
        /// Close the channel. The last action.
        case close
    }

    private enum State {
        case awaitingHello
        case awaitingOffer
        case over
    }

    private let purpose: Purpose
    private let before: PeerOffer?
    private let software: String
    private var state = State.awaitingHello

    /// - Parameters:
    ///   - before: What the device has said in an earlier conversation, if this side has it still.
    ///   - software: Of this side, for people.
    package init(_ purpose: Purpose, after before: PeerOffer? = nil, software: String = AgentRelease.software) {
        self.before = before
        self.software = software
        if case .offer(var offer) = purpose {
            offer.known = before?.generation
            self.purpose = .offer(offer)
        } else {
            self.purpose = purpose
        }
    }

    /// - Parameter now: this side's clock, milliseconds since 1970.
    package mutating func handle(_ reception: SignalReception, now: Int64) -> [Action] {
        guard state != .over else { return [] }
        switch reception {
        case .message(let message): return receive(message, now: now)
        case .invalid(let error): return fail(error)
        case .timedOut(let patience):
            return fail(SignalError(.timedOut, "the device sent nothing for \(patience.components.seconds) s"))
        case .ended(let error):
            state = .over
            return [.failed(error ?? SignalError(.truncated, "the device ended the conversation")), .close]
        }
    }

    private mutating func receive(_ message: SignalMessage, now: Int64) -> [Action] {
        switch (message, state) {
        case (.unknown, _): return []
        case (.error(let failure), _):
            state = .over
            return [.failed(SignalProtocol.error(from: failure, peer: "device")), .close]
        case (.hello(let hello), .awaitingHello): return answer(hello, now: now)
        case (.offer(let offer), .awaitingOffer):
            do throws(SignalError) {
                let checked = try PeerOffer(offer, after: before)
                state = .over
                return [.send(.bye(.init())), .offered(checked), .close]
            } catch {
                return fail(error)
            }
        case (_, let state):
            let what = state == .awaitingHello ? "hello" : "offer"
            return fail(SignalProtocol.unexpected(message, from: "device", while: "its \(what) was awaited"))
        }
    }

    private mutating func answer(_ hello: SignalMessage.Hello, now: Int64) -> [Action] {
        if let error = SignalProtocol.incompatibility(hello, peer: "device") { return fail(error) }
        let own = SignalProtocol.hello(software: software, now: now)
        guard hello.capabilities.contains(SignalProtocol.offering) else {
            state = .over
            return [.send(own), .send(.bye(.init())), .unsupported, .close]
        }
        switch purpose {
        case .offer(let offer):
            state = .awaitingOffer
            return [.send(own), .send(.offer(offer))]
        case .outcome(let outcome):
            state = .over
            return [.send(own), .send(.outcome(outcome)), .send(.bye(.init())), .told, .close]
        }
    }

    private mutating func fail(_ error: SignalError) -> [Action] {
        state = .over
        let notice = SignalMessage.error(.init(code: error.code.rawValue, message: error.message))
        return [.send(notice), .failed(error), .close]
    }
}

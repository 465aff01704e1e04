/// The device's side: what happened in, what to do out.
///
///     started ─hello→ awaitingHello ─(hello)→ ready ─(enroll|renew) prepare→ preparing ─csr→ awaitingCertificate ─(certificate) install→ installing
///                                              ↑ ├(access) change→ changing ─ack→ ready
///                                              ↑ ├(revocations) take→ revoking ─revocations→ ready
///                                              ↑ ├(offer) offer→ offering ─offer→ ready
///                                              ↑ └(endpoints) report→ reporting ─endpoints→ ready                                        │
///                                              └───────────────────────────────────ack──────────────────────────────────────────────────┘
///
/// The device keeps its old credential until ``Action/install(_:for:)``, which replaces it as a whole: wherever the
/// channel is cut, it has the old one or the new one. A key that was made and not used is dropped by
/// ``Action/discardKey``.
package struct EnrollmentDevice: Sendable {
    /// What a key is made for.
    package enum Order: Hashable, Sendable {
        case enroll(SignalMessage.Enroll)
        /// A new certificate for the identity that the device has.
        case renew
    }

    package enum Event: Hashable, Sendable {
        /// The channel is open.
        case started
        case message(SignalMessage)
        /// Answer to ``Action/prepareKey(_:)``.
        case prepared(SignalMessage.SigningRequest)
        /// Answer to ``Action/install(_:for:)``.
        case installed(SignalMessage.Acknowledgement)
        /// Answer to ``Action/takeRevocations(_:)``: whether they were new.
        case tookRevocations(changed: Bool)
        /// Answer to ``Action/changeAccess(_:)``.
        case changedAccess(SignalMessage.Acknowledgement)
        /// Answer to ``Action/reportEndpoints``.
        case endpoints(SignalMessage.Endpoints)
        /// Answer to ``Action/makeOffer(for:)``.
        case offer(SignalMessage.Offer)
        /// Instead of an answer.
        case failed(SignalError)
        /// What arrived is no message.
        case invalid(SignalError)
        /// The channel ended; nil: between two messages.
        case ended(SignalError?)
        /// Nothing arrived for this long.
        case timedOut(Duration)
    }

    package enum Action: Hashable, Sendable {
        case send(SignalMessage)
        /// Make a key and a signing request, beside the credential in use.
        case prepareKey(Order)
        /// Drop what ``prepareKey(_:)`` made.
        case discardKey
        /// Make the credential in use out of the key and this certificate, atomically, and have the node run with it.
        case install(SignalMessage.IssuedCertificate, for: Order)
        case reportEndpoints
        /// Say what this device can do, and where it is reached, to who has said this.
        case makeOffer(for: SignalMessage.Offer)
        /// Write down what became of an offer. There is no answer.
        case note(SignalMessage.Outcome)
        /// Refuse the certificates of these lists (PEM) from now on, and cut what is open with them.
        case takeRevocations(String)
        /// Change what others may reach, and have the node run with it.
        case changeAccess(SignalMessage.Access)
        /// Close the channel; nil: the conversation ended well. The last action.
        case close(SignalError?)
    }

    private enum State {
        case idle
        case awaitingHello
        case ready
        case preparing(Order)
        case awaitingCertificate(Order)
        case installing(Order)
        case reporting
        case offering
        case revoking
        case changing
        case over

        var text: String {
            switch self {
            case .idle: "nothing was asked"
            case .awaitingHello: "its hello was awaited"
            case .ready: "an order was awaited"
            case .preparing: "the key was being made"
            case .awaitingCertificate: "its certificate was awaited"
            case .installing: "the certificate was being installed"
            case .reporting: "the endpoints were being listed"
            case .offering: "the offer was being made"
            case .revoking: "the revocation lists were being stored"
            case .changing: "what others may reach was being changed"
            case .over: "the conversation was over"
            }
        }
    }

    private let software: String
    private var state = State.idle
    private var skew = ClockSkew(milliseconds: 0)
    /// The channel ended while a key was being made or a certificate installed: that is brought to its end, unheard.
    private var end: SignalError?

    package init(software: String) {
        self.software = software
    }

    /// - Parameter event: What has come, or has been done.
    /// - Parameter now: the device's clock, milliseconds since 1970.
    package mutating func handle(_ event: Event, now: Int64) -> [Action] {
        switch (event, state) {
        case (_, .over):
            return []
        case (.started, .idle):
            state = .awaitingHello
            return [.send(SignalProtocol.hello(software: software, now: now))]
        case (.started, _):
            return []
        case (.message(let message), _):
            return receive(message, now: now)
        case (.prepared(let request), .preparing(let order)):
            if let end { return over([.discardKey, .close(end)]) }
            state = .awaitingCertificate(order)
            return [.send(.csr(request))]
        case (.installed(let ack), .installing):
            if let end { return over([.close(end)]) }
            state = .ready
            return [.send(.ack(ack))]
        case (.endpoints(let endpoints), .reporting):
            if let end { return over([.close(end)]) }
            state = .ready
            return [.send(.endpoints(endpoints))]
        case (.offer(let offer), .offering):
            if let end { return over([.close(end)]) }
            state = .ready
            return [.send(.offer(offer))]
        case (.tookRevocations(let changed), .revoking):
            if let end { return over([.close(end)]) }
            state = .ready
            return [.send(.revocations(.init(changed: changed)))]
        case (.changedAccess(let ack), .changing):
            if let end { return over([.close(end)]) }
            state = .ready
            return [.send(.ack(ack))]
        case (.prepared, _), (.installed, _), (.endpoints, _), (.offer, _), (.tookRevocations, _), (.changedAccess, _):
            return []
        case (.failed(let error), _), (.invalid(let error), _):
            return fail(error)
        case (.ended(let error), .preparing), (.ended(let error), .installing), (.ended(let error), .reporting),
            (.ended(let error), .offering), (.ended(let error), .revoking), (.ended(let error), .changing):
            end = error ?? cut()
            return []
        case (.ended(nil), .ready):
            return over([.close(nil)])
        case (.ended(let error), _):
            return over(discard() + [.close(error ?? cut())])
        case (.timedOut(let duration), _):
            return fail(
                SignalError(
                    .timedOut,
                    "the operator sent nothing for \(duration.components.seconds) s while \(state.text)"
                )
            )
        }
    }

    private mutating func receive(_ message: SignalMessage, now: Int64) -> [Action] {
        switch (message, state) {
        case (.unknown, _):
            return []
        case (.error(let failure), _):
            return over(discard() + [.close(SignalProtocol.error(from: failure, peer: "operator"))])
        case (.hello(let hello), .awaitingHello):
            if let error = SignalProtocol.incompatibility(hello, peer: "operator") { return fail(error) }
            skew = ClockSkew(device: now, operator: hello.clock)
            state = .ready
            return []
        case (.probe(let probe), .ready), (.probe(let probe), .awaitingCertificate):
            return [.send(.probe(.init(nonce: probe.nonce, clock: now)))]
        case (.enroll(let order), .ready):
            state = .preparing(.enroll(order))
            return [.prepareKey(.enroll(order))]
        case (.renew, .ready):
            state = .preparing(.renew)
            return [.prepareKey(.renew)]
        case (.certificate(let certificate), .awaitingCertificate(let order)):
            if let refusal = skew.refusal(notBefore: certificate.notBefore, notAfter: certificate.notAfter, device: now)
            {
                return fail(refusal)
            }
            state = .installing(order)
            return [.install(certificate, for: order)]
        case (.endpoints, .ready):
            state = .reporting
            return [.reportEndpoints]
        case (.offer(let offer), .ready):
            state = .offering
            return [.makeOffer(for: offer)]
        case (.outcome(let outcome), .ready):
            return [.note(outcome)]
        case (.revocations(let revocations), .ready):
            guard let lists = revocations.lists else {
                return fail(SignalError(.malformed, "the operator sent 'revocations' without lists"))
            }
            state = .revoking
            return [.takeRevocations(lists)]
        case (.access(let order), .ready):
            state = .changing
            return [.changeAccess(order)]
        case (.bye, .ready):
            return over([.close(nil)])
        case (.bye, .awaitingCertificate):
            return over([.discardKey, .close(SignalError(.refused, "the operator left without a certificate"))])
        default:
            return fail(SignalProtocol.unexpected(message, from: "operator", while: state.text))
        }
    }

    private func cut() -> SignalError {
        SignalError(.truncated, "the operator ended the conversation while \(state.text)")
    }

    /// The key is only there, and only unused, between its making and the installation.
    private func discard() -> [Action] {
        switch state {
        case .preparing, .awaitingCertificate: [.discardKey]
        case .idle, .awaitingHello, .ready, .installing, .reporting, .offering, .revoking, .changing, .over: []
        }
    }

    private mutating func fail(_ error: SignalError) -> [Action] {
        let notice = SignalMessage.error(.init(code: error.code.rawValue, message: error.message))
        return over(discard() + [.send(notice), .close(error)])
    }

    private mutating func over(_ actions: [Action]) -> [Action] {
        state = .over
        return actions
    }
}

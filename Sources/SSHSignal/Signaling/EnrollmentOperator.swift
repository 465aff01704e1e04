import CLinux
import Glibc
import Platform

/// The operator's side of an enrolment or a renewal: what happened in, what to do out.
///
/// ```
/// started → awaitingHello ─(hello) hello, enroll|renew→ awaitingRequest ─(csr) issue→ issuing ─certificate→ awaitingAck ─(ack) bye→ over
///                         ├(hello) hello, revocations→ awaitingRevocations ─(revocations) bye→ over
///                         └(hello) hello, access→ awaitingAccess ─(ack) bye→ over
/// ```
///
/// The device speaks first: what is sent before its program runs may be swallowed by the shell that starts it. Every
/// other message in a state, and every failure, leads to `over`; the device is told why, so that it drops the key it
/// made.
package struct EnrollmentOperator: Sendable {
    /// What the conversation is for.
    package enum Purpose: Hashable, Sendable {
        case enroll(SignalMessage.Enroll)
        /// Renews the certificate of this SPIFFE ID.
        case renew(id: String)
        /// Tells the device what was revoked: lists in PEM form.
        case revoke(lists: String)
        /// Changes what others may reach.
        case access(SignalMessage.Access)

        /// Whom it is about; nil where that is no matter.
        var id: String? {
            switch self {
            case .enroll(let order): order.id
            case .renew(let id): id
            case .access(let order): order.id
            case .revoke: nil
            }
        }
    }

    package enum Event: Hashable, Sendable {
        /// The channel is open.
        case started
        case message(SignalMessage)
        /// Answer to ``Action/issue(csr:skew:)``.
        case issued(SignalMessage.IssuedCertificate)
        /// The other answer to it.
        case issueFailed(String)
        /// What arrived is no message.
        case invalid(SignalError)
        /// The channel ended; nil: between two messages.
        case ended(SignalError?)
        /// Nothing arrived for this long.
        case timedOut(Duration)
    }

    package enum Action: Hashable, Sendable {
        case send(SignalMessage)
        /// Have this signing request (PEM, from the device: to be checked) signed for the purpose's SPIFFE ID, so that
        /// the certificate is valid for a device with such a clock.
        case issue(csr: String, skew: ClockSkew)
        /// For the user.
        case warn(String)
        /// The device is enrolled.
        case succeeded(SignalMessage.Acknowledgement)
        /// The device knows what was revoked; whether that was new to it.
        case delivered(changed: Bool)
        /// The device lets others reach what was asked for.
        case changedAccess(SignalMessage.Acknowledgement)
        /// The device was not enrolled, or, after the certificate was sent, it is not known whether it was.
        case failed(SignalError)
        /// Close the channel. The last action.
        case close
    }

    private enum State {
        case idle
        case awaitingHello
        case awaitingRequest(ClockSkew)
        case issuing(ClockSkew)
        case awaitingAck
        case awaitingRevocations
        case awaitingAccess
        case over

        var text: String {
            switch self {
            case .idle: "nothing was asked"
            case .awaitingHello: "its hello was awaited"
            case .awaitingRequest: "its certificate request was awaited"
            case .issuing: "the certificate was being signed"
            case .awaitingAck: "its acknowledgement was awaited"
            case .awaitingRevocations: "its word on the revocation lists was awaited"
            case .awaitingAccess: "its word on what others may reach was awaited"
            case .over: "the conversation was over"
            }
        }
    }

    private let purpose: Purpose
    private let software: String
    private let validity: Validity
    private var state = State.idle

    /// What a certificate will span: known before it is signed, so that a hopeless clock is found before anything
    /// changes on the device.
    package struct Validity: Hashable, Sendable {
        /// From now on, in seconds.
        package var lifetime: Int64
        /// Clocks may be further apart than a quarter of that.
        package var acceptsSkew: Bool

        package init(lifetime: Int64 = 86_400, acceptsSkew: Bool = false) {
            self.lifetime = lifetime
            self.acceptsSkew = acceptsSkew
        }
    }

    package init(_ purpose: Purpose, validity: Validity = Validity(), software: String) {
        self.purpose = purpose
        self.validity = validity
        self.software = software
    }

    /// - Parameter event: What has come, or has been done.
    /// - Parameter now: the operator's clock, milliseconds since 1970.
    package mutating func handle(_ event: Event, now: Int64) -> [Action] {
        if case .over = state { return [] }
        switch event {
        case .started:
            guard case .idle = state else { return [] }
            state = .awaitingHello
            return []
        case .message(let message):
            return receive(message, now: now)
        case .issued(let certificate):
            guard case .issuing(let skew) = state else { return [] }
            if let refusal = skew.refusal(
                notBefore: certificate.notBefore,
                notAfter: certificate.notAfter,
                device: now.addingSaturating(skew.milliseconds)
            ) {
                return fail(refusal)
            }
            state = .awaitingAck
            return [.send(.certificate(certificate))]
        case .invalid(let error):
            return fail(error)
        case .issueFailed(let reason):
            return fail(SignalError(.credential, reason))
        case .ended(let error):
            let after = isCertificateSent ? "; whether it holds the new certificate is not known: enroll again" : ""
            let error =
                error ?? SignalError(.truncated, "the device ended the conversation while \(state.text)\(after)")
            state = .over
            return [.failed(error), .close]
        case .timedOut(let duration):
            return fail(
                SignalError(
                    .timedOut,
                    "the device sent nothing for \(duration.components.seconds) s while \(state.text)"
                )
            )
        }
    }

    private var isCertificateSent: Bool {
        if case .awaitingAck = state { true } else { false }
    }

    private mutating func receive(_ message: SignalMessage, now: Int64) -> [Action] {
        switch (message, state) {
        case (.unknown, _):
            return []
        case (.error(let failure), _):
            state = .over
            return [.failed(SignalProtocol.error(from: failure, peer: "device")), .close]
        case (.hello(let hello), .awaitingHello):
            return receive(hello, now: now)
        case (.csr(let request), .awaitingRequest(let skew)):
            guard request.id == purpose.id else {
                return fail(
                    SignalError(
                        .refused,
                        "the device asks for \(Printable.clean(request.id, limit: 300)) instead of \(purpose.id ?? "nothing")"
                    )
                )
            }
            state = .issuing(skew)
            return [.issue(csr: request.csr, skew: skew)]
        case (.ack(let ack), .awaitingAck):
            if let error = check(ack) { return fail(error) }
            state = .over
            return [.send(.bye(.init())), .succeeded(ack), .close]
        case (.ack(let ack), .awaitingAccess):
            if let error = check(ack) { return fail(error) }
            state = .over
            return [.send(.bye(.init())), .changedAccess(ack), .close]
        case (.revocations(let answer), .awaitingRevocations):
            state = .over
            return [.send(.bye(.init())), .delivered(changed: answer.changed ?? true), .close]
        default:
            return fail(SignalProtocol.unexpected(message, from: "device", while: state.text))
        }
    }

    private mutating func receive(_ hello: SignalMessage.Hello, now: Int64) -> [Action] {
        if let error = SignalProtocol.incompatibility(hello, peer: "device") { return fail(error) }
        let question: SignalMessage
        switch purpose {
        case .enroll(let order): question = .enroll(order)
        case .renew: question = .renew(.init())
        case .revoke(let lists): question = .revocations(.init(lists: lists))
        case .access(let order): question = .access(order)
        }
        guard hello.capabilities.contains(question.type) else {
            return fail(SignalError(.version, "the device's agent cannot \(question.type); upload a newer one"))
        }
        let skew = ClockSkew(device: hello.clock, operator: now)
        // However wrong its clock is, where no certificate is given out.
        var actions: [Action] = []
        let awaiting: State? =
            switch purpose {
            case .revoke: .awaitingRevocations
            case .access: .awaitingAccess
            case .enroll, .renew: nil
            }
        if let awaiting {
            state = awaiting
            if case .revoke = purpose, let warning = skew.warningOnLists { actions.append(.warn(warning)) }
            return actions + [.send(SignalProtocol.hello(software: software, now: now)), .send(question)]
        }
        if let refusal = skew.refusal(lifetime: validity.lifetime, isAccepted: validity.acceptsSkew) {
            return fail(refusal)
        }
        if let warning = skew.warning { actions.append(.warn(warning)) }
        state = .awaitingRequest(skew)
        return actions + [.send(SignalProtocol.hello(software: software, now: now)), .send(question)]
    }

    /// The device's word about itself goes into a file and is dialled later: it has to be what it claims.
    private func check(_ ack: SignalMessage.Acknowledgement) -> SignalError? {
        guard ack.id == purpose.id else {
            return SignalError(
                .unexpected,
                "the device acknowledges \(Printable.clean(ack.id, limit: 300)) instead of \(purpose.id ?? "nothing")"
            )
        }
        // A machine with more addresses than this does not need them all.
        guard ack.hbone.count <= 64 else {
            return SignalError(.malformed, "the device names \(ack.hbone.count) addresses; 64 are allowed")
        }
        let allowed = (ack.allowed ?? []) + (ack.renewFrom.map { [$0] } ?? [])
        for places in [allowed, ack.allowedBefore ?? []] {
            guard places.count <= 1024, places.allSatisfy({ Printable.clean($0, limit: 300) == $0 }) else {
                return SignalError(.malformed, "the device names destinations that are none")
            }
        }
        let gateways = ack.gateways ?? []
        guard gateways.count <= PeerOffer.mostGateways, gateways.allSatisfy({ PeerOffer.Gateway(recorded: $0) != nil })
        else {
            return SignalError(
                .malformed,
                "the device names gateways that are none, or more than \(PeerOffer.mostGateways)"
            )
        }
        for address in ack.hbone + [ack.listener] where !NumericAddress.isValid(address) {
            return SignalError(
                .malformed,
                "the device names '\(Printable.clean(address, limit: 80))', which is no numeric address and port"
            )
        }
        return nil
    }

    private mutating func fail(_ error: SignalError) -> [Action] {
        state = .over
        let notice = SignalMessage.error(.init(code: error.code.rawValue, message: error.message))
        return [.send(notice), .failed(error), .close]
    }
}

package import Platform

/// What a conversation acts on: the device's key, credential and node.
///
/// Each call does its work whole, or throws and has changed nothing that matters.
package protocol SignaledDevice {
    /// Makes a key and a signing request beside the credential in use; one that was made before and not used goes.
    mutating func prepareKey(_ order: EnrollmentDevice.Order) throws(SignalError) -> SignalMessage.SigningRequest
    /// Drops that key.
    mutating func discardKey()
    /// Makes the credential in use out of that key and this certificate, atomically, and has the node run with it.
    mutating func install(
        _ certificate: SignalMessage.IssuedCertificate,
        for order: EnrollmentDevice.Order
    ) throws(SignalError) -> SignalMessage.Acknowledgement
    /// Refuses the certificates of these lists (PEM) from now on. Returns whether they were new.
    mutating func takeRevocations(_ lists: String) throws(SignalError) -> Bool
    /// Changes what others may reach, and has the node run with it.
    mutating func changeAccess(_ order: SignalMessage.Access) throws(SignalError) -> SignalMessage.Acknowledgement
    /// Where the node can be reached.
    mutating func endpoints() -> SignalMessage.Endpoints
    /// What this device can do, and where it is reached.
    ///
    /// - Parameter offer: The operator's; nothing of it is checked yet.
    mutating func offer(for offer: SignalMessage.Offer) -> SignalMessage.Offer
    /// Writes down what became of an offer, by the operator's word; nothing of it is checked yet.
    mutating func note(_ outcome: SignalMessage.Outcome)
}

/// The device's end of a conversation without its channel: ``EnrollmentDevice`` decides, a ``SignaledDevice`` acts, the
/// one who owns the channel sends and receives. So that a channel that blocks and one that suspends have the same
/// rules.
package struct DeviceConversation<Device: SignaledDevice> {
    /// What the owner of the channel is to do next.
    package enum Step {
        case send(SignalMessage)
        /// Give what comes to ``received(_:)``.
        case receive
        /// Close the channel; nil: the conversation ended well.
        case close(SignalError?)
    }

    package var device: Device
    private var machine: EnrollmentDevice
    private var events: [EnrollmentDevice.Event] = [.started]
    private var actions: ArraySlice<EnrollmentDevice.Action> = []
    private let clock: WallClock

    /// - Parameters:
    ///   - device: What is acted on.
    ///   - clock: This machine's, in milliseconds since 1970.
    package init(with device: Device, clock: WallClock) {
        self.device = device
        self.clock = clock
        machine = EnrollmentDevice(software: AgentRelease.software)
    }

    /// Does what can be done without the channel.
    package mutating func next() -> Step {
        while true {
            while let action = actions.popFirst() {
                switch action {
                case .send(let message): return .send(message)
                case .close(let error): return .close(error)
                default: act(action)
                }
            }
            guard !events.isEmpty else { return .receive }
            actions = machine.handle(events.removeFirst(), now: clock.milliseconds)[...]
        }
    }

    package mutating func received(_ reception: SignalReception) {
        let event: EnrollmentDevice.Event =
            switch reception {
            case .message(let message): .message(message)
            case .invalid(let error): .invalid(error)
            case .timedOut(let patience): .timedOut(patience)
            case .ended(let error): .ended(error)
            }
        events.append(event)
    }

    private mutating func act(_ action: EnrollmentDevice.Action) {
        do throws(SignalError) {
            switch action {
            case .prepareKey(let order): answer(.prepared(try device.prepareKey(order)))
            case .discardKey: device.discardKey()
            case .install(let certificate, let order):
                answer(.installed(try device.install(certificate, for: order)))
            case .makeOffer(let offer): answer(.offer(device.offer(for: offer)))
            case .note(let outcome): device.note(outcome)
            case .reportEndpoints: answer(.endpoints(device.endpoints()))
            case .takeRevocations(let lists):
                answer(.tookRevocations(changed: try device.takeRevocations(lists)))
            case .changeAccess(let order): answer(.changedAccess(try device.changeAccess(order)))
            case .send, .close: break
            }
        } catch {
            answer(.failed(error))
        }
    }

    /// Comes before what has arrived meanwhile.
    private mutating func answer(_ event: EnrollmentDevice.Event) { events.insert(event, at: 0) }
}

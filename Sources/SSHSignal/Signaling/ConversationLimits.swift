/// How much a conversation may take, whatever is said in it: the other side may be slow, broken or hostile, and others
/// wait for it to end.
package struct ConversationLimits: Hashable, Sendable {
    /// For the next message that means something, beside what its bytes may take (``time(for:)``). One of an unknown
    /// type is ignored, and this goes on running.
    package var step: Duration
    /// From the first byte to the last, beside what the bytes of both sides may take.
    package var total: Duration
    /// For the end of what this side says, once everything is said: a peer that does not read must not hold it up.
    package var finish: Duration
    /// Messages from the other side, those that are ignored as well.
    package var frames: Int
    /// Bytes from the other side.
    package var bytes: Int
    /// Bytes of one message, once the other side has said who it is.
    package var messageBytes: Int

    package init(
        step: Duration,
        total: Duration,
        finish: Duration = .seconds(5),
        frames: Int = 32,
        bytes: Int = 2 << 20,
        messageBytes: Int = SignalFrame.maximumLength
    ) {
        self.step = step
        self.total = total
        self.finish = finish
        self.frames = frames
        self.bytes = bytes
        self.messageBytes = messageBytes
    }

    /// What bytes may take beside the limits: a second for each whole 64 KiB. Revocation lists of full length need
    /// minutes on a slow line.
    static func time(for bytes: Int) -> Duration { .seconds(bytes / (64 << 10)) }

    /// How long it may take to send a message. Never zero: what is too late is cut at once.
    ///
    /// - Parameters:
    ///   - now: Since the conversation began.
    ///   - bytes: Of the message.
    package func sendingTime(at now: Duration, bytes: Int = 0) -> Duration {
        max(.milliseconds(1), min(step, total - now) + Self.time(for: bytes))
    }

    /// The operator, enrolling or renewing. The device answers at once but for one step, the start of its node: with
    /// limits of its own for the service, the new node, and the old one where the new one does not come up.
    package static let certifying = ConversationLimits(step: .seconds(120), total: .seconds(240))
    /// The operator, where nothing is started: a renewal over the mesh, revocation lists.
    package static let brief = ConversationLimits(step: .seconds(30), total: .seconds(60))
    /// The device, on whichever way. It outlasts the operator, and may be given revocation lists of full length twice.
    package static let ofDevice = ConversationLimits(
        step: .seconds(60),
        total: .seconds(300),
        bytes: 2 * SignalFrame.maximumOrderLength,
        messageBytes: SignalFrame.maximumOrderLength
    )
}

/// What arrives in a conversation: bytes in, messages out, within limits.
///
/// A value without a clock: times are counted from the beginning of the conversation, and come from outside.
package struct SignalInbox: Sendable {
    package let limits: ConversationLimits
    private var decoder: SignalFrameDecoder
    private var frames = 0
    private var bytes = 0
    /// Of ``bytes``, those since the last message was whole, of whatever type.
    private var arriving = 0
    private var sent = 0

    package init(_ limits: ConversationLimits) {
        self.limits = limits
        decoder = SignalFrameDecoder(limitAfterHello: limits.messageBytes)
    }

    /// Adds what has arrived.
    ///
    /// - Throws: ``SignalError/Code/tooMuch``.
    package mutating func append(_ arrived: some Collection<UInt8>) throws(SignalError) {
        bytes += arrived.count
        arriving += arrived.count
        guard bytes <= limits.bytes else {
            throw SignalError(.tooMuch, "more than \(limits.bytes) bytes came in one conversation")
        }
        decoder.append(arrived)
    }

    /// The next message of a known type; nil when more bytes are needed.
    package mutating func next() throws(SignalError) -> SignalMessage? {
        while let message = try decoder.next() {
            frames += 1
            arriving = 0
            guard frames <= limits.frames else {
                throw SignalError(.tooMuch, "more than \(limits.frames) messages came in one conversation")
            }
            // A newer other side may say more than this one understands. It is not an answer.
            if case .unknown = message { continue }
            return message
        }
        return nil
    }

    /// To be called before so many bytes are sent: they take time of the whole.
    package mutating func willSend(_ count: Int) { sent += count }

    /// To be called at the end of the input, after ``next()`` returned nil.
    package func finish() throws(SignalError) { try decoder.finish() }

    private var step: Duration { limits.step + ConversationLimits.time(for: arriving) }
    private var total: Duration { limits.total + ConversationLimits.time(for: bytes + sent) }

    /// How long may be waited for the next message.
    ///
    /// - Parameters:
    ///   - now: Since the conversation began.
    ///   - asked: When the wait for this message began: what came since then and was no message for us changes nothing.
    /// - Returns: nil when there is no time left.
    package func patience(at now: Duration, since asked: Duration) -> Duration? {
        let left = min(step - (now - asked), total - now)
        return left > .zero ? left : nil
    }

    /// Which limit ended a wait.
    package func overrun(at now: Duration) -> SignalReception {
        guard now >= total else { return .timedOut(step) }
        return .invalid(
            SignalError(
                .timedOut,
                "the conversation took longer than the \(total.components.seconds) s that it may take in all"
            )
        )
    }
}

/// What a channel brought: what both state machines of the signaling protocol take as an event.
package enum SignalReception: Hashable, Sendable {
    case message(SignalMessage)
    /// What arrived is no message, or too much.
    case invalid(SignalError)
    /// No message arrived for this long.
    case timedOut(Duration)
    /// The channel ended; nil: between two messages.
    case ended(SignalError?)
}

extension SignalInbox {
    /// The next message, or why there is none.
    ///
    /// - Parameters:
    ///   - channel: Closed when there is no time left.
    ///   - start: When the conversation began.
    ///   - peer: Who is waited for, in errors.
    package mutating func receive(
        from channel: any RemoteChannel,
        since start: ContinuousClock.Instant,
        _ peer: String
    ) async -> SignalReception {
        let asked = ContinuousClock.now - start
        while true {
            let arrived: [UInt8]?
            do throws(SignalError) {
                if let message = try next() { return .message(message) }
                let now = ContinuousClock.now - start
                guard let patience = patience(at: now, since: asked) else {
                    channel.close()
                    return overrun(at: now)
                }
                do {
                    arrived = try await channel.withDeadline(patience, peer) { try await channel.read() }
                } catch let error as SignalError where error.code == .timedOut {
                    return overrun(at: ContinuousClock.now - start)
                } catch {
                    return .ended(SignalError(.truncated, "the connection was cut: \(error)"))
                }
                if let arrived { try append(arrived) }
            } catch {
                return .invalid(error)
            }
            guard arrived == nil else { continue }
            do throws(SignalError) {
                try finish()
                return .ended(nil)
            } catch {
                return .ended(error)
            }
        }
    }
}

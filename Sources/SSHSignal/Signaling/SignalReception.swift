/// What a channel brought: what both state machines of the signaling protocol take as an event.
package enum SignalReception {
    case message(SignalMessage)
    /// What arrived is no message.
    case invalid(SignalError)
    /// Nothing arrived for this long.
    case timedOut(Duration)
    /// The channel ended; nil: between two messages.
    case ended(SignalError?)
}

extension SignalFrameDecoder {
    /// The next message, or why there is none.
    ///
    /// - Parameter peer: Who is waited for, in errors.
    package mutating func receive(
        from channel: any RemoteChannel,
        within patience: Duration,
        _ peer: String
    ) async -> SignalReception {
        while true {
            do throws(SignalError) {
                if let message = try next() { return .message(message) }
            } catch {
                return .invalid(error)
            }
            let bytes: [UInt8]?
            do {
                bytes = try await channel.withDeadline(patience, peer) { try await channel.read() }
            } catch let error as SignalError where error.code == .timedOut {
                return .timedOut(patience)
            } catch {
                return .ended(SignalError(.truncated, "the connection was cut: \(error)"))
            }
            guard let bytes else {
                do throws(SignalError) {
                    try finish()
                    return .ended(nil)
                } catch {
                    return .ended(error)
                }
            }
            append(bytes)
        }
    }
}

package import SSHSignal

/// Why something could not be done with a host, in words for the user.
package struct HostError: Error, Hashable, Sendable, CustomStringConvertible {
    package enum Reason: String, Hashable, Sendable {
        /// A destination, option or configuration file makes no sense.
        case usage
        /// Unknown, changed or revoked.
        case hostKeyRefused
        /// The login was not accepted.
        case authenticationRefused
        /// No connection.
        case unreachable
        /// The machine cannot run the agent, or has no place for it. Nothing was uploaded.
        case unfit
        /// The ledger, or the server, does not allow it.
        case denied
        /// The connection was lost on the way: doing it again finishes it.
        case interrupted
        /// Anything else that went wrong afterwards.
        case failed
    }

    package var reason: Reason
    package var message: String
    package var description: String { message }

    package init(_ reason: Reason, _ message: String) {
        self.reason = reason
        self.message = message
    }

    /// What the parts of a visit throw.
    package init(_ error: any Error, name: String) {
        switch error {
        case let error as HostError: self = error
        case let error as SSHConfigurationError: self.init(.usage, "\(error)")
        case let error as SSHError:
            self.init(Reason(error.code), "\(name): \(error.message)")
        case let error as SignalError: self.init(error.code == .revoked ? .denied : .failed, error.message)
        default: self.init(.failed, "\(name): \(error)")
        }
    }
}

extension HostError.Reason {
    /// What a login, a command or a transfer fails with: what the server forbids counts as denied.
    package init(_ code: SSHError.Code) {
        self =
            switch code {
            case .hostKeyRefused: .hostKeyRefused
            case .authenticationRefused: .authenticationRefused
            case .connectionFailed, .timedOut, .busy, .negotiationFailed, .unsupported: .unreachable
            case .prohibited, .requestDenied: .denied
            default: .failed
            }
    }

    /// One kind of failure is the failure of all; a mixture is just a failure.
    ///
    /// - Returns: nil when nothing failed.
    package static func common(of reasons: some Collection<HostError.Reason>) -> HostError.Reason? {
        guard let first = reasons.first else { return nil }
        return reasons.allSatisfy { $0 == first } ? first : .failed
    }
}

/// Why a device was not enrolled.
public struct EnrollmentError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Reason: String, Hashable, Sendable {
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
        /// The ledger says that it must not have a certificate.
        case denied
        /// The connection was lost on the way: doing it again finishes it.
        case interrupted
        /// Anything else that went wrong afterwards.
        case failed
    }

    public var reason: Reason
    public var message: String
    public var description: String { message }

    public init(_ reason: Reason, _ message: String) {
        self.reason = reason
        self.message = message
    }

    /// What the parts of an enrolment throw.
    init(_ error: any Error, name: String) {
        switch error {
        case let error as EnrollmentError: self = error
        case let error as SSHConfigurationError: self.init(.usage, "\(error)")
        case let error as InstallationPlan.Refusal: self.init(.unfit, "\(name): \(error.message)")
        case let error as SSHError:
            let reason: Reason =
                switch error.code {
                case .hostKeyRefused: .hostKeyRefused
                case .authenticationRefused: .authenticationRefused
                case .connectionFailed, .timedOut, .busy, .negotiationFailed, .unsupported: .unreachable
                default: .failed
                }
            self.init(reason, "\(name): \(error.message)")
        case let error as SignalError: self.init(.failed, error.message)
        default: self.init(.failed, "\(name): \(error)")
        }
    }
}

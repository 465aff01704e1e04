package import H2Transport
package import MeshIdentity
import Platform
import SSHSignal

/// The operator's credential and trust for as long as a command runs: renewed when it is due, and what was revoked
/// meanwhile holds at once.
package struct OperatorSession: Sendable {
    private let identity: OperatorIdentity
    private let first: Credential
    private let stamp: FileStamp
    /// What connections begin with.
    package let context: TLSContext

    /// How often it is looked whether something was revoked: some system calls.
    private static let interval = Duration.seconds(1)

    /// Whom the certificate names.
    package var id: SPIFFEID { first.id }

    /// - Throws: ``HostError`` where the device is revoked, and whatever keeps the operator from having a credential.
    package init(of identity: OperatorIdentity) throws {
        self.identity = identity
        // Before anything is read: what changes meanwhile is seen at the first look.
        stamp = identity.stamp
        if let refusal = try identity.refusal() { throw refusal }
        first = try identity.issue()
        context = try identity.context(first)
    }

    /// Goes on until the task is cancelled.
    ///
    /// - Parameters:
    ///   - warn: Told why something could not be looked up, or renewed: once, and it is tried again; what was known
    ///     before holds.
    ///   - use: Gets what new connections are to be made with, and by which those that stand are to be judged.
    /// - Throws: ``HostError`` when the device was revoked, or the operator has no new certificate when the last one
    ///   ends.
    package func follow(
        warn: @Sendable (String) -> Void,
        use: @Sendable (TLSContext) -> Void
    ) async throws {
        var (current, seen, trust) = (first, stamp, context.trust)
        var schedule = RenewalSchedule(notBefore: current.notBefore, notAfter: current.notAfter)
        var said: String?
        while true {
            try await Task.sleep(for: Self.interval)
            let time = WallClock.system.seconds
            let isDue = schedule.wait(at: time) == 0 || time >= current.notAfter
            let now = identity.stamp
            guard isDue || now != seen else { continue }
            do {
                if let refusal = try identity.refusal() { throw refusal }
                let credential = try isDue ? identity.issue() : current
                let context = try identity.context(credential)
                // Not before: after a look that failed the same files are looked at again, or what they revoke is
                // missed for good.
                (seen, said) = (now, nil)
                if isDue {
                    current = credential
                    schedule = RenewalSchedule(notBefore: current.notBefore, notAfter: current.notAfter)
                }
                // Most of what is written to a ledger revokes nobody.
                guard isDue || !context.trust.isSame(as: trust) else { continue }
                trust = context.trust
                use(context)
            } catch let error as HostError {
                throw error
            } catch {
                guard time < current.notAfter else { throw HostError(.failed, "\(error)") }
                var message = "what was revoked meanwhile cannot be looked up: \(error)"
                if isDue {
                    message = "there is no new certificate for the operator yet: \(error)"
                    _ = schedule.attemptFailed(at: time)
                }
                // The next look is in a second.
                if message != said { warn(message) }
                said = message
            }
        }
    }
}

extension TrustBundleSet {
    fileprivate func isSame(as other: TrustBundleSet) -> Bool {
        hasSameObjections(as: other) && bundles.mapValues(\.roots) == other.bundles.mapValues(\.roots)
    }
}

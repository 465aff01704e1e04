package import MeshIdentity
import SSHSignal

/// One machine has one name, and one name one machine: a second name takes the machine from the first, whose record
/// then speaks of nobody; and of two machines with one host key nobody can tell which has proven what.
extension EnrollmentAdmission {
    /// What the user is to be told of a machine that is known by other names.
    package enum Acquaintance: Hashable, Sendable {
        case refused(HostError)
        /// The user has accepted it.
        case accepted(warning: String)
    }

    /// - Parameters:
    ///   - name: What the machine is to be called.
    ///   - destination: As the user wrote it.
    ///   - hostKey: What it has proven to have.
    ///   - known: What is recorded under the name; nil when there is nothing.
    ///   - others: The devices that have this host key, under whatever name.
    /// - Returns: nil when no other device has it, or the name was given to it before: then that was said already.
    package func acquaintance(
        _ name: String,
        destination: String,
        hostKey: Device.HostKeyRecord,
        known: Device?,
        among others: [Device]
    ) -> Acquaintance? {
        guard known?.hostKey != hostKey else { return nil }
        let others = others.filter { $0.name != name && $0.hostKey == hostKey }
        if let revoked = others.first(where: { $0.revokedAt != nil }), !(reinstates && acceptsKnownMachine) {
            let reason = revoked.revocationReason.map { " (\($0))" } ?? ""
            return .refused(
                HostError(
                    .denied,
                    "\(name): \(destination) shows the host key of \(revoked.name), which was revoked at "
                        + "\(Timestamp.text(revoked.revokedAt ?? 0))\(reason), and gets no certificate under another name either. If it is to be "
                        + "trusted again: enroll it with --name \(revoked.name) --reinstate"
                )
            )
        }
        guard let other = others.first else { return nil }
        let key = "\(hostKey.algorithm) \(hostKey.fingerprint)"
        if acceptsKnownMachine {
            return .accepted(
                warning:
                    "\(name): it has the host key of \(other.name) (\(key)): the same machine, or one that can pass for it"
            )
        }
        return .refused(Self.shared(name, destination, key: key, with: other.name, at: other.destination))
    }

    static func shared(
        _ name: String,
        _ destination: String,
        key: String,
        with other: String,
        at place: String
    ) -> HostError {
        HostError(
            .hostKeyRefused,
            "\(name): \(destination) shows the host key of \(other) (\(key), at \(place)). Nothing was uploaded. If it is the same machine, it "
                + "has a name: enroll it with --name \(other). If it is another one, both were made of one image: give it keys of its own "
                + "(rm /etc/ssh/ssh_host_*; ssh-keygen -A; start sshd again). --accept-known-machine enrolls it all the same"
        )
    }

    /// - Parameters:
    ///   - name: What the machine is to be called.
    ///   - present: The identity that it has in the place where the new one is to go.
    ///   - known: What is recorded under the name; nil when there is nothing.
    /// - Returns: nil when that is an earlier one of the same device.
    package func acquaintance(_ name: String, present: SPIFFEID, known: Device?) -> Acquaintance? {
        guard known?.identity != present else { return nil }
        if acceptsKnownMachine {
            return .accepted(warning: "\(name): it was \(present) until now, which no machine has any more")
        }
        let fix =
            present.serviceAccount.map { "If it is to stay that: enroll it with --name \($0). " } ?? ""
        return .refused(
            HostError(
                .denied,
                "\(name): the machine is \(present) already, and would be that no more. Nothing was uploaded. \(fix)"
                    + "--accept-known-machine gives it the new identity in place of that one; --base installs beside it"
            )
        )
    }
}

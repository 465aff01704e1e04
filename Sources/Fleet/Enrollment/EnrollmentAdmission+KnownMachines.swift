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
    ///   - others: Who is known by a key that it has, under whatever name.
    /// - Returns: nil when nobody else is, or the name was given to it before: then that was said already, unless
    ///   another with the very key was revoked since.
    package func acquaintance(
        _ name: String,
        destination: String,
        hostKey: MachineKey,
        known: Device?,
        among others: some Collection<KnownMachine>
    ) -> Acquaintance? {
        // Where a device that is trusted has proven the key, the word of others that they have it counts for nothing.
        let isProven = others.contains {
            $0.hostKey == hostKey && $0.revokedAt == nil && $0.standing == .enrolled
        }
        let others =
            others
            .filter { !isProven || $0.hostKey == hostKey }
            .sorted { ($0.name, $0.revokedAt ?? 0) < ($1.name, $1.revokedAt ?? 0) }
        let isItself = known?.hostKey == hostKey
        let revoked = others.first { other in
            other.revokedAt != nil && !forgives(other) && (!isItself || other.hostKey == hostKey)
        }
        if let revoked {
            let what = "\(destination) \(Self.shows(revoked, hostKey))"
            return .refused(Self.revoked(name, what, revoked, isItself: isItself))
        }
        guard !isItself else { return nil }
        guard let other = others.first(where: { !$0.isRemoved }) else {
            return others.first.map { revoked in
                .accepted(
                    warning: "\(name): it is \(revoked.name), which \(Self.words(for: revoked)); it is trusted again"
                )
            }
        }
        let key = "\(other.hostKey.algorithm) \(other.hostKey.fingerprint)"
        if acceptsKnownMachine {
            return .accepted(
                warning:
                    "\(name): it has the host key of \(other.name) (\(key)): the same machine, or one that can pass for it"
            )
        }
        return .refused(Self.shared(name, destination, key: key, with: other.name, at: other.destination))
    }

    /// Whether the user trusts one again that was revoked. Under another name both have to be said, as long as the
    /// first is recorded.
    private func forgives(_ revoked: KnownMachine) -> Bool {
        reinstates && (acceptsKnownMachine || revoked.isRemoved)
    }

    private static func shows(_ other: KnownMachine, _ hostKey: MachineKey) -> String {
        "\(other.hostKey == hostKey ? "shows" : "has") the host key of \(other.name)"
    }

    private static func words(for revoked: KnownMachine) -> String {
        let reason = revoked.revocationReason.map { " (\($0))" } ?? ""
        let removed = revoked.isRemoved ? ", and unenrolled since" : ""
        return "was revoked at \(Timestamp.text(revoked.revokedAt ?? 0))\(reason)\(removed)"
    }

    /// - Parameters:
    ///   - what: How it is known: "dev7 shows the host key of dev8".
    ///   - isItself: The name is the machine's own, beside the other.
    private static func revoked(
        _ name: String,
        _ what: String,
        _ revoked: KnownMachine,
        isItself: Bool = false
    ) -> HostError {
        let both = isItself ? "--reinstate --accept-known-machine" : "--name \(revoked.name) --reinstate"
        let fix = revoked.isRemoved ? "--reinstate" : both
        let names = revoked.name == name ? "" : " under another name either"
        return HostError(
            .denied,
            "\(name): \(what), which \(words(for: revoked)), and gets no certificate\(names). "
                + "If it is to be trusted again: enroll it with \(fix)"
        )
    }

    static func shared(
        _ name: String,
        _ destination: String,
        key: String,
        with other: String,
        at place: String?
    ) -> HostError {
        let place = place.map { ", at \($0)" } ?? "; its enrolment is under way, or was cut"
        return HostError(
            .hostKeyRefused,
            "\(name): \(destination) shows the host key of \(other) (\(key)\(place)). Nothing was uploaded. If it is the same machine, it "
                + "has a name: enroll it with --name \(other). If it is another one, both were made of one image: give it keys of its own "
                + "(rm /etc/ssh/ssh_host_*; ssh-keygen -A; start sshd again). --accept-known-machine enrolls it all the same"
        )
    }

    /// - Parameters:
    ///   - name: What the machine is to be called.
    ///   - id: Its new identity.
    ///   - present: The one that it has in the place where the new one is to go.
    ///   - known: What is recorded under the name, where that is this machine; nil when there is nothing.
    ///   - revoked: Who was revoked with that identity; nil: nobody.
    /// - Returns: nil when that is an earlier one of the same device.
    package func acquaintance(
        _ name: String,
        _ id: SPIFFEID,
        present: SPIFFEID,
        known: Device?,
        revoked: KnownMachine? = nil
    ) -> Acquaintance? {
        guard known?.identity != present else { return nil }
        if let revoked, !forgives(revoked) {
            return .refused(Self.revoked(name, "the machine is \(present) already", revoked))
        }
        guard present != id else { return nil }
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

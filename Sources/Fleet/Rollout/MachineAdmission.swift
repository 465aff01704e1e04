import MeshIdentity
import SSHSignal
import Streams

/// Whether the machine that a login has reached may have the name of a target: asked with what it proves and says, one
/// after the other. What the ledger knew of it then goes with the claim, to be compared once more when a certificate is
/// recorded.
struct MachineAdmission: Sendable {
    let target: EnrollmentTarget
    /// Its identity.
    let id: SPIFFEID
    /// What is recorded under the name; nil when there is nothing.
    let known: Device?
    let admission: EnrollmentAdmission
    let records: DeviceDirectory
    let recording: RecordingIssuer
    /// Which name has shown which host key in this run.
    let shown: Lock<[String: EnrollmentTarget]>
    let warn: @Sendable (String) -> Void

    /// Has the enrolment ask here.
    func judge(_ options: inout EnrollmentOptions) {
        options.refusal = { refusal(of: MachineKey($0)) }
        options.refusalOfKeys = { refusal(of: $0) }
        options.occupied = { refusal(of: $0) }
    }

    private func refusal(of hostKey: MachineKey) -> HostError? {
        let verdict = admission.decide(known, destination: target.text, hostKey: hostKey)
        if case .refused(let error) = verdict { return error }
        if let refusal = refusal(of: hostKey, meeting: { $0.hostKey = hostKey }) { return refusal }
        let first = shown.withLock { shown in
            if shown[hostKey.fingerprint] == nil { shown[hostKey.fingerprint] = target }
            return shown[hostKey.fingerprint]
        }
        guard let first, first.name != target.name, known?.hostKey != hostKey, !admission.acceptsKnownMachine else {
            return nil
        }
        let key = "\(hostKey.algorithm) \(hostKey.fingerprint)"
        return EnrollmentAdmission.shared(target.name, target.text, key: key, with: first.name, at: first.text)
    }

    /// Another sshd than the one that was logged in to may have those: they count where the proven one is among them.
    private func refusal(of keys: [MachineKey]) -> HostError? {
        guard let hostKey = recording.claim?.machine?.hostKey, keys.contains(hostKey) else { return nil }
        return refusal(of: hostKey) { $0.otherKeys = keys.filter { $0 != hostKey } }
    }

    private func refusal(of present: PresentIdentity) -> HostError? {
        guard let hostKey = recording.claim?.machine?.hostKey else { return nil }
        let known = known?.hostKey == hostKey ? known : nil
        let found: Set<KnownMachine>
        switch meet(hostKey, { ($0.identity, $0.serial) = (present.id.description, present.serial) }) {
        case .success(let (all, _)): found = all
        case .failure(let error): return error
        }
        return heed(
            admission.acquaintance(
                target.name,
                id,
                present: present.id,
                known: known,
                revoked: found.first { $0.identity == present.id.description && $0.revokedAt != nil }
            )
        )
    }

    private func refusal(of hostKey: MachineKey, meeting change: (inout MetMachine) -> Void) -> HostError? {
        switch meet(hostKey, change) {
        case .success(let (_, news)):
            return heed(
                admission.acquaintance(
                    target.name,
                    destination: target.text,
                    hostKey: hostKey,
                    known: known,
                    among: news
                )
            )
        case .failure(let error): return error
        }
    }

    /// - Returns: Who is known by what is known of the machine by now, and those of them who were not before.
    private func meet(
        _ hostKey: MachineKey,
        _ change: (inout MetMachine) -> Void
    ) -> Result<(all: Set<KnownMachine>, news: Set<KnownMachine>), HostError> {
        var machine = recording.claim?.machine ?? MetMachine(hostKey: hostKey)
        if machine.hostKey != hostKey { machine = MetMachine(hostKey: hostKey) }
        machine.mayHaveOtherNames = admission.acceptsKnownMachine
        let before = machine.known
        change(&machine)
        do throws(DeviceDirectoryError) {
            machine.known = try records.machines(like: machine, besides: target.name)
        } catch {
            return .failure(HostError(.failed, error.message))
        }
        recording.meets(machine)
        return .success((machine.known, machine.known.subtracting(before)))
    }

    private func heed(_ acquaintance: EnrollmentAdmission.Acquaintance?) -> HostError? {
        switch acquaintance {
        case .refused(let error): return error
        case .accepted(let warning): warn(warning)
        case nil: break
        }
        return nil
    }
}

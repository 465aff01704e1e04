import MeshIdentity
package import Platform
package import SSHSignal
import Streams

/// Whom the operator has nothing to do with any more: who is revoked in the ledger; and whose certificate is on the
/// CA's list, where an earlier copy of the ledger was put back that does not know of it.
package struct OperatorTrust: Sendable {
    private let records: DeviceDirectory
    private let directory: String

    /// - Parameters:
    ///   - records: The ledger.
    ///   - directory: The CA's; there need not be one. Its key is not touched.
    package init(records: DeviceDirectory, authority directory: String) {
        self.records = records
        self.directory = directory
    }

    /// Why the operator has nothing to do with a device, as it is recorded now; nil: it is not revoked, or not known.
    package func refusal(ofDeviceNamed name: String) throws(DeviceDirectoryError) -> HostError? {
        guard let device = try records.record(named: name) else { return nil }
        return try refusal(of: device)
    }

    /// The same for a record that was read just now.
    package func refusal(of device: Device) throws(DeviceDirectoryError) -> HostError? {
        if let refusal = device.revocation { return refusal }
        guard let serial = device.serial, try isListed(serial, device) else { return nil }
        return HostError(
            .denied,
            "\(device.name): its certificate (serial \(serial)) is on the CA's revocation list, and the ledger does not have it as revoked: an "
                + "earlier copy of it was put back. `bootstrap revoke`, without a name, takes over what the list says. If the device is to be "
                + "trusted again: enroll it with --name \(device.name) --reinstate"
        )
    }

    /// The same for the machine that has proven to have a host key, by whatever name it was reached.
    package func refusal(of hostKey: HostKey) throws(DeviceDirectoryError) -> HostError? {
        let devices = try records.devices(withHostKey: hostKey.fingerprint)
        var refused: [(device: Device, refusal: HostError)] = []
        var isTrusted = false
        for device in devices {
            if let verdict = try refusal(of: device) {
                refused.append((device, verdict))
            } else if device.hostKey.fingerprint == hostKey.fingerprint {
                isTrusted = true
            }
        }
        for (device, refusal) in refused {
            // That others say they have the key of a device that is trusted says nothing of its machine.
            guard !isTrusted || device.hostKey.fingerprint == hostKey.fingerprint else { continue }
            return HostError(
                refusal.reason,
                "this machine shows the host key of \(device.name) (\(hostKey)), whatever name it is reached by. \(refusal.message)"
            )
        }
        return nil
    }

    private func isListed(_ serial: String, _ device: Device) throws(DeviceDirectoryError) -> Bool {
        let path = "\(directory)/\(EmbeddedCA.revocationsFile)"
        do {
            guard let lists = try EmbeddedCA.revocationLists(directory: directory) else { return false }
            let roots = try EmbeddedCA.bundle(directory: directory).roots
            let entries = try RevocationList.all(pem: lists).filter { list in
                list.serials.contains(serial) && roots.contains { list.isSigned(by: $0) }
            }.flatMap(\.entries)
            // One certificate was taken back, and its device is trusted.
            guard let entry = entries.first(where: { $0.serial == serial }), entry.reason != .superseded else {
                return false
            }
            // Where the ledger knows of it, it says what became of the device.
            return try !records.ledger.certificates(of: device.name).contains {
                $0.serial == serial && $0.state == .revoked
            }
        } catch {
            throw DeviceDirectoryError(
                message: "whether \(device.name) is revoked cannot be told from \(path): \(error)"
            )
        }
    }

    /// Changes whenever an answer may have changed.
    package var stamp: FileStamp {
        FileStamp(
            of: [records.ledger.path] + ["ca-crl.pem", "root-cert.pem", "ca-cert.pem"].map { "\(directory)/\($0)" }
        )
    }
}

/// Refuses a login to a machine that is revoked, by whatever name it is reached, and notices when one that was logged
/// in to is revoked meanwhile.
package final class HostWatch: Sendable {
    private struct State {
        var shown: [HostKey] = []
        var refusal: HostError?
    }

    private let trust: OperatorTrust
    private let state = Lock(State())

    /// How often it is looked whether somebody was revoked: some system calls.
    private static let interval = Duration.seconds(1)

    package init(_ trust: OperatorTrust) { self.trust = trust }

    /// Why a machine was refused; nil: none was.
    package var refusal: HostError? { state.withLock(\.refusal) }

    /// For ``SSHLogin/objection``.
    package func objection(to key: HostKey) -> String? {
        let refusal: HostError?
        do throws(DeviceDirectoryError) {
            refusal = try trust.refusal(of: key)
        } catch {
            refusal = HostError(.failed, error.message)
        }
        state.withLock { state in
            if !state.shown.contains(key) { state.shown.append(key) }
            if let refusal { state.refusal = refusal }
        }
        return refusal?.message
    }

    /// Goes on until the task is cancelled.
    ///
    /// - Parameter warn: Told why it could not be looked up, once; it is tried again.
    /// - Throws: ``HostError`` when a machine that was logged in to is revoked.
    package func follow(warn: @Sendable (String) -> Void) async throws {
        var (seen, said) = (trust.stamp, String?.none)
        while true {
            try await Task.sleep(for: Self.interval)
            let now = trust.stamp
            guard now != seen else { continue }
            do {
                for key in state.withLock(\.shown) {
                    if let refusal = try trust.refusal(of: key) { throw refusal }
                }
                // Not before: after a look that failed the same files are looked at again.
                (seen, said) = (now, nil)
            } catch let error as DeviceDirectoryError {
                if error.message != said { warn(error.message) }
                said = error.message
            }
        }
    }
}

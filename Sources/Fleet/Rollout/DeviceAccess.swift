import Platform
import SSHSignal
package import Streams

/// What `allow` and `deny` do: of a device that is enrolled, what members of its namespace may reach is changed, and
/// nothing else.
package struct DeviceAccess: Sendable {
    /// Ports, and `host:port` of what is reached through the device.
    package let allow: [String]
    /// The same that they may reach no more.
    package let deny: [String]
    private let logins: LoginOptions
    private let records: DeviceDirectory
    private let warn: @Sendable (String) -> Void

    package init(
        allow: [String] = [],
        deny: [String] = [],
        logins: LoginOptions,
        records: DeviceDirectory,
        warn: @escaping @Sendable (String) -> Void
    ) {
        self.allow = allow
        self.deny = deny
        self.logins = logins
        self.records = records
        self.warn = warn
    }

    /// The command, as the ledger's events name it.
    package var command: String { deny.isEmpty ? "allow" : "deny" }

    /// What was done, as they tell it.
    package var event: String {
        let parts = [("allowed", allow), ("denied", deny)].filter { !$0.1.isEmpty }
        return parts.map { "\($0.0) \($0.1.joined(separator: ", "))" }.joined(separator: "; ")
    }

    /// The record as it is now, and what others could reach before, as far as it is known.
    package typealias Outcome = (device: Device, before: [String]?)

    /// - Returns: nil where only an enrolment can do it: the certificate has ended, so that the device must have
    ///   another, or its agent is too old.
    package func callAsFunction(_ device: Device, on loop: EventLoop) async throws(HostError) -> Outcome? {
        // Not what was known when the command began.
        guard let known = try found({ () throws(DeviceDirectoryError) in try records.record(named: device.name) })
        else { throw HostError(.failed, "\(device.name): it is not enrolled any more") }
        guard known.revokedAt != nil || known.notAfter > WallClock.system.seconds else { return nil }
        // What cannot be recorded is not opened.
        try records.requireWritable("\(known.name): nothing was changed")
        let visit = DeviceVisit(known, warn: warn)
        let login = try known.login(logins, warn: warn)
        guard let (changed, before) = try await visit.change(allow: allow, deny: deny, login, on: loop) else {
            return nil
        }
        do throws(DeviceDirectoryError) {
            let recorded = try records.update(known.name, of: known.hostKey, by: command, event) {
                ($0.allowed, $0.renewFrom, $0.hbone) = (changed.allowed, changed.renewFrom, changed.hbone)
                $0.gateways = changed.gateways
            }
            return (recorded, before)
        } catch {
            let open = changed.allowed.map { $0.isEmpty ? "nothing" : $0.joined(separator: ", ") }
            throw HostError(
                error.reason,
                """
                \(known.name) allows \(open ?? "what it was told") now, and that is not recorded: \(error.message). Once it can be, \
                `bootstrap \(command) \(known.name) \((allow + deny).joined(separator: " "))` records it
                """
            )
        }
    }

    private func found<Found>(_ body: () throws(DeviceDirectoryError) -> Found) throws(HostError) -> Found {
        do throws(DeviceDirectoryError) {
            return try body()
        } catch {
            throw HostError(error.reason, error.message)
        }
    }
}

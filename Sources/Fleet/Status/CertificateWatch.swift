import Platform

/// Tells, while something runs, that a device's certificate ends before long and nobody renews it: once when that is
/// so, once when it has ended, and again after a renewal.
package struct CertificateWatch: Sendable {
    private let records: DeviceDirectory
    private let name: String
    /// Which certificate was told of, and what.
    private var said: (notAfter: Int64, state: DeviceStatus.State)?

    /// How often it is looked: some system calls, unless the ledger has changed or it is time.
    private static let interval = Duration.seconds(1)

    /// - Parameter name: The device's.
    package init(_ name: String, in records: DeviceDirectory) {
        self.name = name
        self.records = records
    }

    /// - Parameters:
    ///   - device: As it is now.
    ///   - now: Seconds since 1970.
    /// - Returns: What the user should know; nil where there is nothing, or it was said.
    package mutating func warning(_ device: Device, at now: Int64) -> String? {
        let status = DeviceStatus(device, at: now)
        guard let warning = status.warning, said?.notAfter != device.notAfter || said?.state != status.state else {
            return nil
        }
        said = (device.notAfter, status.state)
        return warning
    }

    /// Goes on until the task is cancelled.
    package mutating func follow(warn: @Sendable (String) -> Void) async throws {
        var (seen, device) = (FileStamp?.none, Device?.none)
        while true {
            let stamp = FileStamp(of: [records.ledger.path])
            // What cannot be read now is looked at again; whoever reads it to decide something says so.
            if stamp != seen, let now = try? records.record(named: name) { (seen, device) = (stamp, now) }
            if let device, let warning = warning(device, at: WallClock.system.seconds) { warn(warning) }
            try await Task.sleep(for: Self.interval)
        }
    }
}

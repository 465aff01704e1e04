import SSHSignal

/// Brings revocation lists to every device over SSH, some at a time.
package struct RevocationDelivery: Sendable {
    /// How many devices at a time.
    private let parallel: Int
    private let records: DeviceDirectory
    private let logins: LoginOptions
    private let report: HostReport

    /// - Parameters:
    ///   - parallel: How many devices at a time.
    ///   - records: Which devices there are.
    ///   - logins: How to log in to them.
    ///   - report: What came of it; it complains of each that could not be told.
    package init(parallel: Int, records: DeviceDirectory, logins: LoginOptions, report: HostReport) {
        self.parallel = parallel
        self.records = records
        self.logins = logins
        self.report = report
    }

    /// - Parameter lists: In PEM form.
    /// - Returns: Who could not be told; nil when everybody knows.
    package func callAsFunction(_ lists: [UInt8]) async throws(DeviceDirectoryError) -> HostFailures? {
        let others = try records.all().filter(\.isRenewable)
        let silent = others.filter { ($0.keyOrigin ?? .device) != .device }.map(\.name)
        if !silent.isEmpty {
            report.warn("without an agent, nobody there reads a revocation list: \(silent.joined(separator: ", "))")
        }
        let run = DeviceRun(parallel: parallel, done: "told", report: report)
        return await run(others.filter { ($0.keyOrigin ?? .device) == .device }) {
            [logins, report] (device, loop) async throws(HostError) in
            let visit = DeviceVisit(device, warn: report.warn)
            let login = try device.login(logins, warn: report.warn)
            return try await visit.deliver(revocationLists: lists, login, on: loop) ? "told" : "knew already"
        }
    }
}

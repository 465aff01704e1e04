import SSHSignal
import Streams

/// Brings revocation lists to every device over SSH, some at a time.
package struct RevocationDelivery: Sendable {
    /// How many devices at a time.
    private let parallel: Int
    private let records: DeviceDirectory
    private let publisher: RevocationPublisher
    private let logins: LoginOptions
    private let report: HostReport

    /// - Parameters:
    ///   - parallel: How many devices at a time.
    ///   - records: Which devices there are.
    ///   - publisher: Whose lists they are. What devices know beyond them goes on them.
    ///   - logins: How to log in to them.
    ///   - report: What came of it; it complains of each that could not be told.
    package init(
        parallel: Int,
        records: DeviceDirectory,
        publisher: RevocationPublisher,
        logins: LoginOptions,
        report: HostReport
    ) {
        self.parallel = parallel
        self.records = records
        self.publisher = publisher
        self.logins = logins
        self.report = report
    }

    /// - Parameter lists: In PEM form, as the publisher has made them.
    /// - Returns: Who could not be told; nil when everybody knows.
    package func callAsFunction(_ lists: [UInt8]) async throws(DeviceDirectoryError) -> HostFailures? {
        let others = try records.all().filter(\.isRenewable)
        let silent = others.filter { ($0.keyOrigin ?? .device) != .device }.map(\.name)
        if !silent.isEmpty {
            report.warn("without an agent, nobody there reads a revocation list: \(silent.joined(separator: ", "))")
        }
        let told = others.filter { ($0.keyOrigin ?? .device) == .device }
        let newest = Lock(lists)
        let failures = await deliver(newest, to: told)
        guard newest.withLock({ $0 }) != lists else { return failures }
        // A device knew more: those that were told before it do not have that yet.
        return await deliver(
            newest,
            to: try records.all().filter { now in
                now.isRenewable && told.contains { $0.name == now.name }
            }
        )
    }

    private func deliver(_ newest: Lock<[UInt8]>, to devices: [Device]) async -> HostFailures? {
        let run = DeviceRun(parallel: parallel, done: "told", report: report)
        return await run(devices) { [logins, publisher, report] (device, loop) async throws(HostError) in
            var visit = DeviceVisit(device, warn: report.warn)
            visit.learn = { lists in
                publisher.learn(lists, from: device.name, warn: report.warn)
                if let present = publisher.present { newest.withLock { $0 = present } }
            }
            let login = try device.login(logins, warn: report.warn)
            let isNew = try await visit.deliver(revocationLists: { newest.withLock { $0 } }, login, on: loop)
            return isNew ? "told" : "knew already"
        }
    }
}

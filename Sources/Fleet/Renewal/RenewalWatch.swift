import MeshIdentity
import Platform

/// Renews what is due, again and again, until its task is cancelled.
///
/// The ledger says what is due: devices that are enrolled, renewed or revoked meanwhile, by whomever, are seen at the next look.
package struct RenewalWatch: Sendable {
    private let renewal: DeviceRenewal
    private let hosts: HostRun
    private let report: HostReport

    /// How long to wait at most before the ledger is looked at again, in seconds.
    private static let longestSleep: Int64 = 60

    /// - Parameter parallel: How many devices at a time.
    package init(_ renewal: DeviceRenewal, parallel: Int, report: HostReport) {
        self.renewal = renewal
        hosts = HostRun(width: parallel)
        self.report = report
    }

    package func run() async {
        /// Of devices whose last attempt failed: how often, and when to try again, in seconds since 1970.
        var failed: [String: (schedule: RenewalSchedule, next: Int64)] = [:]
        while !Task.isCancelled {
            var sleep = Self.longestSleep
            do throws(DeviceDirectoryError) {
                let now = WallClock.system.seconds
                let due = try renewal.records.due(at: now).filter { (failed[$0.name]?.next ?? 0) <= now }
                for outcome in await renew(due) {
                    let device = outcome.host
                    guard let error = outcome.error else {
                        failed[device.name] = nil
                        continue
                    }
                    var schedule = failed[device.name]?.schedule ?? device.renewal
                    let wait = schedule.attemptFailed(at: WallClock.system.seconds)
                    failed[device.name] = (schedule, WallClock.system.seconds + wait)
                    report.complain("\(error.message); trying again in \(wait) s")
                }
                let later = WallClock.system.seconds
                for device in try renewal.records.all().filter(\.isRenewable) {
                    let wait = max(device.renewalWait(at: later), (failed[device.name]?.next ?? 0) - later)
                    sleep = min(sleep, max(1, wait))
                }
            } catch {
                report.complain(error.message)
            }
            try? await Task.sleep(for: .seconds(sleep))
        }
    }

    private func renew(_ devices: [Device]) async -> [HostRun.Outcome<Device, Void>] {
        await hosts(devices) { [renewal, report] (device, loop) async throws(HostError) in
            let text = try await renewal.renew(device, on: loop)
            report.say("\(device.name)  \(text)")
        }
    }
}

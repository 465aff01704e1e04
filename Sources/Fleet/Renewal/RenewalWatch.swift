import MeshIdentity
import Platform
package import Streams

/// Renews what is due, again and again, until its task is cancelled.
///
/// The ledger says what is due: devices that are enrolled, renewed or revoked meanwhile, by whomever, are seen at the
/// next look. Each device has a time-table of its own: one that takes long, or fails, delays no other.
package struct RenewalWatch: Sendable {
    /// - Returns: what came of it, for people.
    package typealias Renew = @Sendable (Device, EventLoop) async throws(HostError) -> String

    private let records: DeviceDirectory
    private let renew: Renew
    private let parallel: Int
    private let report: HostReport

    /// How long to wait at most before the ledger is looked at again, in seconds.
    private static let longestSleep: Int64 = 60

    /// - Parameter parallel: How many devices at a time.
    package init(_ renewal: DeviceRenewal, parallel: Int, report: HostReport) {
        self.init(renewal.records, parallel: parallel, report: report) { (device, loop) async throws(HostError) in
            try await renewal.renew(device, on: loop)
        }
    }

    /// - Parameters:
    ///   - records: What is due.
    ///   - parallel: How many devices at a time.
    ///   - report: What came of each.
    ///   - renew: Renews one.
    package init(_ records: DeviceDirectory, parallel: Int, report: HostReport, _ renew: @escaping Renew) {
        precondition(parallel > 0, "no device can be renewed")
        self.records = records
        self.renew = renew
        self.parallel = parallel
        self.report = report
    }

    private enum Event: Sendable {
        case renewed(Device, HostError?)
        /// It is time to look at the ledger again, unless it was looked at since this was planned.
        case look(planned: Int)
    }

    package func run() async {
        let loops = EventLoopGroup(count: min(parallel, EventLoopGroup.availableProcessors))
        await withTaskGroup(of: Event.self) { group in
            var timetable = RenewalTimetable(parallel: parallel)
            var looks = 0
            func look() {
                var sleep = Self.longestSleep
                do throws(DeviceDirectoryError) {
                    let (begun, wait) = timetable.look(at: try records.all(), now: WallClock.system.seconds)
                    for device in begun {
                        group.addTask { [renew, report] in
                            do throws(HostError) {
                                report.say("\(device.name)  \(try await renew(device, loops.next()))")
                                return .renewed(device, nil)
                            } catch {
                                return .renewed(device, error)
                            }
                        }
                    }
                    sleep = min(sleep, wait ?? sleep)
                } catch {
                    report.complain(error.message)
                }
                looks += 1
                group.addTask { [sleep, looks] in
                    try? await Task.sleep(for: .seconds(sleep))
                    return .look(planned: looks)
                }
            }
            look()
            while let event = await group.next(), !Task.isCancelled {
                switch event {
                case .look(let planned):
                    guard planned == looks else { continue }
                case .renewed(let device, let error):
                    // A place is free now, and it is known when this device comes again.
                    let wait = timetable.ended(device, failed: error != nil, now: WallClock.system.seconds)
                    if let error, let wait { report.complain("\(error.message); trying again in \(wait) s") }
                }
                look()
            }
            group.cancelAll()
        }
        await loops.shutDown()
    }
}

/// Which devices are renewed now, and when it is to be looked again: a value without I/O.
struct RenewalTimetable: Sendable {
    private let parallel: Int
    /// Those that are being renewed.
    private(set) var underWay: Set<String> = []
    /// Of devices whose last attempt failed: how often, and when to try again.
    private var failed: [String: RenewalSchedule] = [:]
    /// Of devices that were renewed: when they may be again.
    private var renewed: [String: WallPause] = [:]

    /// How long to leave a device alone that was renewed, in seconds: whatever has it due again at once, such as an
    /// issuer whose certificates have hardly begun when they end, does not have it renewed without a pause.
    private static let pause: Int64 = 2

    /// - Parameter parallel: How many devices at a time.
    init(parallel: Int) { self.parallel = parallel }

    /// - Parameters:
    ///   - devices: All of the ledger.
    ///   - now: Seconds since 1970.
    /// - Returns: Which to begin with now; they count as under way. And how many seconds from now the next one is due
    ///   that is not; nil: none is, or all places are taken, so that one has to end before.
    mutating func look(at devices: [Device], now: Int64) -> (begun: [Device], wait: Int64?) {
        let waiting = devices.filter { $0.isRenewable && !underWay.contains($0.name) }.map {
            (device) -> (device: Device, wait: Int64) in
            let pause = max(failed[device.name]?.pauseLeft(at: now) ?? 0, renewed[device.name]?.left(at: now) ?? 0)
            return (device: device, wait: max(device.renewalWait(at: now), pause))
        }
        let due = waiting.filter { $0.wait <= 0 }.map(\.device)
        // Who ends first is renewed first, where there are more than places.
        let begun = due.sorted { $0.notAfter < $1.notAfter }.prefix(max(0, parallel - underWay.count))
        underWay.formUnion(begun.map(\.name))
        return (Array(begun), waiting.map(\.wait).filter { $0 > 0 }.min())
    }

    /// - Returns: after how many seconds it is tried again; nil where it did not fail.
    mutating func ended(_ device: Device, failed hasFailed: Bool, now: Int64) -> Int64? {
        underWay.remove(device.name)
        guard hasFailed else {
            failed[device.name] = nil
            renewed[device.name] = WallPause(Self.pause, from: now)
            return nil
        }
        return failed[device.name, default: device.renewal].attemptFailed(at: now)
    }
}

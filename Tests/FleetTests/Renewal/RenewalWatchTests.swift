import Platform
import Synchronization
import TestPeers
import Testing

@testable import Fleet

/// One device takes its time, or fails: the others do not wait for it.
@Suite(.timeLimit(.minutes(10))) struct RenewalWatchTests {
    private let home = TemporaryDirectory()

    private func device(_ name: String, notAfter: Int64 = 1_000_000_000) throws -> Device {
        var device = try DeviceDirectoryTests.record(name)
        device.notAfter = notAfter
        return device
    }

    @Test func aDeviceThatHangsDelaysNoOther() async throws {
        let devices = DeviceDirectory(home.path("devices"))
        for name in ["a", "b"] { try devices.save(try device(name)) }
        let attempts = Mutex(0)
        let report = HostReport(say: { _ in }, warn: { _ in }, complain: { _ in })
        let (isEnough, enough) = AsyncStream.makeStream(of: Void.self)
        let watch = RenewalWatch(devices, parallel: 2, report: report) { (device, _) async throws(HostError) in
            guard device.name == "b" else {
                // Until it is cancelled.
                while (try? await Task.sleep(for: .seconds(3600))) != nil {}
                throw HostError(.interrupted, "a: cancelled")
            }
            let count = attempts.withLock { attempts in
                attempts += 1
                return attempts
            }
            if count == 3 { enough.finish() }
            throw HostError(.unreachable, "b: no answer")
        }
        let running = Task { await watch.run() }
        for await _ in isEnough {}
        running.cancel()
        await running.value
        #expect(attempts.withLock { $0 } >= 3)
    }

    @Test func theTimetableBeginsWhatIsDueAndNothingTwice() throws {
        var timetable = RenewalTimetable(parallel: 2)
        let all = [
            try device("a", notAfter: 500), try device("b", notAfter: 400), try device("c", notAfter: 300),
            try device("d", notAfter: 1_000_000),
        ]
        var (begun, wait) = timetable.look(at: all, now: 1000)
        #expect(begun.map(\.name) == ["c", "b"], "who ends first, as many as there are places")
        #expect(wait == all[3].renewalWait(at: 1000))
        #expect(timetable.look(at: all, now: 1001).begun.isEmpty)
        // A place is free: for the one that waits, not for the one that has just failed.
        let again = timetable.ended(all[2], failed: true, now: 1002)
        #expect(again == 1)
        (begun, wait) = timetable.look(at: all, now: 1002)
        #expect(begun.map(\.name) == ["a"])
        #expect(wait == 1, "then it is tried again")
        #expect(timetable.ended(all[1], failed: false, now: 1003) == nil)
        #expect(timetable.look(at: all, now: 1004).begun.map(\.name) == ["c"])
    }

    @Test func whatWasRenewedIsLeftAloneForAMoment() throws {
        var timetable = RenewalTimetable(parallel: 2)
        let due = [try device("a", notAfter: 500)]
        #expect(timetable.look(at: due, now: 1000).begun.count == 1)
        #expect(timetable.ended(due[0], failed: false, now: 1001) == nil)
        let (begun, wait) = timetable.look(at: due, now: 1001)
        #expect(begun.isEmpty)
        #expect(wait == 2)
        #expect(timetable.look(at: due, now: 1003).begun.count == 1)
    }

    /// What was tried, or done, by a clock that was a day ahead keeps nobody waiting for that day.
    @Test(arguments: [true, false]) func aClockThatIsSetBackPutsNothingOff(_ hasFailed: Bool) throws {
        var timetable = RenewalTimetable(parallel: 1)
        let due = [try device("a", notAfter: 500)]
        #expect(timetable.look(at: due, now: 100_000).begun.count == 1)
        _ = timetable.ended(due[0], failed: hasFailed, now: 100_000)
        #expect(timetable.look(at: due, now: 100_000).begun.isEmpty)
        #expect(timetable.look(at: due, now: 13_600).begun.count == 1)
    }

    /// 24 hours were asked for, and the issuer gave 8.
    @Test func aCertificateThatIsShorterThanWasAskedForIsNotDueAtOnce() throws {
        var device = try device("a", notAfter: 1_000_000_000)
        device.lifetime = 86_400
        let issuedAt = device.notAfter - 28_800
        device.enrolledAt = issuedAt
        #expect(device.renewalWait(at: issuedAt) >= 28_800 / 2)
        #expect(device.renewalWait(at: issuedAt + 28_800 * 2 / 3) == 0)
        // The same after a renewal.
        (device.enrolledAt, device.renewedAt) = (1, issuedAt)
        #expect(device.renewalWait(at: issuedAt) >= 28_800 / 2)
        // As long as was asked for: as it was.
        device.renewedAt = device.notAfter - 86_400
        #expect(device.renewalWait(at: device.notAfter - 86_400) >= 43_200)
        // A clock that was wrong does not put it off until after its end.
        device.renewedAt = device.notAfter + 1_000_000
        #expect(device.renewalWait(at: device.notAfter) == 0)
    }
}

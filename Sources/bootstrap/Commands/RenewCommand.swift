import ArgumentParser
import Glibc
import MeshIdentity
import Platform
import SSHSignal
import Streams
import UnixSignals

struct RenewCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "renew",
        abstract: "Give enrolled devices new certificates, over SSH.",
        discussion: """
            Logs in to each device, has its agent make a new key (which never leaves the device), and signs a certificate of the \
            identity it was enrolled with. Its node goes on and takes the new certificate up without a restart. SSH needs no mesh \
            certificate: an expired one is renewed like any other. A revoked device gets nothing.

              bootstrap renew dev7 dev8
              bootstrap renew --all --parallel 32
              bootstrap renew --due              only what is past half to two thirds of its time: for cron
              bootstrap renew --watch            the same, as a daemon, until SIGTERM
            """
    )

    @OptionGroup var selection: FleetSelection

    @Flag(help: "Those devices whose certificates are past half to two thirds of their time, or have expired.")
    var due = false

    @Flag(help: "Go on for ever: renew what is due, wait for what is due next.")
    var watch = false

    @Option(
        help: ArgumentHelp("How long the new certificates are valid. (default: as long as before)", valueName: "TIME")
    )
    var ttl: DurationArgument?

    @Flag(help: "Renew SSH host certificates, too, that are not past half of their time yet.")
    var sshHostCert = false

    @OptionGroup var clock: ClockOptions
    @OptionGroup var issuers: IssuerOptions
    @OptionGroup var access: CAAccess
    @OptionGroup var ssh: SSHOptionGroup

    func validate() throws {
        guard !selection.destinations.isEmpty || selection.all || due || watch else {
            throw ValidationError("name at least one device, or give --all, --due or --watch")
        }
        guard !watch || (selection.destinations.isEmpty && !due) else {
            throw ValidationError("--watch looks after every device; give it alone")
        }
        guard !due || (selection.destinations.isEmpty && !selection.all) else {
            throw ValidationError("--due chooses the devices itself; give it alone")
        }
    }

    func run() async throws {
        let records = DeviceDirectory(Home.devices)
        let run = RenewalRun(
            issuer: try issuers.load(access).issuer,
            lifetime: ttl?.duration,
            acceptsSkew: clock.skewOk,
            ssh: ssh,
            records: records,
            sshAuthority: { [access] in try access.loadSSH() },
            renewsHostCertificates: sshHostCert
        )
        if watch { return try await RenewalWatch(run: run, parallel: selection.parallel)() }
        let devices = due ? try Self.due(in: records) : try selection.devices(in: records)
        guard !devices.isEmpty else {
            printLine(due ? "No certificate is due." : "No device is enrolled; `bootstrap enroll DEST` changes that.")
            return
        }
        let outcome = await FleetRun(parallel: selection.parallel, done: "renewed")(devices) {
            (device, loop) async throws(EnrollmentError) in
            try await run.renew(device, on: loop)
        }
        if let outcome { throw outcome.code }
    }

    static func due(in records: DeviceDirectory) throws -> [DeviceRecord] {
        do throws(DeviceDirectoryError) {
            let now = currentTime()
            return try records.all().filter { $0.isRenewable && $0.renewalWait(at: now) == 0 }
        } catch {
            throw fail(error.message)
        }
    }
}

extension DeviceRecord {
    /// Whether `renew` looks after it by itself.
    var isRenewable: Bool { revokedAt == nil }

    /// Seconds until something of it is due: its certificate, or those of its SSH host keys.
    func renewalWait(at now: Int64) -> Int64 {
        sshServer?.isDue(at: now) == true ? 0 : renewal.wait(at: now)
    }
}

/// Renews what is due, again and again, until somebody stops the command.
///
/// The ledger says what is due: devices that are enrolled, renewed or revoked meanwhile, by whomever, are seen at the next look.
private struct RenewalWatch: Sendable {
    let run: RenewalRun
    let parallel: Int

    /// How long to wait at most before the ledger is looked at again, in seconds.
    private static let longestSleep: Int64 = 60

    func callAsFunction() async throws {
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint)
        printLine("watching \(run.records.ledger.path)")
        await withTaskGroup(of: Void.self) { group in
            group.addTask { for await _ in signals { return } }
            group.addTask { await renewForEver() }
            await group.next()
            group.cancelAll()
        }
    }

    private func renewForEver() async {
        /// Of devices whose last attempt failed: how often, and when to try again, in seconds since 1970.
        var failed: [String: (schedule: RenewalSchedule, next: Int64)] = [:]
        while !Task.isCancelled {
            var sleep = Self.longestSleep
            do throws(DeviceDirectoryError) {
                let devices = try run.records.all().filter(\.isRenewable)
                let now = currentTime()
                let due = devices.filter { $0.renewalWait(at: now) == 0 && (failed[$0.name]?.next ?? 0) <= now }
                for (name, error) in await renew(due) {
                    guard let device = due.first(where: { $0.name == name }) else { continue }
                    guard let error else {
                        failed[name] = nil
                        continue
                    }
                    var schedule = failed[name]?.schedule ?? device.renewal
                    let wait = schedule.attemptFailed(at: currentTime())
                    failed[name] = (schedule, currentTime() + wait)
                    printError("error: \(error.message); trying again in \(wait) s")
                }
                let later = currentTime()
                for device in try run.records.all().filter(\.isRenewable) {
                    let wait = max(device.renewalWait(at: later), (failed[device.name]?.next ?? 0) - later)
                    sleep = min(sleep, max(1, wait))
                }
            } catch {
                printError("error: \(error.message)")
            }
            try? await Task.sleep(for: .seconds(sleep))
        }
    }

    private func renew(_ devices: [DeviceRecord]) async -> [(String, EnrollmentError?)] {
        guard !devices.isEmpty else { return [] }
        let loops = EventLoopGroup(count: min(devices.count, parallel, Executable.processors))
        let outcomes = await withTaskGroup(of: (String, EnrollmentError?).self) { group in
            var outcomes: [(String, EnrollmentError?)] = []
            var waiting = devices[...]
            func startNext() {
                guard !Task.isCancelled, let device = waiting.popFirst() else { return }
                group.addTask {
                    do throws(EnrollmentError) {
                        let text = try await run.renew(device, on: loops.next())
                        printLine("\(device.name)  \(text)")
                        return (device.name, nil)
                    } catch {
                        return (device.name, error)
                    }
                }
            }
            for _ in 0..<parallel { startNext() }
            while let outcome = await group.next() {
                outcomes.append(outcome)
                startNext()
            }
            return outcomes
        }
        await loops.shutDown()
        return outcomes
    }
}

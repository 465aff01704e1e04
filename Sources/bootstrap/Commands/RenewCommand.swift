import ArgumentParser
import Fleet
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

    @Flag(
        help:
            "Those devices whose certificates are past half to two thirds of their time, have expired, or are revoked."
    )
    var due = false

    @Flag(help: "Go on for ever: renew what is due, wait for what is due next.")
    var watch = false

    @Option(
        help: ArgumentHelp("How long the new certificates are valid. (default: as long as before)", valueName: "TIME")
    )
    var ttl: DurationArgument?

    @Flag(help: "Renew SSH host certificates, too, that are not past half of their time yet.")
    var sshHostCert = false

    @Option(help: ArgumentHelp("text, or json: one object a device on stdout.", valueName: "FORMAT"))
    var output = ResultFormat.text

    @OptionGroup var clock: ClockOptions
    @OptionGroup var issuers: IssuerOptions
    @OptionGroup var access: CAAccess
    @OptionGroup var ssh: SSHOptionGroup

    func validate() throws {
        guard !selection.isEmpty || due || watch else {
            throw ValidationError("name at least one device, or give --all, --label, --due or --watch")
        }
        guard !watch || (selection.destinations.isEmpty && selection.label.isEmpty && !due) else {
            throw ValidationError("--watch looks after every device; give it alone")
        }
        guard !due || selection.isEmpty else {
            throw ValidationError("--due chooses the devices itself; give it alone")
        }
    }

    func run() async throws {
        let records = DeviceDirectory(Home.devices)
        let report = output.report
        let issuer = try issuers.load(access).issuer
        var renewal = DeviceRenewal(
            issuer: issuer,
            terms: IssuanceTerms(lifetime: ttl?.duration, acceptsSkew: clock.skewOk),
            logins: try ssh.logins(),
            records: records,
            sshAuthority: { [access] in try access.loadSSH() },
            warn: report.warn
        )
        renewal.renewsHostCertificates = sshHostCert
        renewal.publisher = (issuer as? LiveCA).map { RevocationPublisher(authority: $0, ledger: records.ledger) }
        renewal.isByHand = !due && !watch
        renewal.reconcile()
        if watch { return await keepWatching(renewal, issuer as? LiveCA, report) }
        let devices = try devices(in: records)
        guard !devices.isEmpty else {
            output.say(due ? "No certificate is due." : "No device is enrolled; `bootstrap enroll DEST` changes that.")
            return
        }
        let revoked = Lock<[String]>([])
        renewal.revokedEarlier = { name in revoked.withLock { $0.append(name) } }
        let run = DeviceRun(parallel: selection.parallel, done: "renewed", report: report)
        let failures = await run(devices) { [renewal] (device, loop) async throws(HostError) in
            try await renewal.renew(device, on: loop)
        }
        let names = revoked.withLock { $0 }
        if !names.isEmpty {
            let news = RevocationNews(
                parallel: selection.parallel,
                records: records,
                publisher: renewal.publisher,
                prompts: renewal.logins.prompts,
                report: report
            )
            await news(of: names)
        }
        _ = await DirectoryPublication.publish(records, issuer as? LiveCA, report)
        if let failures { throw failures.reason.exitCode }
    }

    private func devices(in records: DeviceDirectory) throws -> [Device] {
        guard due else { return try selection.devices(in: records) }
        do throws(DeviceDirectoryError) {
            return try records.due(at: WallClock.system.seconds)
        } catch {
            throw fail(error.message)
        }
    }

    /// Until somebody stops the command.
    private func keepWatching(_ renewal: DeviceRenewal, _ authority: LiveCA?, _ report: HostReport) async {
        let records = renewal.records
        let keeper = DirectoryKeeper(report: report) { try await DirectoryPublication.publish(records, authority) }
        let watch = RenewalWatch(records, parallel: selection.parallel, report: report) {
            (device, loop) async throws(HostError) in
            let result = try await renewal.renew(device, on: loop)
            keeper.changed()
            return result
        }
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint)
        printDone("watching \(Home.ledger)")
        await withTaskGroup(of: Void.self) { group in
            group.addTask { for await _ in signals { return } }
            group.addTask { await watch.run() }
            group.addTask { await keeper.run() }
            if let publisher = renewal.publisher {
                group.addTask { await publisher.keepReconciled(warn: report.warn) }
            }
            await group.next()
            group.cancelAll()
        }
    }
}

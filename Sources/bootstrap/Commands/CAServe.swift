import Agent
import ArgumentParser
import Fleet
import Glibc
import H2Transport
import Logging
import MeshIdentity
import MeshNode
import Platform
import SSHSignal
import Streams
import UnixSignals

struct CAServe: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Renew certificates of enrolled devices over the mesh.",
        discussion: """
            Listens with an identity of its own (ns/bootstrap/sa/issuer) and mutual TLS. A device asks when its certificate is past \
            half to two thirds of its time; it gets a new one for the identity in the certificate that it shows, and nothing else. \
            Devices that are not in the ledger, or revoked there, are refused. An expired certificate is refused like any other that \
            is not valid: `bootstrap renew` over SSH is the way back.

              bootstrap ca serve --listen 0.0.0.0:15012
              bootstrap enroll dev7 --renew-from 10.0.0.1:15012
              bootstrap ca serve --install               as a systemd unit; devices enrolled from then on use it
            """
    )

    @Option(help: ArgumentHelp("Where to listen.", valueName: "ADDRESS:PORT"))
    var listen = "0.0.0.0:15012"

    @Option(help: ArgumentHelp("How long certificates are valid. (default: as long as before)", valueName: "TIME"))
    var ttl: DurationArgument?

    @Flag(
        help: "Have systemd run this from now on, with these options, and devices that reach it renew here by default."
    )
    var install = false

    @Flag(help: "Take that back.")
    var uninstall = false

    @Option(
        help: ArgumentHelp(
            "With --install: where devices reach it, numeric. (default: this machine, as each of them sees it, and the port of --listen)",
            valueName: "ADDRESS:PORT"
        )
    )
    var address: String?

    @OptionGroup var clock: ClockOptions
    @OptionGroup var access: CAAccess

    @OptionGroup var messages: MessageOptions

    func validate() throws {
        guard !install || !uninstall else { throw ValidationError("--install or --uninstall, not both") }
        guard address == nil || install else { throw ValidationError("--address is for --install") }
        if let address, !NumericAddress.isValid(address) {
            throw ValidationError("--address \(address) is no numeric address and port")
        }
    }

    /// As a service of this machine.
    private func setUp() async throws {
        guard let program = Executable.path else { throw fail("/proc is needed to find this program") }
        var options = ["--listen", listen]
        if let ttl { options += ["--ttl", "\(ttl.duration.components.seconds)s"] }
        if clock.skewOk { options.append("--skew-ok") }
        if let directory = access.location.directory { options += ["--ca", absolutePath(directory)] }
        if let file = access.passphraseFile { options += ["--passphrase-file", absolutePath(file)] }
        let service = IssuerService(
            program: program,
            options: options,
            home: absolutePath(Home.path),
            authority: absolutePath(access.location.path)
        )
        do {
            if uninstall {
                unlink(Home.issuerAddress)
                try service.remove()
                return printDone("removed \(service.place)")
            }
            let place = try SocketAddress(parsing: listen)
            guard try access.loadWithPassphrase().passphrase == nil || access.passphraseFile != nil else {
                throw fail(
                    "nobody answers a service's questions: give the CA's passphrase with --passphrase-file",
                    .usage
                )
            }
            // A unit that may write to it does not start where it is not there.
            try AtomicFile.createDirectory(Home.path, mode: 0o700)
            for warning in try service.install() { printWarning(warning) }
            guard await Self.accepts(place) else {
                throw fail(
                    "\(service.place) is installed, and nobody listens on \(listen) yet; devices are not told of it. See why "
                        + "(\(service.logCommand)), then run this again, or take it back with --uninstall"
                )
            }
            try AtomicFile.write(Array("\(address ?? "*:\(place.port)")\n".utf8), to: Home.issuerAddress)
            printDone("installed \(service.place), listening on \(listen)")
            printDone(
                "From now on `bootstrap enroll` has devices that reach it renew here; those that are enrolled, when they are enrolled again."
            )
        } catch let error as ExitCode {
            throw error
        } catch {
            throw fail("\(error)")
        }
    }

    /// Whether a service that was started just now is there, within some seconds.
    private static func accepts(_ place: SocketAddress) async -> Bool {
        let end = ContinuousClock.now + .seconds(5)
        // Nobody there is said at once.
        while !place.accepts(within: .seconds(1)) {
            guard ContinuousClock.now < end else { return false }
            try? await Task.sleep(for: .milliseconds(100))
        }
        return true
    }

    func run() async throws {
        if install || uninstall { return try await setUp() }
        startLogging(.notice)
        let logger = Logger(label: "issuer")
        let authority = try access.loadLive()
        let own = IssuerCredential(of: authority, in: CredentialDirectory("\(Home.path)/issuer"))
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint)
        do {
            let records = DeviceDirectory(Home.devices)
            let publisher = RevocationPublisher(authority: authority, ledger: records.ledger)
            try publisher.reconcile { logger.warning("\($0)") }
            if let lists = own.revocationLists {
                publisher.learn(lists, from: "the issuer") { logger.warning("\($0)") }
            }
            try own.renew()
            var credentials = CredentialSource.directory(own.directory.path)
            // Also before the list is written.
            let revoked = RevokedCertificates(in: records.ledger)
            credentials.alsoRevoked = { try revoked.names() }
            let listener = try await HBONEListener(
                bind: try SocketAddress(parsing: listen),
                credentials: credentials,
                logger: logger
            )
            announce("ready issuer \(listener.localAddress)")
            let service = RenewalService(
                issuer: authority,
                records: records,
                terms: IssuanceTerms(lifetime: ttl?.duration, acceptsSkew: clock.skewOk),
                logger: logger
            )
            await withTaskGroup(of: Void.self) { group in
                group.addTask { for await _ in signals { return } }
                group.addTask { await service.serve(on: listener) }
                group.addTask { await own.keepFresh(logger) }
                group.addTask { await publisher.keepReconciled { logger.error("\($0)") } }
                await group.next()
                group.cancelAll()
            }
            await listener.close()
        } catch {
            throw fail("\(error)")
        }
    }
}

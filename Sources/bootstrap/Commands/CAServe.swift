import ArgumentParser
import Fleet
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
            """
    )

    @Option(help: ArgumentHelp("Where to listen.", valueName: "ADDRESS:PORT"))
    var listen = "0.0.0.0:15012"

    @Option(help: ArgumentHelp("How long certificates are valid. (default: as long as before)", valueName: "TIME"))
    var ttl: DurationArgument?

    @OptionGroup var clock: ClockOptions
    @OptionGroup var access: CAAccess

    @OptionGroup var messages: MessageOptions

    func run() async throws {
        startLogging(.notice)
        let logger = Logger(label: "issuer")
        let authority = try access.loadLive()
        let own = IssuerCredential(of: authority, in: CredentialDirectory("\(Home.path)/issuer"))
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint)
        do {
            let records = DeviceDirectory(Home.devices)
            let publisher = RevocationPublisher(authority: authority, ledger: records.ledger)
            try publisher.takeOverPresent()
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
            printLine("ready issuer \(listener.localAddress)")
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
                group.addTask { await publisher.keepTakenOver { logger.error("\($0)") } }
                await group.next()
                group.cancelAll()
            }
            await listener.close()
        } catch {
            throw fail("\(error)")
        }
    }
}

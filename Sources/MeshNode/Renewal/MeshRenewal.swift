import Glibc
import H2Transport
package import Logging
package import MeshIdentity
import MeshPaths
package import Platform
import SSHSignal
import Streams

/// Where a node has its certificate renewed, over the mesh: the key `renewal`.
package struct RenewalSource: Hashable, Sendable {
    /// Where `bootstrap ca serve` listens.
    package var from: Authority
    /// Whom it must be. nil: `spiffe://TRUST-DOMAIN/ns/bootstrap/sa/issuer`, in the node's own trust domain.
    package var identity: SPIFFEID?

    package init(from: Authority, identity: SPIFFEID? = nil) {
        self.from = from
        self.identity = identity
    }

    /// What the issuer is called in each trust domain.
    package static let namespace = IssuerName.namespace
    package static let name = IssuerName.name
}

/// Keeps a node's certificate fresh, as long as it runs: asks the issuer when the certificate is past half to two
/// thirds of its time.
///
/// The connection shows the present certificate, and the issuer signs for the identity in it, nothing else. Once that
/// has expired, nobody accepts the connection; then an operator has to come over SSH (`bootstrap renew`), as for a node
/// without this.
package struct MeshRenewal: Sendable {
    /// What a node's configuration says of it.
    package struct Settings: Sendable {
        package var source: RenewalSource
        package var directory: CredentialDirectory
        /// What the HBONE listener is bound to, for the issuer's information.
        package var listener: String
    }

    private let settings: @Sendable () -> Settings?
    private let logger: Logger

    /// How long to sleep at most, in seconds: the credential may have been renewed by somebody else meanwhile.
    private static let longestSleep: Int64 = 60

    /// - Parameter settings: The present ones; nil while nobody renews this node's certificate.
    package init(logger: Logger, _ settings: @escaping @Sendable () -> Settings?) {
        self.settings = settings
        self.logger = logger
    }

    /// Returns when the task is cancelled.
    package func run() async {
        // Of no certificate yet.
        var schedule = RenewalSchedule(notBefore: 0, notAfter: 0)
        var serial = ""
        var isExpired = false
        while !Task.isCancelled {
            var sleep = Self.longestSleep
            guard let settings = settings() else {
                try? await Task.sleep(for: .seconds(5))
                continue
            }
            do {
                let credential = try settings.directory.load()
                isExpired = false
                if credential.leaf.serialNumber != serial {
                    serial = credential.leaf.serialNumber
                    schedule = RenewalSchedule(notBefore: credential.notBefore, notAfter: credential.notAfter)
                }
                if schedule.wait(at: WallClock.system.seconds) == 0 {
                    do {
                        let renewed = try await renew(credential, settings)
                        logger.notice(
                            "certificate renewed by \(settings.source.from)",
                            metadata: ["until": "\(renewed)"]
                        )
                        continue
                    } catch {
                        guard !Task.isCancelled else { return }
                        let wait = schedule.attemptFailed(at: WallClock.system.seconds)
                        logger.warning("certificate not renewed: \(error)", metadata: ["next attempt in s": "\(wait)"])
                    }
                }
                sleep = min(sleep, max(1, schedule.wait(at: WallClock.system.seconds)))
            } catch {
                // Said once. What is wrong with it is fixed by others: an operator over SSH.
                if !isExpired { logger.error("the certificate cannot be renewed over the mesh: \(error)") }
                isExpired = true
                sleep = 5
            }
            try? await Task.sleep(for: .seconds(sleep))
        }
    }

    /// Returns when the new certificate ends, for the log.
    private func renew(_ credential: Credential, _ settings: Settings) async throws -> String {
        let issuer =
            try settings.source.identity
            ?? SPIFFEID(
                trustDomain: credential.id.trustDomain,
                namespace: RenewalSource.namespace,
                name: RenewalSource.name
            )
        let client = try await HBONEClient(credentials: .fixed(credential), logger: logger)
        do {
            let peer = HBONEPeer(settings.source.from, expecting: .identities([issuer]))
            let renewal = CredentialRenewal(
                directory: settings.directory,
                id: credential.id,
                listener: settings.listener
            )
            let renewed = try await client.withStream(
                to: Authority(parsing: IssuerName.authority),
                through: peer
            ) { stream in
                try await renewal.run(over: HBONEChannel(stream))
            }
            await client.shutDown()
            return describe(time: renewed.notAfter)
        } catch {
            await client.shutDown()
            throw error
        }
    }
}

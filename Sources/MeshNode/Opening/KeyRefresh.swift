import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// Fetches the keys of issuers, again and again: looks once a second which of them are wanted. Confined to its loop.
final class KeyRefresh {
    private let rings: TokenKeyRings
    private let loop: EventLoop
    private let logger: Logger
    private let clock: WallClock
    private var timer: LoopTimer?
    /// Those of which the log has said that they cannot be had.
    private var missed: Set<TokenSettings.KeyAddress> = []
    private var isStopped = false

    private static let tick = Duration.seconds(1)
    /// For one fetch, from the lookup of the name to the last byte.
    private static let timeout = Duration.seconds(10)

    init(_ rings: TokenKeyRings, clock: WallClock = .system, on loop: EventLoop, logger: Logger) {
        self.rings = rings
        self.clock = clock
        self.loop = loop
        self.logger = logger
        timer = LoopTimer(on: loop) { [weak self] in self?.look() }
    }

    /// To be called when listeners with other issuers may be there.
    func look() {
        guard !isStopped else { return }
        let all = rings.all
        for (address, ring, files) in all where ring.beginFetch(at: clock.seconds) { fetch(address, ring, files) }
        if !all.isEmpty { timer?.schedule(after: Self.tick) }
    }

    func stop() {
        isStopped = true
        timer?.cancel()
    }

    private func fetch(_ address: TokenSettings.KeyAddress, _ ring: TokenKeyRing, _ files: DirectTLSFiles) {
        let context: TLSContext
        do throws(StreamError) {
            var options = TLSContext.Options(applicationProtocols: ["http/1.1"])
            options.handshakeTimeout = Self.timeout
            context = try TLSContext(server: files.verifier, versions: .from12, options: options)
        } catch {
            return failed(address, ring, "\(error)")
        }
        let fetch = WebFetch(
            address.authority,
            address.target,
            context: context,
            limit: TokenKeys.maximumSize,
            on: loop
        )
        fetch.start(within: Self.timeout) { [self] result in
            do {
                let keys = try TokenKeys(parsing: result.get())
                ring.taken(keys, at: clock.seconds)
                if missed.remove(address) != nil { logger.notice("the keys at \(address) are back") }
            } catch let error as TokenError {
                failed(address, ring, error.message)
            } catch {
                failed(address, ring, "\(error)")
            }
        }
    }

    private func failed(_ address: TokenSettings.KeyAddress, _ ring: TokenKeyRing, _ reason: String) {
        ring.failed(at: clock.seconds)
        // Once, until they are back.
        let level: Logger.Level = missed.insert(address).inserted ? .warning : .debug
        logger.log(level: level, "no keys of an issuer", metadata: ["from": "\(address)", "reason": "\(reason)"])
    }
}

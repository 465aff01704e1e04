import Glibc
import Streams

// How long a connection takes new streams. Whatever a peer once proved about itself grows old with its connection: a new
// connection verifies it anew, and shows this side's present credential.
extension H2Connection {
    /// When the first of the two certificates expires that the connection was made with, in seconds since 1970; nil where
    /// there are none. From then on the connection takes no new streams; those that are open go on, for
    /// ``H2Configuration/Age/drainTimeout``.
    ///
    /// That policy allows a stream was decided when it was opened, and is decided again whenever policy changes: an expired
    /// certificate is a reason not to believe in anything new, none to lose bytes.
    public var certificatesExpireAt: Int64? {
        get { expiry }
        set {
            expiry = newValue
            scheduleAging()
        }
    }

    func startAging() {
        if let maximum = configuration.age.maximum {
            // Spread, so that connections made together are not replaced together.
            let nanoseconds = Double(maximum.nanoseconds) * Double.random(in: 0.8...1)
            agesAt = loop.now &+ UInt64(nanoseconds)
        }
        scheduleAging()
    }

    private func scheduleAging() {
        guard !isClosed, !isRetired else { return }
        var delay: Duration?
        if let agesAt { delay = .nanoseconds(Int64(clamping: agesAt &- min(agesAt, loop.now))) }
        if let expiry {
            // The loop's clock stands still while the machine sleeps, and the wall clock can be set: look again now and then.
            let left = Duration.seconds(max(0, expiry &- Self.secondsSince1970))
            delay = min(delay ?? left, left, .seconds(60))
        }
        guard let delay else { return }
        let timer = ageTimer ?? LoopTimer(on: loop) { [weak self] in self?.checkAge() }
        ageTimer = timer
        timer.schedule(after: delay)
    }

    private func checkAge() {
        guard !isClosed, !isRetired else { return }
        if let expiry, Self.secondsSince1970 >= expiry {
            counters.retiredExpired += 1
            return retire()
        }
        if let agesAt, loop.now >= agesAt {
            self.agesAt = nil
            counters.retiredForAge += 1
            if let delegate { delegate.connectionIsTooOld(self) } else { retire() }
        }
        scheduleAging()
    }

    /// Takes no new streams from now on, lets those that are open end, and closes: ``drain(deadline:completion:)`` with the
    /// time that ``H2Configuration/Age/drainTimeout`` gives. The delegate is told that the connection is draining.
    public func retire() {
        guard !isClosed, !isRetired else { return }
        isRetired = true
        ageTimer?.cancel()
        drain(deadline: configuration.age.drainTimeout)
        if !isServer && !isClosed { delegate?.connectionIsDraining(self) }
    }

    private static var secondsSince1970: Int64 {
        Int64(time(nil))
    }

    // MARK: Flow control

    /// Whether the peer has let the window of the connection run out and not opened it for
    /// ``H2Configuration/Windows/stallTime``: a new stream would wait behind whatever the peer does not read.
    public var isWindowStalled: Bool {
        guard windowEmptySince > 0, !isClosed else { return false }
        return loop.now &- windowEmptySince >= configuration.windows.stallTime.nanoseconds
    }
}

import Glibc

/// Says that listeners take no connections for want of descriptors: once a minute at most, however many wait.
package struct DescriptorShortage: Sendable {
    private static let interval = Duration.seconds(60)

    private let said = Lock<ContinuousClock.Instant?>(nil)
    private let warn: @Sendable (String) -> Void

    /// - Parameter warn: Told what is short, and what to do. Called on the listener's loop.
    package init(warn: @escaping @Sendable (String) -> Void) { self.warn = warn }

    /// - Parameter number: Of accept(2).
    func tell(_ number: Int32, at now: ContinuousClock.Instant = .now) {
        let isNews = said.withLock { said in
            if let last = said, now - last < Self.interval { return false }
            said = now
            return true
        }
        if isNews { warn(Self.text(number)) }
    }

    private static func text(_ number: Int32) -> String {
        switch number {
        case EMFILE:
            var limit = rlimit()
            getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            return
                "connections wait: this process has as many files open as it may have (\(limit.rlim_cur)); raise its "
                + "limit (LimitNOFILE= of its systemd unit, or ulimit -Hn)"
        case ENFILE:
            return "connections wait: this machine has as many files open as it may have; raise sysctl fs.file-max"
        default: return "connections wait: the kernel has no memory for them"
        }
    }
}

package import Platform
package import Streams

extension NodeConfiguration {
    /// How a `transparent` listener learns where a connection was going.
    package enum CaptureMode: String, CaseIterable, Hashable, Sendable {
        /// The kernel has changed the destination, and is asked what it was (SO_ORIGINAL_DST).
        case redirect
        /// The socket has the original destination as its own address (IP_TRANSPARENT).
        case tproxy
    }

    package enum CaptureDirection: String, CaseIterable, Hashable, Sendable {
        /// What programs of this machine, and machines behind it, send to others.
        case outbound
        /// What others send to services of this machine.
        case inbound
    }

    /// What becomes of an inbound connection, which has no mesh identity.
    package enum Plaintext: String, CaseIterable, Hashable, Sendable {
        case deny
        /// Policy decides, for somebody without an identity.
        case allow
    }

    /// The keys that only a `transparent` listener has.
    package struct Transparency: Hashable, Sendable {
        package var mode: CaptureMode
        package var direction: CaptureDirection
        package var plaintext: Plaintext

        package init(
            mode: CaptureMode = .redirect,
            direction: CaptureDirection = .outbound,
            plaintext: Plaintext = .deny
        ) {
            self.mode = mode
            self.direction = direction
            self.plaintext = plaintext
        }
    }

    /// `capture:` of a listener: which connections the kernel's rules lead to it. What is empty restricts nothing.
    package struct Capture: Hashable, Sendable {
        /// How the rules know the node's own traffic, which is never captured.
        package enum Own: Hashable, Sendable {
            /// By the mark that the node sets on its sockets.
            case mark
            case user(UInt32)
            /// By a cgroup (v2) that it runs in, as a path from the root of the hierarchy.
            case cgroup(String)
        }

        /// What becomes of captured connections when nobody listens.
        package enum Failure: String, CaseIterable, Hashable, Sendable {
            /// They are refused.
            case closed
            /// They go where they would have gone without rules.
            case open
        }

        package var node = Own.mark
        /// Whether programs of this machine are captured.
        package var local = true
        /// The interfaces behind which machines are whose connections are captured, too.
        package var interfaces: [String] = []
        package var ports: [ClosedRange<UInt16>] = []
        package var excludePorts: [ClosedRange<UInt16>] = []
        package var cidrs: [CIDR] = []
        package var excludeCIDRs: [CIDR] = []
        package var users: [UInt32] = []
        package var excludeUsers: [UInt32] = []
        package var groups: [UInt32] = []
        package var excludeGroups: [UInt32] = []
        package var cgroups: [String] = []
        package var excludeCgroups: [String] = []
        package var onFailure = Failure.closed
        package var position: SourcePosition?

        package init() {}
    }
}

extension NodeConfiguration {
    /// What the node listens on: a listener that is for both families is there twice.
    package var sockets: [Listener] {
        let hasIPv6 = !((try? LocalFile.read("/proc/self/net/if_inet6")) ?? []).isEmpty
        return listeners.flatMap { listener in
            [listener] + [listener.twin].compactMap { $0 }.filter { $0.bind.address.isIPv4 || hasIPv6 }
        }
    }
}

extension NodeConfiguration.Listener {
    /// What its socket is set to before it is bound.
    package var socketOptions: ListenerOptions {
        // Peers know an end from a cut: their streams are inside TLS.
        var options: ListenerOptions = self.protocol == .hbone ? .defaults : .programs
        options.isTransparent = self.protocol == .transparent && transparency.mode == .tproxy
        // `::` must leave IPv4 to the twin.
        if twin != nil { options.isIPv6Only = true }
        return options
    }

    /// Whether the rules lead traffic to it, and the node listens for both families then.
    package var isCaptured: Bool { capture != nil }

    /// The same listener for the other family: what is captured over IPv4 is captured over IPv6. nil where the address
    /// has no counterpart, as one of an interface.
    package var twin: NodeConfiguration.Listener? {
        guard self.protocol == .transparent || isCaptured else { return nil }
        let pairs: [(IPAddress, IPAddress)] = [
            (.loopbackIPv4, .loopbackIPv6),
            (IPAddress(high: 0, low: 0, isIPv4: true), IPAddress(high: 0, low: 0, isIPv4: false)),
        ]
        for (v4, v6) in pairs where bind.address == v4 || bind.address == v6 {
            var twin = self
            twin.bind.address = bind.address == v4 ? v6 : v4
            return twin
        }
        return nil
    }
}

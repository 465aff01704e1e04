package import HTTP1
package import Platform

extension NodeConfiguration {
    /// What clients of an ingress must show.
    package enum ClientCertificates: String, CaseIterable, Hashable, Sendable {
        /// No certificate is asked for.
        case none
        /// One of this node's trust domain, or none.
        case optional
        /// One of this node's trust domain.
        case mesh
    }

    /// The keys that only the listeners have that take what the world sends: `tls`, `http` and `https`.
    package struct Ingress: Hashable, Sendable {
        /// Credential directories for server names, the default first; empty: the node's own.
        package var credentials: [String] = []
        package var clients = ClientCertificates.none
        /// First match wins.
        package var routes: [IngressRoute] = []
        /// Where a request goes that no route of an `http` listener is for: to `https` at this port.
        package var redirectPort: UInt16?
        /// Strict-Transport-Security: how many seconds.
        package var hsts: UInt32?
        package var timeouts = IngressTimeouts()
        package var limits = IngressLimits()

        package init() {}
    }

    /// One element of a listener's `routes`.
    package struct IngressRoute: Hashable, Sendable {
        package enum Host: Hashable, Sendable {
            case any
            /// Normalized.
            case name(String)
            /// `*.example.org`, as `.example.org`.
            case suffix(String)
        }

        package var host: Host
        /// Begins with `/`, and does not end with one unless it is that alone; matches whole segments.
        package var path: HTTPPath
        package var to: Authority
        /// The workload there speaks HTTP/2 without TLS.
        package var h2: Bool
        package var position: SourcePosition?

        package init(
            host: Host = .any,
            path: HTTPPath = .root,
            to: Authority,
            h2: Bool = false,
            position: SourcePosition? = nil
        ) {
            self.host = host
            self.path = path
            self.to = to
            self.h2 = h2
            self.position = position
        }

        /// As the configuration may write it.
        package var description: String {
            switch host {
            case .any: "*\(path)"
            case .name(let name): "\(name)\(path)"
            case .suffix(let suffix): "*\(suffix)\(path)"
            }
        }
    }

    package struct IngressTimeouts: Hashable, Sendable {
        /// For a whole head, and for a TLS handshake.
        package var head: Duration = .seconds(15)
        /// Between two requests, and for a client that owes content or does not read.
        package var idle: Duration = .seconds(60)
        /// From a request's end to the head of its response; nil: as long as it takes.
        package var upstream: Duration? = .seconds(300)

        package init() {}
    }

    package struct IngressLimits: Hashable, Sendable {
        package var http = HTTPLimits()
        /// Of one event loop.
        package var requests = 10_000
        /// Of one event loop.
        package var connections = 20_000

        package init() {}
    }
}

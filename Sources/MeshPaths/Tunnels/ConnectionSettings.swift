package import H2Transport

/// For how long connections between nodes live, and how long whatever happens on them may take: the key `connections`.
package struct ConnectionSettings: Hashable, Sendable {
    /// After this long without a byte from the peer a PING is sent.
    package var keepAlive: Duration = .seconds(10)
    /// After this long without a byte since that PING, the connection is dead.
    package var keepAliveTimeout: Duration = .seconds(20)
    /// For each TCP connection that the node makes, to a peer or to a destination.
    package var connectTimeout: Duration = .seconds(10)
    /// From the start of a TLS handshake to its end.
    package var handshakeTimeout: Duration = .seconds(10)
    /// How long a CONNECT may wait for its answer: the peer connects to the destination meanwhile.
    package var requestTimeout: Duration = .seconds(15)
    /// A peer that no stream has used for this long is let go; `nil`: never.
    package var idleTimeout: Duration? = .seconds(300)
    /// A connection older than this, or up to a fifth younger, gets no new streams: another one is made. `nil`: never.
    package var maximumAge: Duration? = .seconds(3600)
    /// How long the streams of such a connection, of one whose certificate has expired, and of a node that another
    /// process has replaced may go on before they are cut; `nil`: as long as they last.
    package var drainTimeout: Duration?
    /// Streams between two nodes outlive the connection that carries them, where the other side can do it, too.
    package var resumable = true
    /// How long such a stream waits for another connection before both ends are reset.
    package var resumeTimeout: Duration = .seconds(60)
    /// The way around `h2` over SSH is kept ready, where nobody has to be asked anything for the login.
    package var standby = false
    /// HBONE connections are of Multipath TCP where both kernels have it.
    package var multipath = false
    /// Which streams that come without a `traceparent` are sent one.
    package var traceparent = H2Configuration.TraceSending.foreign
    /// Connections to one peer and event loop, those aside that take no new streams; at least 1.
    package var perPeer = 16
    /// Where connections count; `nil`: where the process does.
    package var metrics: H2Metrics?

    package init() {}

    package static var defaults: ConnectionSettings { ConnectionSettings() }

    /// What a receiver acknowledges at once, of all resumable streams of a connection together, in bytes.
    static var promptStep: Int { 512 << 10 }
}

extension ConnectionSettings {
    /// The settings of an HTTP/2 connection.
    package func http2(for role: TLSContext.Role) -> H2Configuration {
        var configuration = H2Configuration.defaults
        configuration.keepAlive.interval = keepAlive
        configuration.keepAlive.timeout = keepAliveTimeout
        configuration.requestTimeout = requestTimeout
        configuration.age.maximum = maximumAge
        configuration.age.drainTimeout = drainTimeout
        (configuration.traces, configuration.makesTraces) = (traceparent, true)
        configuration.acknowledges = Self.promptStep
        if let metrics { configuration.metrics = metrics }
        return configuration
    }

    package func tls(for role: TLSContext.Role) -> TLSContext.Options {
        var options = TLSContext.Options.defaults(for: role)
        options.handshakeTimeout = handshakeTimeout
        return options
    }

    /// For the connections of a path to a peer.
    package var group: ConnectionGroupDriver.Settings {
        .path(http2: http2(for: .client), connections: perPeer, idleTimeout: idleTimeout)
    }
}

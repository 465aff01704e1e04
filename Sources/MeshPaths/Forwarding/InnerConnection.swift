package import H2Transport

extension H2Configuration {
    /// Of HTTP/2 inside of a stream that belongs to one peer, and may be without a path for a while (docs/protocol.md,
    /// 2.12): how long it may be silent, and how old it becomes, is for that stream to say.
    package static func inside(_ settings: ConnectionSettings) -> H2Configuration {
        var configuration = H2Configuration.defaults
        let never = Duration.seconds(365 * 86_400)
        (configuration.keepAlive.interval, configuration.keepAlive.timeout) = (never, never)
        configuration.limits.stallTimeout = never
        configuration.age.maximum = nil
        configuration.requestTimeout = settings.requestTimeout + settings.resumeTimeout
        if let metrics = settings.metrics { configuration.metrics = metrics }
        return configuration
    }
}

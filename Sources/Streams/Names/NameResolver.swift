import Platform

/// Looks names up on an event loop of its own: hosts files, however long, are not read on a loop that carries streams.
package final class NameResolver: Sendable {
    private let loop: EventLoop
    private let service: LoopBound<NameService>

    /// - Parameters:
    ///   - files: Where the machine's configuration is read.
    ///   - limits: What waits, and how long.
    /// - Throws: ``StreamError`` when the process has no thread or descriptor left for it.
    package init(files: NameFiles = NameFiles(), limits: LookupLimits = LookupLimits()) throws(StreamError) {
        loop = try EventLoop(starting: "names")
        service = LoopBound(NameService(on: loop, files: files, limits: limits), on: loop)
    }

    /// The addresses of a name, their ports 0.
    ///
    /// - Parameters:
    ///   - host: A name.
    ///   - requester: On whose behalf; each one's names wait in a queue of their own.
    ///   - completion: Called once, on the resolver's own loop, where it must not stay; not at all after
    ///     ``shutDown()``.
    package func resolve(
        _ host: String,
        for requester: String,
        completion: @escaping @Sendable (Result<[SocketAddress], StreamError>) -> Void
    ) {
        loop.submit { [service] in service.withValue { $0.ask(host, for: requester, completion) } }
    }

    /// Ends its thread. What waits is not answered any more.
    package func shutDown() async { await loop.shutDown() }
}

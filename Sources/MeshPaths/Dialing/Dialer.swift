package import Platform
package import Streams

/// Connects to a destination by name or address, for the last hop of a stream. Confined to its loop.
///
/// Names are resolved off the loop; each address is put to `isAllowed` and then dialled itself, so that a name cannot be made
/// to lead elsewhere between the check and the connection. Addresses are tried one after the other, in the resolver's order.
package final class Dialer {
    private let loop: EventLoop
    private let destination: Authority
    private let timeout: Duration
    private let check: (IPAddress) -> StreamError?
    private var completion: ((Result<Socket, StreamError>) -> Void)?
    private var addresses: ArraySlice<SocketAddress> = []
    private var lastError: StreamError?

    /// - Parameters:
    ///   - check: Returns why an address must not be dialled, or nil.
    ///   - completion: Called once, on the loop, never from inside ``start()``.
    package init(
        _ destination: Authority,
        on loop: EventLoop,
        timeout: Duration = .seconds(10),
        check: @escaping (IPAddress) -> StreamError?,
        completion: @escaping (Result<Socket, StreamError>) -> Void
    ) {
        self.destination = destination
        self.loop = loop
        self.timeout = timeout
        self.check = check
        self.completion = completion
    }

    /// The dialer keeps itself alive until it is done or ``cancel()`` is called.
    package func start() {
        if let address = destination.address {
            addresses = [SocketAddress(address, port: destination.port)]
            dialNext()
            return
        }
        let bound = LoopBound(self, on: loop)
        let (host, port, loop) = (destination.host, destination.port, loop)
        Task {
            let result: Result<[SocketAddress], StreamError>
            do {
                result = .success(try await Resolver.resolve(host: host, port: port))
            } catch {
                result = .failure(error as? StreamError ?? StreamError(.unreachable, "'\(host)': \(error)"))
            }
            loop.submit { bound.withValue { $0.resolved(result) } }
        }
    }

    /// Nobody waits any more; a connection that still comes up is closed.
    package func cancel() { completion = nil }

    private func resolved(_ result: Result<[SocketAddress], StreamError>) {
        switch result {
        case .success(let addresses):
            self.addresses = addresses[...]
            dialNext()
        case .failure(let error): end(.failure(error))
        }
    }

    private func dialNext() {
        guard completion != nil else { return }
        guard let address = addresses.popFirst() else {
            return end(.failure(lastError ?? StreamError(.unreachable, "\(destination) has no address")))
        }
        if let literal = address.address, let refusal = check(literal) {
            lastError = refusal
            return loop.submit { [bound = LoopBound(self, on: loop)] in bound.withValue { $0.dialNext() } }
        }
        Socket.connect(to: address, on: loop, timeout: timeout) { [self] result in
            switch result {
            case .success(let socket):
                if completion == nil { socket.reset(StreamError(.closed, "nobody waits for it")) }
                end(.success(socket))
            case .failure(let error):
                lastError = error
                dialNext()
            }
        }
    }

    private func end(_ result: Result<Socket, StreamError>) {
        guard let completion else { return }
        self.completion = nil
        completion(result)
    }
}

import Glibc
public import Platform

/// Connects to a destination over TCP, or to a Unix socket: resolves its name, puts each address to a check, and races
/// those that pass (RFC 8305). Confined to its event loop.
///
///     destination ─ Resolver ─→ addresses ─ check ─→ those that may be dialled ─ ConnectionRace ─→ the first that is connected
///
/// What was checked is what is dialled: a name cannot be made to lead elsewhere between the check and the connection.
public final class Dialer: TurnTask {
    /// What to connect to.
    public enum Destination: Hashable, Sendable, CustomStringConvertible {
        /// A name, or an IP address without brackets.
        case host(String, port: UInt16)
        /// In the resolver's order; at least one.
        case addresses([SocketAddress])

        /// The one address: nothing is resolved.
        public static func address(_ address: SocketAddress) -> Destination { .addresses([address]) }

        /// A name to resolve, or the one address that the authority is.
        public static func authority(_ authority: Authority) -> Destination {
            guard let address = authority.address else { return .host(authority.host, port: authority.port) }
            return .addresses([SocketAddress(address, port: authority.port)])
        }

        public var description: String {
            switch self {
            case .host(let name, let port):
                name.utf8.contains(UInt8(ascii: ":")) ? "[\(name)]:\(port)" : "\(name):\(port)"
            case .addresses(let addresses): addresses.map(\.description).joined(separator: ", ")
            }
        }
    }

    /// How to try, and what the connected socket is set to.
    public struct Options: Sendable {
        /// For each address.
        public var timeout: Duration = .seconds(10)
        /// Between two attempts, unless one fails sooner (RFC 8305 §5, Connection Attempt Delay).
        public var attemptDelay: Duration = .milliseconds(250)
        /// What no address answers is dialled again after this time, and then each time after it, until it is timed
        /// out; nil: as seldom as the kernel repeats a SYN. For what must be back soon after its way is, and not for
        /// programs: one that is too busy to answer is helped by no further attempts.
        package var repeatDelay: Duration?
        /// What to connect from, the first of the right family; empty leaves it to the system.
        public var locals: [SocketAddress] = []
        /// Of the connected socket.
        public var socket = SocketOptions.defaults
        /// On whose behalf a name is looked up: each one's wait in a queue of their own. Empty: this process itself.
        package var requester = ""

        /// - Parameters:
        ///   - timeout: For each address.
        ///   - socket: What the connected socket is set to.
        public init(timeout: Duration = .seconds(10), socket: SocketOptions = .defaults) {
            self.timeout = timeout
            self.socket = socket
        }

        /// What is used where nothing else is asked for.
        public static var defaults: Options { Options() }

        /// For a way to a peer that is dialled while the network comes and goes.
        package static let pathRepeatDelay = Duration.seconds(1)

        /// For a connection to a program, which takes an end for the whole.
        package static var program: Options {
            var options = Options()
            options.socket.resetsUnlessEnded = true
            return options
        }
    }

    /// Says why an address must not be dialled, or nil.
    public typealias Check = (IPAddress) -> StreamError?

    private let destination: Destination
    private let loop: EventLoop
    private let options: Options
    private let check: Check
    /// Asked once about all that a name resolved to, before ``Check`` is about each: says why none must be dialled. Set
    /// before ``start()``.
    package var judge: (([IPAddress]) -> StreamError?)?
    private var completion: ((Result<Socket, StreamError>) -> Void)?
    private var race: ConnectionRace?
    /// Connected at once, to ``connectedTo``; −1 otherwise.
    private var descriptor: Int32 = -1
    private var connectedTo: SocketAddress?

    /// - Parameters:
    ///   - destination: Where to.
    ///   - loop: Where the socket will live.
    ///   - options: Time limits, and what the socket is set to.
    ///   - check: Asked on the loop about each address before any is dialled.
    ///   - completion: Called once, on the loop, never from inside ``start()``. When no attempt succeeds, the first
    ///     one's error, with what became of the others; it counts as timed out only when all were. When no address
    ///     passes the check, the last refusal.
    public init(
        to destination: Destination,
        on loop: EventLoop,
        options: Options = .defaults,
        check: @escaping Check = { _ in nil },
        completion: @escaping (Result<Socket, StreamError>) -> Void
    ) {
        self.destination = destination
        self.loop = loop
        self.options = options
        self.check = check
        self.completion = completion
    }

    deinit { closeDescriptor() }

    /// The dialler keeps itself alive until it is done.
    public func start() {
        switch destination {
        case .addresses(let addresses): connect(to: addresses)
        case .host(let name, let port):
            Resolver.resolve(host: name, port: port, for: options.requester, on: loop) { [self] result in
                switch result {
                case .success(let addresses):
                    if let refusal = judge?(addresses.compactMap(\.address)) { return end(.failure(refusal)) }
                    connect(to: addresses)
                case .failure(let error): end(.failure(error))
                }
            }
        }
    }

    /// Nobody waits any more: the attempts are given up, and the completion is not called.
    public func cancel() {
        completion = nil
        race?.cancel()
        race = nil
        closeDescriptor()
    }

    /// The way may be another now: with ``Options/repeatDelay``, what has not been answered is dialled again at once.
    package func hurry() { race?.hurry() }

    private func connect(to addresses: [SocketAddress]) {
        guard completion != nil else { return }
        var refusal: StreamError?
        // Nearly always all of them: no other list is made.
        var some: [SocketAddress]?
        for (index, address) in addresses.enumerated() {
            if let error = address.address.flatMap(check) {
                refusal = error
                if some == nil { some = Array(addresses[..<index]) }
            } else {
                some?.append(address)
            }
        }
        let allowed = some ?? addresses
        guard !allowed.isEmpty else {
            let error = refusal ?? StreamError(.unreachable, "\(destination) has no address")
            return loop.later { [self] in end(.failure(error)) }
        }
        if options.locals.isEmpty, options.socket.segmentLimit == nil, !options.socket.multipath,
            let descriptor = ConnectionAttempt.connectAtOnce(to: allowed[0])
        {
            self.descriptor = descriptor
            connectedTo = allowed[0]
            return loop.nextTurn(self)
        }
        let race = ConnectionRace(allowed, on: loop, options: options) { [self] in end($0) }
        self.race = race
        race.start()
    }

    package func runTurn() {
        // Cancelled in between.
        guard descriptor >= 0 else { return }
        let connected = descriptor
        descriptor = -1
        do {
            let socket = try Socket(descriptor: connected, on: loop, peer: connectedTo)
            socket.apply(options.socket)
            end(.success(socket))
        } catch {
            end(.failure(error))
        }
    }

    private func closeDescriptor() {
        guard descriptor >= 0 else { return }
        _ = Glibc.close(descriptor)
        descriptor = -1
    }

    private func end(_ result: Result<Socket, StreamError>) {
        guard let completion else { return }
        self.completion = nil
        race = nil
        completion(result)
    }
}

extension Dialer {
    /// Connects, for who has no reason to give up before it is done. Loop only.
    ///
    /// - Parameters:
    ///   - destination: Where to.
    ///   - loop: Where the socket will live.
    ///   - options: Time limits, and what the socket is set to.
    ///   - completion: As for ``init(to:on:options:check:completion:)``; never called from inside this call.
    public static func connect(
        to destination: Destination,
        on loop: EventLoop,
        options: Options = .defaults,
        completion: @escaping (Result<Socket, StreamError>) -> Void
    ) {
        Dialer(to: destination, on: loop, options: options, completion: completion).start()
    }

    /// Connects and hands the socket to `body` on the loop. From any task. The socket is closed when `body` throws, and
    /// otherwise the body's to own.
    ///
    /// - Parameters:
    ///   - destination: Where to.
    ///   - loop: Where the socket will live.
    ///   - options: Time limits, and what the socket is set to.
    ///   - check: Asked on the loop about each address before any is dialled.
    ///   - body: Makes of the connected socket what is returned; runs on the loop.
    /// - Throws: ``StreamError``, as ``init(to:on:options:check:completion:)`` says; what `body` throws.
    public static func connect<Success: Sendable>(
        to destination: Destination,
        on loop: EventLoop,
        options: Options = .defaults,
        check: @escaping @Sendable (IPAddress) -> StreamError? = { _ in nil },
        body: @escaping @Sendable (Socket) throws -> Success
    ) async throws -> Success {
        // Off the loop, so that a loop that shuts down meanwhile leaves nobody waiting.
        let addresses =
            switch destination {
            case .addresses(let addresses): addresses
            case .host(let name, let port):
                try await Resolver.resolve(host: name, port: port, for: options.requester)
            }
        guard !addresses.isEmpty else { throw StreamError(.unreachable, "\(destination) has no address") }
        return try await withCheckedThrowingContinuation { continuation in
            let isAccepted = loop.submitIfRunning {
                Dialer(to: .addresses(addresses), on: loop, options: options, check: check) { result in
                    continuation.resume(with: Result { try result.get().handed(to: body) })
                }.start()
            }
            if !isAccepted {
                continuation.resume(throwing: StreamError(.closed, "event loop \(loop.name) has shut down"))
            }
        }
    }
}

extension Socket {
    /// What `body` makes of the socket, which is closed when it throws.
    func handed<Success>(to body: (Socket) throws -> Success) throws -> Success {
        do {
            return try body(self)
        } catch {
            close()
            throw error
        }
    }
}

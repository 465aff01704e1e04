import CCAres
import CLinux
import Glibc
import Platform

/// c-ares on an event loop: the one owner of its channel. Retained by the loop until it is closed.
///
///     questions ─→ c-ares ⇄ its sockets ─ epoll of their own ─→ the loop
///
/// c-ares says which socket is to be watched for what, level-triggered, which an epoll descriptor inside the loop's own
/// does as it is asked.
final class AresChannel: PollHandler {
    /// Why there are no addresses: a status of c-ares.
    struct Failure: Error, Hashable {
        let status: Int32

        init(_ status: Int32) { self.status = status }

        /// The name has no address, by the word of the source.
        var isFinal: Bool { status == ccares_not_found || status == ccares_no_data }

        var code: StreamError.Code { status == ccares_timeout ? .timedOut : .unreachable }

        var reason: String {
            switch status {
            case ccares_not_found: "there is no such name"
            case ccares_no_data: "the name has no address"
            case ccares_timeout: "no name server has answered in time"
            case ccares_refused: "no name server can be reached"
            default: String(cString: ares_strerror(status))
            }
        }
    }

    /// More addresses than anybody tries.
    private static var mostAddresses: Int { 64 }

    private static let isLibraryReady = ares_library_init(ARES_LIB_INIT_ALL) == ccares_success

    private let loop: EventLoop
    private let sockets: AresSockets
    private var channel: ares_channel?
    private var timer: LoopTimer?
    private var pending = 0
    private var isRetired = false

    /// - Parameters:
    ///   - sources: `f` for the hosts file, `b` for name servers, in the order in which they are asked.
    ///   - files: Where the name servers are written.
    ///   - patience: With the name servers.
    ///   - loop: Where everything happens.
    init(
        sources: String,
        files: NameFiles,
        patience: ServerPatience,
        on loop: EventLoop
    ) throws(StreamError) {
        self.loop = loop
        sockets = try AresSockets()
        guard Self.isLibraryReady else { throw StreamError(.system, "c-ares cannot be initialised") }
        var options = ares_options()
        options.timeout = Int32(clamping: patience.timeout.nanoseconds / 1_000_000)
        options.tries = Int32(patience.attempts)
        options.sock_state_cb = { context, descriptor, isReading, isWriting in
            guard let context else { return }
            Unmanaged<AresSockets>.fromOpaque(context).takeUnretainedValue()
                .watch(descriptor, reading: isReading != 0, writing: isWriting != 0)
        }
        // Lives as long as the channel, which this object owns as well.
        options.sock_state_cb_data = Unmanaged.passUnretained(sockets).toOpaque()
        var mask =
            ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_LOOKUPS | ARES_OPT_RESOLVCONF | ARES_OPT_SOCK_STATE_CB
        if let port = files.port {
            (options.udp_port, options.tcp_port) = (port, port)
            mask |= ARES_OPT_UDP_PORT | ARES_OPT_TCP_PORT
        }
        let status = sources.withCString { sources in
            files.resolver.withCString { resolver in
                // c-ares copies both.
                options.lookups = UnsafeMutablePointer(mutating: sources)
                options.resolvconf_path = UnsafeMutablePointer(mutating: resolver)
                return ares_init_options(&channel, &options, mask)
            }
        }
        guard status == ccares_success else {
            throw StreamError(.system, "c-ares cannot be initialised: \(String(cString: ares_strerror(status)))")
        }
        ares_set_socket_configure_callback(
            channel,
            { descriptor, _, _ in
                OutgoingMark.apply(to: descriptor)
                return 0
            },
            nil
        )
        try loop.register(sockets.epoll, handler: self, for: .level)
        timer = LoopTimer(on: loop) { [unowned self] in process() }
    }

    deinit {
        if let channel { ares_destroy(channel) }
    }

    /// The addresses of a name, in the order of RFC 6724.
    ///
    /// - Parameters:
    ///   - name: As it stands in a question to a name server.
    ///   - family: `AF_UNSPEC` for both.
    ///   - completion: Called once, never from inside this call; not at all when the loop shuts down first.
    func ask(_ name: String, family: Int32, completion: @escaping (Result<[SocketAddress], Failure>) -> Void) {
        guard let channel else { return loop.later { completion(.failure(Failure(ccares_destruction))) } }
        pending += 1
        let question = AresQuestion { [self] result in
            pending -= 1
            loop.later { completion(result) }
        }
        var hints = ares_addrinfo_hints()
        hints.ai_family = family
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        ares_getaddrinfo(
            channel,
            name,
            nil,
            &hints,
            { context, status, _, list in
                defer { if let list { ares_freeaddrinfo(list) } }
                guard let context else { return }
                let question = Unmanaged<AresQuestion>.fromOpaque(context).takeRetainedValue()
                let addresses = AresChannel.addresses(list)
                question.answer(
                    status != ccares_success
                        ? .failure(Failure(status))
                        : addresses.isEmpty ? .failure(Failure(ccares_no_data)) : .success(addresses)
                )
            },
            Unmanaged.passRetained(question).toOpaque()
        )
        settle()
    }

    private static func addresses(_ list: UnsafeMutablePointer<ares_addrinfo>?) -> [SocketAddress] {
        var addresses: [SocketAddress] = []
        var next = list?.pointee.nodes
        while let node = next?.pointee, addresses.count < mostAddresses {
            next = node.ai_next
            var storage = sockaddr_storage()
            let size = min(Int(node.ai_addrlen), MemoryLayout<sockaddr_storage>.size)
            guard let address = node.ai_addr else { continue }
            withUnsafeMutableBytes(of: &storage) {
                $0.copyMemory(from: UnsafeRawBufferPointer(start: address, count: size))
            }
            if let address = SocketAddress(storage), !addresses.contains(address) { addresses.append(address) }
        }
        return addresses
    }

    /// No more questions: it is closed with its last answer.
    func retire() {
        isRetired = true
        settle()
    }

    func pollReady(_ events: PollEvents) {
        for ready in sockets.ready() {
            guard let channel else { return }
            ares_process_fd(
                channel,
                ready.isReadable ? ready.descriptor : ARES_SOCKET_BAD,
                ready.isWritable ? ready.descriptor : ARES_SOCKET_BAD
            )
        }
        settle()
    }

    /// Asks again, or gives up, where the time is over.
    private func process() {
        guard let channel else { return }
        ares_process_fd(channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD)
        settle()
    }

    private func settle() {
        guard let channel else { return }
        if isRetired, pending == 0 {
            loop.unregister(sockets.epoll)
            return close()
        }
        var time = timeval()
        guard ares_timeout(channel, nil, &time) != nil else {
            timer?.cancel()
            return
        }
        // Rounded up: c-ares compares with microseconds.
        timer?.schedule(after: .seconds(time.tv_sec) + .microseconds(time.tv_usec) + .milliseconds(1))
    }

    func loopStopped() { close() }

    private func close() {
        timer?.cancel()
        timer = nil
        guard let channel else { return }
        self.channel = nil
        ares_destroy(channel)
    }
}

/// What c-ares is given to call back with.
private final class AresQuestion {
    let answer: (Result<[SocketAddress], AresChannel.Failure>) -> Void

    init(_ answer: @escaping (Result<[SocketAddress], AresChannel.Failure>) -> Void) { self.answer = answer }
}

/// The sockets of c-ares, which opens and closes them.
private final class AresSockets {
    struct Ready {
        let descriptor: Int32
        let isReadable: Bool
        let isWritable: Bool
    }

    /// Readable when a socket is ready.
    let epoll: Int32
    private var watched: Set<Int32> = []

    init() throws(StreamError) {
        epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard epoll >= 0 else { throw .system(errno, "epoll_create1") }
    }

    deinit { _ = Glibc.close(epoll) }

    func watch(_ descriptor: Int32, reading: Bool, writing: Bool) {
        guard reading || writing else {
            watched.remove(descriptor)
            _ = epoll_ctl(epoll, EPOLL_CTL_DEL, descriptor, nil)
            return
        }
        let interest = (reading ? clinux_EPOLLIN() : 0) | (writing ? clinux_EPOLLOUT() : 0)
        var event = clinux_epoll_event(interest, UInt64(UInt32(bitPattern: descriptor)))
        let isNew = watched.insert(descriptor).inserted
        // Without memory for it, the socket is not watched: the question times out.
        _ = epoll_ctl(epoll, isNew ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, descriptor, &event)
    }

    func ready() -> [Ready] {
        let capacity = 16
        return withUnsafeTemporaryAllocation(of: epoll_event.self, capacity: capacity) { events in
            guard let first = events.baseAddress else { return [] }
            let count = epoll_wait(epoll, first, Int32(capacity), 0)
            return (0..<max(0, Int(count))).map { index in
                let event = first[index].events
                // An error is told to whoever reads.
                return Ready(
                    descriptor: Int32(truncatingIfNeeded: clinux_epoll_data(first + index)),
                    isReadable: event & ~clinux_EPOLLOUT() != 0,
                    isWritable: event & clinux_EPOLLOUT() != 0
                )
            }
        }
    }
}

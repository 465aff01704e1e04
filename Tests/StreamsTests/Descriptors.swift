import CLinux
import Glibc
import Testing

@testable import Streams

/// Both ends of a TCP connection over loopback, as plain blocking descriptors.
func tcpDescriptors() throws -> (client: Int32, server: Int32) {
    let listener = try listeningDescriptor()
    defer { close(listener) }
    let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    let address = try #require(Socket.address(of: listener, getsockname))
    try #require(address.withSockaddr { connect(client, $0, $1) } == 0)
    let server = acceptedDescriptor(listener)
    try #require(server >= 0)
    return (client, server)
}

/// A TCP socket that listens on a free port of loopback.
func listeningDescriptor(backlog: Int32 = 16) throws -> Int32 {
    let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    let loopback = try SocketAddress(ip: "127.0.0.1", port: 0)
    try #require(loopback.withSockaddr { bind(listener, $0, $1) } == 0)
    try #require(listen(listener, backlog) == 0)
    return listener
}

/// The next connection, blocking. Close-on-exec from the start: a process that another test starts must not keep it
/// open.
func acceptedDescriptor(_ listener: Int32) -> Int32 {
    var peer = sockaddr_storage()
    let connection = clinux_accept(listener, &peer)
    if connection >= 0 { _ = fcntl(connection, F_SETFL, fcntl(connection, F_GETFL) & ~O_NONBLOCK) }
    return connection
}

func setNonBlocking(_ descriptor: Int32) {
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
}

/// Closes so that the peer sees a reset.
func closeWithReset(_ descriptor: Int32) {
    var linger = linger(l_onoff: 1, l_linger: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<linger>.size))
    close(descriptor)
}

extension Socket {
    /// A non-blocking socket that takes over a plain descriptor.
    static func adopting(_ descriptor: Int32, on loop: EventLoop) throws -> Socket {
        setNonBlocking(descriptor)
        return try Socket(descriptor: descriptor, on: loop)
    }
}

/// Two ends of a TCP connection on one loop.
func tcpPair(on loop: EventLoop) throws -> (Socket, Socket) {
    let (client, server) = try tcpDescriptors()
    return (try .adopting(client, on: loop), try .adopting(server, on: loop))
}

/// An observer made of closures.
final class Observer: StreamObserver {
    var readable: (() -> Void)?
    var writable: (() -> Void)?
    var failed: (() -> Void)?
    private(set) var readableCount = 0
    private(set) var writableCount = 0
    private(set) var failedCount = 0

    func forget() {
        readable = nil
        writable = nil
        failed = nil
    }

    func streamReadable(_ stream: ByteStream) {
        readableCount += 1
        readable?()
    }

    func streamWritable(_ stream: ByteStream) {
        writableCount += 1
        writable?()
    }

    func streamFailed(_ stream: ByteStream) {
        failedCount += 1
        failed?()
    }
}

/// Runs a closure as a turn task.
final class ClosureTask: TurnTask {
    let body: (ClosureTask) -> Void
    init(_ body: @escaping (ClosureTask) -> Void) { self.body = body }
    func runTurn() { body(self) }
}

extension ByteStream {
    /// One read of at most `limit` bytes; the bytes are empty unless the result says otherwise.
    func readBytes(_ limit: Int = 65536) -> (result: ReadResult, bytes: [UInt8]) {
        var result = ReadResult.wouldBlock
        let bytes = [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
            result = read(into: UnsafeMutableRawBufferPointer(buffer))
            if case .bytes(let length) = result { count = length }
        }
        return (result, bytes)
    }

    func write(_ text: String) -> WriteResult {
        var text = text
        return text.withUTF8 { write(UnsafeRawBufferPointer($0)) }
    }

    /// Writes zeros until the stream refuses; returns how many it took.
    func fill() -> Int {
        let zeros = [UInt8](repeating: 0, count: 65536)
        var total = 0
        while case .bytes(let count) = zeros.withUnsafeBytes({ write($0) }) { total += count }
        return total
    }
}

/// Runs `body` after the loop has gone round `turns` times, so that every notice that was due has been given.
func afterTurns(_ turns: Int, on loop: EventLoop, _ body: @escaping () -> Void) {
    var left = turns
    loop.nextTurn(
        ClosureTask { task in
            left -= 1
            if left < 0 { body() } else { loop.nextTurn(task) }
        }
    )
}

/// CLONE_FILES: a descriptor table of its own; CLONE_NEWNET: an empty network namespace, for which root is needed.
let cloneFiles: Int32 = 0x400
let cloneNewNet: Int32 = 0x4000_0000

/// Separates the calling thread from its process. unshare(2) is a GNU extension that Swift does not import.
func unshareThread(_ flags: Int32) -> Bool {
    typealias Unshare = @convention(c) (Int32) -> Int32
    guard let symbol = dlsym(nil, "unshare") else { return false }
    return unsafeBitCast(symbol, to: Unshare.self)(flags) == 0
}

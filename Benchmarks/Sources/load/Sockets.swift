import CEpoll
import Glibc

/// Monotonic nanoseconds.
func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

func fail(_ message: String) -> Never {
    let text = Array("load: \(message)\n".utf8)
    _ = write(2, text, text.count)
    exit(1)
}

func errorText() -> String {
    String(cString: strerror(errno))
}

func setNonBlocking(_ socket: Int32) {
    _ = fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK)
}

func setNoDelay(_ socket: Int32) {
    var yes: Int32 = 1
    setsockopt(socket, Int32(IPPROTO_TCP), TCP_NODELAY, &yes, socklen_t(MemoryLayout<Int32>.size))
}

private func loopback(_ host: UInt32, _ port: UInt16) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = (UInt32(0x7f00_0000) + host).bigEndian
    return address
}

private func withAddress<Result>(
    _ address: sockaddr_in,
    _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result
) -> Result {
    withUnsafePointer(to: address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
    }
}

/// A listener on 127.0.0.1.
func listen(port: UInt16) -> Int32 {
    let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var yes: Int32 = 1
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
    guard withAddress(loopback(1, port), { bind(listener, $0, $1) }) == 0, listen(listener, 4096) == 0 else {
        fail("cannot listen on 127.0.0.1:\(port): \(errorText())")
    }
    return listener
}

/// The request that a connection opens with where the proxy is an HTTP/1 one; empty for all others. Written once,
/// before the first connection.
nonisolated(unsafe) var connectRequest: [UInt8] = []

/// A connection to 127.0.0.1:`port`, through the proxy's CONNECT where it wants one.
func open(port: UInt16, source: UInt32 = 1) -> Int32 {
    let descriptor = connect(port: port, source: source)
    // A path that hangs ends the measurement instead of blocking it.
    var limit = timeval(tv_sec: 30, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    guard !connectRequest.isEmpty else { return descriptor }
    guard send(descriptor, connectRequest, connectRequest.count, Int32(MSG_NOSIGNAL)) == connectRequest.count else {
        fail("cannot send CONNECT: \(errorText())")
    }
    var response: [UInt8] = []
    while !response.ends(with: "\r\n\r\n") {
        var byte: UInt8 = 0
        guard recv(descriptor, &byte, 1, 0) == 1 else { fail("no answer to CONNECT") }
        response.append(byte)
    }
    guard response.isSuccess else { fail("CONNECT was refused: \(String(decoding: response, as: UTF8.self))") }
    return descriptor
}

extension [UInt8] {
    func ends(with text: String) -> Bool {
        suffix(text.utf8.count).elementsEqual(text.utf8)
    }

    /// Whether an HTTP/1.1 response says 200.
    var isSuccess: Bool { starts(with: "HTTP/1.1 200".utf8) }
}

/// Starts a connection to 127.0.0.1:`port`.
///
/// - Parameter source: which address of 127.0.0.0/8 to come from, so that many short connections do not run out of
///   ports.
func connect(port: UInt16, source: UInt32 = 1, nonBlocking: Bool = false) -> Int32 {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    guard descriptor >= 0 else { fail("no socket: \(errorText())") }
    if source != 1 {
        cepoll_bind_without_port(descriptor)
        _ = withAddress(loopback(source, 0)) { bind(descriptor, $0, $1) }
    }
    setNoDelay(descriptor)
    if nonBlocking {
        setNonBlocking(descriptor)
    }
    guard withAddress(loopback(1, port), { Glibc.connect(descriptor, $0, $1) }) == 0 || errno == EINPROGRESS else {
        fail("cannot connect to 127.0.0.1:\(port): \(errorText())")
    }
    return descriptor
}

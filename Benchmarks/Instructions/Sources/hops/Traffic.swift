import Foundation

func fail(_ message: String) -> Never {
    FileHandle.standardError.write(Data("hops: \(message)\n".utf8))
    exit(1)
}

/// Sends so many bytes, then ends its side.
func pour(_ total: Int, into descriptor: Int32) {
    let chunk = [UInt8](repeating: 0x5A, count: 256 << 10)
    var left = total
    while left > 0 {
        let count = send(descriptor, chunk, min(left, chunk.count), Int32(MSG_NOSIGNAL))
        guard count > 0 else { fail("send: \(String(cString: strerror(errno)))") }
        left -= count
    }
    shutdown(descriptor, Int32(SHUT_WR))
}

/// Reads to the end; returns how much it was.
func drain(_ descriptor: Int32) -> Int {
    var chunk = [UInt8](repeating: 0, count: 256 << 10)
    var received = 0
    while true {
        let count = recv(descriptor, &chunk, chunk.count, 0)
        guard count > 0 else { return received }
        received += count
    }
}

func listeningSocket() -> (descriptor: Int32, port: UInt16) {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let isBound = withUnsafeMutablePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, length) == 0 && listen(descriptor, 1) == 0 && getsockname(descriptor, $0, &length) == 0
        }
    }
    guard isBound else { fail("cannot listen") }
    return (descriptor, UInt16(bigEndian: address.sin_port))
}

func connected(to port: UInt16) -> Int32 {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    let result = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
    guard result == 0 else { fail("connect: \(String(cString: strerror(errno)))") }
    return descriptor
}

/// Opens so many connections, one after the other; each carries a byte there and back.
func open(_ count: Int, port: UInt16) {
    var byte: UInt8 = 1
    for _ in 0..<count {
        let descriptor = connected(to: port)
        guard send(descriptor, &byte, 1, Int32(MSG_NOSIGNAL)) == 1, recv(descriptor, &byte, 1, 0) == 1 else {
            fail("no echo: \(String(cString: strerror(errno)))")
        }
        close(descriptor)
    }
}

/// Accepts connections for ever, one after the other, and sends back what comes.
func echo(_ listener: Int32) {
    var chunk = [UInt8](repeating: 0, count: 4096)
    while true {
        let descriptor = accept(listener, nil, nil)
        while true {
            let count = recv(descriptor, &chunk, chunk.count, 0)
            guard count > 0 else { break }
            _ = send(descriptor, chunk, count, Int32(MSG_NOSIGNAL))
        }
        close(descriptor)
    }
}

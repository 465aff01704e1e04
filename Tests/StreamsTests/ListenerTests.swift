import CLinux
import Foundation
import Glibc
import Synchronization
import TestPeers
import Testing

@testable import Streams

@Suite("Listener", .timeLimit(.minutes(10)))
struct ListenerTests {
    static func loopback(_ port: UInt16 = 0) throws -> SocketAddress { try SocketAddress(ip: "127.0.0.1", port: port) }

    /// Listens, and answers each connection with "hello" and the end.
    static func greeter(
        _ address: SocketAddress,
        on loop: EventLoop,
        spreadOver targets: [EventLoop] = [],
        accepted: (@Sendable (Socket) -> Void)? = nil
    ) async throws -> LoopBound<Listener> {
        try await loop.execute {
            let listener = try Listener(bind: address, on: loop, spreadOver: targets) { socket in
                accepted?(socket)
                _ = socket.write("hello")
                socket.finish()
                socket.close()
            }
            return LoopBound(listener, on: loop)
        }
    }

    @Test("accepts TCP and Unix connections, and says where it listens", arguments: [true, false])
    func accepts(isTCP: Bool) async throws {
        try await withDirectory { directory in
            try await withLoop { loop in
                let address = try isTCP ? Self.loopback() : SocketAddress(unixPath: directory + "/s")
                let listener = try await Self.greeter(address, on: loop)
                let local = try await loop.execute { listener.withValue(\.localAddress) }
                #expect(isTCP ? local.port != 0 : local == address)
                for _ in 0..<20 { #expect(greeting(from: local) == "hello") }
                try await loop.execute {
                    listener.withValue { listener in
                        listener.close()
                        listener.close()
                    }
                }
                #expect(greeting(from: local) == nil)
                #expect(access(directory + "/s", F_OK) != 0)
                #expect(try await loop.execute { loop.watchedDescriptors } == 0)
            }
        }
    }

    @Test("a port in use: the error names the address and how to find its owner")
    func portInUse() async throws {
        try await withLoop { loop in
            let listener = try await Self.greeter(try Self.loopback(), on: loop)
            let address = try await loop.execute { listener.withValue(\.localAddress) }
            await #expect {
                _ = try await Self.greeter(address, on: loop)
            } throws: { error in
                guard let error = error as? StreamError else { return false }
                return error.code == .addressInUse && error.message.contains("\(address)")
                    && error.message.contains("sport = :\(address.port)")
            }
            try await loop.execute { listener.withValue { $0.close() } }
        }
    }

    @Test("a Unix path: a live owner keeps it, a dead one's is replaced, and what is no socket is never removed")
    func unixPathInUse() async throws {
        try await withDirectory { directory in
            try await withLoop { loop in
                let address = try SocketAddress(unixPath: directory + "/s")
                let live = try await Self.greeter(address, on: loop)
                await #expect {
                    _ = try await Self.greeter(address, on: loop)
                } throws: { error in
                    guard let error = error as? StreamError else { return false }
                    return error.code == .addressInUse && error.message.contains(directory + "/s")
                        && !error.message.contains("sport")
                }
                #expect(greeting(from: address) == "hello")
                try await loop.execute { live.withValue { $0.close() } }

                // Left over from a process that died.
                let dead = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
                #expect(address.withSockaddr { bind(dead, $0, $1) } == 0)
                close(dead)
                #expect(access(directory + "/s", F_OK) == 0)
                let second = try await Self.greeter(address, on: loop)
                #expect(greeting(from: address) == "hello")
                try await loop.execute { second.withValue { $0.close() } }

                let file = directory + "/precious"
                #expect(FileManager.default.createFile(atPath: file, contents: Data("content".utf8)))
                await #expect {
                    _ = try await Self.greeter(try SocketAddress(unixPath: file), on: loop)
                } throws: { error in
                    (error as? StreamError)?.code == .addressInUse
                }
                #expect(FileManager.default.contents(atPath: file) == Data("content".utf8))
            }
        }
    }

    @Test("a Unix socket moves over another one, and not over what is no socket")
    func unixPathMoves() async throws {
        try await withDirectory { directory in
            try await withLoop { loop in
                let address = try SocketAddress(unixPath: directory + "/s")
                let beside = try SocketAddress(unixPath: directory + "/s.new")
                let old = try await Self.greeter(address, on: loop)
                let asked = Mutex(0)
                let new = try await Self.greeter(beside, on: loop, accepted: { _ in asked.withLock { $0 += 1 } })
                try await loop.execute { try new.withValue { try $0.move(to: address) } }
                #expect(greeting(from: address) == "hello" && asked.withLock { $0 } == 1)
                #expect(access(beside.ip, F_OK) != 0)
                // What the old one leaves is not its own any more.
                try await loop.execute { old.withValue { $0.close() } }
                #expect(greeting(from: address) == "hello" && asked.withLock { $0 } == 2)

                let file = directory + "/precious"
                #expect(FileManager.default.createFile(atPath: file, contents: Data("content".utf8)))
                let precious = try SocketAddress(unixPath: file)
                await #expect {
                    try await loop.execute { try new.withValue { try $0.move(to: precious) } }
                } throws: { error in
                    (error as? StreamError)?.code == .addressInUse
                }
                #expect(FileManager.default.contents(atPath: file) == Data("content".utf8))
                #expect(greeting(from: address) == "hello")
                try await loop.execute { new.withValue { $0.close() } }
                #expect(access(address.ip, F_OK) != 0)
            }
        }
    }

    @Test("a live owner whose queue is full does not block the loop that asks for its path")
    func unixPathOfBusyOwner() async throws {
        try await withDirectory { directory in
            let address = try SocketAddress(unixPath: directory + "/s")
            let busy = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            #expect(address.withSockaddr { bind(busy, $0, $1) } == 0)
            listen(busy, 0)
            let waiting = fillQueue(of: address)
            defer { for descriptor in waiting + [busy] { close(descriptor) } }
            try await withLoop { loop in
                await #expect {
                    _ = try await Self.greeter(address, on: loop)
                } throws: { error in
                    (error as? StreamError)?.code == .addressInUse
                }
                return
            }
        }
    }

    @Test("spread over three loops, each gets its share, on its own thread")
    func spread() async throws {
        let group = EventLoopGroup(count: 3)
        try await withLoop { loop in
            let names = Lock<[String]>([])
            let listener = try await Self.greeter(try Self.loopback(), on: loop, spreadOver: group.loops) { socket in
                #expect(socket.loop.isCurrent)
                names.withLock { $0.append(socket.loop.name) }
            }
            let address = try await loop.execute { listener.withValue(\.localAddress) }
            for _ in 0..<30 { #expect(greeting(from: address) == "hello") }
            let counts = Dictionary(grouping: names.withLock { $0 }) { $0 }.mapValues(\.count)
            #expect(counts == ["loop-0": 10, "loop-1": 10, "loop-2": 10])
            try await loop.execute { listener.withValue { $0.close() } }
        }
        await group.shutDown()
    }

    @Test("a connection for a loop that has shut down is closed, not kept")
    func spreadOverStoppedLoop() async throws {
        let stopped = EventLoop(name: "stopped")
        await stopped.shutDown()
        try await withLoop { loop in
            let listener = try await Self.greeter(try Self.loopback(), on: loop, spreadOver: [stopped])
            let address = try await loop.execute { listener.withValue(\.localAddress) }
            #expect(greeting(from: address)?.isEmpty != false)
            try await loop.execute { listener.withValue { $0.close() } }
        }
    }

    @Test("closed while connections wait, it accepts none of them, and their clients are told")
    func closeWhileWaiting() async throws {
        try await withLoop { loop in
            let accepted = Atomic<Int>(0)
            let clients = try await loop.execute {
                let listener = try Listener(bind: try Self.loopback(), on: loop) { socket in
                    accepted.wrappingAdd(1, ordering: .relaxed)
                    socket.close()
                }
                // The loop is busy here: the kernel completes the connections and queues them.
                let clients = (0..<10).map { _ in connectedDescriptor(to: listener.localAddress) }
                listener.close()
                return clients
            }
            for client in clients {
                var byte: UInt8 = 0
                #expect(read(client, &byte, 1) <= 0)
                close(client)
            }
            let count = accepted.load(ordering: .relaxed)
            #expect(count == 0)
        }
    }

    @Test("closed by its own accept handler, it accepts no more")
    func closeWhileAccepting() async throws {
        try await withLoop { loop in
            let accepted = Atomic<Int>(0)
            let box = LoopBound(Box<Listener>(), on: loop)
            let clients = try await loop.execute {
                let listener = try Listener(bind: try Self.loopback(), on: loop) { socket in
                    accepted.wrappingAdd(1, ordering: .relaxed)
                    socket.close()
                    box.withValue { $0.value?.close() }
                }
                box.withValue { $0.value = listener }
                return (0..<10).map { _ in connectedDescriptor(to: listener.localAddress) }
            }
            for client in clients {
                var byte: UInt8 = 0
                #expect(read(client, &byte, 1) <= 0)
                close(client)
            }
            try await loop.execute { box.withValue { $0.value = nil } }
            let count = accepted.load(ordering: .relaxed)
            #expect(count == 1)
        }
    }

    @Test func wantOfDescriptorsIsSaidOnceAMinute() {
        let said = Lock<[String]>([])
        let shortage = DescriptorShortage { text in said.withLock { $0.append(text) } }
        let start = ContinuousClock.now
        for seconds in [0, 1, 59] { shortage.tell(ENFILE, at: start + .seconds(seconds)) }
        #expect(said.withLock { $0.count } == 1 && said.withLock { $0[0].contains("fs.file-max") })
        shortage.tell(EMFILE, at: start + .seconds(60))
        #expect(said.withLock { $0.count } == 2 && said.withLock { $0[1].contains("LimitNOFILE=") })
    }

    @Test("out of descriptors, it refuses some clients at once, and goes on when there are descriptors again")
    func outOfDescriptors() async {
        // A process of its own, since the limit is the process's.
        await #expect(processExitsWith: .success) {
            setDescriptorLimit(512)
            let loop = EventLoop(name: "limited")
            let accepted = LoopBound(Box<[Socket]>(), on: loop)
            let warnings = Lock<[String]>([])
            let (address, ballast) = try await loop.execute {
                // The loop's thread gets a descriptor table of its own, which is then filled but for three:
                // libdispatch, which traps when it cannot open what it needs, lives on the other.
                guard unshareThread(cloneFiles) else { throw StreamError(.system, "unshare") }
                accepted.withValue { $0.value = [] }
                let listener = try Listener(bind: try ListenerTests.loopback(), on: loop) { socket in
                    accepted.withValue { $0.value?.append(socket) }
                }
                listener.shortage = DescriptorShortage { text in warnings.withLock { $0.append(text) } }
                var ballast: [Int32] = []
                while case let descriptor = open("/dev/null", O_RDONLY), descriptor >= 0 { ballast.append(descriptor) }
                for descriptor in ballast.suffix(3) { close(descriptor) }
                // Nobody but the loop keeps the listener.
                return (listener.localAddress, ballast.dropLast(3))
            }
            let clients = (0..<12).map { _ in connectedDescriptor(to: address) }
            func refused() -> Int {
                var polls = clients.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
                return Int(poll(&polls, nfds_t(polls.count), 0))
            }
            func acceptedCount() async throws -> Int {
                try await loop.execute { accepted.withValue { $0.value?.count ?? 0 } }
            }
            // One is refused with the spare descriptor at each attempt, the others wait.
            try await until { try await acceptedCount() == 3 && refused() >= 2 }
            precondition(warnings.withLock { $0.first }?.contains("files open as it may have (512)") == true)
            // There are descriptors again: who waits and who comes is served.
            try await loop.execute { for descriptor in ballast { close(descriptor) } }
            let newcomer = connectedDescriptor(to: address)
            try await until { try await acceptedCount() + refused() == 13 }
            let after = try await acceptedCount()
            precondition(after > 3, "the newcomer was not accepted")
            try await loop.execute {
                for socket in accepted.withValue({ $0.value ?? [] }) { socket.close() }
            }
            close(newcomer)
            await loop.shutDown()
        }
    }
}

/// Sets the soft limit of this process.
private func setDescriptorLimit(_ count: rlim_t) {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    limit.rlim_cur = count
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}

/// A mutable place for a closure that is confined to a loop.
final class Box<Value> {
    var value: Value?
}

/// Connects, reads until the end, and returns what came; nil when nobody listens.
func greeting(from address: SocketAddress) -> String? {
    let client = connectedDescriptor(to: address)
    guard client >= 0 else { return nil }
    defer { close(client) }
    var text: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 100)
    while true {
        let count = read(client, &buffer, buffer.count)
        guard count > 0 else { return count == 0 ? String(decoding: text, as: UTF8.self) : nil }
        text += buffer[..<count]
    }
}

/// A blocking client, or −1.
func connectedDescriptor(to address: SocketAddress) -> Int32 {
    let client = socket(address.family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard address.withSockaddr({ connect(client, $0, $1) }) == 0 else {
        close(client)
        return -1
    }
    return client
}

/// Connects until the listening socket's queue takes no more; the descriptors to close.
func fillQueue(of address: SocketAddress) -> [Int32] {
    (0..<8).map { _ in
        let client = socket(
            address.family,
            Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue),
            0
        )
        _ = address.withSockaddr { connect(client, $0, $1) }
        return client
    }
}

/// A directory that is gone afterwards; its path is short enough for a socket.
func withDirectory<Result>(_ body: (String) async throws -> Result) async throws -> Result {
    var template = Array((NSTemporaryDirectory() + "streams-XXXXXX").utf8CString)
    let path = try template.withUnsafeMutableBufferPointer { name in
        String(cString: try #require(mkdtemp(name.baseAddress!)))
    }
    defer { try? FileManager.default.removeItem(atPath: path) }
    return try await body(path)
}

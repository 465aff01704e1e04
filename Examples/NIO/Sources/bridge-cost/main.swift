// What the bridge costs:  bridge-cost CLIENT-CREDENTIALS SERVER-CREDENTIALS [MEGABYTES]
//
// The same echo server, in this process, is used through a stream and through a NIO channel. In turns, five times;
// medians.
import Glibc
import H2Transport
import H2TransportNIO
import MeshIdentity
import NIOCore
import NIOPosix

import struct Platform.Authority
import struct Streams.SocketAddress

let arguments = CommandLine.arguments
guard arguments.count >= 3 else { fatalError("usage: bridge-cost CLIENT-CREDENTIALS SERVER-CREDENTIALS [MEGABYTES]") }
let megabytes = arguments.count > 3 ? Int(arguments[3]) ?? 256 : 256
let pings = 2000
let echo = try Authority(parsing: "echo.prod:7")

let listener = try await HBONEListener(
    bind: Streams.SocketAddress(ip: "127.0.0.1", port: 0),
    credentials: .directory(arguments[2])
)
let serving = Task {
    await listener.serve { stream in for try await chunk in stream.inbound { try await stream.write(chunk) } }
}
let mesh = try await HBONEClient(credentials: .directory(arguments[1]))
let peer = HBONEPeer(try Authority(host: "127.0.0.1", port: listener.localAddress.port))

/// What something took: by the clock, and of the processor, in seconds.
struct Cost {
    var time = 0.0
    var processor = 0.0

    static func of(_ body: () async throws -> Void) async rethrows -> Cost {
        let before = processorTime()
        let time = try await ContinuousClock().measure(body)
        let seconds = Double(time.components.seconds) + Double(time.components.attoseconds) / 1e18
        return Cost(time: seconds, processor: processorTime() - before)
    }

    private static func processorTime() -> Double {
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        let seconds = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
        return Double(seconds) + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6
    }
}

typealias Costs = (bulk: Cost, ping: Cost)

func throughStream() async throws -> Costs {
    try await mesh.withStream(to: echo, through: peer) { stream in
        let small = [UInt8](repeating: 1, count: 64)
        let ping = try await Cost.of {
            for _ in 0..<pings {
                try await stream.write(small)
                var left = 64
                while left > 0, let chunk = try await stream.read() { left -= chunk.count }
            }
        }
        let block = [UInt8](repeating: 7, count: 65536)
        let bulk = try await Cost.of {
            async let sent: Void = { for _ in 0..<(megabytes * 16) { try await stream.write(block) } }()
            var left = megabytes << 20
            while left > 0, let chunk = try await stream.read() { left -= chunk.count }
            try await sent
        }
        return (bulk, ping)
    }
}

func throughChannel() async throws -> Costs {
    let channel = try await mesh.connectChannel(
        to: echo,
        through: peer,
        on: MultiThreadedEventLoopGroup.singleton
    ) { channel in
        channel.eventLoop.makeCompletedFuture {
            try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
        }
    }
    return try await channel.executeThenClose { inbound, outbound in
        var iterator = inbound.makeAsyncIterator()
        let small = ByteBuffer(repeating: 1, count: 64)
        let ping = try await Cost.of {
            for _ in 0..<pings {
                try await outbound.write(small)
                var left = 64
                while left > 0, let buffer = try await iterator.next() { left -= buffer.readableBytes }
            }
        }
        let block = ByteBuffer(repeating: 7, count: 65536)
        let bulk = try await Cost.of {
            async let sent: Void = { for _ in 0..<(megabytes * 16) { try await outbound.write(block) } }()
            var left = megabytes << 20
            while left > 0, let buffer = try await iterator.next() { left -= buffer.readableBytes }
            try await sent
        }
        return (bulk, ping)
    }
}

var (streams, channels): ([Costs], [Costs]) = ([], [])
for _ in 0..<5 {
    streams.append(try await throughStream())
    channels.append(try await throughChannel())
}

func report(_ name: String, _ runs: [Costs]) {
    func median(_ value: (Costs) -> Double) -> Double { runs.map(value).sorted()[runs.count / 2] }
    func rounded(_ value: Double) -> Double { (value * 100).rounded() / 100 }
    let rate = Int(Double(megabytes) / median(\.bulk.time))
    let perGigabyte = rounded(median(\.bulk.processor) * 1024 / Double(megabytes))
    print("\(name): \(rate) MB/s each way at once, \(perGigabyte) CPU-s per GB each way")
    let trip = Int(median(\.ping.time) / Double(pings) * 1e6)
    let work = Int(median(\.ping.processor) / Double(pings) * 1e6)
    print("\(name): \(trip) µs for 64 bytes there and back, of it \(work) µs of the processor")
}
report("stream ", streams)
report("channel", channels)
await mesh.shutDown()
await listener.close()
await serving.value

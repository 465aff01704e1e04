import Glibc

/// The load tool of every measurement, the same for all peers. `Benchmarks/run.py` starts it; its output is one line of
/// JSON.
@main
struct Load {
    static let usage = """
        usage: load server PORT
               load up|down|both PORT [--connections N] [--seconds S] [--warm-up S]
               load ping PORT [--connections N] [--seconds S] [--warm-up S] [--size BYTES]
               load opens PORT [--connections N] [--seconds S] [--warm-up S]
               load keystrokes PORT [--direction up|down] [--seconds S] [--warm-up S]
               load idle PORT --connections N       until standard input ends
        --connect HOST:PORT: each connection starts with an HTTP/1.1 CONNECT
        """

    static func main() {
        signal(SIGPIPE, SIG_IGN)
        // Ten thousand idle connections need as many descriptors.
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)

        let arguments = CommandLine.arguments
        guard arguments.count >= 3, let port = UInt16(arguments[2]) else { fail(usage) }
        var options: [String: String] = [:]
        for index in stride(from: 3, to: arguments.count - 1, by: 2) {
            options[arguments[index]] = arguments[index + 1]
        }
        let connections = Int(options["--connections"] ?? "1") ?? 1
        let seconds = Double(options["--seconds"] ?? "3") ?? 3
        let warmUp = Double(options["--warm-up"] ?? "1") ?? 1
        _ = pattern
        if let authority = options["--connect"] {
            connectRequest = Array("CONNECT \(authority) HTTP/1.1\r\nHost: \(authority)\r\n\r\n".utf8)
        }

        switch arguments[1] {
        case "server":
            Server(port: port).run()
        case "up", "down", "both":
            let direction: Bulk.Direction = ["up": .up, "down": .down, "both": .both][arguments[1]]!
            let bulk = Bulk(
                port: port,
                direction: direction,
                connections: connections,
                warmUp: warmUp,
                seconds: seconds
            )
            let result = bulk.run()
            print("{\"up\": \(result.up), \"down\": \(result.down), \"bytes\": \(result.total)}")
        case "ping":
            let size = Int(options["--size"] ?? "64") ?? 64
            report(
                PingPong(port: port, connections: connections, size: size, warmUp: warmUp, seconds: seconds).run()
            )
        case "opens":
            let rate = Opens(port: port, concurrency: connections, warmUp: warmUp, seconds: seconds).run()
            print("{\"rate\": \(rate)}")
        case "keystrokes":
            keystrokes(port: port, direction: options["--direction"] ?? "up", warmUp: warmUp, seconds: seconds)
        case "idle":
            holdIdle(port: port, count: connections)
        default:
            fail(usage)
        }
    }

    private static func report(_ result: PingPong.Result, _ more: String = "") {
        print(
            "{\"p50\": \(result.p50), \"p99\": \(result.p99), \"rate\": \(result.rate), \"count\": \(result.count)\(more)}"
        )
    }

    /// Ping-pong on one connection while another is busy with bulk; the bulk runs a little longer on both sides.
    private static func keystrokes(port: UInt16, direction: String, warmUp: Double, seconds: Double) {
        let bulk = Bulk(
            port: port,
            direction: direction == "down" ? .down : .up,
            connections: 1,
            warmUp: 0,
            seconds: warmUp + seconds + 0.5
        )
        let ping = PingPong(port: port, connections: 1, size: 64, warmUp: warmUp, seconds: seconds)
        let moved = UnsafeMutablePointer<Bulk.Result>.allocate(capacity: 1)
        moved.initialize(to: Bulk.Result())
        var thread = pthread_t()
        let context = Unmanaged.passRetained(BulkThread(bulk: bulk, result: moved))
        pthread_create(
            &thread,
            nil,
            { context in
                let work = Unmanaged<BulkThread>.fromOpaque(context!).takeRetainedValue()
                work.result.pointee = work.bulk.run()
                return nil
            },
            context.toOpaque()
        )
        let result = ping.run()
        pthread_join(thread, nil)
        report(result, ", \"bulk\": \(moved.pointee.up + moved.pointee.down)")
    }
}

private final class BulkThread {
    let bulk: Bulk
    let result: UnsafeMutablePointer<Bulk.Result>

    init(bulk: Bulk, result: UnsafeMutablePointer<Bulk.Result>) {
        self.bulk = bulk
        self.result = result
    }
}

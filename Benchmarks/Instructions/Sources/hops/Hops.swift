import Foundation
import Streams

/// Both hops of a tunnel on one event loop, for counting the instructions of user space: one thread sends into a
/// socket, the bytes go through relay, CONNECT stream and TLS to the other end, through its relay into a socket, and
/// another thread reads it.
///
///     hops CREDENTIAL-DIRECTORY bulk MEBIBYTES
///     hops CREDENTIAL-DIRECTORY opens COUNT
///
/// Run under `valgrind --tool=callgrind` with two amounts; the difference, by bytes and hops, has no start-up in it.
@main enum Hops {
    enum Work: String {
        case bulk, opens
    }

    /// Not async: callgrind does not survive the threads of Swift's concurrency pool.
    static func main() throws {
        guard CommandLine.arguments.count == 4, let amount = Int(CommandLine.arguments[3]), amount > 0,
            let work = Work(rawValue: CommandLine.arguments[2])
        else { fail("usage: hops CREDENTIAL-DIRECTORY bulk|opens AMOUNT") }
        let credentialDirectory = CommandLine.arguments[1]
        let backend = listeningSocket()
        let loop = EventLoop(name: "hops")
        let ports = Pipe()
        loop.submit {
            do {
                let proxies = try Proxies(on: loop, credentialDirectory: credentialDirectory, backendPort: backend.port)
                withUnsafeBytes(of: proxies.port) { ports.fileHandleForWriting.write(Data($0)) }
                // They serve until the process ends.
                _ = Unmanaged.passRetained(proxies)
            } catch {
                fail("\(error)")
            }
        }
        let port = ports.fileHandleForReading.readData(ofLength: 2).withUnsafeBytes {
            $0.loadUnaligned(as: UInt16.self)
        }
        switch work {
        case .bulk:
            let total = amount << 20
            Thread { pour(total, into: connected(to: port)) }.start()
            let received = drain(accept(backend.descriptor, nil, nil))
            guard received == total else { fail("\(received) of \(total) bytes arrived") }
        case .opens:
            Thread { echo(backend.descriptor) }.start()
            open(amount, port: port)
        }
        print(amount)
        exit(0)
    }
}

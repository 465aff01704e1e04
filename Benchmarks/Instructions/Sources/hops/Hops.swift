import Foundation
import Streams

/// Both hops of a tunnel on one event loop, for counting the instructions of user space: a thread pours bytes into a socket, they
/// go through relay, CONNECT stream and TLS to the other end, through its relay into a socket, and another thread drains it.
///
///     hops CREDENTIAL-DIRECTORY MEBIBYTES
///
/// Run under `valgrind --tool=callgrind` with two amounts; the difference, by bytes and hops, has no start-up in it.
@main enum Hops {
    /// Not async: callgrind does not survive the threads of Swift's concurrency pool.
    static func main() throws {
        guard CommandLine.arguments.count == 3, let mebibytes = Int(CommandLine.arguments[2]), mebibytes > 0 else {
            fail("usage: hops CREDENTIAL-DIRECTORY MEBIBYTES")
        }
        let total = mebibytes << 20
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
        let announced = ports.fileHandleForReading.readData(ofLength: 2)
        let port = announced.withUnsafeBytes { $0.loadUnaligned(as: UInt16.self) }
        Thread { pour(total, into: connected(to: port)) }.start()
        let sink = accept(backend.descriptor, nil, nil)
        let received = drain(sink)
        guard received == total else { fail("\(received) of \(total) bytes arrived") }
        print(received)
        exit(0)
    }
}

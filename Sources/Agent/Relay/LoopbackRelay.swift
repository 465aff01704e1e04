package import Streams

/// Joins standard input and output to a port of this machine, for an operator whose SSH server forbids forwarding
/// (`bootstrap relay`).
package struct LoopbackRelay {
    package enum Failure: Error {
        /// The destination is on another machine.
        case notLoopback
        /// Nobody accepts there.
        case unreachable(String)
        /// The stream was cut.
        case cut(StreamError)
    }

    private let destination: SocketAddress

    package init(to destination: SocketAddress) throws(Failure) {
        guard destination.isLoopback else { throw .notLoopback }
        self.destination = destination
    }

    /// Returns once both directions have ended, and everything that came is in standard output.
    package func run() async throws(Failure) {
        let loop = EventLoop(name: "relay")
        let ends = AsyncStream<StreamError?>.makeStream()
        let written: AsyncStream<Int32>
        do {
            written = try await Dialer.connect(to: .address(destination), on: loop) { socket in
                let standard = try StandardStream(on: loop)
                Relay(standard.stream, socket) { ends.continuation.yield($0.failure) }.start()
                return standard.written
            }
        } catch {
            throw .unreachable("\(error)")
        }
        for await failure in ends.stream {
            for await number in written where number != 0 {
                throw .cut(StreamError.system(number, "write standard output"))
            }
            guard let failure else { break }
            throw .cut(failure)
        }
        await loop.shutDown()
    }
}

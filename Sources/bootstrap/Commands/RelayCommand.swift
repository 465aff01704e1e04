import ArgumentParser
import Streams

struct RelayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "relay",
        abstract: "Join standard input and output to a port of this machine; `connect` starts it over SSH.",
        discussion: """
            Takes the place of SSH's own forwarding where the server forbids it: the operator's HTTP/2 connection to the node \
            of this machine goes through it, with mutual TLS inside. Whoever may run commands here could do the same with nc. \
            Nobody needs to run it by hand.
            """,
        shouldDisplay: false
    )

    @Argument(help: ArgumentHelp("A loopback address and port.", valueName: "ADDRESS:PORT"))
    var destination: String

    func run() async throws {
        let address: SocketAddress
        do throws(StreamError) {
            address = try SocketAddress(parsing: destination)
        } catch {
            throw fail(error.message, .usage)
        }
        guard address.isLoopback else {
            throw fail("\(address) is not an address of this machine alone: relay leads to 127.0.0.1 or ::1", .usage)
        }
        let loop = EventLoop(name: "relay")
        let ends = AsyncStream<StreamError?>.makeStream()
        let written: AsyncStream<Void>
        do {
            written = try await Socket.connect(to: address, on: loop) { socket in
                let standard = try StandardStream(on: loop)
                Relay(standard.stream, socket) { ends.continuation.yield($0.failure) }.start()
                return standard.written
            }
        } catch {
            throw fail("\(error). Does the node run? (`bootstrap node`)", .unreachable)
        }
        for await failure in ends.stream {
            for await _ in written {}
            guard let failure else { break }
            throw fail(failure.message)
        }
        await loop.shutDown()
    }
}

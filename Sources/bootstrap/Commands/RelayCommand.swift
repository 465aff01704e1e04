import Agent
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
        do throws(LoopbackRelay.Failure) {
            try await LoopbackRelay(to: address).run()
        } catch {
            switch error {
            case .notLoopback:
                throw fail(
                    "\(address) is not an address of this machine alone: relay leads to 127.0.0.1 or ::1",
                    .usage
                )
            case .unreachable(let reason):
                throw fail("\(reason). Does the node run? (`bootstrap node`)", .unreachable)
            case .cut(let failure): throw fail(failure.message)
            }
        }
    }
}

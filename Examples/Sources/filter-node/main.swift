// A node in a program of one's own, with two filters:
//
//     filter-node CREDENTIAL-DIRECTORY SERVER RATE RECORD
//
// Both listeners lead to the echo service behind SERVER (address:port of echo-server). On one of them each direction of
// a stream carries RATE bytes per second, on the other what goes through is written to the file RECORD, 64 KiB at most.
import Glibc
import Logging
import MeshNode
import Streams

let arguments = CommandLine.arguments
guard arguments.count == 5, let rate = Int(arguments[3]), rate > 0 else {
    fatalError("usage: filter-node CREDENTIAL-DIRECTORY SERVER RATE RECORD")
}
let record = Record(path: arguments[4], limit: 64 << 10)

let configuration = try NodeConfiguration.parse(
    """
    identity: "\(arguments[1])"
    listeners:
    - {name: limited, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "echo.prod:7"}
    - {name: recorded, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "echo.prod:7"}
    endpoints:
    - {match: "echo.prod:7", hbone: "\(arguments[2])"}
    """,
    file: "filter-node"
)
// Asked for each stream, on the stream's event loop, before a byte is carried.
let node = Node(configuration, loops: 1, logger: Logger(label: "filter-node")) { facts, _ in
    switch facts.listener {
    case "limited": RateLimit(bytesPerSecond: rate)
    case "recorded": Recorder(record)
    default: nil
    }
}
for listener in try await node.start() { print("ready \(listener.address) \(listener.name)") }
while true { try await Task.sleep(for: .seconds(3600)) }

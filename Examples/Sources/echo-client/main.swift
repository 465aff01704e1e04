// Talks to echo-server:  echo-client CREDENTIAL-DIRECTORY ADDRESS:PORT [DESTINATION]
import H2Transport
import MeshIdentity
import Platform
import Streams

let arguments = CommandLine.arguments
guard arguments.count >= 3 else {
    fatalError("usage: echo-client CREDENTIAL-DIRECTORY ADDRESS:PORT [DESTINATION]")
}

let client = try await HBONEClient(credentials: .directory(arguments[1]))
// Where the server listens. Without `expecting:` it has to be of our own trust domain and namespace.
let peer = HBONEPeer(try Authority(parsing: arguments[2]))
let destination = try Authority(parsing: arguments.count > 3 ? arguments[3] : "echo.prod:7")

do {
    let headers: HeaderFields = ["baggage": "example=echo-client"]
    let answer = try await client.withStream(to: destination, through: peer, headers: headers) { stream in
        print("talking to \(stream.peer), which says \(stream.response.headers["baggage"] ?? "nothing")")
        try await stream.write("hello, mesh\n")
        try await stream.finish()
        var answer: [UInt8] = []
        for try await chunk in stream.inbound { answer += chunk }
        return String(decoding: answer, as: UTF8.self)
    }
    print(answer, terminator: "")

    // A megabyte each way at once: one task writes while this one reads.
    let echoed = try await client.withStream(to: destination, through: peer) { stream in
        async let sent: Void = {
            let block = [UInt8](repeating: 7, count: 65536)
            for _ in 0..<16 { try await stream.write(block) }
            try await stream.finish()
        }()
        var count = 0
        for try await chunk in stream.inbound { count += chunk.count }
        try await sent
        return count
    }
    print("\(echoed) bytes came back")
} catch let failure as ConnectFailure {
    print("no stream: \(failure) (\(failure.error.code))")
}
await client.shutDown()

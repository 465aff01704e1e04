// An echo service that only the mesh can reach:  echo-server CREDENTIAL-DIRECTORY [ADDRESS:PORT]
//
// It speaks HBONE itself, so no proxy stands in front of it, and sees who calls: the client's SPIFFE ID.
import H2Transport
import MeshIdentity
import Streams

let arguments = CommandLine.arguments
guard arguments.count >= 2 else { fatalError("usage: echo-server CREDENTIAL-DIRECTORY [ADDRESS:PORT]") }

let listener = try await HBONEListener(
    bind: SocketAddress(parsing: arguments.count > 2 ? arguments[2] : "127.0.0.1:15008"),
    credentials: .directory(arguments[1])
)
print("ready \(listener.localAddress) as \(listener.identity)")

// Asked before each stream is answered. What the certificate says can be trusted; what the request says is the peer's
// text.
let own = listener.identity
await listener.serve { request in
    guard request.peer.trustDomain == own.trustDomain, request.peer.namespace == own.namespace else {
        return .deny("another namespace")
    }
    guard request.destination.port == 7 else { return .deny("this is the echo service, port 7") }
    print("\(request.peer) asks for \(request.destination), baggage: \(request.request.baggage ?? "none")")
    return .admit(headers: ["baggage": "service=echo"])
} handler: { stream in
    // Back-pressure comes by itself: while the client does not read, write() waits, and nothing more is read.
    for try await chunk in stream.inbound { try await stream.write(chunk) }
    // Returning finishes the stream; throwing would reset it.
}

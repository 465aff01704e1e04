// A Hummingbird application that only the mesh can reach:  web-server CREDENTIAL-DIRECTORY [ADDRESS:PORT]
import H2Transport
import H2TransportNIO
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Logging
import MeshIdentity
import NIOCore
import NIOPosix

import struct Streams.SocketAddress

let arguments = CommandLine.arguments
guard arguments.count >= 2 else { fatalError("usage: web-server CREDENTIAL-DIRECTORY [ADDRESS:PORT]") }

/// Who asks, as the mesh has verified it: set for each request, whatever the request says.
let meshPeer = HTTPField.Name("x-mesh-peer")!
let router = Router()
router.get("/") { request, _ in "hello, \(request.headers[meshPeer] ?? "stranger")" }
router.post("/count") { request, _ in
    var count = 0
    for try await buffer in request.body { count += buffer.readableBytes }
    return "\(count)"
}
let responder = router.buildResponder()

let listener = try await HBONEListener(
    bind: Streams.SocketAddress(parsing: arguments.count > 2 ? arguments[2] : "127.0.0.1:15008"),
    credentials: .directory(arguments[1])
)
print("ready \(listener.localAddress) as \(listener.identity)")

// Hummingbird's own channel setup, on the channels that the mesh brings in place of those that a port would.
let logger = Logger(label: "web")
await listener.serveChannels(on: MultiThreadedEventLoopGroup.singleton) { channel, stream in
    let http = HTTP1Channel { request, writer, channel in
        var head = request.head
        head.headerFields[meshPeer] = stream.peer.description
        let context = BasicRequestContext(source: ApplicationRequestContextSource(channel: channel, logger: logger))
        let response: Response
        do {
            response = try await responder.respond(to: Request(head: head, body: request.body), context: context)
        } catch {
            response = Response(status: .internalServerError)
        }
        try await writer.write(response: response.head, body: response.body)
    }
    return http.setup(channel: channel, logger: logger).map { (http, $0) }
} handler: { http, connection in
    await http.handle(value: connection, logger: logger)
}

// A gRPC server that only the mesh can reach:  grpc-server CREDENTIAL-DIRECTORY [ADDRESS:PORT]
import GRPCCore
import GRPCEcho
import GRPCNIOTransportHTTP2Posix
import H2Transport
import MeshIdentity
import NIOPosix

import struct Streams.SocketAddress

let arguments = CommandLine.arguments
guard arguments.count >= 2 else { fatalError("usage: grpc-server CREDENTIAL-DIRECTORY [ADDRESS:PORT]") }

let listener = try await HBONEListener(
    bind: Streams.SocketAddress(parsing: arguments.count > 2 ? arguments[2] : "127.0.0.1:15008"),
    credentials: .directory(arguments[1])
)
print("ready \(listener.localAddress) as \(listener.identity)")

let factory = MeshListenerFactory(listener, on: MultiThreadedEventLoopGroup.singleton) { request in
    request.peer.namespace == "default" ? .admit : .deny("another namespace")
}
// No TLS here: the stream has come through the mesh's.
let server = GRPCServer(
    transport: HTTP2ServerTransport.Custom(listenerFactory: factory),
    services: [EchoService()]
)
try await server.serve()

// A gRPC client over the mesh:  grpc-client CREDENTIAL-DIRECTORY ADDRESS:PORT
import GRPCCore
import GRPCEcho
import GRPCNIOTransportHTTP2Posix
import H2Transport
import H2TransportNIO
import MeshIdentity
import NIOPosix

import struct Platform.Authority

let arguments = CommandLine.arguments
guard arguments.count >= 3 else { fatalError("usage: grpc-client CREDENTIAL-DIRECTORY ADDRESS:PORT") }

let mesh = try await HBONEClient(credentials: .directory(arguments[1]))
let peer = HBONEPeer(try Authority(parsing: arguments[2]))

// One CONNECT stream is gRPC's connection; its calls are HTTP/2 streams within.
let transport = try await HTTP2ClientTransport.WrappedChannel.wrapping { configure in
    try await mesh.connectChannel(
        to: Authority(parsing: "echo.prod:50051"),
        through: peer,
        on: MultiThreadedEventLoopGroup.singleton
    ) { channel in configure(channel) }
}

try await withGRPCClient(transport: transport) { client in
    let text = try await client.unary(
        request: ClientRequest(message: "hello, mesh"),
        descriptor: EchoService.say,
        serializer: TextSerializer(),
        deserializer: TextDeserializer(),
        options: .defaults
    ) { try $0.message }
    print(text)
    let sum = try await client.clientStreaming(
        request: StreamingClientRequest { writer in for number in 0..<1000 { try await writer.write("\(number)") } },
        descriptor: EchoService.sum,
        serializer: TextSerializer(),
        deserializer: TextDeserializer(),
        options: .defaults
    ) { try $0.message }
    print(sum)
}
await mesh.shutDown()

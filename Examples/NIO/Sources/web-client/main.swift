// HTTP requests over the mesh, with SwiftNIO's own HTTP codec:  web-client CREDENTIAL-DIRECTORY ADDRESS:PORT
import H2Transport
import H2TransportNIO
import MeshIdentity
import NIOCore
import NIOHTTP1
import NIOPosix

import struct Platform.Authority

let arguments = CommandLine.arguments
guard arguments.count >= 3 else { fatalError("usage: web-client CREDENTIAL-DIRECTORY ADDRESS:PORT") }

let mesh = try await HBONEClient(credentials: .directory(arguments[1]))
let peer = HBONEPeer(try Authority(parsing: arguments[2]))

func ask(_ method: HTTPMethod, _ path: String, bodyOf count: Int = 0) async throws -> String {
    let connection = try await mesh.connectChannel(
        to: Authority(parsing: "web.prod:80"),
        through: peer,
        on: MultiThreadedEventLoopGroup.singleton
    ) { channel in
        channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHTTPClientHandlers()
            return try NIOAsyncChannel<HTTPClientResponsePart, HTTPClientRequestPart>(
                wrappingChannelSynchronously: channel
            )
        }
    }
    return try await connection.executeThenClose { inbound, outbound in
        let headers: HTTPHeaders = ["host": "web.prod", "content-length": "\(count)", "connection": "close"]
        try await outbound.write(.head(.init(version: .http1_1, method: method, uri: path, headers: headers)))
        let block = ByteBuffer(repeating: 7, count: 65536)
        for _ in 0..<(count / 65536) { try await outbound.write(.body(.byteBuffer(block))) }
        try await outbound.write(.end(nil))
        var answer = ""
        for try await part in inbound {
            switch part {
            case .head(let head): answer = "\(head.status.code) "
            case .body(let buffer): answer += String(buffer: buffer)
            case .end: return answer
            }
        }
        return answer + "(cut off)"
    }
}

print(try await ask(.GET, "/"))
print(try await ask(.POST, "/count", bodyOf: 16 << 20))
await mesh.shutDown()

import Foundation
import TestPeers

/// Asks a node's servers for metrics and administration, as curl would, byte for byte.
enum OperationClient {
    struct Answer: Sendable {
        let status: Int
        let head: String
        let body: String

        /// Of JSON.
        var object: [String: Any] {
            get throws { try JSONSerialization.jsonObject(with: Data(body.utf8)) as? [String: Any] ?? [:] }
        }
    }

    static func get(_ path: String, _ port: UInt16, fields: [String] = []) async throws -> Answer {
        try await ask("GET", path, port, fields: fields)
    }

    static func post(_ path: String, _ port: UInt16, fields: [String] = ["x-bootstrap: 1"]) async throws -> Answer {
        try await ask("POST", path, port, fields: fields)
    }

    static func ask(
        _ method: String,
        _ path: String,
        _ port: UInt16,
        host: String? = nil,
        fields: [String] = []
    ) async throws -> Answer {
        let lines = ["\(method) \(path) HTTP/1.1", "Host: \(host ?? "127.0.0.1:\(port)")"] + fields
        return try await send(lines.map { "\($0)\r\n" }.joined() + "\r\n", port)
    }

    static func send(_ request: String, _ port: UInt16) async throws -> Answer {
        let (bytes, _) = try await TCPClient.exchange(port: port, sending: Array(request.utf8))
        return answer(bytes)
    }

    static func answer(_ bytes: [UInt8]) -> Answer {
        let text = String(decoding: bytes, as: UTF8.self)
        let parts = text.components(separatedBy: "\r\n\r\n")
        let status = text.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
        return Answer(status: status, head: parts[0], body: parts.dropFirst().joined(separator: "\r\n\r\n"))
    }
}

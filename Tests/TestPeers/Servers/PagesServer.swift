import CLinux
import Foundation

/// An HTTP server that answers what it was told to, and closes after each answer.
public final class PagesServer: LoopbackServer, @unchecked Sendable {
    // Sendable: set once.
    private let pages: [String: String]

    /// - Parameter pages: Of each path, without its query, what is answered; for others 404.
    public init(_ pages: [String: String]) throws {
        self.pages = pages
        try super.init()
    }

    override func serve(_ connection: Int32) -> Transfer {
        var head: [UInt8] = []
        var byte: UInt8 = 0
        while !head.suffix(4).elementsEqual([13, 10, 13, 10]), recv(connection, &byte, 1, 0) == 1 { head.append(byte) }
        let target = String(decoding: head, as: UTF8.self).split(separator: " ").dropFirst().first ?? ""
        let page = pages[String(target.prefix { $0 != "?" })]
        let body = page ?? "nothing\n"
        let answer = Array(
            """
            HTTP/1.1 \(page == nil ? "404 Not Found" : "200 OK")\r
            Content-Type: application/json\r
            Content-Length: \(body.utf8.count)\r
            Connection: close\r
            \r
            \(body)
            """.utf8
        )
        _ = send(connection, answer, answer.count, Int32(MSG_NOSIGNAL))
        shutdown(connection, Int32(SHUT_WR))
        return receiveAll(connection)
    }
}

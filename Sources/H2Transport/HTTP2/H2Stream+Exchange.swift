package import Streams

/// What a server of HTTP/2 has for its clients.
package enum H2Service: Hashable, Sendable {
    /// CONNECT, and POST in its place.
    case tunnels
    /// Any request. Its body is read from the stream and that of the answer written to it.
    case exchanges
}

// A request and its answer, for those who carry both on.
extension H2Stream {
    /// The peer has said everything that it will say on the stream, and there is nothing to read.
    package var isEmptyAtEnd: Bool {
        receiving.state.hasEnded && receiving.isEmpty && trailers == nil
    }

    /// The peer's END_STREAM has come.
    package var peerHasEnded: Bool { receiving.state.hasEnded }

    /// Bytes wait here for their reader.
    package var hasUnread: Bool { !receiving.isEmpty }

    /// What the peer has said after its body; nil before that, or without.
    package var receivedTrailers: HeaderFields? { trailers?.fields }

    /// The final head of the answer, or a head before it (1xx). The body is what is written afterwards.
    ///
    /// - Parameters:
    ///   - fields: Names in lower case.
    ///   - ends: There is no body.
    /// - Returns: False where the fields may not be sent, and nothing was.
    package func respond(_ status: Int, _ fields: HeaderFields, ends: Bool = false) -> Bool {
        guard phase != .released, let connection else { return true }
        return connection.respond(to: self, ConnectResponse(status: status, headers: fields), ends: ends)
    }

    /// The server has not acted on the request: the client may ask again (RFC 9113 §8.7).
    package func refuse(_ reason: StreamError) { abandon(reason, .refusedStream) }

    /// END_STREAM goes with the head. A pump that waits for the body's source is told that it is over.
    func endsAtOnce() {
        _ = sending.state.finish()
        guard sending.source != nil else { return }
        sending.source = nil
        connection?.addEvent(.sourceEnded(self))
    }
}
